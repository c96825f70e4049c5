"""Whether synthetic masks are copies of the real ones they were made from.

In: masks. Out: for each the largest overlap with any source mask, whatever way up and wherever
that lies: all flips and quarter turns, shifts up to 6 of 128 pixels, a tolerance of one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .resize import resize_to
from .skeleton import BoolArray, FloatArray, IntArray

THUMBNAIL_PX = 128
_REACH_PX = 6
_STRIDE_PX = 2  # every other shift: the tolerance of a pixel covers those between
_BATCH = 256

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CopyOverlap:
    """Overlap (Dice with tolerance, 0 to 1) of each mask with its nearest source."""

    mean: float
    p95: float
    max: float
    nearest: str
    """Name of the mask with the largest overlap."""


def make_thumbnail(mask: BoolArray) -> BoolArray:
    """Return `mask` as (128, 128), its thin vessels kept."""
    return resize_to(mask, (THUMBNAIL_PX, THUMBNAIL_PX))


def nearest_overlap(
    masks: BoolArray, sources: BoolArray, *, skip_equal: bool = False
) -> tuple[FloatArray, IntArray]:
    """Return the overlap (N,) of each of `masks` (N, S, S) with the nearest source, and which.

    `skip_equal` leaves out a source that is the mask itself, pixel for pixel. The overlap of a
    mask A with a source B is (|A ∩ B⁺| + |A⁺ ∩ B|) / (|A| + |B|), ⁺ a widening by one pixel. A mask
    that has no source to compare with gets 0 and -1.
    """
    best = np.zeros(len(masks))
    which = np.full(len(masks), -1, dtype=np.int64)
    flat, wide = _flatten(masks), _flatten(_widen(masks))
    areas = flat.sum(axis=1)
    for index, source in enumerate(sources):
        plain, widened = _arrange(source), _arrange(_widen(source[None])[0])
        source_areas = plain.sum(axis=1)
        for start in range(0, len(masks), _BATCH):
            part = slice(start, start + _BATCH)
            shared = flat[part] @ widened.T + wide[part] @ plain.T
            total = areas[part, None] + source_areas[None, :]
            found = (shared / np.maximum(total, 1)).max(axis=1)
            if skip_equal:
                found[(masks[part] == source).all(axis=(1, 2))] = -1.0
            better = found > best[part]
            best[part][better] = found[better]
            which[part][better] = index
    return best, which


def summarise_copies(
    masks: BoolArray, sources: BoolArray, names: Sequence[str], *, skip_equal: bool = False
) -> CopyOverlap:
    """Return mean, 95th percentile and largest overlap of `masks` (N, S, S) with `sources`."""
    overlap, _ = nearest_overlap(masks, sources, skip_equal=skip_equal)
    return CopyOverlap(
        mean=float(overlap.mean()),
        p95=float(np.quantile(overlap, 0.95)),
        max=float(overlap.max()),
        nearest=names[int(overlap.argmax())],
    )


def _flatten(masks: npt.NDArray[Any]) -> _Float32:
    return masks.reshape(len(masks), -1).astype(np.float32)


def _widen(masks: BoolArray) -> BoolArray:
    kernel = np.ones((3, 3), np.uint8)
    widened = [cv2.dilate(mask.astype(np.uint8), kernel) for mask in masks]
    return np.asarray(widened, dtype=np.bool_).reshape(masks.shape)


def _arrange(source: BoolArray) -> _Float32:
    """Return `source` (S, S) in every position and shift as rows (K, S·S)."""
    side = len(source)
    flips = [flip for turn in range(4) for flip in _both_ways(np.rot90(source, turn))]
    offsets = range(0, 2 * _REACH_PX + 1, _STRIDE_PX)
    out = np.empty((len(flips), len(offsets), len(offsets), side, side), np.float32)
    for k, flip in enumerate(flips):
        framed = np.pad(flip, _REACH_PX)
        for i, top in enumerate(offsets):
            for j, left in enumerate(offsets):
                out[k, i, j] = framed[top : top + side, left : left + side]
    return out.reshape(-1, side * side)


def _both_ways(mask: BoolArray) -> tuple[BoolArray, BoolArray]:
    return mask, mask[:, ::-1]
