"""Masks and images brought to another size, or to a square, by one rule for the whole project.

In: a bool mask (H, W) or an 8-bit image (H, W) or (H, W, 3). Out: the same at another size. Thin
vessels of a mask stay connected; a mask and its image, fitted alike, go on to match.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

BoolMask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Fit = Literal["stretch", "crop", "pad"]
"""How a picture becomes a square: both sides scaled, the centre cut out, or the border filled."""


def resize_mask(mask: BoolMask, longest_px: int) -> BoolMask:
    """Return `mask` with its longest side scaled to `longest_px`, its proportions kept."""
    return resize_to(mask, _scaled_shape(mask.shape, longest_px))


def resize_to(mask: BoolMask, shape: tuple[int, int]) -> BoolMask:
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
        from skimage.morphology import skeletonize  # late: it takes longer than all else here

        rows, columns = np.nonzero(skeletonize(mask))  # type: ignore[no-untyped-call, unused-ignore]
        covered[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    return covered


def resize_image(image: Bytes, shape: tuple[int, int]) -> Bytes:
    """Return `image` scaled to `shape` (H, W): by area when shrinking, else by cubic curves."""
    if image.shape[:2] == shape:
        return np.ascontiguousarray(image)
    height, width = shape
    shrinking = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def fit_mask(mask: BoolMask, size_px: int, fit: Fit) -> BoolMask:
    """Return `mask` as a square of `size_px`; what `pad` adds is background."""
    if fit == "stretch":
        return resize_to(mask, (size_px, size_px))
    if fit == "crop":
        return resize_to(mask[_central_square(mask.shape)], (size_px, size_px))
    small = resize_mask(mask, size_px)
    square = np.zeros((size_px, size_px), np.bool_)
    square[_middle(small.shape, size_px)] = small
    return square


def fit_image(image: Bytes, size_px: int, fit: Fit) -> Bytes:
    """Return `image` as a square of `size_px`.

    What `pad` adds has the median colour of the image's border: black round a fundus, grey round
    an angiogram, so that the edge of the picture is no vessel.
    """
    if fit == "stretch":
        return resize_image(image, (size_px, size_px))
    if fit == "crop":
        return resize_image(image[_central_square(image.shape)], (size_px, size_px))
    small = resize_image(image, _scaled_shape(image.shape, size_px))
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    square = np.empty((size_px, size_px, *image.shape[2:]), np.uint8)
    square[:] = np.rint(np.median(border, axis=0)).astype(np.uint8)
    square[_middle(small.shape, size_px)] = small
    return square


def stretch_factor(shape: tuple[int, ...]) -> float:
    """Return how far the longer side of `shape` exceeds the shorter one; 1 for a square."""
    return max(shape[:2]) / min(shape[:2])


def _scaled_shape(shape: tuple[int, ...], longest_px: int) -> tuple[int, int]:
    scale = longest_px / max(shape[:2])
    height, width = (max(1, round(side * scale)) for side in shape[:2])
    return height, width


def _central_square(shape: tuple[int, ...]) -> tuple[slice, slice]:
    height, width = shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _middle(shape: tuple[int, ...], size_px: int) -> tuple[slice, slice]:
    top, left = (size_px - shape[0]) // 2, (size_px - shape[1]) // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])
