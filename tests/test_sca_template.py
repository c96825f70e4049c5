"""Real masks traced into branches that hang on roots: on drawings whose branches are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.sca.sampling import Frame
from univg.sca.template import Template, trace_template

SIDE = 400


def draw(*lines: tuple[int, int, int, int], width: int = 7, side: int = SIDE) -> np.ndarray:
    canvas = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in lines:
        cv2.line(canvas, (x0, y0), (x1, y1), 255, width)
    return canvas > 0


Y = [(200, 380, 200, 200), (200, 200, 90, 40), (200, 200, 310, 40)]
CROSS = [(200, 30, 200, 370), (30, 200, 370, 200)]


def branch(template: Template, number: int) -> np.ndarray:
    return template.points[template.start[number] : template.start[number + 1]]


def long_branches(template: Template) -> int:
    """How many branches, but for the short link into which thinning may stretch a crossing."""
    return int((template.length > 0.05).sum())


def in_pixels(template: Template, side: int = SIDE) -> np.ndarray:
    return Frame(side, side).to_px(template.points[:, :2])


def check(template: Template) -> None:
    """What holds of every template."""
    assert len(template.start) == template.branch_count + 1
    assert template.start[-1] == len(template.points)
    assert (template.parent < np.arange(template.branch_count)).all()
    for number, parent in enumerate(template.parent):
        first = branch(template, number)[0, :2]
        starts = template.roots if parent < 0 else branch(template, parent)[[0, -1], :2]
        assert np.hypot(*(starts - first).T).min() < 0.03
        below = template.length[template.subtree(number)].sum()
        assert template.below[number] == pytest.approx(below)
    assert (template.points[:, 2] > 0).all()


def test_a_y_is_three_branches_on_one_root():
    template = trace_template(draw(*Y), "y", "thick")
    check(template)
    assert template.branch_count == 3 and len(template.roots) == 1
    assert sorted(template.parent)[0] == -1


def thick_y() -> np.ndarray:
    """A Y whose stem tapers from 19 px at its foot to 11 px, with arms of 5 px."""
    mask = draw(*Y[1:], width=5)
    for k in range(9):
        mask |= draw((200, 380 - 20 * k, 200, 360 - 20 * k), width=19 - k)
    return mask


def test_the_thick_end_is_the_root():
    template = trace_template(thick_y(), "y", "thick")
    root = Frame(SIDE, SIDE).to_px(template.roots[0])
    assert np.hypot(*(root - [200, 380])) < 20
    assert template.parent.tolist() == [-1, 0, 0]
    assert template.below[0] == pytest.approx(template.length.sum())


def test_radii_are_those_of_the_drawing():
    template = trace_template(thick_y(), "y", "thick")
    middle = [np.median(branch(template, b)[:, 2]) * SIDE for b in range(3)]
    assert middle[0] == pytest.approx(8, abs=1.5)
    assert middle[1] == pytest.approx(2.5, abs=1) and middle[2] == pytest.approx(2.5, abs=1)


def test_a_cross_is_four_branches_on_one_root():
    template = trace_template(draw(*CROSS), "cross", "thick")
    check(template)
    assert long_branches(template) == 4 and len(template.roots) == 1


def test_pieces_have_roots_of_their_own_and_small_ones_are_left_out():
    mask = draw((30, 60, 370, 60), (30, 300, 370, 300), (200, 180, 206, 180))
    template = trace_template(mask, "pieces", "thick", min_component_px=40)
    check(template)
    assert len(template.roots) == 2 and template.branch_count == 2


def test_roots_at_the_border():
    mask = draw((200, 395, 200, 200), (200, 200, 110, 100), width=5) | draw((200, 200, 290, 100))
    template = trace_template(mask, "border", "border")
    root = Frame(SIDE, SIDE).to_px(template.roots[0])
    assert root[1] > 380


def test_roots_where_vessels_converge():
    hub = (280, 200)
    ends = [(60, 40), (60, 360), (380, 60), (380, 340), (200, 20)]
    lines = [(*hub, *end) for end in ends]
    template = trace_template(draw(*lines), "hub", "hub")
    check(template)
    roots = Frame(SIDE, SIDE).to_px(template.roots)
    assert np.hypot(*(roots - hub).T).min() < 0.12 * SIDE


@pytest.mark.parametrize("lines", [Y, CROSS])
def test_the_points_lie_on_the_lines_and_cover_them(lines):
    template = trace_template(draw(*lines), "t", "thick")
    found = in_pixels(template)
    wanted = np.vstack([np.linspace(line[:2], line[2:], 200) for line in lines])
    gaps = np.hypot(*(found[:, None] - wanted[None]).transpose(2, 0, 1))
    assert np.quantile(gaps.min(axis=1), 0.95) < 2.5
    assert np.quantile(gaps.min(axis=0), 0.95) < 4


def test_lengths_are_in_sides():
    template = trace_template(draw((30, 200, 370, 200)), "line", "thick")
    assert template.length.sum() == pytest.approx(340 / SIDE, rel=0.04)


def test_a_larger_picture_of_the_same_gives_the_same_template():
    small, large = draw(*Y), draw(*(tuple(2 * v for v in line) for line in Y), width=14, side=800)
    first, second = (trace_template(mask, "y", "thick") for mask in (small, large))
    assert first.branch_count == second.branch_count
    assert sorted(first.length) == pytest.approx(sorted(second.length), rel=0.05)
    assert len(first.points) == pytest.approx(len(second.points), rel=0.1)


def test_a_ring_and_an_empty_mask():
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(canvas, (200, 200), 100, 255, 7)
    ring = trace_template(canvas > 0, "ring", "thick")
    assert ring.branch_count == 1 and len(ring.roots) == 1
    assert ring.length[0] == pytest.approx(2 * np.pi * 100 / SIDE, rel=0.05)
    empty = trace_template(np.zeros((SIDE, SIDE), bool), "empty", "hub")
    assert empty.branch_count == 0 and empty.points.shape == (0, 3) and empty.roots.shape == (0, 2)


def test_a_wide_picture():
    mask = np.zeros((120, 480), bool)
    mask[58:65, 20:460] = True
    template = trace_template(mask, "wide", "thick")
    at = Frame(120, 480).to_px(template.points[:, :2])
    assert np.ptp(at[:, 0]) == pytest.approx(440, rel=0.04)
    assert np.allclose(at[:, 1], 61, atol=1.5)
