"""Widths by Murray's law, stubs cut, courses smoothed: on trees whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from univg.sca.growth import grow_tree
from univg.sca.shape import Calibre, Finish, Vessels, shape_vessels
from univg.sca.tree import Pace, Tree, plant

AS_GROWN = Finish(stub_px=0.0, join_px=0.0, smooth_rounds=0)
PURE = Calibre(tip_radius_px=1.0, exponent=2.5, taper_per_px=0.0, max_radius_px=1e9)


def tree_of(points, parents, floor=None) -> Tree:
    """A tree of `points` (n, 2) whose parents are `parents`."""
    at = np.array(points, float)
    parent = np.array(parents, np.int32)
    way = np.where(parent[:, None] >= 0, at - at[np.maximum(parent, 0)], [[1.0, 0.0]])
    way /= np.maximum(np.hypot(*way.T), 1e-9)[:, None]
    return replace(
        plant(at),
        parent=parent,
        dx=way[:, 0],
        dy=way[:, 1],
        floor=np.zeros(len(at)) if floor is None else np.array(floor, float),
    )


def grown(seed: int, inertia: float = 0.3) -> Tree:
    rng = np.random.Generator(np.random.PCG64(seed))
    pace = Pace(attraction_px=60, kill_px=10, step_px=5, inertia=inertia, lean=inertia)
    blocked = np.zeros((300, 300), np.uint8)
    return grow_tree(
        plant(np.array([[150.0, 290.0]])), rng.random((250, 2)) * 299, blocked, pace, 1
    )


def children_of(vessels: Vessels) -> list[np.ndarray]:
    return [np.flatnonzero(vessels.parent == n) for n in range(len(vessels.x))]


def straight(count: int, step: float = 5.0) -> tuple[list[list[float]], list[int]]:
    return [[10 + step * k, 100.0] for k in range(count)], [k - 1 for k in range(count)]


@pytest.mark.parametrize("exponent", [1.5, 2.0, 2.5, 3.0, 3.7])
@pytest.mark.parametrize("seed", [1, 2])
def test_murrays_law_holds_at_every_branching(exponent, seed):
    vessels = shape_vessels(grown(seed), replace(PURE, exponent=exponent), AS_GROWN)
    branchings = 0
    for n, below in enumerate(children_of(vessels)):
        if len(below):
            total = (vessels.radius[below] ** exponent).sum()
            assert vessels.radius[n] ** exponent == pytest.approx(total, rel=1e-9)
            branchings += len(below) > 1
        else:
            assert vessels.radius[n] == pytest.approx(1.0)
    assert branchings > 10


def test_a_root_carries_all_its_tips():
    vessels = shape_vessels(grown(3), replace(PURE, exponent=2.0, tip_radius_px=0.7), AS_GROWN)
    tips = sum(len(below) == 0 for below in children_of(vessels))
    assert vessels.radius[0] == pytest.approx(0.7 * np.sqrt(tips))


@pytest.mark.parametrize("smooth_rounds", [0, 5])
@pytest.mark.parametrize("taper", [0.0, 0.02])
def test_widths_do_not_grow_towards_the_tips(taper, smooth_rounds):
    tree = grown(4)
    tree.floor[::17] = 2.0
    calibre = Calibre(tip_radius_px=0.8, exponent=2.4, taper_per_px=taper, max_radius_px=5)
    vessels = shape_vessels(tree, calibre, Finish(stub_px=8, smooth_rounds=smooth_rounds))
    child = np.flatnonzero(vessels.parent >= 0)
    assert (vessels.radius[child] <= vessels.radius[vessels.parent[child]] + 1e-9).all()


def test_a_vessel_tapers_between_its_branchings():
    tree = tree_of(*straight(30))
    flat = shape_vessels(tree, PURE, AS_GROWN)
    tapered = shape_vessels(tree, replace(PURE, taper_per_px=0.01), AS_GROWN)
    assert np.ptp(flat.radius) == pytest.approx(0)
    assert (np.diff(tapered.radius) < 0).all()


def test_no_vessel_is_wider_than_the_widest():
    vessels = shape_vessels(grown(5), replace(PURE, max_radius_px=2.0), AS_GROWN)
    assert 1.0 < vessels.radius.max() < 2.0


def test_a_known_width_is_the_least_that_a_vessel_has_up_to_its_root():
    points, parents = straight(20)
    vessels = shape_vessels(tree_of(points, parents, [0] * 12 + [3.0] + [0] * 7), PURE, AS_GROWN)
    assert np.allclose(vessels.radius[:13], 3.0)
    assert np.allclose(vessels.radius[13:], 1.0)


def test_short_side_branches_are_cut_and_long_ones_stay():
    points, parents = straight(40)
    twig = [[60.0, 100.0 + 3.0 * k] for k in (1, 2)]  # from node 10, 6 px long
    limb = [[110.0, 100.0 + 5.0 * k] for k in range(1, 9)]  # from node 20, 40 px long
    points, parents = points + twig + limb, [*parents, 10, 40, 20, *range(42, 49)]
    vessels = shape_vessels(tree_of(points, parents), PURE, replace(AS_GROWN, stub_px=10.0))
    assert len(vessels.x) == 40 + 8
    assert (vessels.y > 120).any() and not ((vessels.x == 60) & (vessels.y != 100)).any()


def test_a_tree_that_is_all_stub_leaves_nothing_and_no_error():
    vessels = shape_vessels(tree_of(*straight(3)), PURE, replace(AS_GROWN, stub_px=50.0))
    assert len(vessels.x) == len(vessels.radius) == 0


def test_an_empty_tree():
    vessels = shape_vessels(plant(np.zeros((0, 2))), PURE, Finish())
    assert len(vessels.x) == 0


def test_smoothing_keeps_roots_and_tips_and_straightens_the_rest():
    tree = grown(6, inertia=0.0)
    rough = shape_vessels(tree, PURE, AS_GROWN)
    smooth = shape_vessels(tree, PURE, replace(AS_GROWN, smooth_rounds=6))
    fixed = (rough.parent < 0) | (rough.main < 0)
    assert np.array_equal(rough.x[fixed], smooth.x[fixed])
    assert np.array_equal(rough.y[fixed], smooth.y[fixed])
    assert turning(smooth) < 0.7 * turning(rough)


def turning(vessels: Vessels) -> float:
    """Mean change of direction along the vessels [rad]."""
    middle = np.flatnonzero((vessels.parent >= 0) & (vessels.main >= 0))
    at = np.stack([vessels.x, vessels.y], axis=1)
    before = at[middle] - at[vessels.parent[middle]]
    after = at[vessels.main[middle]] - at[middle]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return float(np.abs(np.arctan2(cross, (before * after).sum(axis=1))).mean())


def test_a_straight_vessel_stays_where_it_is_when_smoothed():
    points, parents = straight(25)
    vessels = shape_vessels(tree_of(points, parents), PURE, replace(AS_GROWN, smooth_rounds=9))
    assert np.allclose(np.stack([vessels.x, vessels.y], axis=1), points)


def test_the_vessel_goes_on_in_its_widest_child():
    vessels = shape_vessels(grown(7), PURE, AS_GROWN)
    for n, below in enumerate(children_of(vessels)):
        if len(below):
            assert vessels.radius[vessels.main[n]] == pytest.approx(vessels.radius[below].max())
        else:
            assert vessels.main[n] == -1


def test_shaping_leaves_the_tree_as_it_was():
    tree = grown(8)
    before = {name: np.copy(value) for name, value in vars(tree).items()}
    shape_vessels(tree, PURE, Finish(join_px=20))
    for name, value in vars(tree).items():
        if name != "loops":
            assert np.array_equal(value, before[name]), name


def test_joined_tips_make_loops():
    tree = grown(9)
    apart = shape_vessels(tree, PURE, AS_GROWN)
    joined = shape_vessels(grown(9), PURE, replace(AS_GROWN, join_px=30.0))
    assert len(apart.loops) == 0 < len(joined.loops)
    at = np.stack([joined.x, joined.y], axis=1)
    gaps = np.hypot(*(at[joined.loops[:, 0]] - at[joined.loops[:, 1]]).T)
    assert gaps.max() <= 30.0
