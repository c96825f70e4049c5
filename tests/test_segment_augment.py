"""Augmentation: drawn once, replayed exactly, the mask going where the image goes."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines

from univg.seeds import rng_for
from univg.segment.augment import (
    LEVELS,
    Augmentation,
    Tone,
    Warp,
    draw_augmentation,
    without_tone,
)
from univg.segment.augment_apply import change_tones, make_map, warp_picture

SIDE = 64
MEAN = np.full(3, 0.5, np.float32)


def centre_of(size: int) -> tuple[float, float]:
    return (size - 1) / 2, (size - 1) / 2


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((SIDE, SIDE, channels), dtype=np.float32)


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_generator_gives_the_same_sample(level):
    drawn = [draw_augmentation(rng_for(3, "train segment", 8), level, 3) for _ in range(2)]
    assert drawn[0] == drawn[1]
    done = []
    for one in drawn:
        warped = warp_picture(picture(), make_map(one.warp, SIDE, centre_of(SIDE)))
        done.append(change_tones(warped, one.tone, MEAN))
    assert np.array_equal(*done) and done[0].dtype == np.float32 and np.isfinite(done[0]).all()


def test_other_positions_give_other_samples():
    drawn = {draw_augmentation(rng_for(3, "train segment", k), "strong", 3) for k in range(20)}
    assert len(drawn) == 20
    assert any(d.warp.bend_x for d in drawn) and any(not d.warp.bend_x for d in drawn)
    assert any(d.tone.holes for d in drawn) and any(d.tone.noise for d in drawn)


def test_every_change_stays_in_its_range():
    ranges = LEVELS["strong"]
    for k in range(300):
        drawn = draw_augmentation(rng_for(0, "test", k), "strong", 3)
        assert 1 / ranges.scale <= drawn.warp.scale <= ranges.scale
        assert 1 / ranges.gamma <= drawn.tone.gamma <= ranges.gamma
        assert abs(drawn.tone.hue_deg) <= ranges.hue_deg
        assert ranges.resolution <= drawn.tone.resolution <= 1
        assert 0 <= drawn.tone.blur_px <= ranges.blur_px
        for top, left, high, wide in drawn.tone.holes:
            assert 0 <= top <= top + high <= 1 and 0 <= left <= left + wide <= 1


def test_a_grey_image_has_no_colour_to_change():
    drawn = draw_augmentation(rng_for(0, "test", 1), "strong", 1)
    assert drawn.tone.gains == () and drawn.tone.hue_deg == 0 and drawn.tone.saturation == 1
    assert change_tones(picture(channels=1), drawn.tone, MEAN[:1]).shape == (SIDE, SIDE, 1)


def test_nothing_is_changed_by_none():
    drawn = draw_augmentation(rng_for(0, "test", 1), "none", 3)
    assert drawn == Augmentation()
    image = picture()
    places = make_map(drawn.warp, SIDE, centre_of(SIDE))
    assert np.array_equal(warp_picture(image, places), image)
    assert change_tones(image, drawn.tone, MEAN) is image


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_quarter_turns_and_mirror_images_are_exact(quarter, mirror):
    image = (picture() * 255).astype(np.uint8)
    warp = Warp(turn_deg=90.0 * quarter, mirror=mirror)
    turned = warp_picture(image, make_map(warp, SIDE, centre_of(SIDE)))
    expected = np.rot90(image, quarter)
    expected = expected[:, ::-1] if mirror else expected
    assert np.array_equal(turned, expected)


def test_the_mask_goes_where_the_image_goes():
    mask = draw_lines(1, 128, count=5, width=5)
    image = mask.astype(np.uint8)[:, :, None] * np.uint8(255)
    for k in range(12):
        warp = draw_augmentation(rng_for(1, "test", k), "strong", 1).warp
        places = make_map(warp, 96, centre_of(128))
        shown = warp_picture(image, places)[:, :, 0] > 127
        # Nearest pixels of the mask, at the same places: apart only by less than a pixel.
        nearest = cv2.remap(
            image, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
        )
        assert (shown != (nearest > 127)).mean() < 0.06
        assert shown.any()


def test_scale_makes_things_larger():
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    image[24:40, 24:40] = 255
    larger = warp_picture(image, make_map(Warp(scale=2.0), SIDE, centre_of(SIDE)))
    assert larger.mean() == pytest.approx(4 * image.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"brightness": 0.2}, lambda a, b: b.mean() > a.mean() + 0.19),
        ({"contrast": 2.0}, lambda a, b: b.std() > 1.9 * a.std()),
        ({"gamma": 2.0}, lambda a, b: b.mean() < a.mean()),
        ({"blur_px": 1.5}, lambda a, b: b.std() < 0.6 * a.std()),
        ({"sharpen": 1.0}, lambda a, b: b.std() > a.std()),
        ({"resolution": 0.5}, lambda a, b: b.std() < a.std()),
        ({"noise": 0.5}, lambda a, b: b.std() > a.std()),
        ({"gains": (2.0, 1.0, 1.0)}, lambda a, b: b[..., 0].mean() > 1.5 * a[..., 0].mean()),
        ({"saturation": 0.0}, lambda a, b: np.allclose(b[..., 0], b[..., 2], atol=1e-5)),
        ({"hue_deg": 120.0}, lambda a, b: np.allclose(b[..., 1], a[..., 0], atol=1e-5)),
        ({"light": ((1.0, 2.0),) * 2}, lambda a, b: b[:, -9:].mean() > 1.5 * a[:, -9:].mean()),
        ({"holes": ((0.0, 0.0, 0.5, 1.0),)}, lambda a, b: (b[:32] == 0.5).all()),
    ],
)
def test_each_change_of_tone_does_what_it_says(change, told):
    image = picture()
    before = image.copy()
    changed = change_tones(image, Tone(**change), MEAN)
    assert changed.shape == image.shape and told(before, changed)
    assert np.array_equal(image, before), "the picture itself must not change"


def test_the_warp_alone_leaves_tones():
    drawn = draw_augmentation(rng_for(0, "test", 2), "strong", 3)
    alone = without_tone(drawn)
    assert alone.tone == Tone() and alone.warp == drawn.warp
    assert dataclasses.replace(alone, tone=drawn.tone) == drawn
