"""What a column of figures says: mean, spread, interval, and whether two methods differ.

In: numbers, one an image, in the same order for both methods; a seed. Out: `Summary` of one
method, `PairedTest` of two. NaN (not defined) is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.seeds import rng_for

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_EXACT_SIGNS = 12  # up to 4096 sign patterns are tried one by one, more are drawn
_BLOCK = 256
_TIE = 1e-12  # sums of the same numbers in another order differ by this much


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one method over images. What cannot be said of so few images is None."""

    count: int
    undefined: int
    """Images for which the metric is not defined."""
    mean: float | None
    sd: float | None
    """Sample standard deviation (n - 1)."""
    low: float | None
    """Lower end of the bootstrap interval of the mean (95 %, percentiles)."""
    high: float | None
    median: float | None
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """How the first method differs from the second on the same images."""

    count: int
    difference: float | None
    """Mean of first minus second."""
    low: float | None
    """Lower end of the bootstrap interval of that mean (95 %)."""
    high: float | None
    wilcoxon_p: float | None
    """Two-sided signed rank test; equal pairs are dropped."""
    permutation_p: float | None
    """Two-sided test of the mean difference under exchanged methods."""
    effect_size: float | None
    """Mean difference over the standard deviation of the differences (Cohen's d_z)."""
    rank_biserial: float | None
    """Share of ranks in favour of the first minus share against it, -1 to 1."""


def summarise(
    values: Sequence[float], *, seed: int = 0, stage: str = "bootstrap", draws: int = 10_000
) -> Summary:
    """Summarise one metric; `seed` and `stage` fix the bootstrap."""
    found = np.asarray(values, np.float64)
    defined = found[~np.isnan(found)]
    low, high = bootstrap_mean(defined, seed=seed, stage=stage, draws=draws)
    some = len(defined) > 0
    return Summary(
        count=len(defined),
        undefined=len(found) - len(defined),
        mean=float(defined.mean()) if some else None,
        sd=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        low=low,
        high=high,
        median=float(np.median(defined)) if some else None,
        minimum=float(defined.min()) if some else None,
        maximum=float(defined.max()) if some else None,
    )


def bootstrap_mean(
    values: FloatArray, *, seed: int, stage: str, draws: int
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean of `values` (N,), by resampling; None for N < 2."""
    if len(values) < 2:
        return None, None
    rng = rng_for(seed, stage)
    means = np.empty(draws)
    for start in range(0, draws, _BLOCK):
        stop = min(start + _BLOCK, draws)
        chosen = rng.integers(0, len(values), (stop - start, len(values)))
        means[start:stop] = values[chosen].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int = 0,
    stage: str = "paired",
    draws: int = 10_000,
) -> PairedTest:
    """Compare two methods on the same images; images where one is not defined are left out."""
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.shape != theirs.shape:
        raise DataError(f"{len(ours)} and {len(theirs)} figures: give one an image for each method")
    gaps = ours - theirs
    gaps = gaps[~np.isnan(gaps)]
    if not len(gaps):
        return PairedTest(count=0, **dict.fromkeys(_TESTED))
    low, high = bootstrap_mean(gaps, seed=seed, stage=f"{stage} bootstrap", draws=draws)
    sd = float(gaps.std(ddof=1)) if len(gaps) > 1 else 0.0
    mean = float(gaps.mean())
    return PairedTest(
        count=len(gaps),
        difference=mean,
        low=low,
        high=high,
        wilcoxon_p=_wilcoxon(gaps),
        permutation_p=permute_signs(gaps, seed=seed, stage=f"{stage} permutation", draws=draws),
        effect_size=mean / sd if sd > _TIE else None,
        rank_biserial=_rank_biserial(gaps),
    )


_TESTED = (
    *("difference", "low", "high", "wilcoxon_p", "permutation_p"),
    *("effect_size", "rank_biserial"),
)


def permute_signs(gaps: FloatArray, *, seed: int, stage: str, draws: int) -> float:
    """Return the two-sided p of the mean of `gaps` (N,) if each sign were a coin's.

    All patterns of signs where they are few, else `draws` of them and the one that was seen.
    """
    moving = gaps[np.abs(gaps) > _TIE]  # a zero has no sign to exchange
    seen = abs(float(moving.sum())) - _TIE * max(float(np.abs(moving).sum()), 1.0)
    if len(moving) <= _EXACT_SIGNS:
        patterns = np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving)) & 1
        sums = np.abs((2.0 * patterns - 1) @ moving)
        return int(np.count_nonzero(sums >= seen)) / len(sums)
    rng = rng_for(seed, stage)
    extreme = 0
    for start in range(0, draws, _BLOCK):
        signs = rng.integers(0, 2, (min(_BLOCK, draws - start), len(moving)))
        extreme += int(np.count_nonzero(np.abs((2.0 * signs - 1) @ moving) >= seen))
    return (extreme + 1) / (draws + 1)


def correct_for_many(chances: Sequence[float | None]) -> list[float | None]:
    """Return Holm's correction of several p values of one comparison, in their order."""
    known = sorted((p, k) for k, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, (p, k) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[k] = least
    return corrected


def _wilcoxon(gaps: FloatArray) -> float:
    from scipy.stats import wilcoxon

    moving = gaps[np.abs(gaps) > _TIE]
    if not len(moving):
        return 1.0
    found = float(wilcoxon(np.round(moving, 12)).pvalue)  # so that equal gaps tie
    return found if math.isfinite(found) else 1.0


def _rank_biserial(gaps: FloatArray) -> float:
    from scipy.stats import rankdata

    moving = np.round(gaps[np.abs(gaps) > _TIE], 12)
    if not len(moving):
        return 0.0
    ranks = rankdata(np.abs(moving))
    return float((ranks * np.sign(moving)).sum() / ranks.sum())
