"""Whether two pictures are one, saved again: as JPEG, smaller, brighter, cropped, turned.

In: pictures, one by one. Out: for each that has one, the other that it is a copy of. Checksums see
copies without loss only (`univg.recipe_inputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from univg.images import ImageArray
from univg.memorisation import correlation_table, sign_images

FARTHEST = 0.05
"""Of copies, as a distance: those of JPEG at quality 20 or of half the size keep within 0.04; of
real images of four modalities the nearest, frames of one patient, are 0.1 apart."""


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


def find_copies(pictures: Sequence[Signed], others: Sequence[Signed]) -> dict[Path, Path]:
    """Return those of `pictures` that are copies of one of `others`, and of which."""
    if not pictures or not others:
        return {}
    likeness, _ = correlation_table(_stack(pictures), _stack(others))
    nearest = likeness.argmax(axis=1)
    return {
        picture.path: others[k].path
        for picture, k, row in zip(pictures, nearest, likeness, strict=True)
        if 1 - row[k] < FARTHEST
    }


def _stack(signed: Sequence[Signed]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return np.stack([each.value for each in signed]), np.stack([each.weight for each in signed])
