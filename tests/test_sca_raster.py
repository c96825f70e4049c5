"""Drawing: exactly binary, exactly the size, the right width, and in one piece."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from univg.sca.growth import grow_tree
from univg.sca.raster import draw_vessels
from univg.sca.shape import Calibre, Finish, Vessels, shape_vessels
from univg.sca.tree import Pace, plant

SIZES = [(37, 201), (201, 37), (512, 512), (300, 700), (16, 16), (1024, 333)]


def straight(start, end, radius: float, step: float = 4.0) -> Vessels:
    """A straight vessel of one width."""
    start, end = np.array(start, float), np.array(end, float)
    count = max(2, round(float(np.hypot(*(end - start))) / step) + 1)
    at = start + (end - start) * np.linspace(0, 1, count)[:, None]
    tree = replace(
        plant(at),
        parent=np.arange(-1, count - 1, dtype=np.int32),
        floor=np.full(count, radius),
    )
    calibre = Calibre(tip_radius_px=radius, exponent=2.5, taper_per_px=0.0, max_radius_px=1e9)
    return shape_vessels(tree, calibre, Finish(stub_px=0, smooth_rounds=0))


def drawn(vessels: Vessels, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    draw_vessels(canvas, vessels)
    return canvas


def pieces(canvas: np.ndarray) -> int:
    return cv2.connectedComponents(canvas, connectivity=8)[0] - 1


def grown(height: int, width: int, seed: int, calibre: Calibre, smooth: int = 5) -> Vessels:
    rng = np.random.Generator(np.random.PCG64(seed))
    attractors = rng.random((max(30, height * width // 400), 2)) * [width - 1, height - 1]
    pace = Pace(attraction_px=60, kill_px=9, step_px=5, inertia=0.4, lean=0.4, wobble_rad=0.15)
    root = np.array([[width / 2, height / 2]])
    tree = grow_tree(plant(root), attractors, np.zeros((height, width), np.uint8), pace, seed)
    return shape_vessels(tree, calibre, Finish(stub_px=6, smooth_rounds=smooth))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_exactly_binary_and_of_exactly_the_size(height, width):
    canvas = drawn(grown(height, width, 1, Calibre()), height, width)
    assert canvas.shape == (height, width) and canvas.dtype == np.uint8
    assert set(np.unique(canvas)) <= {0, 255}
    if min(height, width) > 16:
        assert canvas.any()


@pytest.mark.parametrize("angle_deg", [3, 20, 45, 77, 130])
@pytest.mark.parametrize("radius", [0.8, 1.3, 2.5, 4.0, 7.6])
def test_a_straight_vessel_has_its_width(radius, angle_deg):
    way = np.array([np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))])
    middle, length = np.array([200.3, 199.6]), 300.0
    canvas = drawn(straight(middle - way * length / 2, middle + way * length / 2, radius), 400, 400)
    ends = np.pi * radius**2  # half a disc at each end
    width = (np.count_nonzero(canvas) - ends) / length
    assert width == pytest.approx(2 * radius, abs=0.4)


@pytest.mark.parametrize("radius", [0.05, 0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("end", [(180, 40), (180, 180), (35, 190), (20, 20.4), (110, 21)])
def test_a_vessel_is_in_one_piece_however_thin(radius, end):
    canvas = drawn(straight((20, 20), end, radius), 200, 200)
    assert pieces(canvas) == 1
    assert canvas[20, 20] and canvas[round(end[1]), round(end[0])]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tip", [0.3, 0.8, 1.5])
def test_every_vessel_tree_is_in_one_piece(seed, tip):
    calibre = Calibre(tip_radius_px=tip, exponent=2.4, taper_per_px=0.01, max_radius_px=6)
    vessels = grown(256, 256, seed, calibre)
    assert vessels.x.min() >= -0.5 and vessels.x.max() < 255.5
    assert pieces(drawn(vessels, 256, 256)) == 1


def test_every_node_is_drawn():
    vessels = grown(256, 256, 3, Calibre())
    canvas = drawn(vessels, 256, 256)
    at = np.floor(np.stack([vessels.x, vessels.y], axis=1) + 0.5).astype(int)
    assert canvas[at[:, 1], at[:, 0]].all()


def test_the_outline_has_no_scallops():
    """Along a thick straight vessel the width is the same at every place, but for one pixel."""
    canvas = drawn(straight((20, 100.3), (280, 100.3), 8.0), 200, 300)
    widths = np.count_nonzero(canvas[:, 40:260], axis=0)
    assert np.ptp(widths) <= 1


def test_a_vessel_beyond_the_image_is_cut_and_nothing_wraps_round():
    canvas = drawn(straight((-40, 50), (60, 50), 3.0), 100, 100)
    assert canvas[50, 0] and canvas[50, 60] and not canvas[:, 70:].any()
    assert not drawn(straight((-40, -40), (-10, -10), 3.0), 100, 100).any()
    assert drawn(straight((50, 50), (500, 50), 60.0), 100, 100)[:, 99].all()


def test_drawing_adds_and_never_erases():
    canvas = drawn(straight((10, 10), (90, 90), 2.0), 100, 100)
    before = canvas.copy()
    draw_vessels(canvas, straight((10, 90), (90, 10), 2.0))
    assert (canvas[before > 0] == 255).all() and canvas.sum() > before.sum()


def test_a_side_branch_is_no_wider_at_its_start_than_itself():
    """A thin branch on a thick trunk must not begin with a disc of the trunk's width."""
    trunk = straight((20, 100), (280, 100), 6.0)
    count = len(trunk.x)
    stem = count // 2
    limb = np.array([[trunk.x[stem], 100.0 - 5.0 * k] for k in range(1, 13)])
    tree = replace(
        plant(np.vstack([np.stack([trunk.x, trunk.y], axis=1), limb])),
        parent=np.concatenate([trunk.parent, [stem], np.arange(count, count + 11)]).astype(
            np.int32
        ),
        floor=np.concatenate([np.full(count, 6.0), np.zeros(12)]),
    )
    calibre = Calibre(tip_radius_px=1.0, exponent=2.5, taper_per_px=0, max_radius_px=1e9)
    canvas = drawn(shape_vessels(tree, calibre, Finish(stub_px=0, smooth_rounds=0)), 200, 300)
    across = np.count_nonzero(canvas[45:91], axis=1)
    assert across.max() <= 4
