"""The size at which a segmenter sees images: no smaller than its masks allow."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.segment.data_store import Shape
from univg.segment.scale import choose_longest, describe_loss, measure_loss


def lines(side: int, thickness: int, apart: int) -> np.ndarray:
    """Slanted lines of one thickness on a square, `apart` from one to the next."""
    canvas = np.zeros((side, side), np.uint8)
    for row in range(-side // 3, side, apart):
        cv2.line(canvas, (0, row), (side - 1, row + side // 3), 1, thickness)
    return canvas > 0


def refuse():
    raise AssertionError("no mask need be read")


def test_a_size_that_is_asked_for_is_taken_but_no_shot_enlarged():
    shapes = [Shape((90, side), False) for side in (100, 120, 300)]
    assert choose_longest(512, shapes, refuse) == 120
    assert choose_longest(64, shapes, refuse) == 64
    assert choose_longest(0, shapes, refuse) == 0
    assert choose_longest(None, shapes, refuse) == 0
    assert choose_longest("auto", shapes, refuse) == 120


@pytest.mark.parametrize(
    ("side", "thickness", "apart", "px"),
    [
        (1000, 40, 400, 512),
        (1000, 1, 3, 1000),
        (1400, 3, 8, 768),
        (2600, 2, 6, 1536),
        (2600, 1, 4, 2048),
    ],
)
def test_auto_is_the_smallest_size_that_keeps_the_masks(side, thickness, apart, px):
    mask = lines(side, thickness, apart)
    chosen = choose_longest("auto", [Shape((side, side), False)], lambda: [mask])
    assert chosen == px
    assert measure_loss([mask], px) <= 0.02
    assert px in (512, side) or measure_loss([mask], px * 2 // 3) > 0.02


def test_the_loss_is_none_at_the_masks_own_size_and_grows():
    mask = lines(640, 1, 6)
    losses = [measure_loss([mask], px) for px in (0, 1024, 640, 320, 240, 160)]
    assert losses[:3] == [0, 0, 0] and losses[3:] == sorted(losses[3:])
    assert 0.02 < losses[3] < losses[5] <= 1
    assert measure_loss([np.zeros((640, 640), bool), mask], 320) == losses[3]
    assert measure_loss([np.zeros((640, 640), bool)], 320) == 0


def test_what_a_segmenter_can_know_of_parts_of_pixels_is_no_loss():
    """The border is where half of a large pixel is vessel, not at the edge of the large pixel."""
    mask = lines(1000, 6, 30)
    share = cv2.resize(mask.astype(np.float32), (500, 500), interpolation=cv2.INTER_AREA)
    hard = cv2.resize((share > 0.5).astype(np.float32), (1000, 1000)) > 0.5
    lost = 1 - 2 * (hard & mask).sum() / (hard.sum() + mask.sum())
    assert measure_loss([mask], 500) < lost / 2


def test_a_loss_is_told_where_it_counts():
    told = describe_loss([lines(640, 1, 6)], 160)
    assert told.startswith("images of 640 px are seen at 160 px, which alone costs ")
    assert "--size-px 0" in told
    assert describe_loss([lines(640, 60, 200)], 512) == ""
    assert describe_loss([lines(640, 1, 6)], 0) == ""
