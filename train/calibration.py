"""The cut of drawn masks, calibrated: what an engine draws, brought nearer to its shots.

In: pictures that an adapted engine drew, the shots' masks, the cut that suits its autoencoder. Out:
a cut with which the drawn masks' descriptors differ least from the shots'. A few hundred steps
teach an engine where vessels lie sooner than how smooth they are and how often they end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from univg.binarise import TWIG_SHARE, Cut, cut_mask
from univg.masks import BoolMask
from univg.sca.descriptors import DESCRIPTORS, describe_many
from univg.spurs import count_tips

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
SMOOTH_PX = (0.7, 1.1, 1.6)
"""At 256 px."""
LOWER = (0.0, 0.1)
"""How much the threshold falls with it, so that thin vessels stay. Alone it stays where the
autoencoder has it: means of descriptors tell too little of it."""
LOWEST = 0.1
FRAGMENTS = (0.03, 0.1)
LEAST_GAIN = 0.04
"""Standard deviations: a few shots tell no smaller one from chance."""
LARGEST = 4.0
"""A descriptor that is farther off [standard deviations] counts as this far."""


def calibrate_cut(cut: Cut, drawn: Sequence[Pixels], masks: Sequence[BoolMask]) -> Cut:
    """Return `cut` with what brings `drawn` nearest to `masks`, one knob after the other."""
    gauge = _Gauge(drawn, masks)
    best, least = cut, gauge.measure(cut)
    for changes in list_changes(cut, masks):
        tried = [replace(best, **change) for change in changes]
        scores = [gauge.measure(each) for each in tried]
        first = int(np.argmin(scores))
        if scores[first] < least - LEAST_GAIN:
            best, least = tried[first], scores[first]
    return best


def list_changes(cut: Cut, masks: Sequence[BoolMask]) -> list[list[Mapping[str, Any]]]:
    """Return the values of each knob, the one that changes most first."""
    tips = [count_tips(mask) for mask in masks]
    levels = [level for step in LOWER if (level := round(cut.threshold - step, 2)) >= LOWEST]
    return [
        [{"twig": TWIG_SHARE, "tips": round(float(np.quantile(tips, q)))} for q in (0.5, 0.75)],
        [{"smooth": sigma / 256, "threshold": level} for sigma in SMOOTH_PX for level in levels],
        [{"fragment": share} for share in FRAGMENTS],
    ]


class _Gauge:
    """How far drawn masks are from the shots, by the means of their descriptors."""

    def __init__(self, drawn: Sequence[Pixels], masks: Sequence[BoolMask]) -> None:
        self.drawn = drawn
        real = describe_many(masks)
        self.mean = real.mean(axis=0)
        spread = real.std(axis=0, ddof=1) if len(real) > 1 else np.zeros(real.shape[1])
        self.spread = np.maximum(spread, [each.resolution for each in DESCRIPTORS])

    def measure(self, cut: Cut) -> float:
        """Return the mean difference in standard deviations; infinite where masks are empty."""
        masks = [cut_mask(picture, cut) for picture in self.drawn]
        masks = [mask for mask in masks if mask.any()]
        if 2 * len(masks) < len(self.drawn) or not masks:
            return float("inf")
        off = np.abs(describe_many(masks).mean(axis=0) - self.mean) / self.spread
        return float(np.minimum(off, LARGEST).mean())
