"""Descriptors against shapes whose numbers are known."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from univg.sca.descriptors import DESCRIPTOR_NAMES, DESCRIPTORS, describe, describe_many

SIZE = 512


def polyline(points: np.ndarray, width: int, size: int = SIZE) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 1, width, cv2.LINE_8, 4)
    return canvas.astype(bool)


def segment(size: int, ends: np.ndarray, width: float) -> np.ndarray:
    """Return the pixels nearer than half of `width` to the line between two (x, y)."""
    y, x = np.mgrid[:size, :size] + 0.5
    start, along = ends[0], ends[1] - ends[0]
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along)
    share = np.clip(share, 0, 1)
    away = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
    return away <= width / 2


def rays(size: int, angles: list[float], width: float, length: float = 0.4) -> np.ndarray:
    """Return lines from the image centre at `angles` (degrees)."""
    mask = np.zeros((size, size), bool)
    centre = np.array([size / 2, size / 2])
    for angle in np.radians(angles):
        end = centre + length * size * np.array([np.cos(angle), np.sin(angle)])
        mask |= segment(size, np.stack([centre, end]), width)
    return mask


def tree(size: int) -> np.ndarray:
    """Return a small tree of several widths that scales with `size`."""
    lines = [
        (0.1, 0.5, 0.4, 0.5, 0.03),
        (0.4, 0.5, 0.7, 0.3, 0.022),
        (0.4, 0.5, 0.65, 0.75, 0.022),
        (0.7, 0.3, 0.9, 0.35, 0.016),
        (0.7, 0.3, 0.85, 0.1, 0.016),
        (0.65, 0.75, 0.9, 0.7, 0.016),
        (0.65, 0.75, 0.7, 0.92, 0.016),
    ]
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1, width in lines:
        ends = np.array([[x0, y0], [x1, y1]]) * size
        mask |= segment(size, ends, width * size)
    return mask


@pytest.mark.parametrize("width", [3, 6, 9, 14])
def test_a_straight_line_has_its_width_length_and_no_tortuosity(width):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[250 : 250 + width, 56:456] = True
    found = describe(mask)
    assert found["width_q50"] * SIZE == pytest.approx(width, abs=0.5)
    assert found["skeleton_length"] == pytest.approx(400 / SIZE, abs=width / SIZE)
    assert found["vessel_density"] == pytest.approx(400 * width / SIZE**2)
    assert found["tortuosity_mean"] < 0.01
    assert found["horizontal_share"] > 0.99 and found["anisotropy"] > 0.98
    assert found["direction_entropy"] < 0.1
    assert found["fractal_skeleton"] == pytest.approx(1, abs=0.1)
    assert found["components_log"] == pytest.approx(np.log(2)) and found["holes_log"] == 0


def test_widths_are_weighted_by_length():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[100:105, 20:480] = True  # 460 long, 5 wide
    mask[300:321, 20:120] = True  # 100 long, 21 wide
    found = describe(mask)
    assert found["width_q50"] * SIZE == pytest.approx(5, abs=0.6)
    assert found["width_q90"] * SIZE == pytest.approx(21, abs=0.6)


@pytest.mark.parametrize("opening", [40, 60, 75, 90])
@pytest.mark.parametrize("turned", [0, 25])
@pytest.mark.parametrize("width", [3, 9])
def test_a_y_has_the_angle_it_was_drawn_with(opening, turned, width):
    half = opening / 2
    mask = rays(SIZE, [180 + turned, turned + half, turned - half], width)
    found = describe(mask)
    assert found["angle_q50"] == pytest.approx(opening, abs=5)
    assert found["junction_density"] > 0


def test_tips_junctions_and_daughters_of_a_tree():
    found = describe(tree(SIZE))
    length = found["skeleton_length"]
    assert found["junction_density"] * length == pytest.approx(3)
    assert found["tip_density"] * length == pytest.approx(5)
    assert found["crossing_share"] == 0
    assert 0.8 < found["daughter_ratio"] <= 1


def test_a_ring_is_one_piece_with_one_hole_and_runs_around():
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(canvas, (256, 256), 150, 1, 9)
    found = describe(canvas.astype(bool))
    assert found["components_log"] == pytest.approx(np.log(2))
    assert found["holes_log"] == pytest.approx(np.log(2))
    assert found["radial_share"] < 0.02  # tangential
    assert found["anisotropy"] < 0.02 and found["direction_entropy"] > 0.98
    assert found["curvature_mean"] * 150 / SIZE == pytest.approx(1, rel=0.1)  # 1 / radius


def test_a_star_is_radial():
    found = describe(rays(SIZE, list(range(0, 360, 45)), 5))
    assert found["radial_share"] > 0.97


def test_a_sine_wave_has_its_arc_over_its_chord():
    x = np.linspace(40, 470, 2000)
    y = 256 + 60 * np.sin((x - 40) / 430 * 6 * np.pi)
    arc = np.hypot(np.diff(x), np.diff(y)).sum()
    chord = np.hypot(x[-1] - x[0], y[-1] - y[0])
    found = describe(polyline(np.stack([x, y], axis=1), 5))
    assert found["tortuosity_mean"] == pytest.approx(arc / chord - 1, rel=0.05)
    straight = describe(polyline(np.array([[40.0, 200.0], [470.0, 320.0]]), 5))
    assert found["curvature_mean"] > 5 * straight["curvature_mean"]


def test_a_grid_has_its_holes_and_is_even():
    mask = np.zeros((SIZE, SIZE), bool)
    for k in range(16, SIZE, 48):  # 11 lines each way, 10 × 10 closed cells
        mask[k : k + 4, 16 : 16 + 48 * 10 + 4] = True
        mask[16 : 16 + 48 * 10 + 4, k : k + 4] = True
    found = describe(mask)
    assert found["holes_log"] == pytest.approx(np.log1p(100))
    assert found["largest_share"] == 1
    assert found["unevenness"] < 0.25
    assert 1.3 < found["fractal_mask"] < 2
    assert found["gap_q95"] * SIZE < 24


def test_a_full_mask_fills_the_plane():
    found = describe(np.ones((SIZE, SIZE), bool))
    assert found["fractal_mask"] == pytest.approx(2, abs=0.02)
    assert found["vessel_density"] == 1


def test_two_lines_are_two_pieces():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[100:105, 50:450] = mask[300:305, 50:250] = True
    found = describe(mask)
    assert np.expm1(found["components_log"]) == pytest.approx(2)
    assert found["largest_share"] == pytest.approx(2 / 3, abs=0.01)


def test_layout_tells_where_the_vessel_lies():
    left, rim = np.zeros((2, SIZE, SIZE), bool)
    left[206:306, 40:60] = True
    rim[:20], rim[-20:] = True, True
    assert describe(left)["imbalance_x"] == 1
    assert describe(left)["imbalance_y"] < 0.05
    assert describe(rim)["border_share"] == 1
    assert describe(rim)["imbalance_y"] == 0


def test_flips_change_nothing():
    mask = tree(SIZE)
    one, other = describe(mask), describe(mask[::-1, ::-1])
    resolutions = {d.name: d.resolution for d in DESCRIPTORS}
    for name, value in one.items():
        # A thinning that runs in one direction may move the centre line by half a pixel.
        allowed = max(resolutions[name], 0.02 * abs(value))
        assert other[name] == pytest.approx(value, abs=allowed), name


@pytest.mark.parametrize("small", [256, 384])
def test_the_same_shape_at_two_sizes_reads_the_same(small):
    one, other = describe(tree(SIZE)), describe(tree(small))
    for descriptor in DESCRIPTORS:
        gap = abs(one[descriptor.name] - other[descriptor.name])
        allowed = max(2 * descriptor.resolution, 0.1 * abs(one[descriptor.name]))
        assert gap <= allowed, (descriptor.name, one[descriptor.name], other[descriptor.name])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 200), (16, 16), (1500, 1100)])
@pytest.mark.parametrize("fill", ["empty", "full", "dot", "noise"])
def test_every_mask_gives_finite_numbers(shape, fill):
    mask = np.zeros(shape, bool)
    if fill == "full":
        mask[:] = True
    elif fill == "dot":
        mask[shape[0] // 2, shape[1] // 2] = True
    elif fill == "noise":
        mask = np.random.default_rng(0).random(shape) > 0.7
    found = describe(mask)
    assert tuple(found) == DESCRIPTOR_NAMES
    assert np.isfinite(list(found.values())).all()


def test_names_are_unique_and_many_is_one_after_the_other():
    assert len(set(DESCRIPTOR_NAMES)) == len(DESCRIPTOR_NAMES)
    assert all(d.resolution > 0 and d.meaning for d in DESCRIPTORS)
    masks = [tree(128), rays(128, [0, 120, 240], 3)]
    table = describe_many(masks)
    assert table.shape == (2, len(DESCRIPTORS))
    assert table[1].tolist() == list(describe(masks[1]).values())
    assert describe_many([]).shape == (0, len(DESCRIPTORS))


def test_a_mask_is_described_in_milliseconds():
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), 6)
    mask = np.abs(noise) < 0.008
    describe(mask)
    start = time.process_time()
    for _ in range(3):
        describe(mask)
    assert (time.process_time() - start) / 3 < 0.4  # some 30 ms; wide, for a busy machine
