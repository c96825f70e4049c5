"""`univg segment predict`: vessel masks of the images in a folder.

In: a trained model, a folder of images or of pairs. Out: `masks/`, `probabilities/` (16 bits) and
`overlays/` of the images' names, with `manifest.jsonl`. Run again, it goes on where it stopped.

Also a trained model as a function, for `univg generate check --segmenter` and notebooks.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le, Lt

from univg.config import check, settings
from univg.errors import ConfigError, DataError

from .data import View

if TYPE_CHECKING:
    from .predict_folder import Listed
    from .predictor import Predictor

FREE = {"images", "model", "out", "batch", "device", "skip_bad", "network"}
"""Settings that change no byte, or stand by checksums. On a GPU, --batch changes rounding."""
MODEL_VARIABLE = "UNIVG_SEGMENTER"


@settings
class Predict:
    """Find the vessels in the images of a folder.

    Writes OUT/masks, OUT/probabilities and OUT/overlays, a PNG each an image. The same command goes
    on after an interruption.
    """

    model: Path
    """File that `univg segment fit` wrote, its run folder, or an .onnx file."""
    images: Path
    """Folder of images of any size, 8 or 16 bits, grey or colour; or one that holds images/."""
    out: Path
    """Folder to write; new, empty, or of the same run."""
    threshold: Annotated[float, Gt(0), Lt(1)] | None = None
    """Where probabilities are cut; default: as found in training."""
    fov: View | None = None
    """Where to look: auto, given (fov/ beside images/), found, whole; default: as in training."""
    flips: bool = False
    """Also look at mirrored images and take the mean: four times the work."""
    tile_px: Annotated[int, Ge(32), Le(8192)] | None = None
    """Side of the tiles that larger images are cut into; default: as in training."""
    overlap: Annotated[float, Ge(0), Le(0.9)] = 0.5
    """How far tiles overlap, in shares of their side; they lie on a grid of 32 px."""
    batch: Annotated[int, Ge(1), Le(1024)] | None = None
    """Tiles at once on a GPU, default 8; on a CPU always 1."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto: the GPU where there is one."""
    network: str | None = None
    """Name it again for a model of your own code (package.module:function), which is then run."""
    skip_bad: bool = False
    """Leave images out that cannot be read, and count them, instead of refusing all."""


@dataclass(frozen=True)
class PredictResult:
    """What a run made."""

    made: int
    skipped: int
    bad: int
    folder: Path


def plan(asked: Predict) -> str:
    """Say what would be written; refuse what a run would."""
    _, listed = open_inputs(check(asked))
    return (
        f"Would look for vessels in {len(listed.items)} images ({listed.bad} cannot be "
        f"read) and write masks/, probabilities/ and overlays/ to {asked.out}."
    )


def run(asked: Predict) -> PredictResult:
    """Predict; go on where an earlier run stopped."""
    from univg.config import to_yaml
    from univg.executors import Pipeline
    from univg.run_folder import fill_folder

    from .predict_folder import PredictMaker

    asked = check(asked)
    predictor, listed = open_inputs(asked)
    sizes = listed.note_sizes(predictor.how, predictor.shots_px)
    for line in [*listed.notes(predictor.how), *sizes]:
        print(line)  # noqa: T201
    maker = PredictMaker(predictor, listed.items, identity_of(asked, listed))
    wanted = range(len(listed.items))
    filled = fill_folder(maker, asked.out, wanted, Pipeline(), config=to_yaml(asked).encode())
    print(filled.line("images"))  # noqa: T201
    for problem in listed.problems:
        print(f"left out: {problem.line()}")  # noqa: T201
    if listed.problems:
        there = listed.bad + len(listed.items)
        print(f"{listed.bad} of {there} images could not be used")  # noqa: T201
    print(asked.out)  # noqa: T201
    return PredictResult(filled.made, filled.skipped, listed.bad, asked.out)


def open_inputs(asked: Predict) -> tuple[Predictor, Listed]:
    """Return the model and the images, or tell why they cannot be used."""
    from .predict_folder import list_images, require_views

    if asked.out.resolve() == asked.images.resolve():
        raise DataError(f"{asked.out}: is the folder of the images; choose another --out")
    predictor = open_model(asked)
    listed = list_images(asked.images, asked.skip_bad, predictor.how.fov)
    return predictor, require_views(listed, predictor.how, asked.skip_bad)


def open_model(asked: Predict) -> Predictor:
    """Load the model as asked."""
    from .predictor import load_predictor

    return load_predictor(
        asked.model,
        device=asked.device,
        threshold=asked.threshold,
        tile_px=asked.tile_px,
        overlap=asked.overlap,
        batch=asked.batch,
        flips=asked.flips,
        fov=asked.fov,
        own_network=asked.network,
    )


def identity_of(asked: Predict, listed: Listed) -> dict[str, Any]:
    """Return what a resumed run must share with the first."""
    from univg import __version__
    from univg.config import to_plain
    from univg.files import sha256_of_file

    model = asked.model / "model.safetensors" if asked.model.is_dir() else asked.model
    settings = {name: value for name, value in to_plain(asked).items() if name not in FREE}
    return {
        "stage": "segment predict",
        "version": __version__,
        "settings": settings,
        "model": sha256_of_file(model),
        "images": listed.checksum(),
    }


def as_function(model: str | Path) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """Return the model as a function from an image (H, W) or (H, W, 3) to probabilities (H, W)."""
    predictor = _load_once(str(model))

    def segment(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return predictor.predict(image).probability

    return segment


def segment_image(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the probabilities (H, W) of vessel in an image, by the model UNIVG_SEGMENTER names.

    For `univg generate check --segmenter univg.segment.predict:segment_image`.
    """
    model = os.environ.get(MODEL_VARIABLE)
    if not model:
        raise ConfigError(
            f"{MODEL_VARIABLE} is not set: set it to a file that `univg segment fit` wrote"
        )
    return as_function(model)(image)


@functools.lru_cache(maxsize=2)
def _load_once(model: str) -> Predictor:
    from .predictor import load_predictor

    return load_predictor(Path(model))
