"""The probability of vessel at each pixel of an image of any size, tile by tile.

In: an image as the network takes it, (C, H, W), and a function from tiles (B, C, T, T) to logits
(B, 1, T, T). Out: probabilities (H, W). Tiles overlap and are blended with Gaussian weights, so
that no seam shows; they lie on a grid of the network's steps, so that pooling falls as in one
piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Logits = Callable[[Float32], Float32]

SIGMA_SHARE = 1 / 8
"""Deviation of the weights in shares of a tile's side, as nnU-Net takes it."""
GRID_PX = 32
FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


def predict_probability(
    image: Float32,
    logits_of: Logits,
    *,
    tile_px: int,
    overlap: float = 0.5,
    batch: int = 1,
    flips: bool = False,
    fixed: bool = False,
) -> Float32:
    """Return the probability of vessel, (H, W), of `image` (C, H, W).

    An image not larger than a tile goes through in one piece, unless the network takes tiles of
    this size only (`fixed`). `flips` also looks at its mirror images and takes the mean.
    """
    if not flips:
        return _predict(image, logits_of, tile_px, overlap, batch, fixed)
    total = np.zeros(image.shape[1:], np.float32)
    for axes in FLIPS:
        turned = np.ascontiguousarray(np.flip(image, axes)) if axes else image
        found = _predict(turned, logits_of, tile_px, overlap, batch, fixed)
        total += np.flip(found, tuple(axis - 1 for axis in axes)) if axes else found
    total /= len(FLIPS)
    return total


def list_starts(length: int, tile_px: int, overlap: float) -> list[int]:
    """Return where tiles begin along a side; together they reach its end, or beyond it."""
    if length <= tile_px:
        return [0]
    most = max(GRID_PX, math.floor(tile_px * (1.0 - overlap)) // GRID_PX * GRID_PX)
    count = math.ceil((length - tile_px) / most)
    # Spread evenly: the last tile then hangs over the border as little as the grid allows.
    step = math.ceil((length - tile_px) / count / GRID_PX) * GRID_PX
    return [step * number for number in range(math.ceil((length - tile_px) / step) + 1)]


def round_tile(side_px: int) -> int:
    """Return the side of a tile that fits the grid."""
    return max(GRID_PX, math.ceil(side_px / GRID_PX) * GRID_PX)


def _predict(
    image: Float32, logits_of: Logits, tile_px: int, overlap: float, batch: int, fixed: bool
) -> Float32:
    height, width = image.shape[1:]
    if max(height, width) <= tile_px and not fixed:
        return _to_probability(logits_of(image[None])[0, 0])
    rows, columns = (list_starts(length, tile_px, overlap) for length in (height, width))
    padded = _pad(image, rows[-1] + tile_px, columns[-1] + tile_px)
    weight = weigh_tile(tile_px)
    total = np.zeros(padded.shape[1:], np.float32)
    weights = np.zeros(padded.shape[1:], np.float32)
    places = [(row, column) for row in rows for column in columns]
    for part in _cut_list(places, batch):
        tiles = np.stack([padded[:, r : r + tile_px, c : c + tile_px] for r, c in part])
        found = logits_of(tiles)
        for (r, c), logits in zip(part, found, strict=True):
            total[r : r + tile_px, c : c + tile_px] += weight * _to_probability(logits[0])
            weights[r : r + tile_px, c : c + tile_px] += weight
    return np.ascontiguousarray((total / weights)[:height, :width])


@lru_cache(maxsize=4)
def weigh_tile(tile_px: int) -> Float32:
    """Return the weights of a tile (T, T): 1 in the middle, never 0."""
    away = (np.arange(tile_px) - (tile_px - 1) / 2) / (SIGMA_SHARE * tile_px)
    line = np.exp(-0.5 * away**2)
    return np.maximum(np.outer(line, line), 1e-4).astype(np.float32)


def _pad(image: Float32, height: int, width: int) -> Float32:
    """Return `image` mirrored beyond its lower and right border."""
    missing = max(0, height - image.shape[1]), max(0, width - image.shape[2])
    if not any(missing):
        return image
    rows, columns = (
        np.array(
            [cv2.borderInterpolate(k, side, cv2.BORDER_REFLECT_101) for k in range(side + more)]
        )
        for side, more in zip(image.shape[1:], missing, strict=True)
    )
    return np.ascontiguousarray(image[:, rows[:, None], columns[None, :]])


def _to_probability(logits: Float32) -> Float32:
    """The logistic function, without overflow."""
    small = np.exp(-np.abs(logits.astype(np.float32)))
    found: Float32 = np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    return found.astype(np.float32)


def _cut_list(places: list[tuple[int, int]], count: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(places), count):
        yield places[start : start + count]
