"""Measures along the branches of a skeleton graph: directions, turns and branching angles.

In: the flat path arrays of a `SkeletonGraph`. Out: arrays, one row a path point, a turn or a
bifurcation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from univg.skeleton import BoolArray, FloatArray, IntArray, SkeletonGraph

_LEAST_PX = 2.5  # a branch shorter than this beyond its junction has no direction


def branch_radii(graph: SkeletonGraph) -> FloatArray:
    """Return the median distance-transform radius of each branch (B,), junctions left out, px."""
    starts = graph.offsets[:-1] + (graph.ends[:, 0] >= 0)
    stops = graph.offsets[1:] - (graph.ends[:, 1] >= 0)
    medians: FloatArray = _medians(graph.radii, starts, stops)
    return medians


def find_bifurcations(graph: SkeletonGraph, usable: BoolArray) -> tuple[IntArray, IntArray]:
    """Return the branches (M, 3), and which of their ends, at each junction of exactly three.

    Only junctions all of whose ends are `usable` (B, 2) count.
    """
    branches, sides = np.nonzero(usable & (graph.ends >= 0))
    junctions = graph.ends[branches, sides]
    order = np.argsort(junctions, kind="stable")
    found = np.bincount(junctions, minlength=len(graph.degrees))
    starts = np.cumsum(found) - found
    chosen = np.flatnonzero((graph.degrees == 3) & (found == 3))
    members = order[starts[chosen][:, None] + np.arange(3)]
    return branches[members], sides[members]


def branching_angles(graph: SkeletonGraph, reach_px: float) -> tuple[FloatArray, FloatArray]:
    """Return the angles between daughters (degrees) and their width ratios, one a bifurcation.

    Directions are read from where the branch leaves the junction's disc over `reach_px`. The
    daughters are the two branches that enclose the smallest angle: the widths of a trunk before
    and after a side branch differ by less than a pixel, so the widest branch is no sure parent.
    """
    directions = _directions(
        graph.rows, graph.columns, graph.offsets, graph.ends, graph.junction_radii, reach_px
    )
    branches, sides = find_bifurcations(graph, np.isfinite(directions))
    angles = directions[branches, sides]
    widths = branch_radii(graph)[branches]
    turns = np.abs((angles - np.roll(angles, -1, axis=1) + np.pi) % (2 * np.pi) - np.pi)
    pair = np.argmin(turns, axis=1)[:, None]
    first = np.take_along_axis(widths, pair, axis=1)[:, 0]
    second = np.take_along_axis(widths, (pair + 1) % 3, axis=1)[:, 0]
    ratios = np.minimum(first, second) / np.maximum(np.maximum(first, second), 0.5)
    return np.degrees(np.take_along_axis(turns, pair, axis=1)[:, 0]), ratios


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def steps_along(rows: Any, columns: Any, offsets: Any) -> Any:
    """Return (P, 5): direction (row, column), row, length it stands for, column, a path point."""
    out = np.zeros((len(rows), 5))
    for branch in range(len(offsets) - 1):
        first, last = offsets[branch], offsets[branch + 1] - 1
        for p in range(first, last + 1):
            a, b = max(p - 1, first), min(p + 1, last)
            length = np.hypot(rows[b] - rows[p], columns[b] - columns[p])
            length += np.hypot(rows[p] - rows[a], columns[p] - columns[a])
            norm = np.hypot(rows[b] - rows[a], columns[b] - columns[a])
            out[p, 2], out[p, 3], out[p, 4] = rows[p], length / 2, columns[p]
            if norm > 0:
                out[p, 0] = (rows[b] - rows[a]) / norm * length / 2
                out[p, 1] = (columns[b] - columns[a]) / norm * length / 2
    return out


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _directions(
    rows: Any, columns: Any, offsets: Any, ends: Any, radii: Any, reach_px: float
) -> Any:
    """Return (B, 2): the direction (radians) in which a branch leaves each end, or NaN."""
    out = np.full((len(ends), 2), np.nan)
    for branch in range(len(ends)):
        first, last = offsets[branch], offsets[branch + 1] - 1
        for side in range(2):
            junction = ends[branch, side]
            if junction < 0:
                continue
            step = 1 if side == 0 else -1
            stop = last if side == 0 else first
            p = first if side == 0 else last
            row, column, start = rows[p], columns[p], p
            while start != stop and (
                np.hypot(rows[start] - row, columns[start] - column) < radii[junction]
            ):
                start += step
            end = start
            while end != stop and (
                np.hypot(rows[end] - rows[start], columns[end] - columns[start]) < reach_px
            ):
                end += step
            drow, dcolumn = rows[end] - rows[start], columns[end] - columns[start]
            if np.hypot(drow, dcolumn) >= _LEAST_PX:
                out[branch, side] = np.arctan2(drow, dcolumn)
    return out


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def turns_along(rows: Any, columns: Any, offsets: Any, chord_px: float) -> Any:
    """Return the turn (radians) between neighbouring chords of each branch, and its length."""
    turns, spans = np.zeros(len(rows)), np.zeros(len(rows))
    count = 0
    for branch in range(len(offsets) - 1):
        first, last = offsets[branch], offsets[branch + 1] - 1
        start, before, before_span = first, 0.0, 0.0
        for p in range(first + 1, last + 1):
            drow, dcolumn = rows[p] - rows[start], columns[p] - columns[start]
            span = np.hypot(drow, dcolumn)
            if span < chord_px:
                continue
            angle = np.arctan2(drow, dcolumn)
            if before_span > 0:
                turns[count] = abs((angle - before + np.pi) % (2 * np.pi) - np.pi)
                spans[count] = (span + before_span) / 2
                count += 1
            start, before, before_span = p, angle, span
    return turns[:count].copy(), spans[:count].copy()


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _medians(values: Any, starts: Any, stops: Any) -> Any:
    """Return the median of each stretch (B,); of an empty one, the value before it."""
    out = np.empty(len(starts))
    for k in range(len(starts)):
        if stops[k] > starts[k]:
            out[k] = np.median(values[starts[k] : stops[k]])
        else:
            out[k] = values[max(starts[k] - 1, 0)]
    return out
