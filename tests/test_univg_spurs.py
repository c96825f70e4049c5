"""Twigs go, the shortest first, and the vessels that they left stay as they were."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.spurs import count_tips, prune_spurs

SIDE = 128


def trunk_with(twigs: list[tuple[int, int]], width: int = 7) -> np.ndarray:
    """Return a wide upright vessel with thin twigs to the right: (row, length)."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(canvas, (40, 8), (40, 120), 1, width)
    for row, length in twigs:
        cv2.line(canvas, (40, row), (40 + length, row), 1, 3)
    return canvas.astype(bool)


def test_tips_are_counted():
    assert count_tips(trunk_with([])) == 2
    assert count_tips(trunk_with([(40, 40), (80, 50)])) == 4
    assert count_tips(np.zeros((SIDE, SIDE), bool)) == 0


def test_the_shortest_twigs_go_until_enough_are_left():
    mask = trunk_with([(30, 20), (60, 45), (90, 14)])
    pruned = prune_spurs(mask, 30, 4)
    assert count_tips(pruned) == 4
    whole = trunk_with([(30, 20), (60, 45)])
    assert (pruned != whole).sum() < 12, "a twig's foot may stay, the vessel is whole"
    bare = prune_spurs(mask, 30, 0)
    assert count_tips(bare) == 3, "a long twig is a vessel"
    assert bare[60, 80]


def test_the_trunk_keeps_its_width():
    bare = prune_spurs(trunk_with([(30, 20), (90, 14)]), 30, 2)
    assert (bare[12:116].sum(axis=1) >= 7).all()
    assert (bare & ~trunk_with([])).sum() < 24, "but for the feet of two twigs"


@pytest.mark.parametrize("tips", [3, 7])
def test_nothing_is_pruned_where_nothing_is_to_be(tips):
    mask = trunk_with([(60, 45)])
    assert prune_spurs(mask, 0, tips) is mask
    assert (prune_spurs(mask, 60, tips) == mask).all()
    empty = np.zeros((SIDE, SIDE), bool)
    assert not prune_spurs(empty, 30, 0).any()


def test_twigs_on_twigs_go_too():
    mask = trunk_with([(60, 28)])
    cv2_mask = mask.astype(np.uint8)
    cv2.line(cv2_mask, (60, 60), (66, 74), 1, 3)
    frayed = cv2_mask.astype(bool)
    assert count_tips(frayed) == 4
    assert count_tips(prune_spurs(frayed, 40, 2)) == 2
