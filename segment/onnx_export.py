"""A trained segmenter as ONNX, for tools and machines without torch.

In: a network in eval mode and its card. Out: an .onnx file that takes `image` (batch, C, height,
width) of any height and width and gives `logits` (batch, 1, height, width), the card in its
metadata. It is compared with torch before it is written.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import ConfigError, DataError, UserError
from univg.files import make_folder, write_atomic

from .weights import KEY, WeightsCard, make_card, parse_card, write_card

if TYPE_CHECKING:
    import numpy as np

    from .net_frame import Segmenter

SUFFIX = ".onnx"
OPSET = 17
LARGEST_DIFFERENCE = 1e-4
CHECK_SIZES_PX = ((61, 83), (96, 64))
"""Odd, and other than the size it is exported at: a size that got fixed shows."""
INPUT, OUTPUT = "image", "logits"


def export_onnx(
    network: Segmenter,
    path: Path,
    *,
    threshold: float = 0.5,
    facts: Mapping[str, Any] | None = None,
) -> float:
    """Write `network` to `path`; return the largest difference from torch's logits.

    A network made for one size (`network.size`) is exported for that size alone.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"{path}: ONNX files are called {SUFFIX}; choose such a name")
    card = write_card(make_card(network, threshold, facts))
    data = _export(network, card)
    sizes = (network.size,) if network.size else CHECK_SIZES_PX
    difference = measure_difference(network, data, sizes)
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{path}: not written: ONNX gives logits {difference:.2g} away from torch's, more than "
            f"{LARGEST_DIFFERENCE:g}; the network {network.name} cannot be exported by this torch"
        )
    make_folder(path.parent)
    write_atomic(path, data)
    return difference


def load_onnx(source: Path | bytes) -> tuple[Any, WeightsCard]:
    """Return an onnxruntime session on the CPU for the file or its bytes, and its card."""
    runtime = _import("onnxruntime")
    name = "the model" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"{source}: no such file")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = runtime.InferenceSession(
            source if isinstance(source, bytes) else str(source),
            sess_options=options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # its errors have no class of their own that Python code can name
        raise DataError(f"{name}: onnxruntime cannot read it ({error}); export it again") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise DataError(f"{name}: holds no card; give a file that univg exported")
    card = parse_card(text, name)
    takes = {each.name: each.shape for each in session.get_inputs()}
    gives = {each.name for each in session.get_outputs()}
    if set(takes) != {INPUT} or OUTPUT not in gives or takes[INPUT][1] != card.channels_in:
        raise DataError(f"{name}: its inputs and outputs are not those of its card; export it anew")
    return session, card


def run_onnx(session: Any, image: np.ndarray) -> np.ndarray:
    """Return logits (B, 1, H, W) of `image` (B, C, H, W) in float32."""
    logits: np.ndarray = session.run([OUTPUT], {INPUT: image})[0]
    return logits


def measure_difference(
    network: Segmenter, data: bytes, sizes_px: Sequence[tuple[int, int]]
) -> float:
    """Return the largest difference between the two over noise of the sizes (height, width)."""
    import numpy as np
    import torch

    session, _ = load_onnx(data)
    rng = np.random.Generator(np.random.PCG64(0))
    largest = 0.0
    with _evaluated(network), torch.no_grad():
        for number, (high, wide) in enumerate(sizes_px):
            shape = (number + 1, network.channels_in, high, wide)
            image = rng.random(shape, dtype=np.float32)
            wanted = network(torch.from_numpy(image)).numpy()
            found = run_onnx(session, image)
            if found.shape != wanted.shape:
                return float("inf")
            largest = max(largest, float(np.abs(found - wanted).max()))
    return largest


def _export(network: Segmenter, card: str) -> bytes:
    """Return the bytes of the ONNX model with the card."""
    onnx = _import("onnx")
    import torch

    size = network.size or (4 * network.multiple_px, 3 * network.multiple_px)
    example = torch.zeros(2, network.channels_in, *size)
    dynamic = {0: "batch"} | ({} if network.size else {2: "height", 3: "width"})
    written = io.BytesIO()
    export: Any = torch.onnx.export  # takes a stream too, which its annotations leave out
    with _evaluated(network), _quiet():
        try:
            # The tracing exporter: the newer one takes minutes a network to reason about any
            # height and width, and did not finish for vm-unet (torch 2.13).
            export(
                network,
                (example,),
                written,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: dynamic, OUTPUT: dynamic},
                opset_version=OPSET,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"the network {network.name} cannot be exported to ONNX: {reason}"
            ) from error
    model = onnx.load_from_string(written.getvalue())
    onnx.helper.set_model_props(model, {KEY: card})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _evaluated(network: Segmenter) -> Iterator[None]:
    """Put the network in eval mode meanwhile."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it warns of its own internals, and of torchvision's absence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX needs {name}, which is not installed; pip install 'univg[onnx]'"
        ) from error
