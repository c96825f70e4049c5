"""Everything that is told of sets of pairs beside a real one.

In: measured sets. Out: a `Scores` of each, the real one first: its row is the floor, one half of
it against the other. All distances are of equal numbers, drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from univg.distance import (
    Comparison,
    Difference,
    Scaling,
    compare,
    fit_scaling,
    rank_differences,
)
from univg.looks import LOOK_FEATURES, LOOK_GROUPS, look_distance, rank_look_differences
from univg.memorisation import Copying, measure_copying
from univg.sca.descriptors import DESCRIPTOR_GROUPS, DESCRIPTOR_NAMES, DESCRIPTORS
from univg.sca.murray import MurraySummary, summarise_murray

from .compare_inception import InceptionScores, embed_files, score_inception
from .compare_sets import MeasuredSet, refuse_few
from .compare_spread import Spread, measure_spread

FloatArray = npt.NDArray[np.float64]

_RESOLUTION = [each.resolution for each in DESCRIPTORS]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is told of one set; of the real one there is no distance but its floor."""

    measured: MeasuredSet
    masks: Comparison | None
    images: Comparison | None
    mask_differences: tuple[Difference, ...]
    """Every descriptor, the worst first."""
    look_differences: tuple[Difference, ...]
    murray: MurraySummary
    spread: Spread
    mask_copies: Copying | None
    image_copies: Copying | None
    inception: InceptionScores | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Several sets beside the real one."""

    real: Scores
    sets: tuple[Scores, ...]
    shots: MeasuredSet | None
    n: int
    """Items a side in each draw."""
    draws: int
    inception_label: str
    """What the Fréchet distance over Inception features is called; empty without a weights file."""

    @property
    def rows(self) -> tuple[Scores, ...]:
        """The real set, then the others."""
        return (self.real, *self.sets)


def score_sets(
    real: MeasuredSet,
    others: Sequence[MeasuredSet],
    *,
    shots: MeasuredSet | None = None,
    inception: Path | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Compared:
    """Score each of `others` against `real`; copies are those of `shots`.

    A draw takes as many items of each set: half of the smallest of them all.
    """
    n = choose_size([real, *others])
    embedded, label = [], ""
    if inception is not None:
        files = [[each.pair.image for each in one.pairs] for one in (real, *others)]
        sets, label = embed_files(files, inception)
        embedded = score_inception(sets[0], sets[1:], n=n, draws=draws, seed=seed)
    found = [
        _score_one(
            real,
            None if one is real else one,
            shots,
            embedded[number] if embedded else None,
            n=n,
            draws=draws,
            seed=seed,
        )
        for number, one in enumerate((real, *others))
    ]
    return Compared(
        real=found[0],
        sets=tuple(found[1:]),
        shots=shots,
        n=n,
        draws=draws,
        inception_label=label,
    )


def choose_size(sets: Sequence[MeasuredSet]) -> int:
    """Return how many items of each set a draw takes; refuse sets that are too small."""
    for one in sets:
        refuse_few(one.folder, len(one))
    return max(2, min(map(len, sets)) // 2)


def scale_looks(real: MeasuredSet) -> Scaling:
    """Return what brings looks to the spread of `real`, as their distance is measured."""
    return fit_scaling(real.looks, [each.resolution for each in LOOK_FEATURES], LOOK_GROUPS)


def scale_masks(real: MeasuredSet) -> Scaling:
    """Return the same of mask descriptors."""
    return fit_scaling(real.descriptors, _RESOLUTION, DESCRIPTOR_GROUPS)


def _score_one(
    real: MeasuredSet,
    other: MeasuredSet | None,
    shots: MeasuredSet | None,
    inception: InceptionScores | None,
    *,
    n: int,
    draws: int,
    seed: int,
) -> Scores:
    mine = real if other is None else other
    scaling = scale_looks(real)
    looks = (scaling.apply(real.looks), scaling.apply(mine.looks))
    masks = images = None
    if other is not None:
        masks = compare(
            real.descriptors,
            other.descriptors,
            n=n,
            draws=draws,
            seed=seed,
            resolution=_RESOLUTION,
            groups=DESCRIPTOR_GROUPS,
        )
        images = look_distance(real.looks, other.looks, n=n, draws=draws, seed=seed)
    copies = _find_copies(other, shots, real) if other is not None and shots is not None else None
    ranked = rank_differences(real.descriptors, mine.descriptors, DESCRIPTOR_NAMES, _RESOLUTION)
    return Scores(
        measured=mine,
        masks=masks,
        images=images,
        mask_differences=tuple(ranked) if other is not None else (),
        look_differences=(
            tuple(rank_look_differences(real.looks, mine.looks)) if other is not None else ()
        ),
        murray=summarise_murray([each.mask.radii for each in mine.pairs]),
        spread=measure_spread(real, other, looks, n=n, draws=draws, seed=seed),
        mask_copies=copies[0] if copies else None,
        image_copies=copies[1] if copies else None,
        inception=inception,
    )


def _find_copies(
    mine: MeasuredSet, shots: MeasuredSet, real: MeasuredSet
) -> tuple[Copying, Copying]:
    masks = measure_copying(
        list(mine.thumbnails), list(shots.thumbnails), list(real.thumbnails), kind="mask"
    )
    images = measure_copying(
        mine.images,
        shots.images,
        real.images,
        kind="image",
        generated_masks=mine.vessels,
        shot_masks=shots.vessels,
        other_masks=real.vessels,
    )
    return masks, images
