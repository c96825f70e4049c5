"""How much of a mask lies on another, whatever way up and wherever that lies.

In: masks. Out: for each the largest overlap with any source mask: all flips and quarter turns,
shifts up to 6 of 128 pixels, a tolerance of one pixel.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.resize import resize_to

THUMBNAIL_PX = 128
TURNS = 8
_REACH_PX = 6
_STRIDE_PX = 2  # every other shift: the tolerance of a pixel covers those between
_BATCH = 256

_Float32 = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


def make_thumbnail(mask: BoolMask) -> BoolMask:
    """Return `mask` as (128, 128), its thin vessels kept."""
    return resize_to(mask, (THUMBNAIL_PX, THUMBNAIL_PX))


def overlap_table(masks: BoolMask, sources: BoolMask) -> tuple[_Floats, _Ints]:
    """Return the overlap (N, M) of each of `masks` (N, S, S) with each of `sources` (M, S, S).

    The overlap of a mask A with a source B is (|A ∩ B⁺| + |A⁺ ∩ B|) / (|A| + |B|), ⁺ a widening by
    one pixel, the largest over all turns and shifts of B. Second (N, M): the turn it was found at.
    """
    table = np.zeros((len(masks), len(sources)))
    turns = np.zeros(table.shape, np.int64)
    flat, wide = _flatten(masks), _flatten(_widen(masks))
    areas = flat.sum(axis=1)
    for index, source in enumerate(sources):
        plain, widened = _arrange(source), _arrange(_widen(source[None])[0])
        source_areas = plain.sum(axis=1)
        for start in range(0, len(masks), _BATCH):
            part = slice(start, start + _BATCH)
            shared = flat[part] @ widened.T + wide[part] @ plain.T
            total = areas[part, None] + source_areas[None, :]
            shares = shared / np.maximum(total, 1)
            table[part, index] = shares.max(axis=1)
            turns[part, index] = shares.argmax(axis=1) // (len(plain) // TURNS)
    return table, turns


def nearest_overlap(
    masks: BoolMask, sources: BoolMask, *, skip_equal: bool = False
) -> tuple[_Floats, _Ints]:
    """Return the overlap (N,) of each of `masks` (N, S, S) with the nearest source, and which.

    `skip_equal` leaves out a source that is the mask itself, pixel for pixel. A mask that has no
    source to compare with gets 0 and -1.
    """
    table, _ = overlap_table(masks, sources)
    if skip_equal:
        for index, source in enumerate(sources):
            table[(masks == source).all(axis=(1, 2)), index] = -1.0
    best = table.max(axis=1, initial=0.0)
    which = table.argmax(axis=1) if len(sources) else np.zeros(len(masks), np.int64)
    return best, np.where(best > 0, which, -1)


def turn_over(pixels: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """Return `pixels` (H, W) or (H, W, 3) in position `turn`, 0 to 7: quarter turns, mirrored."""
    turned = np.rot90(pixels, turn // 2)
    return turned[:, ::-1] if turn % 2 else turned


def _flatten(masks: npt.NDArray[Any]) -> _Float32:
    return masks.reshape(len(masks), -1).astype(np.float32)


def _widen(masks: BoolMask) -> BoolMask:
    kernel = np.ones((3, 3), np.uint8)
    widened = [cv2.dilate(mask.astype(np.uint8), kernel) for mask in masks]
    return np.asarray(widened, dtype=np.bool_).reshape(masks.shape)


def _arrange(source: BoolMask) -> _Float32:
    """Return `source` (S, S) in every position and shift as rows (K, S·S)."""
    side = len(source)
    flips = [turn_over(source, turn) for turn in range(TURNS)]
    offsets = range(0, 2 * _REACH_PX + 1, _STRIDE_PX)
    out = np.empty((len(flips), len(offsets), len(offsets), side, side), np.float32)
    for k, flip in enumerate(flips):
        framed = np.pad(flip, _REACH_PX)
        for i, top in enumerate(offsets):
            for j, left in enumerate(offsets):
                out[k, i, j] = framed[top : top + side, left : left + side]
    return out.reshape(-1, side * side)
