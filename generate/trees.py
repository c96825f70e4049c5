"""Which vessels are arteries and which are veins: a plausible answer, where a mask gives none.

In: the vessels of a mask and the place they come from. Out: 1 (artery) to 0 (vein) for each pixel.
Branches that leave the hub get a kind at random; it passes on from branch to branch, thick ones
first, and changes now and then, as where two vessels cross.
"""

from __future__ import annotations

import heapq

import cv2
import numpy as np
import numpy.typing as npt

from univg.sca.paths import branch_radii
from univg.skeleton import SkeletonGraph, skeleton_graph

from .fields import Field
from .vessels import Vessels

PASSES_ON = 0.9
"""Probability that a branch is of the kind of the one it grows from."""


def split_trees(
    vessels: Vessels, hub: tuple[float, float], hub_radius_px: float, rng: np.random.Generator
) -> Field:
    """Return 0 (vein) to 1 (artery) everywhere; each pixel as the branch nearest to it."""
    middling = np.full(vessels.shape, 0.5, np.float32)
    if not vessels.mask.any():
        return middling
    graph = skeleton_graph(vessels.mask)
    count = len(graph.ends)
    if count == 0:
        return middling
    kinds = pass_on(graph, _first_branches(graph, hub, hub_radius_px), rng.random((count, 2)))
    rows = np.clip(np.round(graph.rows), 0, vessels.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.round(graph.columns), 0, vessels.shape[1] - 1).astype(np.int64)
    bare = np.ones(vessels.shape, np.uint8)
    bare[rows, columns] = 0
    values = np.zeros(vessels.shape, np.float32)
    values[rows, columns] = np.repeat(kinds, np.diff(graph.offsets))
    _, labels = cv2.distanceTransformWithLabels(
        bare, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(labels.max()) + 1, np.float32)
    table[labels[bare == 0]] = values[bare == 0]
    return np.asarray(cv2.GaussianBlur(table[labels], (0, 0), 0.8), np.float32)


def _first_branches(
    graph: SkeletonGraph, hub: tuple[float, float], hub_radius_px: float
) -> npt.NDArray[np.bool_]:
    """Return which branches touch the hub."""
    near = np.hypot(graph.rows - hub[0], graph.columns - hub[1]) < hub_radius_px
    return np.add.reduceat(near, graph.offsets[:-1]) > 0


def pass_on(
    graph: SkeletonGraph, first: npt.NDArray[np.bool_], dice: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Return the kind of each branch, 0 or 1; `dice` (B, 2) decides kinds and changes."""
    radii = np.nan_to_num(branch_radii(graph))
    kinds = np.full(len(radii), -1.0, np.float32)
    meeting: dict[int, list[int]] = {}
    for branch, ends in enumerate(graph.ends):
        for junction in {int(end) for end in ends if end >= 0}:
            meeting.setdefault(junction, []).append(branch)
    seeds = sorted(range(len(radii)), key=lambda b: (not first[b], -radii[b]))
    hub_count = int(first.sum())
    # The branches at the hub grow side by side; then the thickest branch of what they do not reach.
    for group in [seeds[:hub_count], *([seed] for seed in seeds[hub_count:])]:
        queue = [(-radii[b], b, float(dice[b, 0] < 0.5)) for b in group if kinds[b] < 0]
        heapq.heapify(queue)
        while queue:
            _, branch, kind = heapq.heappop(queue)
            if kinds[branch] >= 0:
                continue
            kinds[branch] = kind
            for other in {b for end in graph.ends[branch] for b in meeting.get(int(end), ())}:
                if kinds[other] < 0:
                    same = dice[other, 1] < PASSES_ON
                    heapq.heappush(queue, (-radii[other], other, kind if same else 1 - kind))
    return kinds
