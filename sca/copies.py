"""Whether synthetic masks are copies of the real ones they were made from.

In: masks. Out: for each the largest overlap with any source mask, whatever way up and wherever
that lies; the overlap itself is the core's (`univg.overlap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from univg.overlap import THUMBNAIL_PX, make_thumbnail, nearest_overlap
from univg.skeleton import BoolArray

__all__ = ["THUMBNAIL_PX", "CopyOverlap", "make_thumbnail", "nearest_overlap", "summarise_copies"]


@dataclass(frozen=True, kw_only=True)
class CopyOverlap:
    """Overlap (Dice with tolerance, 0 to 1) of each mask with its nearest source."""

    mean: float
    p95: float
    max: float
    nearest: str
    """Name of the mask with the largest overlap."""


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
