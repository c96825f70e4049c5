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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

MAX_CHILDREN = 8
STUCK = 0.3
"""A node whose next child would stand within this share of a step of its last one goes for a
single attractor instead, and where that fails too it lets its attractors go: two that pull it to
opposite sides would make it sprout at one spot for ever."""
NODE_COLUMNS = 7  # the last: how far the attractor was that set the floor
WEAK = 0.1
"""Mean pulls shorter than this cancel out."""


@dataclass
class Tree:
    """Nodes of one tree; parents stand before their children, a root is its own parent's -1.

    x, y: (n,) px. parent: (n,). dx, dy: (n,) unit direction of arrival. turn: (n,) rad a step.
    floor: (n,) px, the radius that the vessel has here at least (0: whatever Murray's law gives).
    loops: (m, 2) pairs of nodes joined beyond the tree.
    """

    x: Floats
    y: Floats
    parent: Ints
    dx: Floats
    dy: Floats
    turn: Floats
    floor: Floats
    loops: Ints

    @property
    def size(self) -> int:
        """How many nodes."""
        return len(self.x)


def plant(roots: Floats, headings: Floats | None = None) -> Tree:
    """Return a tree of nothing but `roots` (k, 2); `headings` (k, 2) where they first point."""
    count = len(roots)
    ways = np.zeros((count, 2)) if headings is None else headings
    return Tree(
        x=roots[:, 0].astype(np.float64),
        y=roots[:, 1].astype(np.float64),
        parent=np.full(count, -1, np.int32),
        dx=ways[:, 0].astype(np.float64),
        dy=ways[:, 1].astype(np.float64),
        turn=np.zeros(count),
        floor=np.zeros(count),
        loops=np.zeros((0, 2), np.int32),
    )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a tree grows. The defaults are the paper's, and no departure from it."""

    attraction_px: float = 20.0
    kill_px: float = 10.0
    step_px: float = 15.0
    max_nodes: int = 20_000
    max_iterations: int = 2_000
    inertia: float = 0.0
    lean: float = 0.0
    wobble_rad: float = 0.0
    wobble_memory: float = 0.8
    margin_px: float = 0.0


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


def pack(tree: Tree) -> tuple[Floats, Ints]:
    """The tree as the kernels hold it: rows of x, y, dx, dy, turn, floor and a scratch column."""
    nodes = np.full((tree.size, NODE_COLUMNS), np.inf)
    columns = (tree.x, tree.y, tree.dx, tree.dy, tree.turn, tree.floor)
    for column, values in enumerate(columns):
        nodes[:, column] = values
    return nodes, tree.parent.copy()


def unpack(nodes: Floats, parent: Ints, count: int, loops: Ints) -> Tree:
    """The tree of the first `count` rows."""
    x, y, dx, dy, turn, floor, _ = nodes[:count].T.copy()
    return Tree(x, y, parent[:count].copy(), dx, dy, turn, floor, loops)


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
def heading(nodes, n, sx, sy, pulls, sprouts, inertia, lean, turn):  # type: ignore[no-untyped-def]
    """Unit direction of the next segment from node `n`, eq. (2) and (3), turned by `turn`.

    Zero where the pulls all but cancel out.
    """
    ux, uy = sx / pulls, sy / pulls
    pull = np.sqrt(ux * ux + uy * uy)
    if pull < WEAK:
        return 0.0, 0.0
    keep = inertia if sprouts == 0 else lean
    ux = (1.0 - keep) * ux / pull + keep * nodes[n, 2]
    uy = (1.0 - keep) * uy / pull + keep * nodes[n, 3]
    size = np.sqrt(ux * ux + uy * uy)
    if size < WEAK:
        return 0.0, 0.0
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    return ux * cos - uy * sin, ux * sin + uy * cos


@njit(cache=True, nogil=True)
def can_stand(nodes, n, hx, hy, step, last, blocked, margin):  # type: ignore[no-untyped-def]
    """Whether a child of `n` may stand one step along (hx, hy)."""
    if hx == 0.0 and hy == 0.0:
        return False
    height, width = blocked.shape
    x, y = nodes[n, 0] + step * hx, nodes[n, 1] + step * hy
    if last[n] >= 0:  # its last child
        ex, ey = x - nodes[last[n], 0], y - nodes[last[n], 1]
        if ex * ex + ey * ey < (STUCK * step) ** 2:
            return False
    if -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5:
        return blocked[int(y + 0.5), int(x + 0.5)] == 0
    return -margin < x < width + margin and -margin < y < height + margin


@njit(cache=True, nogil=True)
def add_node(  # type: ignore[no-untyped-def]
    nodes,
    parent,
    count,
    n,
    hx,
    hy,
    turn,
    step,
    last,
    sprouts,
):
    """Append a child of `n`, eq. (4)."""
    nodes[count, 0], nodes[count, 1] = nodes[n, 0] + step * hx, nodes[n, 1] + step * hy
    nodes[count, 2], nodes[count, 3], nodes[count, 4] = hx, hy, turn
    nodes[count, 5], nodes[count, 6] = 0.0, np.inf
    last[n], last[count] = count, -1
    parent[count] = n
    sprouts[n] += 1


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
def enlarge(nodes, parent, sprouts, last, need):  # type: ignore[no-untyped-def]
    """Make room for `need` nodes; arrays double, so memory follows the tree."""
    if need <= len(nodes):
        return nodes, parent, sprouts, last
    old, room = len(nodes), 2 * need
    more_nodes = np.zeros((room, nodes.shape[1]))
    more_nodes[:old] = nodes
    more_parent = np.empty(room, np.int32)
    more_parent[:old] = parent
    more_sprouts = np.zeros(room, np.int32)
    more_sprouts[: len(sprouts)] = sprouts
    more_last = np.full(room, -1, np.int32)
    more_last[: len(last)] = last
    return more_nodes, more_parent, more_sprouts, more_last


@njit(cache=True, nogil=True)
def count_sprouts(parent, count, sprouts):  # type: ignore[no-untyped-def]
    """Set how often each of the first `count` nodes has sprouted."""
    for n in range(count):
        if parent[n] >= 0:
            sprouts[parent[n]] += 1


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
