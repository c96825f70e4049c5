"""From a drawn grey picture of vessels to an exact mask.

In: pictures (H, W, 3) and the shots' masks. Out: a threshold, the sizes of specks and pinholes that
no shot has, how many pieces a shot has (`choose_cut`), and masks of any size cut, cleaned, joined
and pruned by them (`cut_mask`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from univg.agreement import cldice, dice
from univg.gaps import close_gaps, count_pieces
from univg.masks import BoolMask
from univg.spurs import prune_spurs

THRESHOLDS = tuple(round(0.2 + 0.05 * k, 2) for k in range(13))
SPECK_SHARE, HOLE_SHARE = 2e-4, 1e-4
"""Of the area of the picture: what is smaller is taken for noise where no shot says otherwise."""
GAP_SHARE = 0.06
"""Of the longer side: vessels are not joined over more."""
TWIG_SHARE = 0.12
"""Of the longer side: longer twigs are vessels."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How drawn pictures become masks. Sizes are shares of the picture's area."""

    threshold: float = 0.5
    """Of white."""
    speck: float = SPECK_SHARE
    """Vessels smaller than this are removed."""
    hole: float = HOLE_SHARE
    """Holes smaller than this are filled."""
    gap: float = 0.0
    """Gaps up to this share of the longer side are closed; 0: none."""
    pieces: int = 1
    """Gaps are closed until so many pieces are left."""
    smooth: float = 0.0
    """Grey levels are smoothed before they are cut: spread, share of the longer side."""
    twig: float = 0.0
    """Twigs up to this share of the longer side are pruned; 0: none."""
    tips: int = 0
    """Twigs are pruned until so many tips are left."""
    fragment: float = 0.0
    """Pieces with less than this share of all vessels, which no gap leads to, are removed."""


def choose_cut(drawn: Sequence[npt.NDArray[np.uint8]], masks: Sequence[BoolMask]) -> Cut:
    """Return the cut that brings `masks` back best from pictures of them, `drawn`.

    Pictures are the masks as the engine's autoencoder gives them back. Nothing is removed that is
    as large as the smallest piece of a mask; no gap is closed where masks are in as many pieces.
    """
    scores = []
    for threshold in THRESHOLDS:
        found = [take_grey(picture) >= threshold * 255 for picture in drawn]
        pairs = list(zip(found, masks, strict=True))
        scores.append(np.mean([dice(f, m) + cldice(f, m) for f, m in pairs]))
    best = max(scores)
    # The middle of all that are as good: 0.5 where the autoencoder leaves no doubt.
    good = [t for t, score in zip(THRESHOLDS, scores, strict=True) if score >= best - 1e-3]
    threshold = min(good, key=lambda t: abs(t - float(np.median(good))))
    return Cut(
        threshold=threshold,
        speck=min(SPECK_SHARE, *(_smallest_piece(mask) for mask in masks)),
        hole=min(HOLE_SHARE, *(_smallest_piece(~mask, 4) for mask in masks)),
        gap=GAP_SHARE,
        pieces=max(1, round(float(np.median([count_pieces(mask) for mask in masks])))),
    )


def cut_mask(
    picture: npt.NDArray[np.uint8], cut: Cut, size: tuple[int, int] | None = None
) -> BoolMask:
    """Return the mask of a drawn picture (H, W, 3) at `size` (height, width), cleaned."""
    grey = take_grey(picture)
    if size is not None and grey.shape != tuple(size):
        # Grey levels are enlarged, not the cut mask: edges come out smooth, not in steps.
        kernel = _kernel(grey.shape, size)
        grey = cv2.resize(grey, (size[1], size[0]), interpolation=kernel).astype(np.float32)
    if cut.smooth > 0:
        sigma = cut.smooth * max(grey.shape)
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.float32)
    mask: BoolMask = np.asarray(grey >= cut.threshold * 255, np.bool_)
    area = mask.size
    mask = _without_small(mask, cut.speck * area, 8)
    mask = ~_without_small(~mask, cut.hole * area, 4)
    mask = close_gaps(mask, cut.gap * max(mask.shape), cut.pieces)
    mask = prune_spurs(mask, cut.twig * max(mask.shape), cut.tips)
    return _without_small(mask, cut.fragment * int(mask.sum()), 8)


def take_grey(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the mean of the channels."""
    grey: npt.NDArray[np.float32] = picture.astype(np.float32)
    return grey.mean(axis=2) if grey.ndim == 3 else grey


def _kernel(now: tuple[int, ...], size: tuple[int, int]) -> int:
    return cv2.INTER_CUBIC if size[0] >= now[0] else cv2.INTER_AREA


def _without_small(mask: BoolMask, least_px: float, connectivity: int) -> BoolMask:
    """Return `mask` without pieces of fewer than `least_px` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    keep = stats[:, cv2.CC_STAT_AREA] >= least_px - 1e-6  # a share times an area is not exact
    keep[0] = False
    return np.asarray(keep[labels], np.bool_) if count > 1 else mask


def _smallest_piece(mask: BoolMask, connectivity: int = 8) -> float:
    """Return the area of the smallest piece, as a share of the picture; 1 where there is none."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    areas = stats[1:, cv2.CC_STAT_AREA]
    return float(areas.min()) / mask.size if len(areas) else 1.0
