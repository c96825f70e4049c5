"""Where to cut probabilities: Dice at each threshold, and the threshold to keep.

In: probabilities, masks, fields of view of images that were held out, or trained on; never of those
that are tested on. Out: Dice by threshold, and the threshold of the best mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

STEPS = 100
THRESHOLDS = np.arange(1, STEPS) / STEPS
TIE = 0.001
"""Dice differences up to this are none: of such thresholds the one nearest to a half is taken."""


def score_thresholds(
    probability: npt.NDArray[np.float32], mask: BoolMask, fov: BoolMask
) -> npt.NDArray[np.float64]:
    """Return Dice at each of `THRESHOLDS` inside `fov`; 1 where both masks are empty."""
    bins = np.clip((probability[fov] * STEPS).astype(np.int64), 0, STEPS - 1)
    truth = mask[fov]
    vessel = np.bincount(bins[truth], minlength=STEPS)
    other = np.bincount(bins[~truth], minlength=STEPS)
    # From bin k on: what a threshold of k / STEPS calls vessel.
    found = np.cumsum(vessel[::-1])[::-1][1:].astype(np.float64)
    false = np.cumsum(other[::-1])[::-1][1:].astype(np.float64)
    total = found + false + float(vessel.sum())
    return np.where(total > 0, 2 * found / np.maximum(total, 1.0), 1.0)


def choose_threshold(curves: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the threshold with the best mean Dice over images, and that Dice."""
    mean = np.mean(np.stack(list(curves)), axis=0)
    good = np.flatnonzero(mean >= mean.max() - TIE)
    best = int(good[np.argmin(np.abs(THRESHOLDS[good] - 0.5))])
    return float(THRESHOLDS[best]), float(mean[best])


def find_dice(curves: Sequence[Sequence[float]], threshold: float) -> float:
    """Return the mean Dice of the curves at `threshold`."""
    place = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    return float(np.mean([curve[place] for curve in curves]))
