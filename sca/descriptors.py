"""Numbers that describe a vessel mask: how much, how wide, how long, how it branches and winds.

In: a bool mask (H, W). Out: `DESCRIPTORS`, one finite float each. Lengths are fractions of the
image's side √(H·W), so masks of different resolution compare; what does not exist in a mask (the
angle of a branching in a mask without one) is 0. All are unchanged by flips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numba import njit

from univg.skeleton import (
    CYCLE,
    TIP,
    BoolArray,
    FloatArray,
    IntArray,
    SkeletonGraph,
    distance_to_background,
    fill_pinholes,
    skeleton_graph,
)

from .paths import branching_angles, steps_along, turns_along


@dataclass(frozen=True)
class Descriptor:
    """One number: its name, its group, its meaning, and the least difference that matters."""

    name: str
    group: str
    meaning: str
    resolution: float


DESCRIPTORS: tuple[Descriptor, ...] = (
    Descriptor("vessel_density", "density", "share of the pixels that are vessel", 0.005),
    Descriptor("skeleton_length", "density", "centre line in sides", 0.5),
    Descriptor("width_q10", "width", "width quantile over the centre line, in sides", 0.0005),
    Descriptor("width_q50", "width", "width quantile over the centre line, in sides", 0.0005),
    Descriptor("width_q75", "width", "width quantile over the centre line, in sides", 0.0005),
    Descriptor("width_q90", "width", "width quantile over the centre line, in sides", 0.0005),
    Descriptor("width_q98", "width", "width quantile over the centre line, in sides", 0.001),
    Descriptor("width_variation", "width", "sd of the width over its mean", 0.02),
    Descriptor("segment_q25", "segments", "branch length quantile, in sides", 0.003),
    Descriptor("segment_q50", "segments", "branch length quantile, in sides", 0.003),
    Descriptor("segment_q75", "segments", "branch length quantile, in sides", 0.005),
    Descriptor("segment_q90", "segments", "branch length quantile, in sides", 0.01),
    Descriptor("junction_density", "branching", "junctions a side of centre line", 0.1),
    Descriptor("tip_density", "branching", "free ends a side of centre line", 0.1),
    Descriptor("crossing_share", "branching", "junctions of four branches and more", 0.02),
    Descriptor("daughter_ratio", "branching", "mean of thinner over thicker daughter", 0.02),
    Descriptor("angle_q25", "angles", "angle between daughters, quantile, degrees", 3.0),
    Descriptor("angle_q50", "angles", "angle between daughters, quantile, degrees", 3.0),
    Descriptor("angle_q75", "angles", "angle between daughters, quantile, degrees", 3.0),
    Descriptor("angle_spread", "angles", "sd of the angle between daughters, degrees", 2.0),
    Descriptor("tortuosity_mean", "tortuosity", "arc over chord - 1, mean by length", 0.005),
    Descriptor("tortuosity_q90", "tortuosity", "arc over chord - 1, quantile by length", 0.01),
    Descriptor("curvature_mean", "tortuosity", "turning a side of centre line, radians", 0.5),
    Descriptor("curvature_q90", "tortuosity", "turning, quantile by length", 1.0),
    Descriptor("fractal_mask", "fractal", "box-counting dimension of the mask", 0.01),
    Descriptor("fractal_skeleton", "fractal", "box-counting dimension of the centre line", 0.01),
    Descriptor("components_log", "topology", "log(1 + b0), b0 the pieces (8-connected)", 0.2),
    Descriptor("holes_log", "topology", "log(1 + b1), b1 the holes (loops), no pinholes", 0.2),
    Descriptor("largest_share", "topology", "share of the vessel in its largest piece", 0.02),
    Descriptor("direction_entropy", "direction", "entropy of directions, 1 if uniform", 0.01),
    Descriptor("anisotropy", "direction", "0 all directions alike, 1 parallel", 0.02),
    Descriptor("horizontal_share", "direction", "cos² to the horizontal, mean", 0.02),
    Descriptor("radial_share", "direction", "cos² to the ray from the vessel's centroid", 0.02),
    Descriptor("radius_q25", "layout", "distance from the image centre, in half diagonals", 0.02),
    Descriptor("radius_q50", "layout", "distance from the image centre, in half diagonals", 0.02),
    Descriptor("radius_q75", "layout", "distance from the image centre, in half diagonals", 0.02),
    Descriptor("border_share", "layout", "vessel in the outer tenth of the image", 0.01),
    Descriptor("unevenness", "layout", "sd over mean of the density in a 4×4 grid", 0.03),
    Descriptor("imbalance_x", "layout", "|left - right| over the sum", 0.03),
    Descriptor("imbalance_y", "layout", "|top - bottom| over the sum", 0.03),
    Descriptor("gap_q50", "gaps", "background's distance to a vessel, quantile, in sides", 0.002),
    Descriptor("gap_q95", "gaps", "background's distance to a vessel, quantile, in sides", 0.005),
)
DESCRIPTOR_NAMES: tuple[str, ...] = tuple(d.name for d in DESCRIPTORS)
DESCRIPTOR_GROUPS: tuple[str, ...] = tuple(d.group for d in DESCRIPTORS)

_DIRECTION_BINS = 18
_BOX_DIVISIONS = (4, 8, 16, 32, 64, 128)
_CHORD_SIDES = 1 / 64  # curvature is read over chords of this length: 8 px at 512
_ANGLE_SIDES = 1 / 32  # and angles over this length beyond the junction: 16 px at 512


def describe(mask: BoolArray) -> dict[str, float]:
    """Return every descriptor of `mask` (H, W) by name."""
    return describe_graph(mask, skeleton_graph(mask))


def describe_many(masks: Iterable[BoolArray]) -> FloatArray:
    """Return the descriptors of N masks as an array (N, D), columns as `DESCRIPTOR_NAMES`."""
    rows = [list(describe(mask).values()) for mask in masks]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(DESCRIPTORS))


def describe_graph(mask: BoolArray, graph: SkeletonGraph) -> dict[str, float]:
    """Return every descriptor of `mask`, whose skeleton graph is known."""
    mask = np.ascontiguousarray(mask, dtype=np.bool_)
    side = float(np.sqrt(mask.shape[0] * mask.shape[1]))
    steps = steps_along(graph.rows, graph.columns, graph.offsets)
    found = {
        **_measure_width(mask, graph, steps, side),
        **_measure_branches(graph, side),
        **_measure_angles(graph, side),
        **_measure_tortuosity(graph, side),
        **_measure_fractal(mask, graph, side),
        **_measure_topology(mask),
        **_measure_direction(mask, steps),
        **_measure_layout(mask, side),
    }
    return {name: float(found[name]) for name in DESCRIPTOR_NAMES}


def _quantiles(
    values: FloatArray, weights: FloatArray | None, at: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the weighted quantiles `at` of `values`; zeros where there are none."""
    if len(values) == 0:
        return (0.0,) * len(at)
    if weights is None:
        return tuple(float(q) for q in np.quantile(values, at))
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    if reached[-1] <= 0:
        return tuple(float(q) for q in np.quantile(values, at))
    places = np.searchsorted(reached, np.asarray(at) * reached[-1])
    return tuple(float(q) for q in values[order[np.minimum(places, len(order) - 1)]])


def _measure_width(
    mask: BoolArray, graph: SkeletonGraph, steps: FloatArray, side: float
) -> dict[str, float]:
    # A line of odd width w has the distance (w + 1) / 2 on its axis, one of even width w / 2:
    # twice the distance, less a half, is right on average.
    widths = np.maximum(2 * graph.radii - 0.5, 1.0) / side
    weights = steps[:, 3]
    q10, q50, q75, q90, q98 = _quantiles(widths, weights, (0.1, 0.5, 0.75, 0.9, 0.98))
    total = float(weights.sum())
    mean = float((widths * weights).sum() / total) if total > 0 else 0.0
    spread = float(np.sqrt((weights * (widths - mean) ** 2).sum() / total)) if total > 0 else 0.0
    return {
        "vessel_density": float(mask.mean()) if mask.size else 0.0,
        "skeleton_length": float(graph.lengths.sum()) / side,
        "width_q10": q10,
        "width_q50": q50,
        "width_q75": q75,
        "width_q90": q90,
        "width_q98": q98,
        "width_variation": spread / mean if mean > 0 else 0.0,
    }


def _measure_branches(graph: SkeletonGraph, side: float) -> dict[str, float]:
    q25, q50, q75, q90 = _quantiles(graph.lengths / side, None, (0.25, 0.5, 0.75, 0.9))
    # One side of centre line at least, or a single dot would have an endless tip density.
    length = max(float(graph.lengths.sum()) / side, 1.0)
    junctions = np.count_nonzero(graph.degrees >= 3)
    crossings = np.count_nonzero(graph.degrees >= 4)
    return {
        "segment_q25": q25,
        "segment_q50": q50,
        "segment_q75": q75,
        "segment_q90": q90,
        "junction_density": junctions / length,
        "tip_density": np.count_nonzero(graph.ends == TIP) / length,
        "crossing_share": crossings / junctions if junctions else 0.0,
    }


def _measure_angles(graph: SkeletonGraph, side: float) -> dict[str, float]:
    angles, ratios = branching_angles(graph, max(_ANGLE_SIDES * side, 5.0))
    q25, q50, q75 = _quantiles(angles, None, (0.25, 0.5, 0.75))
    return {
        "angle_q25": q25,
        "angle_q50": q50,
        "angle_q75": q75,
        "angle_spread": float(angles.std()) if len(angles) else 0.0,
        "daughter_ratio": float(ratios.mean()) if len(ratios) else 0.0,
    }


def _measure_tortuosity(graph: SkeletonGraph, side: float) -> dict[str, float]:
    first, last = graph.offsets[:-1], graph.offsets[1:] - 1
    chords = np.hypot(
        graph.rows[last] - graph.rows[first], graph.columns[last] - graph.columns[first]
    )
    # A chord that says something: no closed curve, no stub of a few pixels.
    open_ended = (graph.ends[:, 0] != CYCLE) & (chords >= max(_CHORD_SIDES * side, 3.0))
    lengths = graph.lengths[open_ended]
    excess = np.clip(lengths / np.maximum(chords[open_ended], 1.0) - 1, 0.0, 4.0)
    (q90,) = _quantiles(excess, lengths, (0.9,))
    turns, spans = turns_along(
        graph.rows, graph.columns, graph.offsets, max(_CHORD_SIDES * side, 3.0)
    )
    span = float(spans.sum())
    (turn_q90,) = _quantiles(turns / np.maximum(spans, 1e-9) * side, spans, (0.9,))
    return {
        "tortuosity_mean": float(np.average(excess, weights=lengths)) if len(lengths) else 0.0,
        "tortuosity_q90": q90,
        "curvature_mean": float(turns.sum()) / span * side if span > 0 else 0.0,
        "curvature_q90": turn_q90,
    }


def _measure_fractal(mask: BoolArray, graph: SkeletonGraph, side: float) -> dict[str, float]:
    boxes = np.unique(np.maximum(np.round(side / np.array(_BOX_DIVISIONS)).astype(np.int64), 2))
    return {
        "fractal_mask": _box_dimension(mask, boxes, side),
        "fractal_skeleton": _box_dimension(graph.skeleton, boxes, side),
    }


def _box_dimension(shape: BoolArray, boxes: IntArray, side: float) -> float:
    """Return the slope of log(boxes that are hit) over log(1 / box size)."""
    counts = _count_boxes(shape, boxes)
    if len(boxes) < 2 or counts.min() == 0:
        return 0.0
    return float(np.polyfit(np.log(side / boxes), np.log(counts), 1)[0])


def _measure_topology(mask: BoolArray) -> dict[str, float]:
    plain = mask.astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(plain, connectivity=8)
    # The frame joins all background that touches the border; the rest are holes. Background is
    # 4-connected where vessel is 8-connected, or a diagonal line would not close a loop.
    framed = np.pad(~fill_pinholes(mask), 1, constant_values=True).astype(np.uint8)
    holes = cv2.connectedComponents(framed, connectivity=4)[0] - 2
    areas = stats[1:, cv2.CC_STAT_AREA]
    return {
        "components_log": float(np.log1p(count - 1)),
        "holes_log": float(np.log1p(max(holes, 0))),
        "largest_share": float(areas.max() / areas.sum()) if count > 1 else 0.0,
    }


def _measure_direction(mask: BoolArray, steps: FloatArray) -> dict[str, float]:
    names = ("direction_entropy", "anisotropy", "horizontal_share", "radial_share")
    weights = np.hypot(steps[:, 0], steps[:, 1])
    total = float(weights.sum())
    if total <= 0:
        return dict.fromkeys(names, 0.0)
    angles = np.arctan2(steps[:, 0], steps[:, 1])
    bins = np.floor((angles / np.pi % 1.0) * _DIRECTION_BINS).astype(np.int64) % _DIRECTION_BINS
    shares = np.bincount(bins, weights, _DIRECTION_BINS) / total
    shares = shares[shares > 0]
    entropy = float(-(shares * np.log(shares)).sum() / np.log(_DIRECTION_BINS))
    rows, columns = np.nonzero(mask)
    rays = np.arctan2(steps[:, 2] - rows.mean(), steps[:, 4] - columns.mean())
    return {
        "direction_entropy": entropy,
        "anisotropy": float(np.abs((weights * np.exp(2j * angles)).sum()) / total),
        "horizontal_share": float((weights * np.cos(angles) ** 2).sum() / total),
        "radial_share": float((weights * np.cos(angles - rays) ** 2).sum() / total),
    }


def _measure_layout(mask: BoolArray, side: float) -> dict[str, float]:
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    y, x = (rows + 0.5) / height, (columns + 0.5) / width
    away = np.hypot((y - 0.5) * height, (x - 0.5) * width) / (0.5 * np.hypot(height, width))
    q25, q50, q75 = _quantiles(away, None, (0.25, 0.5, 0.75))
    count = max(len(rows), 1)
    cells = np.bincount((y * 4).astype(np.int64) * 4 + (x * 4).astype(np.int64), minlength=16)
    outer = (np.minimum(y, 1 - y) < 0.1) | (np.minimum(x, 1 - x) < 0.1)
    background = ~mask
    gap = (0.0, 0.0)
    if background.any() and len(rows):
        distance = distance_to_background(background)[background].astype(np.float64)
        gap = (float(np.quantile(distance, 0.5)) / side, float(np.quantile(distance, 0.95)) / side)
    return {
        "radius_q25": q25,
        "radius_q50": q50,
        "radius_q75": q75,
        "border_share": np.count_nonzero(outer) / count,
        "unevenness": float(cells.std() / cells.mean()) if len(rows) else 0.0,
        "imbalance_x": abs(float(np.sign(x - 0.5).sum())) / count,
        "imbalance_y": abs(float(np.sign(y - 0.5).sum())) / count,
        "gap_q50": gap[0],
        "gap_q95": gap[1],
    }


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _count_boxes(shape: Any, boxes: Any) -> Any:
    """Return how many boxes of each size hold a pixel of `shape` (H, W)."""
    height, width = shape.shape
    counts = np.zeros(len(boxes), np.int64)
    for k in range(len(boxes)):
        box = boxes[k]
        across = width // box + 1
        hit = np.zeros((height // box + 1) * across, np.uint8)
        for row in range(height):
            base = row // box * across
            for column in range(width):
                if shape[row, column]:
                    hit[base + column // box] = 1
        counts[k] = hit.sum()
    return counts
