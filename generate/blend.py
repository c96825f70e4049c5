"""Two pictures in one, without a seam that shows.

In: float32 pictures H×W or H×W×3 of one shape, and where the second one is wanted (0..1). Out: one
picture. Each octave is blended over about its own width (a Laplacian pyramid, Burt and Adelson
1983): light changes over a long way, texture over a short one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]

MOST_GAIN = 1.8
COARSEST_PX = 12
"""A pyramid ends where its short side would fall below this."""


def blend(first: Picture, second: Picture, weight: Picture) -> Picture:
    """Return `first` where `weight` (H, W) is 0, `second` where it is 1, and no seam between."""
    if first.ndim == 3 and first.shape[2] == 1:  # OpenCV drops a lone channel
        return blend(first[:, :, 0], second[:, :, 0], weight)[:, :, None]
    levels = count_levels(first.shape)
    shares = [weight]
    for _ in range(levels):
        shares.append(_as_float(cv2.pyrDown(shares[-1])))
    # A pyramid is linear: blending the difference costs one pyramid, not two.
    bands = split_bands(second - first, levels)
    mixed = [band * _match(share, band) for band, share in zip(bands, shares, strict=True)]
    return np.asarray(first + join_bands(mixed))


def measure_grain(picture: Picture) -> npt.NDArray[np.float32]:
    """Return the spread of the finest octave of `picture` (H, W, C), of each channel."""
    fine = picture - _soften(picture)
    # By the mean deviation: a few sharp edges are no grain.
    return np.asarray(np.abs(fine).mean(axis=(0, 1)), np.float32)


def restore_grain(picture: Picture, wanted: npt.NDArray[np.float32]) -> Picture:
    """Return `picture` (H, W, C) with its finest octave as strong as `wanted` again.

    Moving a picture by parts of a pixel softens it.
    """
    soft = _soften(picture)
    fine = picture - soft
    found = np.abs(fine).mean(axis=(0, 1))
    gain = np.clip(wanted / np.maximum(found, 1e-3), 0.8, MOST_GAIN).astype(np.float32)
    return np.asarray(soft + fine * gain)


def _soften(picture: Picture) -> Picture:
    """Return `picture` (H, W, C) without its finest octave."""
    soft = cv2.GaussianBlur(picture, (5, 5), 0, borderType=cv2.BORDER_REFLECT_101)
    return _as_float(soft).reshape(picture.shape)


def count_levels(shape: tuple[int, ...]) -> int:
    """Return how often a picture of `shape` can be halved."""
    return max(0, int(math.log2(max(1.0, min(shape[:2]) / COARSEST_PX))))


def split_bands(picture: Picture, levels: int) -> list[Picture]:
    """Return the octaves of `picture`, the finest first, and last what is left of it."""
    bands = []
    for _ in range(levels):
        small = _as_float(cv2.pyrDown(picture))
        bands.append(np.asarray(picture - _enlarge(small, picture.shape)))
        picture = small
    return [*bands, picture]


def join_bands(bands: Sequence[Picture]) -> Picture:
    """Return the picture that `split_bands` took apart."""
    picture = bands[-1]
    for band in reversed(bands[:-1]):
        picture = np.asarray(band + _enlarge(picture, band.shape))
    return picture


def _enlarge(small: Picture, shape: tuple[int, ...]) -> Picture:
    return _as_float(cv2.pyrUp(small, dstsize=(shape[1], shape[0])))


def _match(share: Picture, band: Picture) -> Picture:
    return share if band.ndim == 2 else share[:, :, None]


def _as_float(values: npt.ArrayLike) -> Picture:
    return np.asarray(values, np.float32)
