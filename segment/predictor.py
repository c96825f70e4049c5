"""A trained segmenter, ready to be given images.

In: a file that `univg segment fit` wrote, or its ONNX form. Out: a `Predictor`: from an image as it
is stored, of any size, depth and number of channels, to the probability of vessel at its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import ConfigError, DataError
from univg.images import ImageArray
from univg.masks import BoolMask

from .data import Channels, Preparation, Prepared, View, choose_view, prepare_image
from .predict_tiles import Logits, predict_probability
from .weights import WeightsCard, load_network

if TYPE_CHECKING:
    from .net_frame import Segmenter

Float32 = npt.NDArray[np.float32]
ONNX = ".onnx"
DEFAULT_TILE_PX = 512
LARGEST_PX = 8192


@dataclass(frozen=True)
class Found:
    """What a segmenter finds in an image."""

    probability: Float32
    """(H, W), at the image's own size; 0 outside the field of view."""
    mask: BoolMask
    fov: BoolMask


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model and how images go through it."""

    card: WeightsCard
    logits_of: Logits
    how: Preparation
    tile_px: int
    fixed: bool
    threshold: float
    batch: int = 1
    overlap: float = 0.5
    flips: bool = False

    @property
    def shots_px(self) -> int:
        """Longest side of the images that it was trained on, 0 where the model does not say."""
        training = self.card.facts.get("training")
        told = training.get("shots_px") if isinstance(training, Mapping) else None
        return told if isinstance(told, int) else 0

    def predict(self, image: ImageArray, fov: BoolMask | None = None) -> Found:
        """Return what the model finds in an image (H, W) or (H, W, 3) of 8 or 16 bits."""
        return self.finish(image, self.run(self.prepare(image, fov)), fov)

    def prepare(self, image: ImageArray, fov: BoolMask | None = None) -> Prepared:
        """Bring an image to what the network takes."""
        return prepare_image(image, self.how, fov)

    def run(self, prepared: Prepared) -> Float32:
        """Return the probability at the network's scale."""
        return predict_probability(
            prepared.whole(),
            self.logits_of,
            tile_px=self.tile_px,
            overlap=self.overlap,
            batch=self.batch,
            flips=self.flips,
            fixed=self.fixed,
        )

    def finish(self, image: ImageArray, probability: Float32, fov: BoolMask | None = None) -> Found:
        """Bring the probability back to the image's own size, and cut it."""
        height, width = image.shape[:2]
        if probability.shape != (height, width):
            scaled = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
            probability = np.asarray(scaled, np.float32)
        view = choose_view(image, self.how.fov, fov)
        inside = np.where(view, np.clip(probability, 0.0, 1.0), 0.0).astype(np.float32)
        return Found(inside, np.asarray(inside >= self.threshold), view)


def load_predictor(
    model: Path,
    *,
    device: str = "auto",
    threshold: float | None = None,
    tile_px: int | None = None,
    overlap: float = 0.5,
    batch: int | None = None,
    flips: bool = False,
    fov: View | None = None,
    own_network: str | None = None,
) -> Predictor:
    """Load a model; what is left at None is as it was trained."""
    if model.is_dir():
        model = model / "model.safetensors"
    count = 1
    if model.suffix.lower() == ONNX:
        card, logits_of = _load_onnx(model, device)
    else:
        network, card = load_network(model, own_network)
        place = choose_device(device)
        # On a CPU always one: a larger batch is no faster there, and rounds otherwise.
        count = 1 if place == "cpu" else batch or 8
        logits_of = _run_torch(network, place)
    how, trained_px, fixed = read_facts(card, model)
    if fov is not None:
        how = Preparation(channels=how.channels, longest_px=how.longest_px, fov=fov)
    if fixed and tile_px not in {None, trained_px}:
        raise ConfigError(
            f"tile_px is {tile_px}: the network {card.network} takes {trained_px} px only"
        )
    if tile_px is not None and tile_px % 32:
        raise ConfigError(f"tile_px is {tile_px}: take a multiple of 32")
    return Predictor(
        card=card,
        logits_of=_checked(logits_of, model),
        how=how,
        tile_px=tile_px or trained_px,
        fixed=fixed,
        threshold=card.threshold if threshold is None else threshold,
        batch=count,
        overlap=overlap,
        flips=flips,
    )


def read_facts(card: WeightsCard, model: Path) -> tuple[Preparation, int, bool]:
    """Return how images are prepared, the side of tiles, and whether it is the only one."""
    try:
        how = card.facts["preparation"]
        prepared = Preparation(
            channels=how["channels"], longest_px=int(how["longest_px"]), fov=how["fov"]
        )
        tile, fixed = int(card.facts["tile_px"]), bool(card.facts["tile_fixed"])
        _check_facts(prepared, tile, fixed)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{model}: does not say how its images are prepared ({error!r}); give weights that "
            "`univg segment fit` wrote"
        ) from error
    if prepared.count != card.channels_in:
        raise DataError(
            f"{model}: takes {card.channels_in} channels and says {prepared.channels}; train again"
        )
    return prepared, tile, fixed


def _check_facts(how: Preparation, tile_px: int, fixed: bool) -> None:
    """Raise ValueError for what no training writes."""
    if how.channels not in get_args(Channels) or how.fov not in get_args(View):
        raise ValueError(f"channels {how.channels}, fov {how.fov}")
    if not 0 <= how.longest_px <= LARGEST_PX:
        raise ValueError(f"longest side {how.longest_px} px")
    if not 1 <= tile_px <= LARGEST_PX or (tile_px % 32 and not fixed):
        raise ValueError(f"tiles of {tile_px} px")


def choose_device(asked: str) -> str:
    """Return the name of the device to compute on."""
    import torch

    from univg.devices import require_device

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    require_device(asked)
    return asked


def _checked(logits_of: Logits, model: Path) -> Logits:
    """Return `logits_of` that refuses a model which gives no map of numbers."""

    def run(tiles: Float32) -> Float32:
        found = logits_of(tiles)
        wanted = (len(tiles), 1, *tiles.shape[2:])
        if found.shape != wanted:
            raise DataError(f"{model}: gives {found.shape} where {wanted} is expected; export anew")
        if not np.isfinite(found).all():
            raise DataError(f"{model}: gives values that are no numbers; copy it or train it again")
        return found

    return run


def _run_torch(network: Segmenter, device: str) -> Logits:
    import torch

    network.to(device).eval()

    def run(tiles: Float32) -> Float32:
        with torch.inference_mode():
            found: Float32 = network(torch.from_numpy(tiles).to(device)).float().cpu().numpy()
        return found

    return run


def _load_onnx(model: Path, device: str) -> tuple[WeightsCard, Logits]:
    from .onnx_export import load_onnx, run_onnx

    if device not in {"auto", "cpu"}:
        raise ConfigError(f"device is {device}: ONNX models run on the CPU here; take cpu")
    session: Any
    session, card = load_onnx(model)
    return card, lambda tiles: run_onnx(session, tiles)
