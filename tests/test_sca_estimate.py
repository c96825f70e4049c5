"""The first card of an unknown modality: roots and trunks as they were drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from univg.config import from_plain
from univg.sca.compose import grow_mask
from univg.sca.estimate import choose_rooting, estimate_section
from univg.sca.params import Growth

SIDE = 256
HUB = (100, 130)


def paint(lines: list[tuple[np.ndarray, np.ndarray, int]]) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for start, end, width in lines:
        ends = [tuple(int(v) for v in np.rint(point)) for point in (start, end)]
        cv2.line(canvas, ends[0], ends[1], 1, width)
    return canvas.astype(bool)


def from_border(seed: int, count: int = 8, inner: float = 0.4) -> np.ndarray:
    """Vessels that come in from the border towards the centre, and stop on their way."""
    rng = np.random.default_rng(seed)
    centre, lines = np.array([SIDE / 2, SIDE / 2]), []
    for k in range(count):
        angle = 2 * np.pi * (k + rng.uniform(-0.2, 0.2)) / count
        way = np.array([np.cos(angle), np.sin(angle)])
        far = SIDE / 2 / np.abs(way).max()
        lines.append((centre + 1.1 * far * way, centre + inner * far * way, 4))
    return paint(lines)


def star(seed: int, count: int = 8, length: float = 85, low: float = 0, high: float = 360):
    """Vessels that leave one hub, evenly in a sector."""
    rng = np.random.default_rng(seed)
    angles = low + (high - low) * (np.arange(count) + 0.5) / count + rng.uniform(-3, 3, count)
    ways = np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1)
    return paint([(np.array(HUB), np.array(HUB) + length * way, 3) for way in ways])


def tree(seed: int) -> np.ndarray:
    """One tree: a thick stem from below, two limbs, four twigs."""
    sway = np.random.default_rng(seed).uniform(-6, 6)
    foot, fork = np.array([128.0, 230.0]), np.array([128 + sway, 150.0])
    lines = [(foot, fork, 14)]
    for aside in (-60, 60):
        limb = fork + np.array([aside, -60])
        lines.append((fork, limb, 7))
        lines += [(limb, limb + np.array([twig, -50]), 3) for twig in (-25, 25)]
    return paint(lines)


@pytest.mark.parametrize(
    ("draw", "wanted"), [(from_border, "border"), (star, "hub"), (tree, "thick")]
)
def test_where_vessels_start(draw, wanted):
    assert choose_rooting([draw(seed) for seed in range(3)]) == wanted


@pytest.mark.parametrize(
    ("draw", "rooting"), [(from_border, "border"), (star, "hub"), (tree, "thick")]
)
def test_the_section_is_a_card_that_grows(draw, rooting):
    section = estimate_section([draw(seed) for seed in range(3)], rooting)
    growth = from_plain(Growth, section)
    assert growth.real.roots == rooting and len(growth.guides) == 1
    made = grow_mask(growth, 128, 128, np.random.default_rng(0)).pixels
    assert 0.01 < (made > 0).mean() < 0.6


@pytest.mark.parametrize("count", [6, 9])
def test_as_many_come_from_the_border_as_were_drawn(count):
    section = estimate_section([from_border(seed, count) for seed in range(3)], "border")
    (guide,) = section["guides"]
    assert guide["kind"] == "inward" and guide["count"] == [count, count]


@pytest.mark.parametrize("inner", [0.3, 0.6])
def test_they_reach_as_far_as_was_drawn(inner):
    (guide,) = estimate_section([from_border(s, inner=inner) for s in range(3)], "border")["guides"]
    assert guide["reach"] == pytest.approx([1 - inner, 1 - inner], abs=0.06)
    assert guide["miss"][1] < 0.12 and guide["bend_deg"][1] < 15


def test_the_hub_is_where_it_was_drawn():
    root = estimate_section([star(seed) for seed in range(3)], "hub")["points"]["root"]
    assert root["at"] == pytest.approx([HUB[0] / SIDE, HUB[1] / SIDE], abs=0.03)
    assert max(root["spread"]) < 0.05


@pytest.mark.parametrize("length", [60, 90])
def test_trunks_of_a_hub_are_as_many_and_as_long_as_was_drawn(length):
    (guide,) = estimate_section([star(s, 7, length) for s in range(3)], "hub")["guides"]
    low, high = guide["count"]
    assert 7 <= low <= high <= 9  # where strokes overlap near the hub, one may be seen twice
    assert guide["length"] == pytest.approx([length / SIDE] * 2, abs=0.05)
    assert guide["bend_deg"][1] < 15


@pytest.mark.parametrize("middle", [0, 90, 180, 300])
def test_the_sector_is_the_one_drawn_in_also_across_the_zero(middle):
    low, high = middle - 80, middle + 80
    masks = [star(seed, 4, low=low, high=high) for seed in range(3)]
    first, last = estimate_section(masks, "hub")["guides"][0]["sector_deg"]
    assert last - first == pytest.approx(120 + 20, abs=40)
    assert ((first + last) / 2 - middle + 180) % 360 - 180 == pytest.approx(0, abs=15)


def test_the_one_tree_starts_at_the_foot_of_its_stem_and_goes_up():
    section = estimate_section([tree(seed) for seed in range(3)], "thick")
    (guide,) = section["guides"]
    assert section["points"]["root"]["at"] == pytest.approx([0.5, 230 / SIDE], abs=0.04)
    assert guide["count"] == [1, 1] and guide["origin"] == "root"
    assert np.mean(guide["sector_deg"]) == pytest.approx(270, abs=15)
    whole = (80 + 60 * 2**0.5 + 56) / SIDE  # stem, limb and twig
    assert guide["length"] == pytest.approx([whole, whole], abs=0.06)


def test_wider_vessels_make_wider_trunks():
    ends = []
    for side in (1, 5):
        kernel = np.ones((side, side))
        masks = [cv2.dilate(star(seed).astype(np.uint8), kernel) > 0 for seed in (1, 2)]
        ends.append(estimate_section(masks, "hub")["guides"][0]["end_radius_px"][0])
    grown = 2 * 512 / SIDE  # two pixels on either side
    assert ends[1] - ends[0] == pytest.approx(grown, abs=1.5)


def test_masks_without_a_trunk_still_give_a_section():
    speck = np.zeros((SIDE, SIDE), bool)
    speck[100:102, 100:102] = True
    section = estimate_section([speck, speck], "thick")
    assert "guides" not in section
    assert from_plain(Growth, section).real.roots == "thick"
