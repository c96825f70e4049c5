"""Gaps of drawn vessels are closed, the shortest first, and nothing else is changed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.gaps import close_gaps, count_pieces


def broken_tree(*gaps_px: int) -> np.ndarray:
    """Return a trunk across the picture, interrupted by gaps, side by side."""
    mask = np.zeros((60, 200), bool)
    left = 5
    for gap_px in (*gaps_px, 0):
        mask[28:31, left : left + 30] = True
        left += 30 + gap_px
    return mask


def test_a_gap_is_closed_by_a_vessel_as_wide():
    mask = broken_tree(8)
    closed = close_gaps(mask, 10, 1)
    assert count_pieces(closed) == 1
    assert (closed & mask).sum() == mask.sum()
    assert closed[28:31, 37].all(), "three pixels, as the vessel"
    assert not closed[:26].any()


def test_a_gap_that_is_too_long_stays():
    mask = broken_tree(12)
    assert (close_gaps(mask, 10, 1) == mask).all()
    assert (close_gaps(mask, 0, 1) == mask).all()


def test_the_shortest_gaps_are_closed_until_enough_pieces_are_left():
    mask = broken_tree(9, 5, 7)
    assert [count_pieces(close_gaps(mask, 10, pieces)) for pieces in (1, 2, 3, 4, 9)] == [
        1, 2, 3, 4, 4,
    ]  # fmt: skip
    closed = close_gaps(mask, 10, 3)
    added = np.flatnonzero((closed & ~mask).any(axis=0))
    assert added.min() >= 73
    assert added.max() < 80


@pytest.mark.parametrize("mask", [np.zeros((20, 20), bool), np.ones((20, 20), bool)])
def test_nothing_and_everything_are_left_alone(mask):
    assert (close_gaps(mask, 10, 1) == mask).all()


@pytest.mark.parametrize("seed", range(30))
def test_random_pieces_come_together(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((90, 110), np.uint8)
    for _ in range(25):
        start, end = rng.integers(0, 110, 2), rng.integers(-12, 13, 2)
        start = np.minimum(start, (109, 89))
        where = [tuple(map(int, point)) for point in (start, start + end)]
        cv2.line(mask, *where, 1, int(rng.integers(1, 4)))
    closed = close_gaps(mask > 0, 200, 1)
    assert count_pieces(closed) == 1
    assert closed[mask > 0].all()
    some = close_gaps(mask > 0, 6, 1)
    assert count_pieces(mask > 0) >= count_pieces(some) >= 1
