"""Unlabelled images, whose grounds the composite engine uses beside those of the shots.

In: a folder of images, and what `univg segment predict` found in them. Out: images with the places
that may be vessels, told as a shot is, so that all of them can be taken out. What the few shots do
not show of how images differ, these show; how vessels look is learnt of the shots alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.images import PictureError, list_pictures, read_image

from .shots import Shot

LEAST = 0.15
"""Probability from which a pixel may be vessel: a vessel that stays is worse than ground lost."""
DEEP = 65535
MOST_TAKEN = 0.6
"""An image of which a finder takes more than this share has no ground left: it is left out."""


def read_unlabelled(images: Path, found: Path) -> list[Shot]:
    """Return (name, image, what may be vessel, None) of each image of `images` with some ground."""
    inner = images / "images"
    paths = list_pictures(inner if inner.is_dir() else images)
    if not paths:
        raise DataError(f"{images}: holds no picture (png, tif, gif, bmp, ppm or jpg); check it")
    probabilities = found / "probabilities"
    if not probabilities.is_dir():
        raise DataError(
            f"{found}: has no probabilities/; name what `univg segment predict` wrote for {images}"
        )
    shots: list[Shot] = []
    problems: list[Problem] = []
    for path in paths:
        made = _read_one(path, probabilities / f"{path.stem}.png")
        if isinstance(made, Problem):
            problems.append(made)
        elif float(made[2].mean()) <= MOST_TAKEN:
            shots.append(made)
    if problems:
        raise ProblemReport(problems, f"{images}: unlabelled images that cannot be used")
    return shots


def _read_one(path: Path, probability: Path) -> Shot | Problem:
    if not probability.is_file():
        return Problem(
            path=path, kind="missing", detail=f"there is no {probability}",
            remedy="run `univg segment predict` on all of them",
        )  # fmt: skip
    try:
        image, share = read_image(path), read_image(probability)
    except PictureError as error:
        return error.problem
    if share.ndim != 2 or share.dtype != np.uint16 or share.shape != image.shape[:2]:
        return Problem(
            path=probability, kind="shape",
            detail=f"is {share.dtype} of {share.shape}, its image is {image.shape[:2]}",
            remedy="it is not what `univg segment predict` found in that image",
        )  # fmt: skip
    return path.stem, image, np.asarray(share >= round(LEAST * DEEP), np.bool_), None
