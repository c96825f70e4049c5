"""The fixed vessel detector: finds lines, not steps; both polarities; asked areas; any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.agreement import cldice
from univg.errors import DataError
from univg.vesselness import (
    choose_polarity,
    detect_vessels,
    find_field,
    measure_ridges,
    take_grey,
)


def in_a_disc(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = image.shape[0]
    disc = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(disc, (size // 2, size // 2), int(size * 0.44), 1, cv2.FILLED)
    return np.where(disc, image, 4).astype(np.uint8), disc.astype(bool)


@pytest.mark.parametrize("contrast", [-45, 45])
def test_vessels_of_either_polarity_are_found_and_named(contrast):
    for seed in range(3):
        mask = draw_lines(seed)
        image = paint(mask, seed, contrast=contrast)
        found = detect_vessels(image, area=int(mask.sum()))
        assert cldice(found, mask) > 0.85
        assert cldice(found, draw_lines(seed + 50)) < 0.4
        assert choose_polarity([measure_ridges(image)]) == ("dark" if contrast < 0 else "bright")


def test_the_other_polarity_is_not_found():
    mask = draw_lines(1)
    found = detect_vessels(paint(mask, 1), polarity="bright", area=int(mask.sum()))
    assert cldice(found, mask) < 0.3


def test_without_an_area_the_fixed_threshold_finds_them_too():
    mask = draw_lines(2)
    assert cldice(detect_vessels(paint(mask, 2)), mask) > 0.7


@pytest.mark.parametrize("size", [192, 256, 400])
def test_the_asked_area_is_kept_and_not_exceeded(size):
    mask = draw_lines(3, size)
    image = paint(mask, 3)
    area = int(mask.sum())
    found = detect_vessels(image, area=area)
    assert found.shape == image.shape and found.dtype == np.bool_
    assert 0.8 * area < found.sum() < 1.1 * area
    assert not detect_vessels(image, area=0).any()


def test_a_step_is_no_vessel():
    """A plain second derivative answers to a step nearly as strongly as to a line."""
    mask = np.zeros((256, 256), bool)
    mask[:, 60:63] = True
    image = paint(mask, 4).astype(np.int64)
    image[:, 150:] -= 60
    ridges = measure_ridges(np.clip(image, 0, 255).astype(np.uint8))
    line, step = (ridges.dark[20:-20, at - 4 : at + 8].max(axis=1) for at in (60, 150))
    assert np.median(step) < 0.5 * np.median(line)


def test_the_disc_of_a_camera_is_found_and_its_rim_is_no_vessel():
    mask = draw_lines(5)
    image, disc = in_a_disc(paint(mask, 5))
    field = find_field(image)
    assert (field == disc).mean() > 0.98
    found = detect_vessels(image, area=int((mask & disc).sum()))
    assert not (found & ~disc).any()
    assert cldice(found, mask & disc) > 0.8
    given = detect_vessels(image, fov=disc, area=int((mask & disc).sum()))
    assert cldice(given, found) > 0.95


def test_images_without_a_disc_are_all_field():
    assert find_field(paint(draw_lines(6), 6)).all()
    tree = np.where(draw_lines(6, width=7), 230, 3).astype(np.uint8)
    assert find_field(tree).all()
    rng = np.random.default_rng(0)
    grainy = rng.gamma(2.0, 25.0, (256, 256))
    grainy[:20] *= 0.4
    assert find_field(np.clip(grainy, 0, 255).astype(np.uint8)).all()


def test_colour_depth_and_shape_do_not_matter():
    mask = draw_lines(7)
    grey = paint(mask, 7)
    area = int(mask.sum())
    plain = detect_vessels(grey, area=area)
    colour = np.stack([np.full_like(grey, 180), grey, grey // 3], axis=-1)
    assert np.array_equal(detect_vessels(colour, area=area), plain)
    assert np.array_equal(detect_vessels(grey.astype(np.uint16) * 257, area=area), plain)
    wide = detect_vessels(grey[:160], area=int(mask[:160].sum()))
    assert wide.shape == (160, 256) and cldice(wide, mask[:160]) > 0.75


def test_no_structure_no_vessels():
    for level in (0, 128, 255):
        flat = np.full((256, 256), level, np.uint8)
        assert not detect_vessels(flat).any() and not detect_vessels(flat, area=500).any()
    nowhere = np.zeros((256, 256), bool)
    assert not detect_vessels(paint(draw_lines(1), 1), fov=nowhere, area=500).any()


def test_the_same_image_gives_the_same_response():
    image = paint(draw_lines(8), 8)
    first, second = measure_ridges(image), measure_ridges(image.copy())
    assert np.array_equal(first.dark, second.dark) and np.array_equal(first.bright, second.bright)


def test_what_is_no_image_is_refused():
    with pytest.raises(DataError, match="float64"):
        detect_vessels(np.zeros((64, 64)))
    with pytest.raises(DataError, match="field of view"):
        detect_vessels(np.zeros((64, 64), np.uint8), fov=np.ones((32, 32), bool))
    assert take_grey(np.full((4, 4), 255, np.uint8)).max() == 1
