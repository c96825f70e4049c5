"""How far two sets of feature vectors are apart, and in which features.

In: arrays (N, D) and (M, D), a row a mask or an image. Out: distances with intervals, beside the
floor that two real sets of the same size have between them. Both distances need equal sizes to be
fair: the Fréchet distance grows as samples shrink, so synthetic against real is only ever compared
with real against real at the same n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.seeds import rng_for

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_ITEMS = 3
_CLIP = 10.0  # standard deviations; one empty mask shall not decide the distance of a whole set
_STREAM = "sca.distance"  # of the draws; another name would move every figure published so far


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A distance: its mean over the draws and the interval that holds 95 % of them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Distances from real to synthetic, and the floor, all from subsamples of `n` items."""

    n: int
    draws: int
    frechet: Estimate
    energy: Estimate
    frechet_floor: Estimate | None
    energy_floor: Estimate | None
    ratio: float | None
    """Fréchet distance over its floor: 1 means as close as real sets are to each other."""
    above_floor: float | None
    """Share of the draws in which synthetic was farther (energy) from real than real was."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one feature differs: shift of the mean in real standard deviations, and KS."""

    name: str
    real: float
    synth: float
    shift: float
    ks: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Brings features to robust standard deviations of the reference, groups alike."""

    center: FloatArray  # (D,)
    scale: FloatArray  # (D,)
    weights: FloatArray  # (D,)

    def apply(self, values: FloatArray) -> FloatArray:
        """Return `values` (N, D) standardised, clipped and weighted."""
        standard: FloatArray = np.clip((values - self.center) / self.scale, -_CLIP, _CLIP)
        return standard * self.weights


def fit_scaling(
    reference: FloatArray,
    resolution: Sequence[float] | FloatArray | None = None,
    groups: Sequence[str] | None = None,
) -> Scaling:
    """Return the scaling by `reference` (N, D): median and interquartile range.

    `resolution` is the least scale of each feature, for those that hardly vary among real
    items. Each of the `groups` gets the same weight: six widths must not outvote one dimension.
    """
    count = reference.shape[1]
    q25, center, q75 = np.quantile(reference, (0.25, 0.5, 0.75), axis=0)
    least = np.full(count, 1e-9) if resolution is None else np.asarray(resolution, np.float64)
    scale = np.maximum((q75 - q25) / 1.349, least)  # 1.349: the IQR of a normal, in its sd
    names = list(groups) if groups is not None else [str(k) for k in range(count)]
    sizes = np.array([names.count(name) for name in names], dtype=np.float64)
    weights = 1 / np.sqrt(sizes * len(set(names)))
    return Scaling(center=center, scale=scale, weights=weights)


def shrink_covariance(values: FloatArray) -> FloatArray:
    """Return the Ledoit-Wolf covariance (D, D) of `values` (N, D): shrunk towards a sphere."""
    count, width = values.shape
    centred = values - values.mean(axis=0)
    sample: FloatArray = centred.T @ centred / count
    level = float(np.trace(sample)) / width
    spread = float(((sample - level * np.eye(width)) ** 2).sum())
    if spread <= 0:
        return sample
    # Sum over samples of |x xᵀ - S|², without forming N matrices: |x|⁴ summed, less N |S|².
    fourth = float((np.square(centred).sum(axis=1) ** 2).sum())
    error = (fourth / count - float((sample**2).sum())) / count
    share = min(max(error / spread, 0.0), 1.0)
    shrunk: FloatArray = (1 - share) * sample + share * level * np.eye(width)
    return shrunk


def frechet_of_gaussians(
    mean_a: FloatArray, covariance_a: FloatArray, mean_b: FloatArray, covariance_b: FloatArray
) -> float:
    """Return |μa - μb|² + tr(A + B - 2 (A^½ B A^½)^½), the squared Fréchet distance."""
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = float(np.sqrt(np.maximum(middle, 0.0)).sum())
    shift = float(((mean_a - mean_b) ** 2).sum())
    return shift + float(np.trace(covariance_a) + np.trace(covariance_b)) - 2 * cross


def frechet_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the squared Fréchet distance of two samples (N, D), (M, D), covariances shrunk."""
    return frechet_of_gaussians(
        first.mean(axis=0),
        shrink_covariance(first),
        second.mean(axis=0),
        shrink_covariance(second),
    )


def energy_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the unbiased squared energy distance of two samples; may fall below 0.

    The kernel distance whose kernel is the distance itself: no bandwidth to choose, none to tune.
    """
    both = np.concatenate((first, second))
    pairs = _pair_distances(both)
    split = len(first)
    return _energy(pairs, np.arange(split), np.arange(split, len(both)))


def compare(
    real: FloatArray,
    synth: FloatArray,
    *,
    floor: FloatArray | None = None,
    n: int | None = None,
    draws: int = 200,
    seed: int = 0,
    resolution: Sequence[float] | FloatArray | None = None,
    groups: Sequence[str] | None = None,
    what: str = "masks",
) -> Comparison:
    """Return the distances of `synth` (M, D) from `real` (N, D), and the floor.

    Each draw takes `n` items of each set without replacement, half of the smallest set unless
    told: the spread of half-samples is the sampling error of the whole. The floor is the distance
    of two disjoint halves of `real` or, where given, of `real` and the other real set `floor`.
    `what` names the items in messages.
    """
    n = _choose_n(n, [real, synth, *([] if floor is None else [floor])], what)
    reference = real if floor is None else np.concatenate((real, floor))
    scaling = fit_scaling(reference, resolution, groups)
    sets = [scaling.apply(values) for values in (real, synth)]
    sets.append(sets[0] if floor is None else scaling.apply(floor))
    # Without a second real set the floor is drawn from the same items, so the halves are disjoint.
    disjoint = floor is None
    has_floor = not disjoint or len(real) >= 2 * n
    everything = np.concatenate(sets)
    pairs = _pair_distances(everything)
    starts = np.cumsum([0, len(sets[0]), len(sets[1])])
    found = np.full((draws, 4), np.nan)
    for draw in range(draws):
        rng = rng_for(seed, _STREAM, draw)
        shuffled = rng.permutation(len(real))
        chosen = shuffled[:n]
        other = starts[1] + rng.permutation(len(synth))[:n]
        found[draw, :2] = _both_distances(everything, pairs, chosen, other)
        if has_floor:
            second = shuffled[n : 2 * n] if disjoint else rng.permutation(len(sets[2]))[:n]
            found[draw, 2:] = _both_distances(everything, pairs, chosen, starts[2] + second)
    return _summarise(found, n, has_floor)


def rank_differences(
    real: FloatArray,
    synth: FloatArray,
    names: Sequence[str],
    resolution: Sequence[float] | FloatArray | None = None,
) -> list[Difference]:
    """Return how each feature differs, the worst first."""
    scale = fit_scaling(real, resolution).scale
    found = [
        Difference(
            name=name,
            real=float(real[:, k].mean()),
            synth=float(synth[:, k].mean()),
            shift=float((synth[:, k].mean() - real[:, k].mean()) / scale[k]),
            ks=_kolmogorov_smirnov(real[:, k], synth[:, k]),
        )
        for k, name in enumerate(names)
    ]
    return sorted(found, key=lambda difference: -abs(difference.shift))


def _choose_n(n: int | None, sets: Sequence[FloatArray], what: str) -> int:
    smallest = min(len(values) for values in sets)
    if smallest < LEAST_ITEMS:
        raise DataError(
            f"a set of {smallest} {what} is too small to compare; give at least {LEAST_ITEMS}"
        )
    if n is None:
        return max(2, smallest // 2)
    if not 2 <= n <= smallest:
        raise DataError(f"n is {n}: choose 2 to {smallest}, the size of the smallest set")
    return n


def _pair_distances(values: FloatArray) -> FloatArray:
    """Return the distances (N, N) between all rows."""
    squares = np.square(values).sum(axis=1)
    between = squares[:, None] + squares[None, :] - 2 * values @ values.T
    np.fill_diagonal(between, 0.0)
    distances: FloatArray = np.sqrt(np.maximum(between, 0.0))
    return distances


def _energy(pairs: FloatArray, first: IntArray, second: IntArray) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, no member paired with itself."""
    across = float(pairs[np.ix_(first, second)].mean())
    within = [
        float(pairs[np.ix_(own, own)].sum()) / (len(own) * (len(own) - 1))
        for own in (first, second)
    ]
    return 2 * across - within[0] - within[1]


def _both_distances(
    values: FloatArray, pairs: FloatArray, first: IntArray, second: IntArray
) -> tuple[float, float]:
    return frechet_distance(values[first], values[second]), _energy(pairs, first, second)


def _summarise(found: FloatArray, n: int, has_floor: bool) -> Comparison:
    estimates = [
        Estimate(
            mean=float(column.mean()),
            low=float(np.quantile(column, 0.025)),
            high=float(np.quantile(column, 0.975)),
        )
        for column in found.T[: 4 if has_floor else 2]
    ]
    floors = estimates[2:] if has_floor else [None, None]
    ratio = estimates[0].mean / max(estimates[2].mean, 1e-12) if has_floor else None
    return Comparison(
        n=n,
        draws=len(found),
        frechet=estimates[0],
        energy=estimates[1],
        frechet_floor=floors[0],
        energy_floor=floors[1],
        ratio=ratio,
        above_floor=float((found[:, 1] > found[:, 3]).mean()) if has_floor else None,
    )


def _kolmogorov_smirnov(first: FloatArray, second: FloatArray) -> float:
    """Return the largest gap between the two empirical distribution functions."""
    at = np.concatenate((first, second))
    share_a = np.searchsorted(np.sort(first), at, side="right") / len(first)
    share_b = np.searchsorted(np.sort(second), at, side="right") / len(second)
    return float(np.abs(share_a - share_b).max())
