"""Space colonization against its rules, one by one, and against a plain implementation of them."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from univg.sca.growth import grow_tree
from univg.sca.tree import Pace, Tree, plant

PAPER = Pace()
OPEN = np.zeros((300, 300), np.uint8)


def grow(roots, attractors, pace: Pace = PAPER, blocked=OPEN, seed: int = 1) -> Tree:
    tree = plant(np.array(roots, float).reshape(-1, 2))
    return grow_tree(tree, np.array(attractors, float).reshape(-1, 2), blocked, pace, seed)


def scatter(count: int, side: int, seed: int = 3) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.random((count, 2)) * (side - 1)


def places(tree: Tree) -> np.ndarray:
    return np.stack([tree.x, tree.y], axis=1)


def plain_growth():
    """The benchmark's baseline: the paper's steps in NumPy, without grid, list or compiler."""
    path = Path(__file__).parent.parent / "benchmarks" / "sca_speed.py"
    spec = importlib.util.spec_from_file_location("sca_speed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.grow_plainly


def check_against_plain(roots, attractors, attraction: float, kill: float, step: float) -> int:
    """Compare every node, up to the round before the first node is held; return the rounds."""
    wanted, rounds = plain_growth()(roots, attractors, attraction, kill, step, until_held=True)
    pace = Pace(
        attraction_px=attraction, kill_px=kill, step_px=step, margin_px=100, max_iterations=rounds
    )
    tree = grow(roots, attractors, pace)
    assert tree.size == len(wanted)
    gaps = np.hypot(*(places(tree)[:, None] - wanted[None]).transpose(2, 0, 1))
    assert gaps.min(axis=0).max() < 1e-6 and gaps.min(axis=1).max() < 1e-6
    return rounds


@pytest.mark.parametrize(
    ("attraction", "kill", "step"), [(20, 10, 15), (30, 5, 4), (12, 6, 3), (90, 8, 5)]
)
def test_the_same_tree_as_the_plain_implementation(attraction, kill, step):
    rounds = 0
    for seed in range(8):
        attractors, roots = scatter(200, 300, seed), scatter(1 + seed, 300, seed + 50)
        rounds += check_against_plain(roots, attractors, attraction, kill, step)
    assert rounds > 10


def test_the_same_winding_course_as_the_plain_implementation():
    """Along a spiral no node is held, so the whole growth can be compared."""
    angle = np.linspace(0, 9, 150)
    spiral = 150 + (20 + 12 * angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert check_against_plain(spiral[:1] - [0, 6], spiral, 14, 5, 4.3) > 100


@pytest.mark.parametrize("angle", np.linspace(0, 6, 7))
def test_an_attractor_pulls_within_da_and_not_beyond(angle):
    way = np.array([np.cos(angle), np.sin(angle)])
    root = np.array([150.0, 150.0])
    assert grow(root, root + 20.01 * way).size == 1
    assert grow(root, root + 19.99 * way).size > 1


def test_a_segment_is_exactly_one_step_long():
    tree = grow([[150, 150]], scatter(400, 300), replace(PAPER, step_px=7.0))
    child = np.flatnonzero(tree.parent >= 0)
    assert len(child) > 100
    gap = places(tree)[child] - places(tree)[tree.parent[child]]
    assert np.allclose(np.hypot(*gap.T), 7.0, atol=1e-9)
    assert np.allclose(gap / 7.0, np.stack([tree.dx, tree.dy], axis=1)[child])


def test_the_direction_is_the_mean_of_unit_vectors():
    """Eq. (2), (3): a far attractor pulls as hard as a near one."""
    tree = grow([[100, 100]], [[118, 100], [100, 111]], replace(PAPER, max_iterations=1))
    assert (tree.dx[1], tree.dy[1]) == pytest.approx((np.sqrt(0.5), np.sqrt(0.5)))


def test_an_attractor_pulls_its_nearest_node_only():
    tree = grow([[100, 100], [100, 130]], [[100, 118]], replace(PAPER, max_iterations=1))
    assert tree.parent.tolist() == [-1, -1, 1]


def test_an_attractor_within_the_kill_distance_is_gone():
    root = [[100.0, 100.0]]
    near, far = [100.0, 109.0], [115.0, 100.0]
    assert grow(root, near).size == 1  # killed by the root before it pulls
    first = grow(root, [near, far], replace(PAPER, max_iterations=1))
    assert (first.dx[1], first.dy[1]) == pytest.approx((1, 0))  # the other pulls alone


def test_what_a_node_has_killed_no_later_node_approaches():
    """A trunk passes by; what lay within its kill distance must not make it sprout."""
    trunk = [[100.0 + 6 * k, 100.0] for k in range(1, 20)]
    beside = [[130.0, 108.0], [160.0, 93.0], [190.0, 109.0]]
    pace = Pace(attraction_px=20, kill_px=10, step_px=4)
    with_them, without = grow([[100, 100]], trunk + beside, pace), grow([[100, 100]], trunk, pace)
    counts = np.bincount(with_them.parent[1:], minlength=with_them.size)
    assert counts.max() == 1
    assert abs(with_them.size - without.size) <= 1


def test_no_living_attractor_is_left_within_reach():
    """The first stop rule: nothing that could be reached was left out."""
    attractors = scatter(300, 300)
    pace = Pace(attraction_px=40, kill_px=8, step_px=6)
    tree = grow([[150, 150]], attractors, pace)
    gaps = np.hypot(*(places(tree)[:, None] - attractors[None]).transpose(2, 0, 1)).min(axis=0)
    assert (gaps > pace.kill_px).mean() < 0.02  # but for a few pulled to opposite sides
    assert grow_tree(tree, attractors, OPEN, pace, 1).size <= tree.size + 10


@pytest.mark.parametrize("bound", [2, 10, 57])
def test_the_rule_of_most_nodes(bound):
    pace = Pace(attraction_px=40, kill_px=8, step_px=6, max_nodes=bound)
    assert grow([[150, 150]], scatter(300, 300), pace).size == bound


@pytest.mark.parametrize("rounds", [0, 1, 3, 8])
def test_the_rule_of_most_rounds(rounds):
    trunk = [[10.0 + 15 * k, 150.0] for k in range(1, 18)]
    tree = grow([[10, 150]], trunk, replace(PAPER, max_iterations=rounds))
    assert tree.size == 1 + rounds


def test_no_attractors_and_more_roots_than_nodes_allowed():
    assert grow([[5, 5]], np.zeros((0, 2))).size == 1
    assert grow([[5, 5], [6, 6], [7, 7]], [[20, 20]], replace(PAPER, max_nodes=2)).size == 3


def test_blocked_pixels_are_never_entered():
    rows, columns = np.mgrid[:300, :300]
    blocked = ((columns - 120) ** 2 + (rows - 150) ** 2 < 40**2).astype(np.uint8)
    blocked[:, 220:] = 2
    pace = Pace(attraction_px=40, kill_px=8, step_px=5, wobble_rad=0.3)
    tree = grow([[20, 20], [210, 280]], scatter(600, 300), pace, blocked)
    assert tree.size > 200
    at = np.floor(places(tree) + 0.5).astype(int)
    assert (blocked[at[:, 1], at[:, 0]] == 0).all()


@pytest.mark.parametrize("margin", [0.0, 12.0])
def test_no_node_stands_further_off_the_image_than_the_margin(margin):
    attractors = scatter(500, 380) - 40
    pace = Pace(attraction_px=40, kill_px=6, step_px=5, margin_px=margin)
    tree = grow([[150, 150]], attractors, pace)
    x, y = places(tree).T
    assert min(x.min(), y.min()) >= -max(margin, 0.5)
    assert max(x.max(), y.max()) <= 300 + max(margin - 1, -0.5) + 1
    assert ((x < -1) | (y < -1)).any() == (margin > 0)


@pytest.mark.parametrize(
    "attractors",
    [
        [[85, 100], [115, 100]],
        [[85, 100], [115, 100], [100, 85], [100, 115]],
        [[89, 100], [111, 100], [100.0, 112.0]],
        [[100, 100]],
        [[115, 100]] * 5,
    ],
)
def test_attractors_at_opposite_sides_do_not_hang(attractors):
    start = time.perf_counter()
    tree = grow([[100, 100]], attractors, replace(PAPER, max_iterations=10**6, max_nodes=10**6))
    assert tree.size < 20 and time.perf_counter() - start < 5


def test_parents_stand_before_their_children():
    tree = grow(scatter(5, 300, 9), scatter(800, 300), Pace(attraction_px=40, kill_px=5, step_px=4))
    assert (tree.parent < np.arange(tree.size)).all()
    assert (tree.parent[:5] == -1).all() and (tree.parent[5:] >= 0).all()


def test_growth_goes_on_from_a_grown_tree():
    pace = Pace(attraction_px=40, kill_px=5, step_px=4)
    first = grow([[150, 150]], scatter(100, 300, 1), pace)
    second = grow_tree(first, scatter(300, 300, 2), OPEN, pace, 1)
    assert second.size > first.size
    assert np.array_equal(places(second)[: first.size], places(first))
    assert np.array_equal(second.parent[: first.size], first.parent)


def test_the_same_seed_grows_the_same_tree_and_the_input_is_left_alone():
    pace = Pace(attraction_px=40, kill_px=5, step_px=4, wobble_rad=0.2, inertia=0.3, lean=0.3)
    attractors = scatter(300, 300)
    before = attractors.copy()
    first, second = (grow([[150, 150]], attractors, pace, seed=5) for _ in range(2))
    assert np.array_equal(places(first), places(second))
    assert np.array_equal(first.parent, second.parent)
    assert np.array_equal(attractors, before)


def test_the_seed_feeds_the_wobble_alone():
    attractors = scatter(300, 300)
    still = Pace(attraction_px=40, kill_px=5, step_px=4)
    shaken = replace(still, wobble_rad=0.2)
    same = [grow([[150, 150]], attractors, still, seed=seed) for seed in (1, 2)]
    other = [grow([[150, 150]], attractors, shaken, seed=seed) for seed in (1, 2)]
    assert np.array_equal(places(same[0]), places(same[1]))
    sizes = min(tree.size for tree in other)
    assert not np.array_equal(places(other[0])[:sizes], places(other[1])[:sizes])


def test_inertia_makes_the_course_straighter():
    attractors = scatter(400, 300)
    turns = []
    for inertia in (0.0, 0.7):
        pace = Pace(attraction_px=60, kill_px=10, step_px=5, inertia=inertia, lean=inertia)
        tree = grow([[150, 150]], attractors, pace)
        child = np.flatnonzero(tree.parent > 0)
        up = tree.parent[child]
        turns.append(np.mean(tree.dx[child] * tree.dx[up] + tree.dy[child] * tree.dy[up]))
    assert turns[1] > turns[0]


def test_cost_grows_about_linearly():
    """The exact bar is in the benchmark; this catches a grid that has stopped to work."""
    seconds, nodes = [], []
    for count in (2_000, 20_000):
        side = round(20 * count**0.5)
        attractors, blocked = scatter(count, side), np.zeros((side, side), np.uint8)
        pace = Pace(attraction_px=50, kill_px=10, step_px=8, max_nodes=10**7, max_iterations=10**6)
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            tree = grow([[side / 2, side / 2]], attractors, pace, blocked)
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
        nodes.append(tree.size)
    assert 8 < nodes[1] / nodes[0] < 12
    assert seconds[1] / seconds[0] < 4 * 10  # a busy machine slows the larger one more
