"""Masks and images come to a square by one rule, and go on to match."""

import cv2
import numpy as np
import pytest

import univg.sca.resize
from univg.resize import fit_image, fit_mask, resize_image, resize_mask, resize_to, stretch_factor

FITS = ("stretch", "crop", "pad")


def thin_curve(height: int, width: int) -> np.ndarray:
    """A vessel one pixel wide across the middle."""
    canvas = np.zeros((height, width), np.uint8)
    turns = np.linspace(0, 2 * np.pi, 400)
    points = np.stack([width * (0.1 + 0.13 * turns), height * (0.5 + 0.3 * np.sin(turns))], axis=1)
    cv2.polylines(canvas, [points.round().astype(np.int32)], False, 1, 1)
    return canvas.astype(bool)


def test_there_is_one_copy_of_the_rule():
    assert univg.sca.resize.resize_to is resize_to
    assert univg.sca.resize.resize_mask is resize_mask


@pytest.mark.parametrize("fit", FITS)
def test_a_thin_vessel_stays_in_one_piece(fit):
    small = fit_mask(thin_curve(700, 990), 128, fit)
    assert small.shape == (128, 128) and small.dtype == np.bool_
    assert cv2.connectedComponents(small.astype(np.uint8), connectivity=8)[0] == 2


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(60, 90), (301, 200), (128, 128), (40, 40)])
def test_a_mask_and_its_image_go_on_to_match(fit, shape):
    mask = np.zeros(shape, bool)
    mask[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : 3 * shape[1] // 4] = True
    image = np.where(mask, 255, 0).astype(np.uint8)
    seen = fit_image(np.repeat(image[:, :, None], 3, axis=2), 128, fit)
    assert seen.shape == (128, 128, 3)
    # Where the image is clearly one or the other, the mask says the same.
    wanted = fit_mask(mask, 128, fit)
    assert not (wanted & (seen[:, :, 0] < 100)).any()
    assert not (~wanted & (seen[:, :, 0] > 155)).any()


def test_stretch_keeps_all_crop_the_middle_and_pad_the_proportions():
    mask = np.zeros((100, 200), bool)
    mask[40:60, 90:110] = True  # a square in the middle
    mask[:, :10] = True  # and a bar at the left edge
    stretched, cropped, padded = (fit_mask(mask, 100, fit) for fit in FITS)
    assert stretched[50].sum() == 5 + 10 and stretched[:, 50].sum() == 20
    assert cropped.sum() == 20 * 20
    assert padded[50].sum() == 5 + 10 and padded[:, 50].sum() == 10
    assert not padded[:25].any() and not padded[75:].any() and padded[25:75, 0].all()


def test_padding_has_the_colour_of_the_border():
    image = np.full((50, 100, 3), (90, 120, 40), np.uint8)
    image[20:30, 20:80] = 255
    padded = fit_image(image, 100, "pad")
    assert (padded[0, 0] == (90, 120, 40)).all() and (padded[-1, -1] == (90, 120, 40)).all()
    assert (padded[50, 50] == 255).all()


def test_nothing_changes_at_the_same_size():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for fit in FITS:
        assert np.array_equal(fit_image(image, 64, fit), image)
        assert np.array_equal(fit_mask(image[:, :, 0] > 127, 64, fit), image[:, :, 0] > 127)


def test_images_shrink_by_area_and_grow_without_steps():
    fine = np.indices((64, 64)).sum(axis=0) % 2 * 255
    assert abs(float(resize_image(fine.astype(np.uint8), (16, 16)).mean()) - 127.5) < 1
    ramp = np.repeat(np.arange(0, 160, 10, np.uint8)[None], 16, axis=0)
    assert np.abs(np.diff(resize_image(ramp, (64, 64)).astype(int), axis=1)).max() <= 4


def test_the_stretch_is_told():
    assert stretch_factor((100, 100, 3)) == 1
    assert stretch_factor((779, 1168)) == pytest.approx(1.4994, abs=1e-3)
