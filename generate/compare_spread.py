"""How varied a set is, and how much of the real one it covers.

In: features, thumbnails and backgrounds of a set and of the real one. Out: `Spread`: density and
coverage (Naeem et al. 2020), mean distances inside the set, likeness of backgrounds. All from
equal numbers, beside the same between halves of the real set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from univg.distance import Estimate
from univg.memorisation import correlation_table, sign_images
from univg.overlap import overlap_table
from univg.seeds import rng_for

from .compare_inception import summarise_draws
from .compare_sets import MeasuredSet

FloatArray = npt.NDArray[np.float64]

MOST_NEIGHBOURS = 5
EVEN = 1e-3
"""Local contrast below which a picture shows nothing."""
MOST_BACKGROUNDS = 24
"""Items of a set whose backgrounds and masks are laid on each other: each in eight positions."""
_STREAM = "generate.compare.spread"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variety of a set. Of the real set: half of it against the other half; None if too small."""

    density: Estimate | None
    """How many real neighbourhoods an item lies in, over what is expected: about 1 is real."""
    coverage: Estimate | None
    """Share of real items with an item of the set in their neighbourhood."""
    look_distance: Estimate
    """Mean distance of two images of the set, in looks."""
    mask_distance: float
    """Mean of 1 - overlap of two masks of the set, whatever way up."""
    background_likeness: float | None
    """Mutual background similarity: correlation of a background with the nearest of the other
    set, vessels left out, mean of both ways. 1 is the same backgrounds."""
    background_repeats: float
    """The same with the nearest other background of the set itself."""
    compared: int
    """Items in the last three."""
    neighbours: int
    """How many neighbours a neighbourhood of the first two holds."""


def measure_spread(
    real: MeasuredSet,
    other: MeasuredSet | None,
    looks: tuple[FloatArray, FloatArray],
    *,
    n: int,
    draws: int,
    seed: int,
) -> Spread:
    """Return the spread of `other`, or of halves of `real`; `looks` are those of both, scaled."""
    mine = real if other is None else other
    density, coverage, inside = _draw_covers(*looks, n, draws, seed, halves=other is None)
    few = min(n, MOST_BACKGROUNDS)
    order = rng_for(seed, _STREAM + ".few").permutation(len(real))
    first = _pick(real, order[:few])
    if other is None:
        second = _pick(real, order[few : 2 * few])
        own = first
    else:
        own = second = _pick(mine, rng_for(seed, _STREAM + ".few").permutation(len(mine))[:few])
    return Spread(
        density=density,
        coverage=coverage,
        look_distance=inside,
        mask_distance=mean_mask_distance(own.thumbnails),
        background_likeness=match_backgrounds(first, second) if len(second) == few else None,
        background_repeats=repeat_backgrounds(own),
        compared=few,
        neighbours=choose_neighbours(n),
    )


def choose_neighbours(n: int) -> int:
    """Return k for samples of `n`: five, fewer of few, or every neighbourhood would hold all."""
    return max(1, min(MOST_NEIGHBOURS, n // 4))


def density_and_coverage(
    within: FloatArray, between: FloatArray, neighbours: int
) -> tuple[float, float]:
    """Return both from distances among real items (N, N) and from real to other items (N, M).

    The neighbourhood of a real item reaches to its k-th nearest; k is at most N - 1.
    """
    k = min(neighbours, len(within) - 1)
    reach = np.sort(within, axis=1)[:, k]  # position 0 is the item itself
    inside = between < reach[:, None]
    return float(inside.sum() / (k * between.shape[1])), float(inside.any(axis=1).mean())


def match_backgrounds(first: MeasuredSet, second: MeasuredSet) -> float:
    """Return the mutual background similarity of two sets, 0 to 1."""
    signs = [sign_images(each.images, each.vessels) for each in (first, second)]
    table, _ = correlation_table(signs[0], signs[1])
    near = np.clip([table.max(axis=1).mean(), table.max(axis=0).mean()], 0, 1)
    return float(near.mean())


def repeat_backgrounds(items: MeasuredSet) -> float:
    """Return the mean correlation of each background with the nearest other one of the set."""
    signs = sign_images(items.images, items.vessels)
    table, _ = correlation_table(signs, signs)
    even = np.abs(signs[0]).max(axis=(1, 2)) < EVEN
    table[np.ix_(even, even)] = 1.0  # nothing to correlate, and all the same
    np.fill_diagonal(table, -1.0)
    return float(np.clip(table.max(axis=1).mean(), 0, 1))


def mean_mask_distance(thumbnails: npt.NDArray[np.bool_]) -> float:
    """Return the mean of 1 - overlap over all pairs of masks (N, S, S); empty ones are the same."""
    table, _ = overlap_table(thumbnails, thumbnails)
    empty = ~thumbnails.any(axis=(1, 2))
    table[np.ix_(empty, empty)] = 1.0
    return float(1 - table[~np.eye(len(table), dtype=np.bool_)].mean())


def pair_distances(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the distances (N, M) of rows, exactly 0 between equal ones."""
    return np.asarray(
        [np.sqrt(np.square(second - row).sum(axis=1)) for row in first], np.float64
    ).reshape(len(first), len(second))


def _draw_covers(
    real: FloatArray, other: FloatArray, n: int, draws: int, seed: int, *, halves: bool
) -> tuple[Estimate | None, Estimate | None, Estimate]:
    """Return density, coverage and mean distance inside `other` over draws of `n` items."""
    among, across = pair_distances(real, real), pair_distances(real, other)
    inside = among if halves else pair_distances(other, other)
    rows = []
    for draw in range(draws):
        rng = rng_for(seed, _STREAM, draw)
        shuffled = rng.permutation(len(real))
        chosen = shuffled[:n]
        second = shuffled[n : 2 * n] if halves else rng.permutation(len(other))[:n]
        found = (np.nan, np.nan)
        if len(second) == n:
            within = among[np.ix_(chosen, chosen)]
            found = density_and_coverage(
                within, across[np.ix_(chosen, second)], choose_neighbours(n)
            )
        own = chosen if halves else second
        rows.append((*found, float(inside[np.ix_(own, own)].sum()) / (n * (n - 1))))
    columns = np.array(rows).T
    known = not np.isnan(columns[0]).any()
    cover = [summarise_draws(column) if known else None for column in columns[:2]]
    return cover[0], cover[1], summarise_draws(columns[2])


def _pick(items: MeasuredSet, which: npt.NDArray[np.int64]) -> MeasuredSet:
    return MeasuredSet(
        name=items.name,
        folder=items.folder,
        found=items.found,
        pairs=tuple(items.pairs[k] for k in which),
    )
