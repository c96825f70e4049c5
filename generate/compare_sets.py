"""Sets of pairs, read and measured alike, so that they can be compared.

In: folders of pairs. Out: a `MeasuredSet` of each: looks, mask descriptors, thumbnails, and the
images and masks at working size. Which pairs of a large folder are taken hangs on the seed and the
number of its pairs alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from univg.distance import LEAST_ITEMS
from univg.errors import DataError, Problem, ProblemReport
from univg.images import ImageArray
from univg.looks import describe_look
from univg.masks import BoolMask
from univg.pairs import Pair, open_pairs, read_pair
from univg.pool import map_in_order
from univg.sca.measure import Measured, measure_mask
from univg.seeds import rng_for
from univg.vesselness import shrink_image

FloatArray = npt.NDArray[np.float64]

_STREAM = "generate.compare.subset"


@dataclass(frozen=True, kw_only=True)
class MeasuredPair:
    """What one pair gave."""

    pair: Pair
    look: FloatArray  # (D,)
    mask: Measured
    image: ImageArray
    """The image at working size, 256 px the longest side."""
    vessels: BoolMask
    """The mask at that size; a pixel that a vessel touches belongs to it."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSet:
    """The measured pairs of one folder."""

    name: str
    folder: Path
    found: int
    """Pairs in the folder; those measured may be fewer."""
    pairs: tuple[MeasuredPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def looks(self) -> FloatArray:
        """Features of the images (N, D)."""
        return np.array([each.look for each in self.pairs])

    @property
    def descriptors(self) -> FloatArray:
        """Descriptors of the masks (N, D)."""
        return np.array([each.mask.descriptors for each in self.pairs])

    @property
    def thumbnails(self) -> BoolMask:
        """Small masks (N, 128, 128)."""
        return np.array([each.mask.thumbnail for each in self.pairs])

    @property
    def images(self) -> list[ImageArray]:
        """The images at working size."""
        return [each.image for each in self.pairs]

    @property
    def vessels(self) -> list[BoolMask]:
        """The masks at working size."""
        return [each.vessels for each in self.pairs]


def choose_pairs(pairs: Sequence[Pair], count: int | None, seed: int) -> list[Pair]:
    """Return `count` of `pairs`, drawn without replacement, in their own order; None is all."""
    if count is None or len(pairs) <= count:
        return list(pairs)
    drawn = rng_for(seed, _STREAM).permutation(len(pairs))[:count]
    return [pairs[k] for k in sorted(drawn)]


def name_sets(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: as few of its last parts as tell it from the others.

    `pairs`, which says nothing, is left out where the part above it is there.
    """
    parts = [folder.resolve().parts for folder in folders]
    parts = [each[:-1] if each[-1] == "pairs" and len(each) > 2 else each for each in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def measure_sets(
    folders: Mapping[str, Path],
    *,
    size_px: int,
    count: int | None,
    seed: int,
    whole: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, MeasuredSet]:
    """Measure up to `count` pairs of each of `folders` (name to path); all of those in `whole`.

    Sets that are too small are refused first; all files that cannot be used are told in one
    report.
    """
    found = {name: open_pairs(folder).pairs for name, folder in folders.items()}
    chosen = {
        name: choose_pairs(pairs, None if name in whole else count, seed)
        for name, pairs in found.items()
    }
    for name, pairs in chosen.items():
        if name not in whole:
            refuse_few(folders[name], len(pairs))
    every = [pair for pairs in chosen.values() for pair in pairs]
    task = functools.partial(measure_pair, size_px=size_px)
    problems: list[Problem] = []
    done: list[MeasuredPair] = []
    for outcome in map_in_order(task, every, workers, _use_one_thread):
        if isinstance(outcome, MeasuredPair):
            done.append(outcome)
        else:
            problems += outcome
    if problems:
        raise ProblemReport(problems, f"{len(problems)} problems with the pairs to compare")
    results = iter(done)
    return {
        name: MeasuredSet(
            name=name,
            folder=folders[name],
            found=len(found[name]),
            pairs=tuple(next(results) for _ in pairs),
        )
        for name, pairs in chosen.items()
    }


def refuse_few(folder: Path, count: int) -> None:
    """Raise `DataError` where `count` pairs are too few for a distance."""
    if count < LEAST_ITEMS:
        raise DataError(
            f"{folder}: holds {count} pairs, too few for a distance; give at least {LEAST_ITEMS}"
        )


def measure_pair(pair: Pair, size_px: int) -> MeasuredPair | list[Problem]:
    """Measure one pair, its mask scaled to `size_px`; or return why that cannot be done."""
    problems, facts = read_pair(pair)
    if facts is None:
        return problems
    mask = facts.reading.mask
    if mask.shape != facts.image.shape[:2]:
        return [problem for problem in problems if problem.kind == "size"] or problems
    try:
        small = shrink_image(facts.image)
    except DataError as error:
        return [Problem(path=pair.image, kind="shape", detail=str(error))]
    share = cv2.resize(mask.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA)
    return MeasuredPair(
        pair=pair,
        # Field of view found, never given: a set that comes with it must not look different.
        look=describe_look(small),
        mask=measure_mask(mask, size_px=size_px, name=pair.stem),
        image=small,
        vessels=np.asarray(share > 0),
    )


def count_shared(real: MeasuredSet, shots: MeasuredSet) -> int:
    """Return how many measured images of `real` are shots, pixel for pixel."""
    known = {(image.shape, image.tobytes()) for image in shots.images}
    return sum((image.shape, image.tobytes()) in known for image in real.images)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)
