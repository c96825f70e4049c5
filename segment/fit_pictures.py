"""Pictures of what a segmenter finds: the image, the truth, the probability, the difference.

In: an example, a probability. Out: uint8 (H, W, 3) of one size for all, for previews and pages.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.overlays import draw_overlay

from .data import Example

Picture = npt.NDArray[np.uint8]
TILE_PX = 256
TINT = (255, 64, 32)
TINT_SHARE = 0.55


def draw_case(
    example: Example, probability: npt.NDArray[np.float32], threshold: float
) -> list[Picture]:
    """Return four squares: image, truth, probability, and where the cut mask is right and wrong."""
    image = to_display(example.image.scale(example.image.pixels))
    grey = np.round(probability * 255).astype(np.uint8)
    difference = draw_overlay(
        probability >= threshold, example.mask, example.image.fov, longest_px=TILE_PX
    )
    truth = example.mask.astype(np.uint8) * np.uint8(255)
    return [_to_square(picture) for picture in (image, truth, grey, difference)]


def to_display(values: npt.NDArray[np.float32]) -> Picture:
    """Return values (H, W, C) from 0 to 1 as a colour picture."""
    plain = np.round(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    return plain if plain.shape[2] == 3 else np.repeat(plain, 3, axis=2)


def tint_mask(image: Picture, mask: BoolMask) -> Picture:
    """Return a colour picture with `mask` tinted in it."""
    tinted = image.copy()
    ink = np.array(TINT, np.float32) * TINT_SHARE
    tinted[mask] = np.round(image[mask].astype(np.float32) * (1 - TINT_SHARE) + ink)
    return tinted


def _to_square(picture: npt.NDArray[np.uint8]) -> Picture:
    colour = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    height, width = colour.shape[:2]
    scale = TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    square = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    square[: small.shape[0], : small.shape[1]] = small
    return square
