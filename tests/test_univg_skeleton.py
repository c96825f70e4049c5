"""The skeleton graph on drawn shapes whose branches, junctions and radii are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.sca.resize import resize_mask, resize_to
from univg.skeleton import CYCLE, TIP, distance_to_background, skeleton_graph


def draw(size: int, *lines: tuple[float, float, float, float], width: int = 7) -> np.ndarray:
    """Return a mask of straight lines (x0, y0, x1, y1), given as shares of the side."""
    canvas = np.zeros((size, size), np.uint8)
    for x0, y0, x1, y1 in lines:
        ends = [(round(x * size), round(y * size)) for x, y in ((x0, y0), (x1, y1))]
        cv2.line(canvas, ends[0], ends[1], 1, width)
    return canvas.astype(bool)


def test_a_line_is_one_branch_of_its_length_and_radius():
    mask = np.zeros((200, 300), bool)
    mask[96:105, 50:250] = True  # nine wide
    graph = skeleton_graph(mask)
    assert graph.branch_count == 1 and len(graph.degrees) == 0
    assert graph.ends.tolist() == [[TIP, TIP]]
    assert graph.lengths[0] == pytest.approx(200, abs=9)
    assert np.median(graph.radii) == pytest.approx(5)  # to the centre of the first zero pixel
    assert np.allclose(graph.rows[10:-10], 100)


def test_a_slanting_line_is_as_long_as_it_is_and_no_longer():
    graph = skeleton_graph(draw(400, (0.1, 0.1, 0.9, 0.42), width=5))
    true = 400 * np.hypot(0.8, 0.32)  # a staircase of pixels would give 8 % more
    assert graph.lengths.sum() == pytest.approx(true, rel=0.015)


def test_a_y_has_three_branches_at_one_junction():
    graph = skeleton_graph(
        draw(300, (0.5, 0.9, 0.5, 0.5), (0.5, 0.5, 0.2, 0.1), (0.5, 0.5, 0.8, 0.1))
    )
    assert graph.branch_count == 3
    assert graph.degrees.tolist() == [3]
    assert np.count_nonzero(graph.ends == TIP) == 3
    assert graph.junction_radii[0] >= 4


def test_a_cross_is_one_junction_of_four_or_two_of_three():
    graph = skeleton_graph(draw(300, (0.5, 0.1, 0.5, 0.9), (0.1, 0.5, 0.9, 0.5)))
    assert np.count_nonzero(graph.ends == TIP) == 4
    assert graph.degrees.sum() in {4, 6}


def test_a_ring_closes_on_itself():
    canvas = np.zeros((200, 200), np.uint8)
    cv2.circle(canvas, (100, 100), 60, 1, 7)
    graph = skeleton_graph(canvas.astype(bool))
    assert graph.branch_count == 1
    assert graph.ends.tolist() == [[CYCLE, CYCLE]]
    assert graph.lengths[0] == pytest.approx(2 * np.pi * 60, rel=0.02)


def test_a_loop_on_a_stem_keeps_both():
    canvas = np.zeros((300, 300), np.uint8)
    cv2.circle(canvas, (150, 100), 50, 1, 5)
    cv2.line(canvas, (150, 150), (150, 280), 1, 5)
    graph = skeleton_graph(canvas.astype(bool))
    assert graph.branch_count == 2 and graph.degrees.tolist() == [3]
    assert sorted(graph.lengths)[1] == pytest.approx(2 * np.pi * 50, rel=0.05)


def test_spurs_go_and_side_branches_stay():
    trunk = draw(300, (0.1, 0.5, 0.9, 0.5), width=21)
    bump = trunk.copy()
    bump[135:140, 100:104] = True  # protrudes by less than half a radius
    branch = draw(300, (0.1, 0.5, 0.9, 0.5), width=21) | draw(300, (0.4, 0.5, 0.4, 0.3), width=5)
    assert skeleton_graph(bump).branch_count == 1
    assert skeleton_graph(branch).branch_count == 3


def test_pruning_does_not_shorten_a_thick_end():
    mask = np.zeros((200, 300), bool)
    mask[80:121, 40:260] = True  # 41 wide, cut squarely: its raw skeleton forks into the corners
    graph = skeleton_graph(mask)
    assert graph.branch_count == 1
    assert graph.lengths[0] > 220 - 41


def test_every_skeleton_pixel_is_in_a_branch_or_a_junction():
    rng = np.random.default_rng(5)
    noise = cv2.GaussianBlur(rng.standard_normal((256, 256)).astype(np.float32), (0, 0), 4)
    graph = skeleton_graph(noise > 0.03)
    assert graph.branch_count > 20
    assert graph.degrees.min() >= 2
    assert np.array_equal(np.bincount(graph.ends[graph.ends >= 0]), graph.degrees)
    # What is no path pixel belongs to a junction: at most a handful of pixels each.
    spare = np.count_nonzero(graph.skeleton) - graph.pixels.sum()
    assert 0 <= spare <= 8 * len(graph.degrees) + 2 * np.count_nonzero(graph.ends[:, 0] == CYCLE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (40, 30)])
@pytest.mark.parametrize("full", [False, True])
def test_empty_and_full_masks_have_a_finite_graph(shape, full):
    graph = skeleton_graph(np.full(shape, full))
    assert np.isfinite(graph.radii).all() and np.isfinite(graph.lengths).all()
    assert full or graph.branch_count == 0


def test_a_vessel_cut_by_the_border_keeps_its_radius():
    mask = np.zeros((100, 100), bool)
    mask[46:55, :] = True
    distance = distance_to_background(mask)
    assert distance[50, 0] == distance[50, 50] == 5


def test_shrinking_keeps_thin_vessels_whole():
    canvas = np.zeros((999, 999), np.uint8)
    turns = np.linspace(0, 2 * np.pi, 400)
    points = np.stack([100 + 800 * turns / 6.3, 500 + 300 * np.sin(turns)], axis=1).round()
    cv2.polylines(canvas, [points.astype(np.int32)], False, 1, 1)  # one pixel wide
    small = resize_mask(canvas.astype(bool), 512)
    assert small.shape == (512, 512)
    assert cv2.connectedComponents(small.astype(np.uint8), connectivity=8)[0] == 2
    plain = cv2.resize(canvas * 255, (512, 512), interpolation=cv2.INTER_AREA) > 127
    assert cv2.connectedComponents(plain.astype(np.uint8), connectivity=8)[0] > 10  # what it mends


def test_resizing_keeps_proportions_and_areas():
    mask = np.zeros((300, 600), bool)
    mask[100:200, 150:450] = True
    assert resize_mask(mask, 512).shape == (256, 512)
    assert resize_mask(mask, 512).mean() == pytest.approx(mask.mean(), rel=0.02)
    assert resize_mask(mask, 900).mean() == pytest.approx(mask.mean(), rel=0.02)
    assert resize_to(mask, (300, 600)) is not None
    assert np.array_equal(resize_to(mask, (300, 600)), mask)


def test_a_pinhole_makes_no_loop_and_a_hole_does():
    mask = draw(512, (0.1, 0.5, 0.9, 0.5), width=15)
    pinhole, hole = mask.copy(), mask.copy()
    pinhole[256, 200] = False
    hole[252:260, 200:210] = False
    assert skeleton_graph(pinhole).branch_count == 1
    assert skeleton_graph(hole).branch_count == 4
