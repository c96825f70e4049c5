"""Where attractors stand: one a cell, thinned to the share, off what is blocked, along a curve."""

from __future__ import annotations

import numpy as np
import pytest

from univg.sca.attractors import along, jittered_grid, outside, scattered, thin_out
from univg.sca.guides import arc_length
from univg.sca.sampling import Frame

FRAMES = [Frame(300, 300), Frame(97, 411), Frame(512, 64)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def in_image(points: np.ndarray, frame: Frame) -> bool:
    """Whether each rounds to a pixel of the image."""
    low = (points >= -0.5).all()
    return bool(low and (points < [frame.width - 0.5, frame.height - 0.5]).all())


def unevenness(points: np.ndarray, frame: Frame, parts: int = 5) -> float:
    """Variance over mean of the counts in a coarse grid: 1 for points at random."""
    counts, *_ = np.histogram2d(
        *points.T, bins=parts, range=[[-0.5, frame.width - 0.5], [-0.5, frame.height - 0.5]]
    )
    return float(counts.var() / counts.mean())


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("cell", [7.0, 24.5, 60.0])
def test_the_grid_has_exactly_one_a_cell(frame, cell):
    points = jittered_grid(frame, cell, rng())
    columns, rows = max(1, round(frame.width / cell)), max(1, round(frame.height / cell))
    assert in_image(points, frame)
    column = ((points[:, 0] + 0.5) / frame.width * columns).astype(int)
    row = ((points[:, 1] + 0.5) / frame.height * rows).astype(int)
    found = np.bincount(row * columns + column, minlength=rows * columns)
    assert (found == 1).all() and len(found) == rows * columns


def test_the_grid_is_anywhere_in_its_cell():
    inside = (jittered_grid(Frame(400, 400), 10, rng()) + 0.5) / 10 % 1
    assert np.abs(inside.mean(axis=0) - 0.5).max() < 0.03
    assert inside.std(axis=0) == pytest.approx(np.full(2, 12**-0.5), abs=0.02)


def test_a_cell_larger_than_the_image_gives_one_attractor():
    assert jittered_grid(Frame(40, 60), 500, rng()).shape == (1, 2)


@pytest.mark.parametrize("frame", FRAMES)
def test_scattered_attractors_are_as_many_as_asked_for_and_in_the_image(frame):
    points = scattered(frame, 500, rng())
    assert points.shape == (500, 2) and in_image(points, frame)
    assert np.ptp(points[:, 0]) > 0.9 * frame.width and np.ptp(points[:, 1]) > 0.9 * frame.height
    assert scattered(frame, 0, rng()).shape == (0, 2)


def test_the_grid_is_more_even_than_chance():
    frame = Frame(300, 300)
    grid = unevenness(jittered_grid(frame, 15, rng()), frame)
    assert grid < 0.5 < unevenness(scattered(frame, 400, rng()), frame)


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.5, 1.0])
def test_about_the_share_is_kept(keep):
    frame = Frame(400, 400)
    points = jittered_grid(frame, 8, rng())
    kept = thin_out(points, keep, 0.0, frame, rng(1))
    assert len(kept) / len(points) == pytest.approx(keep, abs=0.035)
    assert {tuple(p) for p in kept} <= {tuple(p) for p in points}


def test_patches_keep_the_share_and_lose_the_evenness():
    frame = Frame(300, 500)
    points = jittered_grid(frame, 8, rng())
    share = {}
    spread = {}
    for patchiness in (0.0, 0.5, 1.0):
        sets = [thin_out(points, 0.4, patchiness, frame, rng(seed)) for seed in range(12)]
        share[patchiness] = np.mean([len(kept) for kept in sets]) / len(points)
        spread[patchiness] = np.mean([unevenness(kept, frame) for kept in sets])
    assert list(share.values()) == pytest.approx([0.4] * 3, abs=0.05)
    assert spread[0.0] < 1.2 < spread[0.5] < spread[1.0]


def test_outside_respects_what_is_blocked():
    blocked = np.zeros((80, 120), np.uint8)
    blocked[20:50, 30:70] = 1
    blocked[:, 100:] = 2
    points = scattered(Frame(80, 120), 4000, rng())
    kept = outside(points, blocked)
    column, row = np.floor(kept + 0.5).astype(int).T
    assert (blocked[row, column] == 0).all()
    free = (blocked == 0).mean()
    assert len(kept) / len(points) == pytest.approx(free, abs=0.03)


@pytest.mark.parametrize("margin", [0.0, 10.0])
def test_outside_respects_the_margin(margin):
    blocked = np.zeros((80, 120), np.uint8)
    blocked[:, 0] = 1  # what is blocked at the border does not reach beyond it
    points = rng().uniform([-40, -40], [160, 120], (4000, 2))
    kept = outside(points, blocked, margin)
    low, high = kept.min(axis=0), kept.max(axis=0)
    assert (low >= -0.5 - margin).all() and (high < np.array([119.5, 79.5]) + margin).all()
    assert (low[0] < -0.5) == (margin > 0)
    wanted = (120 + 2 * margin) * (80 + 2 * margin) - 80
    assert len(kept) / len(points) == pytest.approx(wanted / (200 * 160), abs=0.03)


def test_outside_carries_the_radius():
    points = np.array([[5.0, 5.0, 3.5], [1.0, 1.0, 2.0]])
    blocked = np.zeros((10, 10), np.uint8)
    blocked[1, 1] = 1
    assert outside(points, blocked).tolist() == [[5.0, 5.0, 3.5]]


@pytest.mark.parametrize("spacing", [2.0, 5.0, 13.0])
def test_along_a_curve_they_stand_evenly_from_end_to_end(spacing):
    angle = np.linspace(0, 3, 300)
    curve = np.stack([100 * np.cos(angle), 100 * np.sin(angle), 2 + angle], axis=1)
    points = along(curve, spacing, 0.0, rng())
    gaps = np.diff(arc_length(points))
    assert np.allclose(points[[0, -1]], curve[[0, -1]])
    assert (gaps > 0.98 * spacing).all() and (gaps < 1.1 * spacing).all()
    assert np.allclose(np.hypot(*points[:, :2].T), 100, atol=0.1)
    assert np.allclose(points[:, 2], 2 + np.arctan2(points[:, 1], points[:, 0]), atol=0.02)


def test_a_curve_shorter_than_the_spacing_gets_both_its_ends():
    points = along(np.array([[1.0, 1.0], [3.0, 1.0]]), 10.0, 0.0, rng())
    assert points.tolist() == [[1.0, 1.0], [3.0, 1.0]]


def test_the_scatter_is_as_wide_as_said_and_leaves_the_radius_alone():
    curve = np.array([[0.0, 0.0, 4.0], [4000.0, 0.0, 4.0]])
    still, shaken = (along(curve, 1.0, jitter, rng()) for jitter in (0.0, 2.0))
    off = shaken - still
    assert off[:, :2].std(axis=0) == pytest.approx([2.0, 2.0], rel=0.08)
    assert (off[:, 2] == 0).all()


def test_the_generator_decides_all():
    frame = Frame(100, 100)
    for place in (
        lambda r: jittered_grid(frame, 10, r),
        lambda r: scattered(frame, 50, r),
        lambda r: thin_out(jittered_grid(frame, 5, rng(9)), 0.5, 0.7, frame, r),
    ):
        assert np.array_equal(place(rng(3)), place(rng(3)))
        assert not np.array_equal(place(rng(3)), place(rng(4)))
