"""Distances between sets of vectors, against what is known of normal distributions; copies."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from univg.errors import DataError
from univg.sca.copies import make_thumbnail, nearest_overlap, summarise_copies
from univg.sca.distance import (
    compare,
    energy_distance,
    fit_scaling,
    frechet_distance,
    frechet_of_gaussians,
    rank_differences,
    shrink_covariance,
)


def normal(count: int, width: int = 6, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)) + shift


def test_frechet_of_gaussians_in_closed_form():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 16.0])
    # For commuting covariances: |Δμ|² + Σ (σa - σb)².
    found = frechet_of_gaussians(np.zeros(3), a, np.array([1.0, 2.0, 0.0]), b)
    assert found == pytest.approx(5 + 1 + 1 + 1)
    turn = np.linalg.qr(normal(3, 3))[0]
    assert frechet_of_gaussians(np.zeros(3), turn @ a @ turn.T, np.zeros(3), a) > 0
    assert frechet_of_gaussians(np.ones(3), a, np.ones(3), a) == pytest.approx(0, abs=1e-9)


def test_large_samples_reach_the_closed_form():
    one, other = normal(4000, 4), 2 * normal(4000, 4, seed=1) + 1
    assert frechet_distance(one, other) == pytest.approx(4 + 4, rel=0.1)  # (1)² and (2 - 1)² each


def test_the_covariance_is_shrunk_as_much_as_the_sample_is_small():
    wide = np.diag([1.0, 9.0, 25.0])
    rng = np.random.default_rng(3)
    small = shrink_covariance(rng.multivariate_normal(np.zeros(3), wide, 8))
    large = shrink_covariance(rng.multivariate_normal(np.zeros(3), wide, 20_000))
    assert np.allclose(large, wide, rtol=0.05, atol=0.3)
    assert np.linalg.cond(small) < np.linalg.cond(large) * 3
    fewer_than_columns = shrink_covariance(normal(4, 30))
    assert np.linalg.eigvalsh(fewer_than_columns).min() > 0
    assert np.array_equal(shrink_covariance(np.ones((5, 2))), np.zeros((2, 2)))


def test_distances_are_symmetric():
    one, other = normal(20), normal(30, shift=0.7, seed=1)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    assert energy_distance(one, other) == pytest.approx(energy_distance(other, one))


def test_the_energy_distance_is_unbiased():
    found = [energy_distance(normal(6, seed=2 * k), normal(6, seed=2 * k + 1)) for k in range(400)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / 20)
    assert min(found) < 0 < max(found)


def test_equal_distributions_are_at_the_floor():
    found = [
        compare(normal(40, seed=2 * k), normal(60, seed=2 * k + 1), draws=40) for k in range(8)
    ]
    assert {each.n for each in found} == {20}
    assert sum(each.energy.low < 0 < each.energy.high for each in found) >= 7
    assert np.mean([each.ratio for each in found]) == pytest.approx(1, abs=0.2)
    assert 0.3 < np.mean([each.above_floor for each in found]) < 0.7


def test_a_shift_by_one_standard_deviation_is_seen():
    real, synth = normal(24), normal(24, shift=1.0, seed=1)
    found = compare(real, synth, draws=100)
    assert found.energy.low > 0
    assert found.frechet.low > found.frechet_floor.mean
    assert found.ratio > 1.8 and found.above_floor > 0.97


def test_a_second_real_set_is_the_floor():
    real, other = normal(20), normal(20, shift=0.5, seed=1)
    found = compare(real, other, floor=other, draws=50)
    assert found.ratio == pytest.approx(1, abs=0.1)
    halves = compare(real, other, draws=50)
    assert halves.ratio > found.ratio


def test_the_same_seed_gives_the_same_numbers():
    sets = normal(12), normal(15, shift=0.3, seed=1)
    assert compare(*sets, draws=20, seed=4) == compare(*sets, draws=20, seed=4)
    assert compare(*sets, draws=20, seed=4) != compare(*sets, draws=20, seed=5)


def test_three_masks_have_a_distance_but_no_floor():
    found = compare(normal(3), normal(9, seed=1), draws=10)
    assert found.n == 2 and found.ratio is None and found.frechet_floor is None


def test_too_few_or_too_many_are_told():
    with pytest.raises(DataError, match="2 masks is too small"):
        compare(normal(2), normal(9))
    with pytest.raises(DataError, match="n is 12: choose 2 to 9"):
        compare(normal(20), normal(9), n=12)


def test_scaling_survives_constants_and_outliers():
    real = np.concatenate([normal(20, 3), np.ones((20, 1))], axis=1)
    scaling = fit_scaling(real, [0.01, 0.01, 0.01, 0.5], ["a", "a", "a", "b"])
    assert scaling.scale[3] == 0.5
    assert (scaling.weights**2).sum() == pytest.approx(1)
    assert scaling.weights[3] ** 2 == pytest.approx(0.5)  # one group of two
    far = scaling.apply(np.full((1, 4), 1e9))
    assert np.isfinite(far).all() and far.max() <= 10


def test_the_shifted_descriptor_is_ranked_first():
    real, synth = normal(30, 4), normal(30, 4, seed=1)
    synth[:, 2] += 3
    ranked = rank_differences(real, synth, ["a", "b", "c", "d"])
    assert ranked[0].name == "c"
    assert ranked[0].shift == pytest.approx(3, abs=1)
    assert ranked[0].ks > 0.8 and ranked[0].synth > ranked[0].real


def scribble(seed: int, size: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(6):
        points = np.cumsum(rng.normal(0, size / 25, (40, 2)), axis=0) + rng.uniform(0, size, 2)
        cv2.polylines(canvas, [points.round().astype(np.int32)], False, 1, 3)
    return canvas.astype(bool)


def test_a_turned_shifted_copy_is_found_and_strangers_are_not():
    originals = [scribble(k) for k in range(4)]
    sources = np.array([make_thumbnail(mask) for mask in originals])
    moved = np.roll(np.rot90(originals[2])[:, ::-1], (7, -9), axis=(0, 1))
    masks = np.array([make_thumbnail(moved), make_thumbnail(scribble(50))])
    overlap, which = nearest_overlap(masks, sources)
    assert overlap[0] > 0.9 and which[0] == 2
    assert overlap[1] < 0.65
    summary = summarise_copies(masks, sources, ["copy", "new"])
    assert summary.nearest == "copy" and summary.max == overlap[0]


def test_a_mask_is_no_copy_of_itself_where_it_is_the_source():
    sources = np.array([make_thumbnail(scribble(k)) for k in range(3)])
    assert nearest_overlap(sources, sources)[0].min() == pytest.approx(1)
    assert nearest_overlap(sources, sources, skip_equal=True)[0].max() < 0.8
    lonely, which = nearest_overlap(sources[:1], sources[:1], skip_equal=True)
    assert lonely[0] == 0 and which[0] == -1


def test_empty_masks_overlap_with_nothing():
    empty = np.zeros((2, 128, 128), bool)
    assert nearest_overlap(empty, empty)[0].tolist() == [0, 0]


def test_a_comparison_takes_no_longer_than_a_breath():
    real, synth = normal(100, 42), normal(500, 42, seed=1)
    start = time.process_time()
    compare(real, synth, draws=100)
    assert time.process_time() - start < 5
