"""Broken vessels joined: a drawn tree's fragments, brought back to the tree they broke off.

In: a mask, how far a gap may reach, how many pieces may remain. Out: the mask with the shortest
gaps closed first, each by a straight piece of vessel as wide as the fragment that it leads to.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

WIDEST_PX = 3
"""Of a piece of vessel that is drawn: gaps break the thin ones."""


@dataclass(frozen=True, order=True)
class _Gap:
    length_px: float
    piece: int
    start: tuple[int, int] = field(compare=False)
    end: tuple[int, int] = field(compare=False)


def close_gaps(mask: BoolMask, longest_px: float, pieces: int) -> BoolMask:
    """Return `mask` with gaps of up to `longest_px` closed until `pieces` pieces are left."""
    count, found, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    labels = np.asarray(found, np.int32)
    left = count - 1
    if left <= max(1, pieces) or longest_px <= 0:
        return mask
    boxes = {k: _box_of(stats[k]) for k in range(1, count)}
    # What is near the largest piece finds it: searching from there would only be slow.
    largest = max(boxes, key=lambda k: int(stats[k, cv2.CC_STAT_AREA]))
    gaps = [_find_gap(labels, boxes[k], k, longest_px) for k in boxes if k != largest]
    heap = [gap for gap in gaps if gap is not None]
    heapq.heapify(heap)
    while heap and left > max(1, pieces):
        gap = heapq.heappop(heap)
        if gap.piece not in boxes:  # has become part of another
            continue
        other = int(labels[gap.end])
        if other == gap.piece:  # what it leads to has been joined to it from the other side
            again = _find_gap(labels, boxes[gap.piece], gap.piece, longest_px)
            if again is not None:
                heapq.heappush(heap, again)
            continue
        _join(labels, gap, other, boxes)
        left -= 1
        again = None if other == largest else _find_gap(labels, boxes[other], other, longest_px)
        if again is not None:
            heapq.heappush(heap, again)
    joined: BoolMask = labels > 0
    return joined


def count_pieces(mask: BoolMask) -> int:
    """Return the number of pieces that do not touch."""
    return int(cv2.connectedComponents(mask.astype(np.uint8))[0]) - 1


def _box_of(stats: npt.NDArray[np.int32]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right), the last two exclusive."""
    left, top, width, height = (int(value) for value in stats[:4])
    return top, left, top + height, left + width


def _find_gap(
    labels: npt.NDArray[np.int32], box: tuple[int, int, int, int], piece: int, longest_px: float
) -> _Gap | None:
    """Return the shortest way from `piece` to any other, None where none is near enough."""
    reach = int(np.ceil(longest_px)) + 1
    top, left = max(0, box[0] - reach), max(0, box[1] - reach)
    near = labels[top : box[2] + reach, left : box[3] + reach]
    others = (near > 0) & (near != piece)
    if not others.any():
        return None
    distances, nearest = cv2.distanceTransformWithLabels(
        (~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    mine = np.argwhere(near == piece)
    lengths = distances[mine[:, 0], mine[:, 1]]
    ties = np.flatnonzero(lengths <= lengths.min() + 1e-3)
    best = int(ties[len(ties) // 2])  # the middle of a blunt end, not its corner
    if lengths[best] > longest_px:
        return None
    y, x = mine[best]
    # Pixels of the others are numbered; the label says which of them is nearest.
    ends = np.argwhere(nearest == nearest[y, x])
    end = next((tuple(each) for each in ends if others[tuple(each)]), None)
    if end is None:
        return None
    return _Gap(
        float(lengths[best]), piece, (int(y) + top, int(x) + left),
        (int(end[0]) + top, int(end[1]) + left),
    )  # fmt: skip


def _join(
    labels: npt.NDArray[np.int32],
    gap: _Gap,
    other: int,
    boxes: dict[int, tuple[int, int, int, int]],
) -> None:
    """Draw what closes `gap`, and make its piece a part of `other`."""
    top, left, bottom, right = boxes.pop(gap.piece)
    view = labels[top:bottom, left:right]
    inside = view == gap.piece
    width = _width_of(inside)
    view[inside] = other
    line = np.zeros(labels.shape, np.uint8)
    cv2.line(line, gap.start[::-1], gap.end[::-1], 1, width)
    labels[(line > 0) & (labels == 0)] = other
    mine, thick = boxes[other], WIDEST_PX  # the line may reach beyond the boxes of what it joins
    boxes[other] = (
        max(0, min(top, mine[0]) - thick), max(0, min(left, mine[1]) - thick),
        max(bottom, mine[2]) + thick, max(right, mine[3]) + thick,
    )  # fmt: skip


def _width_of(piece: BoolMask) -> int:
    """Return how wide a piece of vessel is, whole pixels, by its area and the ridge of it."""
    distances = cv2.distanceTransform(
        np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    ridge = distances[distances >= cv2.dilate(distances, np.ones((3, 3), np.uint8))]
    ridge = ridge[ridge > 0]
    width = round(2 * float(np.median(ridge)) - 1) if len(ridge) else 1
    return int(min(max(width, 1), WIDEST_PX))
