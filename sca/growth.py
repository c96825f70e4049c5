"""Growth of one vessel tree towards attractors: the space colonization algorithm itself.

In: a tree (arrays of nodes), attractors, a map of blocked pixels and the distances of the paper:
attraction Da, kill Dk, segment length Ls. Out: the tree, longer. Lengths are in pixels, positions
are (x, y) of pixel centres. Steps 1 to 6 and equations (1) to (7) are those of the paper's
section 3.1; a grid of cells as wide as Da makes the cost proportional to the attractors, because a
new node looks at its nine cells only and an attractor waits untouched until a node comes near.

Deliberate departures, each off at its neutral value: a node keeps some of its parent's direction
(`inertia`), a side branch leans downstream (`lean`), and the course wanders (`wobble_rad`), since
straight averages give the spikes and right angles that no vessel has.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .tree import (
    MAX_CHILDREN,
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


def grow_tree(tree: Tree, attractors: Floats, blocked: Bytes, pace: Pace, seed: int) -> Tree:
    """Grow `tree` towards `attractors` (k, 2 or 3) until a stop rule of equation (7) holds.

    The rules: no attractor within reach is left, `max_nodes` nodes, `max_iterations` rounds.
    `blocked` (H, W) is non-zero where no node may stand; beyond the image nodes may stand up to
    `margin_px` away, so that a vessel can leave and come back. A third column of `attractors` is
    the radius that the vessel reaching it has at least. `seed` feeds the wobble alone.
    """
    nodes, parent = pack(tree)
    # Rows of x, y, radius and the square of the distance to the nearest node.
    targets = np.zeros((len(attractors), 4))
    targets[:, : attractors.shape[1]] = attractors
    targets[:, 3] = np.inf
    cell = max(pace.attraction_px, 1.0)
    nodes, parent, count = _grow(
        nodes, parent, tree.size, pace.max_nodes, targets, blocked, pace.margin_px, cell,
        pace.attraction_px, pace.kill_px, pace.step_px, pace.max_iterations,
        pace.inertia, pace.lean, pace.wobble_rad, pace.wobble_memory, np.uint64(seed),
    )  # fmt: skip
    return unpack(nodes, parent, count, tree.loops)


@njit(cache=True, nogil=True)
def _random(state: np.uint64) -> tuple[np.uint64, float]:
    """One step of splitmix64: the next state and a number of [0, 1)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, float(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _sort_into_cells(points, cell, columns, rows):  # type: ignore[no-untyped-def]
    """Counting sort of `points` by grid cell: (start of each cell, end of each cell, order)."""
    start = np.zeros(columns * rows + 1, np.int32)
    which = np.empty(len(points), np.int32)
    for i in range(len(points)):
        column = min(columns - 1, max(0, int(points[i, 0] / cell)))
        row = min(rows - 1, max(0, int(points[i, 1] / cell)))
        which[i] = row * columns + column
        start[which[i] + 1] += 1
    for c in range(columns * rows):
        start[c + 1] += start[c]
    end = start[:-1].copy()
    order = np.empty(len(points), np.int32)
    for i in range(len(points)):
        order[end[which[i]]] = i
        end[which[i]] += 1
    return start, end, order


@njit(cache=True, nogil=True)
def _meet(  # type: ignore[no-untyped-def]
    nodes, node, attractors, start, end, order, cell, columns, rows, attraction2, kill2,
    nearest, waiting, waiting_count,
):  # fmt: skip
    """Let a new node kill (eq. 5, 6) and claim (step 1) the attractors in its nine cells."""
    px, py = nodes[node, 0], nodes[node, 1]
    column = min(columns - 1, max(0, int(px / cell)))
    row = min(rows - 1, max(0, int(py / cell)))
    for r in range(max(0, row - 1), min(rows, row + 2)):
        for c in range(max(0, column - 1), min(columns, column + 2)):
            here = r * columns + c
            k = start[here]
            while k < end[here]:
                a = order[k]
                ex = attractors[a, 0] - px
                ey = attractors[a, 1] - py
                d2 = ex * ex + ey * ey
                if d2 <= kill2:
                    nearest[a] = -2
                    if d2 < nodes[node, 6]:
                        nodes[node, 6] = d2
                        nodes[node, 5] = attractors[a, 2]
                    end[here] -= 1
                    order[k] = order[end[here]]
                    continue
                if d2 < attraction2 and d2 < attractors[a, 3]:
                    if nearest[a] == -1:
                        waiting[waiting_count] = a
                        waiting_count += 1
                    nearest[a] = node
                    attractors[a, 3] = d2
                k += 1
    return waiting_count


@njit(cache=True, nogil=True)
def _pull(  # type: ignore[no-untyped-def]
    nodes, attractors, nearest, waiting, waiting_count, slot, pull, touched
):
    """Steps 1 and 2: each waiting attractor pulls its nearest node; killed ones drop out.

    touched: (t,) the nodes that are pulled. pull: (t, 4) sum of unit vectors, their number, and
    one attractor. slot: (n,) where a node stands in these, -1 for nowhere.
    """
    touched_count, kept = 0, 0
    for w in range(waiting_count):
        a = waiting[w]
        n = nearest[a]
        if n < 0:
            continue
        waiting[kept] = a
        kept += 1
        ex, ey = attractors[a, 0] - nodes[n, 0], attractors[a, 1] - nodes[n, 1]
        size = np.sqrt(ex * ex + ey * ey)
        t = slot[n]
        if t < 0:
            t = slot[n] = touched_count
            touched[t] = n
            pull[t, :3] = 0.0
            pull[t, 3] = a
            touched_count += 1
        pull[t, 0] += ex / size
        pull[t, 1] += ey / size
        pull[t, 2] += 1.0
    return kept, touched_count


@njit(cache=True, nogil=True)
def _release(attractors, nearest, waiting, waiting_count, sprouts):  # type: ignore[no-untyped-def]
    """A node that cannot sprout lets go of its attractors; a later node may claim them."""
    kept = 0
    for w in range(waiting_count):
        a = waiting[w]
        if nearest[a] >= 0 and sprouts[nearest[a]] > MAX_CHILDREN:
            nearest[a] = -1
            attractors[a, 3] = np.inf
        else:
            waiting[kept] = a
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _grow(  # type: ignore[no-untyped-def]
    nodes, parent, count, max_nodes, attractors, blocked, margin, cell, attraction, kill, step,
    max_iterations, inertia, lean, wobble, memory, state,
):  # fmt: skip
    height, width = blocked.shape
    total = len(attractors)
    columns, rows = int(width / cell) + 1, int(height / cell) + 1
    start, end, order = _sort_into_cells(attractors, cell, columns, rows)
    attractors, order = attractors[order], np.arange(total).astype(np.int32)
    nearest = np.full(total, -1, np.int32)
    waiting, waiting_count = np.empty(total, np.int32), 0
    pull, touched = np.zeros((256, 4)), np.empty(256, np.int32)
    sprouts, last = np.zeros(0, np.int32), np.zeros(0, np.int32)
    nodes, parent, sprouts, last = enlarge(nodes, parent, sprouts, last, count + 256)
    count_sprouts(parent, count, sprouts)
    slot = np.full(len(nodes), -1, np.int32)
    fresh = 0
    for _ in range(max_iterations):
        for n in range(fresh, count):
            waiting_count = _meet(
                nodes, n, attractors, start, end, order, cell, columns, rows,
                attraction * attraction, kill * kill, nearest, waiting, waiting_count,
            )  # fmt: skip
        fresh = count
        if len(touched) < waiting_count:
            pull, touched = np.zeros((2 * waiting_count, 4)), np.empty(2 * waiting_count, np.int32)
        waiting_count, touched_count = _pull(
            nodes, attractors, nearest, waiting, waiting_count, slot, pull, touched
        )
        if touched_count == 0:
            break
        nodes, parent, sprouts, last = enlarge(nodes, parent, sprouts, last, count + touched_count)
        if len(slot) < len(nodes):
            slot = np.full(len(nodes), -1, np.int32)
        for t in range(touched_count):
            n = touched[t]
            slot[n] = -1
            turn = 0.0
            if wobble > 0.0:
                state, u = _random(state)
                turn = memory * nodes[n, 4] + wobble * (2.0 * u - 1.0)
            hx, hy = heading(
                nodes, n, pull[t, 0], pull[t, 1], pull[t, 2], sprouts[n], inertia, lean, turn
            )
            fits = can_stand(nodes, n, hx, hy, step, last, blocked, margin)
            if not fits:  # pulled to opposite sides, or against a wall: go for one attractor
                a = int(pull[t, 3])
                ex, ey = attractors[a, 0] - nodes[n, 0], attractors[a, 1] - nodes[n, 1]
                size = np.sqrt(ex * ex + ey * ey)
                hx, hy, turn = ex / size, ey / size, 0.0
                fits = can_stand(nodes, n, hx, hy, step, last, blocked, margin)
            if not fits or sprouts[n] >= MAX_CHILDREN:
                sprouts[n] = MAX_CHILDREN + 1
                continue
            if count >= max_nodes:
                return nodes, parent, count
            add_node(nodes, parent, count, n, hx, hy, turn, step, last, sprouts)
            count += 1
        waiting_count = _release(attractors, nearest, waiting, waiting_count, sprouts)
    return nodes, parent, count
