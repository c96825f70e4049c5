"""Real masks as steering for growth: their centrelines, cut into branches that hang on roots.

In: a real mask. Out: a `Template` in unit coordinates (those of `Frame.to_px`), which R-SCA warps,
thins and covers with attractors. What is kept is where vessels run and how they hang together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from univg.skeleton import TIP, SkeletonGraph, skeleton_graph

from .guides import arc_length, resample
from .sampling import Floats, Frame

Indices = npt.NDArray[np.int64]
Rooting = Literal["hub", "border", "thick"]
SPACING_PX = 2.0  # at the reference size; half a step of R-SCA's first round
HUB_BLUR = 0.045  # of the side: about the radius of the optic disc
HUB_NEAR = 0.12  # of the side: a piece that comes so near starts at the hub


@dataclass(frozen=True, kw_only=True)
class Template:
    """The centrelines of one real mask, as points of branches; a branch follows its parent.

    points: (p, 3) unit coordinates and radius in sides, each branch from its root's side outwards,
    `SPACING_PX` apart. start: (b + 1,) first point of each branch. parent: (b,) the branch that
    one hangs on, -1 at a root. length: (b,) sides. below: (b,) length of it and all that hangs on
    it. piece: (b,) the connected piece it is part of. roots: (r, 2), one a piece.
    """

    name: str
    points: Floats
    start: Indices
    parent: Indices
    length: Floats
    below: Floats
    piece: Indices
    roots: Floats

    @property
    def branch_count(self) -> int:
        """How many branches."""
        return len(self.parent)

    def subtree(self, branch: int) -> Indices:
        """Numbers of `branch` and of every branch that hangs on it; parents stand first."""
        inside = np.zeros(self.branch_count, np.bool_)
        inside[branch] = True
        for b in range(branch + 1, self.branch_count):
            if self.parent[b] >= 0 and inside[self.parent[b]]:
                inside[b] = True
        return np.flatnonzero(inside)


def trace_template(
    mask: npt.NDArray[np.bool_], name: str, rooting: Rooting, min_component_px: float = 16.0
) -> Template:
    """Trace the centrelines of `mask` and hang them on roots chosen by `rooting`.

    hub: where vessels converge (optic disc). border: where each piece meets the image's border.
    thick: the thickest end of each piece. Pieces shorter than `min_component_px` (at the reference
    size) are left out.
    """
    graph = skeleton_graph(mask)
    frame = Frame(*mask.shape)
    ends = _ends(graph)
    hub = _hub(graph, frame) if rooting == "hub" else None
    branches: list[Floats] = []
    parents: list[int] = []
    pieces: list[int] = []
    roots: list[Floats] = []
    for piece in _pieces(ends, graph.branch_count):
        if graph.lengths[piece].sum() < min_component_px * frame.scale:
            continue
        node = _choose_root(graph, piece, ends, frame, rooting, hub)
        roots.append(_position(graph, piece, ends, node))
        _hang(graph, piece, ends, node, branches, parents)
        pieces += [len(roots) - 1] * (len(branches) - len(pieces))
    return _assemble(name, branches, parents, pieces, roots, frame)


def _assemble(
    name: str, branches: list[Floats], parents: list[int], pieces: list[int],
    roots: list[Floats], frame: Frame,
) -> Template:  # fmt: skip
    """Bring pixels to unit coordinates, and every branch to the same spacing."""
    centre = np.array([(frame.width - 1) / 2, (frame.height - 1) / 2])
    even = [_spaced(points, SPACING_PX * frame.scale) for points in branches]
    points = np.vstack(even) if even else np.zeros((0, 3))
    length = np.array([arc_length(b)[-1] for b in even]) / frame.side
    parent = np.array(parents, np.int64)
    below = length.copy()
    for b in range(len(parent) - 1, -1, -1):
        if parent[b] >= 0:
            below[parent[b]] += below[b]
    return Template(
        name=name,
        points=(points - [*centre, 0]) / frame.side + [0.5, 0.5, 0],
        start=np.concatenate([[0], np.cumsum([len(b) for b in even])]).astype(np.int64),
        parent=parent,
        length=length,
        below=below,
        piece=np.array(pieces, np.int64),
        roots=(np.array(roots).reshape(-1, 2) - centre) / frame.side + 0.5,
    )


def _spaced(points: Floats, spacing: float) -> Floats:
    total = arc_length(points)[-1]
    return resample(points, np.linspace(0, total, max(2, round(total / spacing) + 1)))


def _ends(graph: SkeletonGraph) -> Indices:
    """Graph node at both ends of each branch; each tip becomes a node of its own."""
    ends = graph.ends.copy()
    fresh = int(ends.max(initial=-1)) + 1
    for b in range(len(ends)):
        if ends[b, 0] == -2:  # a closed curve: one node
            ends[b] = fresh
            fresh += 1
        for side in (0, 1):
            if ends[b, side] == -1:
                ends[b, side] = fresh
                fresh += 1
    return ends


def _pieces(ends: Indices, count: int) -> list[Indices]:
    """Branch numbers of each connected piece."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if count == 0:
        return []
    size = int(ends.max()) + 1
    links = coo_matrix((np.ones(count), (ends[:, 0], ends[:, 1])), shape=(size, size))
    _, label = connected_components(links, directed=False)
    of_branch = label[ends[:, 0]]
    return [np.flatnonzero(of_branch == piece) for piece in np.unique(of_branch)]


def _points(graph: SkeletonGraph, branch: int) -> Floats:
    span = slice(graph.offsets[branch], graph.offsets[branch + 1])
    # On the axis of a vessel w pixels wide the distance transform is w / 2 (even) or (w + 1) / 2.
    radii = np.maximum(graph.radii[span] - 0.25, 0.4)
    return np.stack([graph.columns[span], graph.rows[span], radii], axis=1)


def _hub(graph: SkeletonGraph, frame: Frame) -> Floats:
    """Where the most and the thickest vessels come together, in pixels."""
    weight = np.zeros((frame.height, frame.width), np.float32)
    row = np.clip(graph.rows.round().astype(int), 0, frame.height - 1)
    column = np.clip(graph.columns.round().astype(int), 0, frame.width - 1)
    np.add.at(weight, (row, column), graph.radii.astype(np.float32))
    blurred = cv2.GaussianBlur(weight, (0, 0), HUB_BLUR * frame.side)
    peak = np.unravel_index(int(blurred.argmax()), blurred.shape)
    return np.array([float(peak[1]), float(peak[0])])


def _choose_root(
    graph: SkeletonGraph, piece: Indices, ends: Indices,
    frame: Frame, rooting: Rooting, hub: Floats | None,
) -> int:  # fmt: skip
    """Return the node at which this piece starts: the end with the lowest cost."""
    best, best_cost = int(ends[piece[0], 0]), np.inf
    for b in piece:
        points = _points(graph, b)
        radii = graph.radii[graph.offsets[b] : graph.offsets[b + 1]]
        for side, at in ((0, 0), (1, -1)):
            x, y = points[at, :2]
            near = slice(0, 8) if side == 0 else slice(-8, None)
            cost = -float(np.median(radii[near]))
            if rooting == "border":
                edge = min(x, y, frame.width - 1 - x, frame.height - 1 - y)
                cost = edge + 2.0 * cost
            elif hub is not None:
                away = float(np.hypot(x - hub[0], y - hub[1]))
                cost = away - 1e4 if away < HUB_NEAR * frame.side else 0.3 * away + 20 * cost
            elif graph.ends[b, side] != TIP:
                cost += 1e3  # vessels come in at a free end, where there is any
            if cost < best_cost:
                best, best_cost = int(ends[b, side]), cost
    return best


def _position(graph: SkeletonGraph, piece: Indices, ends: Indices, node: int) -> Floats:
    for b in piece:
        if ends[b, 0] == node:
            return _points(graph, b)[0, :2]
        if ends[b, 1] == node:
            return _points(graph, b)[-1, :2]
    raise AssertionError("a piece's root is an end of one of its branches")


def _hang(
    graph: SkeletonGraph, piece: Indices, ends: Indices, root: int,
    branches: list[Floats], parents: list[int],
) -> None:  # fmt: skip
    """Walk the piece from `root`, thick branches first, and append its branches outwards."""
    at_node: dict[int, list[int]] = {}
    for b in piece:
        for node in {int(ends[b, 0]), int(ends[b, 1])}:
            at_node.setdefault(node, []).append(int(b))
    done: set[int] = set()
    queue = [(root, -1)]
    while queue:
        node, parent = queue.pop(0)
        for b in at_node[node]:
            if b in done:
                continue
            done.add(b)
            points = _points(graph, b)
            forward = int(ends[b, 0]) == node
            branches.append(points if forward else points[::-1])
            parents.append(parent)
            queue.append((int(ends[b, 1] if forward else ends[b, 0]), len(branches) - 1))
