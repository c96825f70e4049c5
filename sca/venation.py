"""Closed venation: growth in which vessels that meet at an attractor join into loops.

In and out: as `growth.grow_tree`, with `Tree.loops` filled. An attractor pulls all its relative
neighbours, not only the nearest node (Runions et al. 2005, section 4.2): node v counts unless some
node u lies closer to both the attractor and v. It dies when all of them have come within the kill
distance, and these are then joined. For capillary beds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .tree import (
    Bytes,
    Floats,
    Pace,
    Tree,
    add_node,
    can_stand,
    count_sprouts,
    enlarge,
    heading,
    pack,
    unpack,
)

MAX_NEIGHBOURS = (
    48  # nearest nodes looked at about an attractor; relative neighbours are six at most
)
MAX_LOOPS = 6  # joins at one attractor: no more than relative neighbours
KIN_STEPS = 6  # nodes so close along the tree are one vessel, not two that meet


def grow_closed(tree: Tree, attractors: Floats, blocked: Bytes, pace: Pace, seed: int) -> Tree:
    """Grow `tree` towards `attractors` (k, 2) with loops; stop rules as for open venation."""
    del seed  # no wobble here: loops close by aiming
    nodes, parent = pack(tree)
    targets = np.ascontiguousarray(attractors[:, :2], np.float64)
    nodes, parent, count, loops = _grow_closed(
        nodes, parent, tree.size, pace.max_nodes, targets, blocked, pace.margin_px,
        max(pace.attraction_px, 1.0), pace.attraction_px, pace.kill_px, pace.step_px,
        pace.max_iterations, pace.inertia, pace.lean,
    )  # fmt: skip
    return unpack(nodes, parent, count, np.concatenate([tree.loops, loops]))


@njit(cache=True, nogil=True)
def _relative_neighbours(  # type: ignore[no-untyped-def]
    sx, sy, nodes, head, following, cell, columns, rows, attraction2, found, found2,
):  # fmt: skip
    """Fill `found` with the relative neighbours of (sx, sy), nearest first; return how many."""
    column = min(columns - 1, max(0, int(sx / cell)))
    row = min(rows - 1, max(0, int(sy / cell)))
    near = 0
    for r in range(max(0, row - 1), min(rows, row + 2)):
        for c in range(max(0, column - 1), min(columns, column + 2)):
            n = head[r * columns + c]
            while n >= 0:
                d2 = (nodes[n, 0] - sx) ** 2 + (nodes[n, 1] - sy) ** 2
                if d2 < attraction2 and (near < MAX_NEIGHBOURS or d2 < found2[near - 1]):
                    k = min(near, MAX_NEIGHBOURS - 1)
                    while k > 0 and found2[k - 1] > d2:
                        found[k], found2[k] = found[k - 1], found2[k - 1]
                        k -= 1
                    found[k], found2[k] = n, d2
                    near = min(near + 1, MAX_NEIGHBOURS)
                n = following[n]
    kept = 0
    for k in range(near):
        v = found[k]
        hidden = False
        for j in range(kept):
            u = found[j]
            between = (nodes[u, 0] - nodes[v, 0]) ** 2 + (nodes[u, 1] - nodes[v, 1]) ** 2
            if between < found2[k]:
                hidden = True
                break
        if not hidden:
            found[kept], found2[kept] = v, found2[k]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _kin(parent, a, b):  # type: ignore[no-untyped-def]
    """Whether two nodes are a few steps apart along one vessel."""
    p = a
    for i in range(KIN_STEPS):
        q = b
        for _ in range(KIN_STEPS - i):
            if p == q:
                return True
            if parent[q] < 0:
                break
            q = parent[q]
        if parent[p] < 0:
            return False
        p = parent[p]
    return False


@njit(cache=True, nogil=True)
def _enter(nodes, n, head, following, cell, columns, rows):  # type: ignore[no-untyped-def]
    column = min(columns - 1, max(0, int(nodes[n, 0] / cell)))
    row = min(rows - 1, max(0, int(nodes[n, 1] / cell)))
    following[n] = head[row * columns + column]
    head[row * columns + column] = n


@njit(cache=True, nogil=True)
def _pull_all(  # type: ignore[no-untyped-def]
    nodes, parent, attractors, alive, alive_count, head, following, cell, columns, rows,
    attraction, kill, patience, rounds, pull, touched, loops, loop_count,
):  # fmt: skip
    """Let each attractor pull its relative neighbours; drop and join where all have arrived."""
    found, found2 = np.empty(MAX_NEIGHBOURS, np.int32), np.empty(MAX_NEIGHBOURS)
    touched_count, kept = 0, 0
    for w in range(alive_count):
        a = alive[w]
        sx, sy = attractors[a, 0], attractors[a, 1]
        near = _relative_neighbours(
            sx, sy, nodes, head, following, cell, columns, rows, attraction * attraction, found,
            found2,
        )  # fmt: skip
        arrived = 0
        for k in range(near):
            n = found[k]
            if found2[k] <= kill * kill:
                arrived += 1
                continue
            size = np.sqrt(found2[k])
            if pull[n, 2] == 0.0:
                touched[touched_count] = n
                touched_count += 1
            pull[n, 0] += (sx - nodes[n, 0]) / size
            pull[n, 1] += (sy - nodes[n, 1]) / size
            pull[n, 2] += 1.0
        patience[a] += arrived > 0
        if arrived == 0 or (arrived < near and patience[a] <= rounds):
            alive[kept] = a
            kept += 1
            continue
        for k in range(1, near):
            if found2[k] <= kill * kill and not _kin(parent, found[0], found[k]):
                loops[loop_count, 0], loops[loop_count, 1] = found[0], found[k]
                loop_count += 1
    return kept, touched_count, loop_count


@njit(cache=True, nogil=True)
def _grow_closed(  # type: ignore[no-untyped-def]
    nodes, parent, count, max_nodes, attractors, blocked, margin, cell, attraction, kill, step,
    max_iterations, inertia, lean,
):  # fmt: skip
    height, width = blocked.shape
    columns, rows = int(width / cell) + 1, int(height / cell) + 1
    sprouts, last = np.zeros(0, np.int32), np.zeros(0, np.int32)
    nodes, parent, sprouts, last = enlarge(nodes, parent, sprouts, last, count + 256)
    count_sprouts(parent, count, sprouts)
    head, following = np.full(columns * rows, -1, np.int32), np.empty(len(nodes), np.int32)
    pull, touched = np.zeros((len(nodes), 3)), np.empty(len(nodes), np.int32)
    loops, loop_count = np.empty((MAX_LOOPS * len(attractors) + 1, 2), np.int32), 0
    for n in range(count):
        _enter(nodes, n, head, following, cell, columns, rows)
    alive, alive_count = np.arange(len(attractors)).astype(np.int32), len(attractors)
    patience = np.zeros(len(attractors), np.int32)
    rounds = int(attraction / step) + 3  # a vessel that has not come after these never will
    for _ in range(max_iterations):
        alive_count, touched_count, loop_count = _pull_all(
            nodes, parent, attractors, alive, alive_count, head, following, cell, columns, rows,
            attraction, kill, patience, rounds, pull, touched, loops, loop_count,
        )  # fmt: skip
        before = count
        nodes, parent, sprouts, last = enlarge(nodes, parent, sprouts, last, count + touched_count)
        if len(following) < len(nodes):
            longer = np.empty(len(nodes), np.int32)
            longer[:count] = following[:count]
            following = longer
        for t in range(touched_count):
            n = touched[t]
            hx, hy = heading(
                nodes, n, pull[n, 0], pull[n, 1], pull[n, 2], sprouts[n], inertia, lean, 0.0
            )
            pull[n] = 0.0
            if not can_stand(nodes, n, hx, hy, step, last, blocked, margin) or sprouts[n] > 3:
                continue
            if count >= max_nodes:
                return nodes, parent, count, loops[:loop_count]
            add_node(nodes, parent, count, n, hx, hy, 0.0, step, last, sprouts)
            _enter(nodes, count, head, following, cell, columns, rows)
            count += 1
        if len(touched) < len(nodes):
            pull, touched = np.zeros((len(nodes), 3)), np.empty(len(nodes), np.int32)
        if count == before:
            break
    return nodes, parent, count, loops[:loop_count]
