"""Whether two pictures are one, saved again: as JPEG, smaller, brighter, cropped, turned.

In: pictures, one by one. Out: for each that has one, the other that it is a copy of. Checksums see
copies without loss only (`univg.recipe_inputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from univg.images import ImageArray, PictureError, read_image
from univg.memorisation import correlation_table, sign_images
from univg.overlap import TURNS, turn_over

FARTHEST = 0.05
"""Of copies, as a distance: those of JPEG at quality 20 or of half the size keep within 0.04; of
real images of four modalities the nearest, frames of one patient, are 0.1 apart."""

THREADS = 4
LIKELY = 0.5
"""Of a correlation without shifts, which copies exceed by far: the others need no closer look."""


@dataclass(frozen=True)
class Signed:
    """What is compared of a picture: small, so many may be held."""

    path: Path
    value: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]


def sign_picture(path: Path, image: ImageArray) -> Signed:
    """Return what is compared of a picture."""
    values, weights = sign_images([image])
    return Signed(path, values[0], weights[0])


def sign_files(paths: Sequence[Path]) -> list[Signed]:
    """Return what is compared of the pictures that can be read."""

    def sign(path: Path) -> Signed | None:
        try:
            return sign_picture(path, read_image(path))
        except PictureError:
            return None  # told by who uses it

    with ThreadPoolExecutor(THREADS) as pool:
        return [signed for signed in pool.map(sign, paths) if signed is not None]


def choose_evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """Return `most` of the paths, or all if there are no more, from first to last."""
    step = max(1.0, len(paths) / most)
    return [paths[int(number * step)] for number in range(min(len(paths), most))]


def find_copies(pictures: Sequence[Signed], others: Sequence[Signed]) -> dict[Path, Path]:
    """Return those of `pictures` that are copies of one of `others`, and of which."""
    if not pictures or not others:
        return {}
    found: dict[Path, Path] = {}
    likely = _list_likely(pictures, others)
    for picture, among in zip(pictures, likely, strict=True):
        if not len(among):
            continue
        likeness, _ = correlation_table(_stack([picture]), _stack([others[k] for k in among]))
        if 1 - likeness.max() < FARTHEST:
            found[picture.path] = others[among[likeness.argmax()]].path
    return found


def _list_likely(
    pictures: Sequence[Signed], others: Sequence[Signed]
) -> list[npt.NDArray[np.int64]]:
    """Return for each picture the others that it may be a copy of, in whatever position."""
    rows = _flatten([picture.value for picture in pictures])
    columns = [_flatten([turn_over(each.value, turn) for each in others]) for turn in range(TURNS)]
    best = np.max([rows @ column.T for column in columns], axis=0)
    return [np.flatnonzero(row > LIKELY) for row in best]


def _flatten(values: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    flat = np.stack(values).reshape(len(values), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(norms, 1e-6), np.float32)


def _stack(signed: Sequence[Signed]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.stack([each.value for each in signed]), np.stack([each.weight for each in signed])
