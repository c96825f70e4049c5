"""The skeleton of a mask as a graph: branches, junctions, tips and radii.

In: a bool mask (H, W). Out: a `SkeletonGraph`. The skeleton is thinned to one pixel, its spurs
(the bristles that an uneven edge leaves) are pruned, and it is cut at its junctions. Paths are
smoothed before anything is measured on them: a staircase of pixels is up to 8 % longer than the
line it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit
from skimage.morphology import skeletonize

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TIP = -1  # the end of a branch that meets no other
CYCLE = -2  # both ends of a branch that closes on itself
# A spur inside the vessel is as long as the vessel's radius; one and a half radii also covers the
# two arms that run from the axis to the corners of a squarely cut vessel end.
SPUR_RADII = 1.5
PINHOLE_SHARE = 1.5e-5  # 4 px at 512 × 512
SMOOTHING_PX = 3  # half window of the moving average along a path
_PRUNING_ROUNDS = 3

# rows (P,), columns (P,), offsets (B + 1,), ends (B, 2), junction labels (H, W), junction count
_Traced = tuple[IntArray, IntArray, IntArray, IntArray, IntArray, int]


@dataclass(frozen=True, kw_only=True)
class SkeletonGraph:
    """Branches of a skeleton. Flat arrays of P path points, B branches, J junctions.

    Branch `b` is the points `offsets[b]:offsets[b + 1]`; its first and last point lie on the
    junctions `ends[b]` (or are a tip, -1; a closed curve has -2 twice).
    """

    shape: tuple[int, int]
    rows: FloatArray  # (P,) smoothed pixel coordinates
    columns: FloatArray  # (P,)
    radii: FloatArray  # (P,) distance transform at the pixel, in px
    offsets: IntArray  # (B + 1,)
    ends: IntArray  # (B, 2)
    lengths: FloatArray  # (B,) arc length in px
    pixels: IntArray  # (B,) pixels of the branch without its junctions
    junction_radii: FloatArray  # (J,) largest radius inside the junction, in px
    degrees: IntArray  # (J,) branch ends that meet there
    skeleton: BoolArray  # (H, W) pruned

    @property
    def branch_count(self) -> int:
        """How many branches there are."""
        return len(self.lengths)


def distance_to_background(mask: BoolArray) -> npt.NDArray[np.float32]:
    """Return the distance of each vessel pixel to the nearest background pixel (H, W), in px.

    What lies outside the image is unknown, not background: a vessel cut by the border keeps its
    width there. A mask without background is as wide as the image.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are integers; OpenCV's last bit depends on its number of threads.
    exact = np.sqrt(np.rint(np.square(distance, dtype=np.float64)))
    return np.minimum(exact, max(0.5, min(mask.shape) / 2)).astype(np.float32)


def thin_mask(mask: BoolArray) -> BoolArray:
    """Return the raw skeleton of `mask` (H, W), spurs and all."""
    return np.asarray(skeletonize(mask), dtype=np.bool_)  # type: ignore[no-untyped-call, unused-ignore]


def fill_pinholes(mask: BoolArray) -> BoolArray:
    """Return `mask` (H, W) without holes of `PINHOLE_SHARE` of the image and less.

    Where two edges meet, rasters enclose single pixels; each would become a loop of the skeleton.
    """
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= max(1.0, PINHOLE_SHARE * mask.size)
    small[0] = False  # the vessels
    if not small.any():
        return mask
    return np.asarray(mask | small[labels[1:-1, 1:-1]])


def skeleton_graph(mask: BoolArray, spur_radii: float = SPUR_RADII) -> SkeletonGraph:
    """Return the skeleton graph of `mask` (H, W); spurs below `spur_radii` radii are pruned."""
    mask = fill_pinholes(np.ascontiguousarray(mask, dtype=np.bool_))
    distance = np.pad(distance_to_background(mask), 1)
    skeleton = np.pad(thin_mask(mask), 1).astype(np.uint8)
    traced = _trace(skeleton)
    for _ in range(_PRUNING_ROUNDS if spur_radii > 0 else 0):
        if _prune(skeleton, distance, traced, spur_radii) == 0:
            break
        traced = _trace(skeleton)
    return _measure(mask.shape, skeleton, distance, traced)


def _trace(skeleton: npt.NDArray[np.uint8]) -> _Traced:
    """Thin `skeleton` (padded) in place and cut it into paths."""
    points = np.argwhere(skeleton).astype(np.int64)
    _remove_corners(skeleton, points)
    points = np.argwhere(skeleton).astype(np.int64)
    labels, count = _label_junctions(skeleton, points)
    rows, columns, offsets, ends = _walk_branches(labels, points)
    return rows, columns, offsets, ends, labels, count


def _measure(
    shape: tuple[int, ...],
    skeleton: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float32],
    traced: _Traced,
) -> SkeletonGraph:
    rows, columns, offsets, ends, labels, count = traced
    smooth_rows, smooth_columns, lengths = _smooth(rows, columns, offsets, ends, SMOOTHING_PX)
    on_junctions = np.sum(ends >= 0, axis=1)
    return SkeletonGraph(
        shape=(int(shape[0]), int(shape[1])),
        rows=smooth_rows - 1,
        columns=smooth_columns - 1,
        radii=distance[rows, columns].astype(np.float64),
        offsets=offsets,
        ends=ends,
        lengths=lengths,
        pixels=np.diff(offsets) - on_junctions,
        junction_radii=_junction_radii(labels, distance, count),
        degrees=np.bincount(ends[ends >= 0], minlength=count).astype(np.int64),
        skeleton=skeleton[1:-1, 1:-1].astype(np.bool_),
    )


def _junction_radii(labels: IntArray, distance: npt.NDArray[np.float32], count: int) -> FloatArray:
    radii = np.zeros(count)
    inside = labels > 0
    np.maximum.at(radii, labels[inside] - 1, distance[inside])
    return radii


def _prune(
    skeleton: npt.NDArray[np.uint8],
    distance: npt.NDArray[np.float32],
    traced: _Traced,
    spur_radii: float,
) -> int:
    """Delete the spurs' pixels from `skeleton`; return how many spurs there were.

    A junction keeps two branches at least, the longest: a vessel's end is not shortened.
    """
    rows, columns, offsets, ends, labels, count = traced
    radii = _junction_radii(labels, distance, count)
    degrees = np.bincount(ends[ends >= 0], minlength=count)
    spurs = np.flatnonzero((ends.min(axis=1) == TIP) & (ends.max(axis=1) >= 0))
    steps = np.diff(offsets)[spurs]
    deleted = 0
    for branch, step in sorted(zip(spurs, steps, strict=True), key=lambda pair: int(pair[1])):
        start, stop = int(offsets[branch]), int(offsets[branch + 1])
        junction = int(ends[branch].max())
        chord = np.hypot(rows[stop - 1] - rows[start], columns[stop - 1] - columns[start])
        if max(chord, step - 1) >= spur_radii * radii[junction] or degrees[junction] <= 2:
            continue
        degrees[junction] -= 1
        deleted += 1
        inside = slice(start + 1, stop) if ends[branch, 0] >= 0 else slice(start, stop - 1)
        skeleton[rows[inside], columns[inside]] = 0
    return deleted


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _remove_corners(skeleton: Any, points: Any) -> None:
    """Delete pixels that 8-connectivity does not need (simple points that are no tip).

    With the corners gone, a pixel with three neighbours is a junction, not a bend.
    """
    drow = (0, -1, -1, -1, 0, 1, 1, 1)
    dcolumn = (1, 1, 0, -1, -1, -1, 0, 1)
    around = np.zeros(8, np.int64)
    for k in range(points.shape[0]):
        row, column = points[k, 0], points[k, 1]
        neighbours = 0
        for d in range(8):
            around[d] = skeleton[row + drow[d], column + dcolumn[d]]
            neighbours += around[d]
        crossings = 0  # Yokoi's number for 8-connectivity; 1 means that removal cuts nothing
        for d in range(0, 8, 2):
            a, b, c = 1 - around[d], 1 - around[d + 1], 1 - around[(d + 2) % 8]
            crossings += a - a * b * c
        if neighbours >= 2 and crossings == 1:
            skeleton[row, column] = 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _label_junctions(skeleton: Any, points: Any) -> Any:
    """Return labels (padded H, W), 0 off the skeleton, -1 on a path, 1… in a junction; how many."""
    labels = np.zeros(skeleton.shape, np.int64)
    unnumbered = -2
    for k in range(points.shape[0]):
        row, column = points[k, 0], points[k, 1]
        neighbours = -1
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                neighbours += skeleton[r, c]
        labels[row, column] = unnumbered if neighbours >= 3 else -1
    stack = np.empty((points.shape[0] + 1, 2), np.int64)
    count = 0
    for k in range(points.shape[0]):
        if labels[points[k, 0], points[k, 1]] != unnumbered:
            continue
        count += 1
        stack[0] = points[k]
        labels[points[k, 0], points[k, 1]] = count
        top = 1
        while top > 0:
            top -= 1
            row, column = stack[top, 0], stack[top, 1]
            for r in range(row - 1, row + 2):
                for c in range(column - 1, column + 2):
                    if labels[r, c] == unnumbered:
                        labels[r, c] = count
                        stack[top, 0], stack[top, 1] = r, c
                        top += 1
    return labels, count


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _follow(labels: Any, seen: Any, rows: Any, columns: Any, at: int, origin: int) -> Any:
    """Extend the path whose last point is `at - 1`; return its end and where it ends."""
    while True:
        row, column = rows[at - 1], columns[at - 1]
        next_row, next_column, junction = -1, -1, 0
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                if labels[r, c] == 0 or (r == row and c == column):
                    continue
                came_from = at - 2 >= origin and r == rows[at - 2] and c == columns[at - 2]
                if labels[r, c] > 0 and not came_from and junction == 0:
                    next_row, next_column, junction = r, c, labels[r, c]
                elif labels[r, c] == -1 and not seen[r, c] and junction == 0:
                    next_row, next_column = r, c
        if next_row < 0:
            return at, -1
        rows[at], columns[at] = next_row, next_column
        at += 1
        if junction > 0:
            return at, junction - 1
        seen[next_row, next_column] = 1


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _walk_branches(labels: Any, points: Any) -> Any:
    """Return path points (rows, columns), offsets (B + 1,) and ends (B, 2)."""
    total = points.shape[0]
    seen = np.zeros(labels.shape, np.uint8)
    rows = np.empty(3 * total + 3, np.int64)
    columns = np.empty(3 * total + 3, np.int64)
    offsets = np.zeros(total + 1, np.int64)
    ends = np.empty((total, 2), np.int64)
    at, count = 0, 0
    for stage in range(3):  # from junctions, then from tips, then what closes on itself
        for k in range(total):
            row, column = points[k, 0], points[k, 1]
            if (stage == 0) != (labels[row, column] > 0) or (stage > 0 and seen[row, column]):
                continue
            neighbours = 0
            for r in range(row - 1, row + 2):
                for c in range(column - 1, column + 2):
                    if labels[r, c] == 0 or (r == row and c == column):
                        continue
                    neighbours += 1
                    if stage > 0 or labels[r, c] > 0 or seen[r, c]:
                        continue
                    origin = at
                    rows[at], columns[at], rows[at + 1], columns[at + 1] = row, column, r, c
                    seen[r, c] = 1
                    ends[count, 0] = labels[row, column] - 1
                    at, ends[count, 1] = _follow(labels, seen, rows, columns, at + 2, origin)
                    count += 1
                    offsets[count] = at
            if stage == 0 or (stage == 1 and neighbours > 1):
                continue
            origin = at
            rows[at], columns[at] = row, column
            seen[row, column] = 1
            at, _ = _follow(labels, seen, rows, columns, at + 1, origin)
            if stage == 2:  # close the curve
                rows[at], columns[at] = row, column
                at += 1
            ends[count] = -stage
            count += 1
            offsets[count] = at
    return rows[:at].copy(), columns[:at].copy(), offsets[: count + 1].copy(), ends[:count].copy()


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _smooth(rows: Any, columns: Any, offsets: Any, ends: Any, half: int) -> Any:
    """Average each path along itself; the window narrows at the ends, which stay in place."""
    out_rows, out_columns = rows.astype(np.float64), columns.astype(np.float64)
    lengths = np.zeros(len(ends))
    for branch in range(len(ends)):
        first, last = offsets[branch], offsets[branch + 1] - 1
        for p in range(first, last + 1):
            reach = min(half, p - first, last - p)
            row, column = 0.0, 0.0
            for q in range(p - reach, p + reach + 1):
                row += rows[q]
                column += columns[q]
            out_rows[p] = row / (2 * reach + 1)
            out_columns[p] = column / (2 * reach + 1)
        for p in range(first, last):
            lengths[branch] += np.hypot(
                out_rows[p + 1] - out_rows[p], out_columns[p + 1] - out_columns[p]
            )
    return out_rows, out_columns, lengths
