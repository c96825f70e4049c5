"""A vessel tree, the pace at which it grows, and the single steps that all growth is made of.

In: roots, directions, blocked pixels. Out: trees, longer by a node. Open growth (`growth`) and
growth with loops (`venation`) share all of this; equations are those of the paper's section 3.1.
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
