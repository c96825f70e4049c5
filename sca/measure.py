"""Everything that is measured on one mask, and the same for folders of masks.

In: masks or folders. Out: `Measured`, one a mask: descriptors, radii at bifurcations, thumbnail.
One skeleton graph serves them all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from univg.errors import Problem, ProblemReport
from univg.images import PictureError
from univg.masks import read_mask
from univg.pairs import find_masks
from univg.pool import map_in_order
from univg.skeleton import BoolArray, FloatArray, skeleton_graph

from .copies import make_thumbnail
from .descriptors import describe_graph
from .murray import measure_radii
from .resize import resize_mask


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one mask gave."""

    name: str
    descriptors: FloatArray  # (D,)
    radii: FloatArray  # (M, 3)
    thumbnail: BoolArray  # (128, 128)


def measure_mask(mask: BoolArray, *, size_px: int | None = None, name: str = "") -> Measured:
    """Measure `mask` (H, W), its longest side scaled to `size_px` first, if given."""
    if size_px is not None:
        mask = resize_mask(mask, size_px)
    graph = skeleton_graph(mask)
    return Measured(
        name=name,
        descriptors=np.array(list(describe_graph(mask, graph).values())),
        radii=measure_radii(graph),
        thumbnail=make_thumbnail(mask),
    )


def measure_folders(
    folders: Mapping[str, Path], *, size_px: int | None, workers: int = 1
) -> dict[str, list[Measured]]:
    """Measure every mask of `folders`; all unreadable ones are told in one report."""
    paths = {name: find_masks(folder) for name, folder in folders.items()}
    every = [path for found in paths.values() for path in found]
    problems: list[Problem] = []
    done: list[Measured] = []
    task = functools.partial(_measure_file, size_px=size_px)
    for outcome in map_in_order(task, every, workers, _use_one_thread):
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            done.append(outcome)
    if problems:
        count = f"{len(problems)} of {len(every)} masks"
        raise ProblemReport(problems, f"{count} cannot be read; mend or remove them")
    results = iter(done)
    return {name: [next(results) for _ in found] for name, found in paths.items()}


def _use_one_thread() -> None:
    cv2.setNumThreads(1)


def _measure_file(path: Path, size_px: int | None) -> Measured | Problem:
    try:
        mask = read_mask(path)
    except PictureError as error:
        return error.problem
    return measure_mask(mask, size_px=size_px, name=path.name)
