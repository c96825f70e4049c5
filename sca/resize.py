"""Bring masks to a common size without breaking their thin vessels.

In: a bool mask (H, W). Out: a bool mask whose longest side is the asked one, or of a given shape.
"""

from __future__ import annotations

import cv2
import numpy as np

from .skeleton import BoolArray, thin_mask


def resize_mask(mask: BoolArray, longest_px: int) -> BoolArray:
    """Return `mask` with its longest side scaled to `longest_px`, its proportions kept."""
    scale = longest_px / max(mask.shape)
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    return resize_to(mask, (height, width))


def resize_to(mask: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """Return `mask` scaled to `shape` (H, W).

    A pixel is vessel where at least half of it is covered. That alone would tear vessels thinner
    than two of the new pixels, so when shrinking, the centre line is drawn on top: neighbouring
    pixels land on the same or on neighbouring pixels, so what was connected stays connected.
    """
    mask = np.ascontiguousarray(mask, dtype=np.bool_)
    if mask.shape == shape:
        return mask
    height, width = shape
    shrinking = height * width < mask.size
    how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    plain = mask.astype(np.uint8) * 255
    covered = np.asarray(cv2.resize(plain, (width, height), interpolation=how) > 127)
    if shrinking:
        rows, columns = np.nonzero(thin_mask(mask))
        covered[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    return covered
