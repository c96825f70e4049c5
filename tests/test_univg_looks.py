"""How images look, in numbers: what each number answers to, and distances that rank as eyes do."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.errors import DataError
from univg.looks import (
    LOOK_FEATURES,
    LOOK_NAMES,
    describe_look,
    describe_look_distance,
    describe_looks,
    look_distance,
    rank_look_differences,
)


def tint(grey: np.ndarray) -> np.ndarray:
    return np.stack([np.clip(grey.astype(int) + 50, 0, 255), grey, grey // 2], -1).astype(np.uint8)


def look(image: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
    return dict(zip(LOOK_NAMES, describe_look(image, fov), strict=True))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [paint(draw_lines(k), k) for k in range(16)]


@pytest.fixture(scope="module")
def features(pictures) -> np.ndarray:
    return describe_looks(pictures)


def test_the_table_is_sound():
    assert 50 <= len(LOOK_FEATURES) <= 70
    assert len(set(LOOK_NAMES)) == len(LOOK_NAMES)
    assert all(feature.resolution > 0 and feature.meaning for feature in LOOK_FEATURES)


@pytest.mark.parametrize("level", [0, 130, 255])
def test_flat_images_have_finite_features(level):
    for image in (np.full((256, 256), level, np.uint8), np.full((64, 90, 3), level, np.uint8)):
        assert np.isfinite(describe_look(image)).all()


def test_features_answer_to_what_they_are_called(pictures):
    image = pictures[0]
    plain = look(image)
    brighter = look(np.clip(image.astype(int) + 30, 0, 255).astype(np.uint8))
    assert brighter["level_q50"] > plain["level_q50"] + 0.1
    blurred = look(cv2.GaussianBlur(image, (0, 0), 2))
    assert blurred["power_64_128"] < plain["power_64_128"] - 0.3
    assert blurred["gradient_q98"] < plain["gradient_q98"]
    assert blurred["across_1px"] > plain["across_1px"]
    grain = np.random.default_rng(0).normal(0, 20, image.shape)
    assert look(np.clip(image + grain, 0, 255).astype(np.uint8))["noise"] > plain["noise"] + 0.2
    inverse = look(255 - image)
    assert inverse["bright_ridge_q99"] == pytest.approx(plain["dark_ridge_q99"], rel=0.05)
    assert plain["dark_ridge_q99"] > 1.5 * plain["bright_ridge_q99"]
    assert plain["saturation"] == 0 and plain["red_green"] == pytest.approx(1, abs=1e-3)
    assert look(tint(image))["saturation"] > 0.2 < look(tint(image))["red"]


def test_speckle_reaches_farther_than_noise():
    rng = np.random.default_rng(1)
    white = rng.normal(0, 1, (256, 256))
    smooth = cv2.GaussianBlur(white, (0, 0), 1.2)
    images = [
        (128 + 25 * each / each.std()).clip(0, 255).astype(np.uint8) for each in (white, smooth)
    ]
    assert abs(look(images[0])["down_1px"]) < 0.1
    assert look(images[1])["down_1px"] > 0.4


def test_what_lies_outside_the_field_counts_in_the_frame_alone(pictures):
    disc = np.zeros((256, 256), np.uint8)
    cv2.circle(disc, (128, 128), 110, 1, cv2.FILLED)
    inside = disc.astype(bool)
    black = np.where(inside, pictures[0], 0).astype(np.uint8)
    marked = black.copy()
    marked[5:15, 5:60] = 12  # letters in a corner
    first, second = look(black, inside), look(marked, inside)
    changed = {name for name in LOOK_NAMES if first[name] != pytest.approx(second[name], abs=1e-3)}
    assert changed <= {"frame_level", "centre_less_rim", "black_share", "white_share"}
    assert first["field_share"] == pytest.approx(inside.mean(), abs=0.01)


def test_flips_change_next_to_nothing(pictures, features):
    flipped = describe_looks([image[:, ::-1] for image in pictures])
    resolution = np.array([feature.resolution for feature in LOOK_FEATURES])
    assert (np.abs(flipped - features) < 4 * resolution).mean() > 0.95


def test_depth_and_size_hardly_matter(pictures):
    plain = describe_look(pictures[1])
    assert np.allclose(describe_look(pictures[1].astype(np.uint16) * 257), plain, atol=1e-4)
    large = cv2.resize(pictures[1], (512, 512), interpolation=cv2.INTER_LINEAR)
    levels = slice(0, 7)
    assert np.allclose(describe_look(large)[levels], plain[levels], atol=0.02)


def test_equal_sets_are_at_the_floor_and_others_far_above(pictures, features):
    same = look_distance(features[:8], features[8:], floor=features[8:], draws=30)
    assert same.ratio == pytest.approx(1, abs=0.3)
    rng = np.random.default_rng(5)
    changes = {
        "blurred": [cv2.GaussianBlur(image, (0, 0), 1.5) for image in pictures[8:]],
        "noisy": [
            np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)
            for image in pictures[8:]
        ],
        "flatter": [(image * 0.6 + 50).astype(np.uint8) for image in pictures[8:]],
        "coloured": [tint(image) for image in pictures[8:]],
        "bright vessels": [paint(draw_lines(k), k, contrast=45) for k in range(8, 16)],
    }
    for name, images in changes.items():
        found = look_distance(features[:8], images, floor=features[8:], draws=30)
        assert found.ratio > 2, name
        assert found.energy.low > found.energy_floor.high, name


def test_distance_grows_with_the_change(pictures, features):
    def blurred(sigma: float) -> np.ndarray:
        return describe_looks([cv2.GaussianBlur(image, (0, 0), sigma) for image in pictures[8:]])

    found = [
        look_distance(features[:8], blurred(sigma), draws=10).frechet.mean
        for sigma in (0.4, 0.8, 1.6)
    ]
    assert found[0] < found[1] < found[2]


def test_five_shots_have_a_distance_and_one_line_says_it(features):
    found = look_distance(features[:5], features[5:], draws=10, seed=3)
    assert found.n == 2 and found == look_distance(features[:5], features[5:], draws=10, seed=3)
    line = describe_look_distance(found)
    assert line.startswith("FD-looks ") and "real to real" in line and "2 images a side" in line
    assert "FID" not in line
    with pytest.raises(DataError, match="2 images is too small"):
        look_distance(features[:2], features)


def test_the_difference_is_named(pictures, features):
    brighter = [np.clip(image.astype(int) + 40, 0, 255).astype(np.uint8) for image in pictures]
    worst = [each.name for each in rank_look_differences(features, brighter)[:12]]
    assert "level_q50" in worst


@pytest.mark.slow
def test_a_look_is_fast(pictures):
    describe_look(pictures[0])
    start = time.perf_counter()
    for image in pictures[:8]:
        describe_look(image)
    assert (time.perf_counter() - start) / 8 < 0.15  # 0.03 s on an idle core
