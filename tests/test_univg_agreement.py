"""Whether images follow their masks: the measure, its ceiling and its floor."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.agreement import cldice, dice, mask_agreement, measure_agreement
from univg.errors import DataError


def bar(row: int, width: int = 3, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row : row + width, 5:35] = True
    return mask


def test_cldice_of_known_masks():
    one = bar(10)
    assert cldice(one, one) == 1 and dice(one, one) == 1
    assert cldice(one, bar(30)) == 0 and dice(one, bar(30)) == 0
    # A wider vessel on the same line: both skeletons inside the other, whatever the widths.
    assert cldice(bar(9, 5), one) > 0.97
    assert dice(bar(9, 5), one) == pytest.approx(2 * 90 / (150 + 90))
    # Half of a vessel: all of its skeleton inside, half of the other's.
    half = one.copy()
    half[:, 20:] = False
    assert cldice(half, one) == pytest.approx(2 * 0.5 / 1.5, abs=0.05)


def test_empty_masks():
    empty = np.zeros((40, 40), bool)
    assert cldice(empty, empty) == 1 and dice(empty, empty) == 1
    assert cldice(empty, bar(3)) == 0 and cldice(bar(3), empty) == 0
    assert dice(empty, bar(3)) == 0


def test_an_image_of_its_mask_agrees_and_that_of_another_does_not():
    mask, other = draw_lines(0), draw_lines(60)
    image = paint(mask, 0)
    own, strange = mask_agreement(image, mask), mask_agreement(image, other)
    assert own.polarity == strange.polarity == "dark"
    assert own.cldice > 0.85 and own.dice > 0.7
    assert strange.cldice < 0.4


def test_fainter_vessels_agree_less():
    mask = draw_lines(2)
    found = [
        mask_agreement(paint(mask, 2, contrast=-contrast, noise=10), mask, polarity="dark").cldice
        for contrast in (60, 12, 0)
    ]
    assert found[0] > found[1] + 0.05 > found[2] + 0.1


def test_shifted_vessels_do_not_agree():
    mask = draw_lines(3)
    image = paint(np.roll(mask, 12, axis=0), 3)
    assert mask_agreement(image, mask).cldice < 0.5


def test_a_set_has_a_mean_and_a_chance():
    masks = [draw_lines(k) for k in range(4)]
    images = [paint(mask, k) for k, mask in enumerate(masks)]
    found = measure_agreement(images, masks)
    assert found.count == 4 and len(found.each) == 4
    assert found.cldice == pytest.approx(np.mean(found.each)) and found.cldice > 0.85
    assert found.chance < 0.4
    assert found.each[1] == mask_agreement(images[1], masks[1], polarity="dark").cldice
    line = found.describe()
    assert f"clDice {found.cldice:.3f}" in line and "dark vessels" in line and "\n" not in line


def test_chance_uses_another_mask_or_none():
    mask = draw_lines(1)
    images = [paint(mask, k) for k in range(3)]
    assert measure_agreement(images, [mask] * 3).chance is None
    other = draw_lines(61)
    found = measure_agreement([*images, paint(other, 9)], [mask, mask, mask, other])
    assert found.chance < 0.4


def test_polarity_is_chosen_for_the_whole_set():
    masks = [draw_lines(k) for k in range(3)]
    images = [paint(mask, k, contrast=50) for k, mask in enumerate(masks)]
    images[2] = paint(np.zeros_like(masks[2]), 2)  # shows no vessel at all
    found = measure_agreement(images, masks)
    assert found.polarity == "bright" and found.each[2] < 0.4 < found.each[0]


def test_large_images_are_read_as_small_ones():
    mask = draw_lines(4)
    image = paint(mask, 4)
    large = cv2.resize(image, (512, 512), interpolation=cv2.INTER_CUBIC)
    wide = cv2.resize(mask.astype(np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST) > 0
    small, big = mask_agreement(image, mask).cldice, mask_agreement(large, wide).cldice
    assert big == pytest.approx(small, abs=0.06)


def test_what_does_not_fit_is_refused():
    image = paint(draw_lines(0), 0)
    with pytest.raises(DataError, match="of the size of its image"):
        mask_agreement(image, np.zeros((128, 128), bool))
    with pytest.raises(DataError, match="1 images and 2 masks"):
        measure_agreement([image], [draw_lines(0)] * 2)
    with pytest.raises(DataError, match="cannot be compared"):
        cldice(np.ones((4, 4), bool), np.ones((5, 4), bool))
