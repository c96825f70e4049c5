"""Twigs that no shot has: drawn masks pruned until they end as often as the shots do.

In: a mask, how long a twig may be to go, how many tips may remain. Out: the mask without its
shortest twigs. An engine that has seen much and learnt little frays the vessels that it draws.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from univg.masks import BoolMask
from univg.skeleton import TIP, SkeletonGraph, skeleton_graph

ROUNDS = 6
"""Pruning joins branches, which may then be twigs themselves."""


def count_tips(mask: BoolMask) -> int:
    """Return how many vessels end in `mask`."""
    return int((skeleton_graph(mask).ends == TIP).sum())


def prune_spurs(mask: BoolMask, longest_px: float, tips: int) -> BoolMask:
    """Return `mask` without its shortest twigs, up to `longest_px`, until `tips` tips are left."""
    if longest_px <= 0 or not mask.any():
        return mask
    for _ in range(ROUNDS):
        graph = skeleton_graph(mask)
        surplus = int((graph.ends == TIP).sum()) - tips
        spurs = _list_spurs(graph, longest_px)[: max(0, surplus)]
        if not len(spurs):
            break
        mask = _remove(mask, graph, spurs)
    return mask


def _list_spurs(graph: SkeletonGraph, longest_px: float) -> npt.NDArray[np.int64]:
    """Return the twigs shortest first, of each junction one at most."""
    ends = graph.ends
    twigs = np.flatnonzero((ends.min(axis=1) == TIP) & (ends.max(axis=1) >= 0))
    junctions = ends[twigs].max(axis=1)
    lengths = graph.lengths[twigs] - graph.junction_radii[junctions]
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= longest_px]
    _, first = np.unique(junctions[order], return_index=True)
    found: npt.NDArray[np.int64] = twigs[order[np.sort(first)]]
    return found


def _remove(mask: BoolMask, graph: SkeletonGraph, spurs: npt.NDArray[np.int64]) -> BoolMask:
    """Return `mask` without the pixels that are nearest to `spurs`."""
    gone = np.zeros(len(graph.rows), np.bool_)
    for spur in spurs:
        start, stop = int(graph.offsets[spur]), int(graph.offsets[spur + 1])
        at_start = graph.ends[spur, 0] >= 0
        joint = start if at_start else stop - 1
        radius = graph.junction_radii[int(graph.ends[spur].max())]
        rows, columns = graph.rows[start:stop], graph.columns[start:stop]
        far = np.hypot(rows - graph.rows[joint], columns - graph.columns[joint])
        gone[start:stop] = far > radius  # nearer, it lies in the vessel that it leaves
    points = np.stack([graph.rows, graph.columns], axis=1)
    pixels = np.argwhere(mask)
    _, nearest = cKDTree(points).query(pixels)
    kept = mask.copy()
    lost = pixels[gone[nearest]]
    kept[lost[:, 0], lost[:, 1]] = False
    return kept
