"""From a grown tree to a vessel tree: widths, stubs cut, tips joined, smooth course.

In: a `Tree`. Out: a `Vessels` (nodes with radii and the child in which each vessel goes on). Radii
grow from the tips to the root by Murray's law, r0^e = r1^e + r2^e, with a little flow gained along
the way so that a vessel tapers between its branchings too. Lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from .tree import Floats, Ints, Tree

LEAN_COS = 0.75  # a side branch that leaves at less than about 40 degrees is well placed
WIDTH_ROUNDS = 12  # widths measured on real masks jump by a pixel; this evens some ten nodes


@dataclass
class Vessels:
    """A tree with a width at each node.

    x, y, radius: (n,) px. parent: (n,), -1 at roots. main: (n,) the child that goes on, -1 at tips.
    loops: (m, 2) joined nodes.
    """

    x: Floats
    y: Floats
    radius: Floats
    parent: Ints
    main: Ints
    loops: Ints


@dataclass(frozen=True, kw_only=True)
class Calibre:
    """Widths: tip radius, Murray's exponent, flow gained a pixel, and the widest radius."""

    tip_radius_px: float = 0.8
    exponent: float = 2.5
    taper_per_px: float = 0.01
    max_radius_px: float = 8.0
    pinned: bool = False
    """Known widths (`Tree.floor`) are the widths, not only the least ones."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is cut, joined and smoothed."""

    stub_px: float = 8.0
    join_px: float = 0.0
    lean_px: float = 0.0
    smooth_rounds: int = 4


def shape_vessels(tree: Tree, calibre: Calibre, finish: Finish) -> Vessels:
    """Cut stubs, join tips, set the radii and smooth the course of `tree`."""
    flow, main, reach = _flow_of(tree, calibre)
    radius = _radius(flow, calibre)
    keep = _long_enough(tree.parent, main, reach, radius, finish.stub_px)
    tree = _compact(tree, keep)
    if finish.join_px > 0:
        tips = _joins(tree.parent, tree.x, tree.y, tree.dx, tree.dy, finish.join_px)
        tree.loops = np.concatenate([tree.loops, tips])
    flow, main, _ = _flow_of(tree, calibre)
    radius = _radius(flow, calibre)
    if finish.lean_px > 0:
        tree.parent = _lean(tree.parent, main, tree.x, tree.y, finish.lean_px)
    if calibre.pinned:
        radius, _ = _smooth(radius, radius, tree.parent, main, WIDTH_ROUNDS)
    x, y = _smooth(tree.x, tree.y, tree.parent, main, finish.smooth_rounds)
    return Vessels(x, y, radius, tree.parent, main, tree.loops)


def _flow_of(tree: Tree, calibre: Calibre) -> tuple[Floats, Ints, Floats]:
    """Flow in tips; a vessel of known least width carries the flow of that width at least."""
    least = (tree.floor / calibre.tip_radius_px) ** calibre.exponent
    found: tuple[Floats, Ints, Floats] = _flow(
        tree.parent, tree.x, tree.y, least, calibre.pinned, calibre.taper_per_px
    )
    return found


def _radius(flow: Floats, calibre: Calibre) -> Floats:
    """Murray: r = tip · flow^(1/e); bent smoothly under the widest radius of the modality."""
    free: Floats = calibre.tip_radius_px * flow ** (1.0 / calibre.exponent)
    if calibre.pinned:
        return free
    bent: Floats = free / (1.0 + (free / calibre.max_radius_px) ** 4) ** 0.25
    return bent


@njit(cache=True, nogil=True)
def _flow(parent, x, y, least, pinned, taper):  # type: ignore[no-untyped-def]
    """Flow, main child and length of the longest way below each node, from the tips up."""
    count = len(parent)
    flow = np.zeros(count)
    reach = np.zeros(count)
    best = np.zeros(count)
    main = np.full(count, -1, np.int32)
    for n in range(count - 1, -1, -1):
        if main[n] < 0:
            flow[n] = 1.0
        if least[n] > flow[n] or (pinned and least[n] > 0.0):
            flow[n] = least[n]
        p = parent[n]
        if p < 0:
            continue
        length = np.hypot(x[n] - x[p], y[n] - y[p])
        arriving = flow[n] + taper * length
        flow[p] += arriving
        reach[p] = max(reach[p], reach[n] + length)
        if arriving > best[p]:
            best[p] = arriving
            main[p] = n
    return flow, main, reach


@njit(cache=True, nogil=True)
def _long_enough(parent, main, reach, radius, stub):  # type: ignore[no-untyped-def]
    """Which nodes stay: a side branch must come out of its parent's wall by `stub` pixels."""
    count = len(parent)
    keep = np.ones(count, np.bool_)
    for n in range(count):
        p = parent[n]
        if p < 0:
            keep[n] = reach[n] >= stub
        elif not keep[p]:
            keep[n] = False
        elif main[p] != n:
            keep[n] = reach[n] >= stub + radius[p]
    return keep


def _compact(tree: Tree, keep: np.ndarray) -> Tree:
    """Return `tree` without the nodes that are not kept; whole subtrees go, so order holds."""
    if keep.all():
        return tree
    place = np.cumsum(keep, dtype=np.int32) - 1
    parent = tree.parent[keep]
    parent = np.where(parent >= 0, place[parent], -1).astype(np.int32)
    loops = tree.loops[keep[tree.loops].all(axis=1)] if len(tree.loops) else tree.loops
    return Tree(
        tree.x[keep], tree.y[keep], parent, tree.dx[keep], tree.dy[keep], tree.turn[keep],
        tree.floor[keep], place[loops].astype(np.int32),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _joins(parent, x, y, dx, dy, distance):  # type: ignore[no-untyped-def]
    """Pairs (tip, node ahead within `distance`) that make loops; never a tip's own last stretch."""
    count = len(parent)
    is_tip = np.ones(count, np.bool_)
    for n in range(count):
        if parent[n] >= 0:
            is_tip[parent[n]] = False
    taken = np.zeros(count, np.bool_)
    pairs = np.empty((count, 2), np.int32)
    made = 0
    for tip in range(count):
        if not is_tip[tip] or taken[tip]:
            continue
        best, best_cost = -1, distance
        for n in range(count):
            ex, ey = x[n] - x[tip], y[n] - y[tip]
            if abs(ex) > distance or abs(ey) > distance or n == tip:
                continue
            size = np.hypot(ex, ey)
            ahead = (ex * dx[tip] + ey * dy[tip]) / max(size, 1e-9)
            cost = size * (1.5 - 0.5 * ahead)
            if size < distance and ahead > 0.3 and cost < best_cost:
                a = tip
                for _ in range(int(4 * distance)):
                    a = parent[a]
                    if a < 0 or a == n:
                        break
                if a == n:
                    continue
                best, best_cost = n, cost
        if best >= 0:
            pairs[made, 0], pairs[made, 1] = tip, best
            taken[best] = True
            made += 1
    return pairs[:made]


@njit(cache=True, nogil=True)
def _lean(parent, main, x, y, distance):  # type: ignore[no-untyped-def]
    """Let side branches leave further upstream, until they leave at an acute angle.

    An attractor beside a vessel pulls the nearest node, so branches would leave at right angles.
    """
    moved = parent.copy()
    for n in range(len(parent)):
        p = parent[n]
        if p < 0 or main[p] == n:
            continue
        while parent[p] >= 0 and main[parent[p]] == p:
            q = parent[p]
            tx, ty = x[p] - x[q], y[p] - y[q]
            bx, by = x[n] - x[p], y[n] - y[p]
            ahead = tx * bx + ty * by
            if ahead > LEAN_COS * np.hypot(tx, ty) * np.hypot(bx, by):
                break
            if np.hypot(x[n] - x[q], y[n] - y[q]) > distance + np.hypot(
                x[n] - x[parent[n]], y[n] - y[parent[n]]
            ):
                break
            p = q
        moved[n] = p
    return moved


@njit(cache=True, nogil=True)
def _smooth(x, y, parent, main, rounds):  # type: ignore[no-untyped-def]
    """Move each node towards the middle of its two neighbours along the vessel; ends stay."""
    x, y = x.copy(), y.copy()
    nx, ny = x.copy(), y.copy()
    for _ in range(rounds):
        for n in range(len(x)):
            p, m = parent[n], main[n]
            if p < 0 or m < 0:
                continue
            nx[n] = 0.5 * x[n] + 0.25 * (x[p] + x[m])
            ny[n] = 0.5 * y[n] + 0.25 * (y[p] + y[m])
        x, nx = nx, x
        y, ny = ny, y
    return x, y
