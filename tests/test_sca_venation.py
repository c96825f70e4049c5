"""Closed venation: vessels that meet join into loops, by the rules, where the card asks for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from univg.modalities import find_modality
from univg.sca.compose import grow_mask
from univg.sca.growth import grow_tree
from univg.sca.params import Growth, growth_of
from univg.sca.tree import Pace, Tree, plant
from univg.sca.venation import grow_closed

SIDE = 200
OPEN = np.zeros((SIDE, SIDE), np.uint8)
PACE = Pace(attraction_px=34, kill_px=7, step_px=4, inertia=0.2, lean=0.2)
ROOTS = np.array([[10.0, 100.0], [190.0, 90.0], [100.0, 12.0]])


def grid(seed: int = 0, cell: float = 16.0) -> np.ndarray:
    count = int(SIDE / cell)
    at = np.random.default_rng(seed).random((count, count, 2))
    at += np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1)
    return (at * cell).reshape(-1, 2)


@cache
def grown(closed: bool, seed: int = 0) -> Tree:
    grow = grow_closed if closed else grow_tree
    return grow(plant(ROOTS), grid(seed), OPEN, PACE, 1)


def places(tree: Tree) -> np.ndarray:
    return np.stack([tree.x, tree.y], axis=1)


def draw_tree(tree: Tree, joined: bool = True) -> np.ndarray:
    """Every segment and every join as a line one pixel wide, at four times the size."""
    canvas = np.zeros((SIDE * 4, SIDE * 4), np.uint8)
    at = np.rint(places(tree) * 4).astype(int)
    links = [(c, p) for c, p in enumerate(tree.parent) if p >= 0]
    for a, b in links + [tuple(pair) for pair in tree.loops] * joined:
        cv2.line(canvas, tuple(map(int, at[a])), tuple(map(int, at[b])), 1, 1)
    return canvas


def holes(mask: np.ndarray, least_px: int = 1) -> int:
    """First Betti number: pieces of background that do not reach the border."""
    free = np.pad((mask == 0).astype(np.uint8), 1, constant_values=1)
    _, _, stats, _ = cv2.connectedComponentsWithStats(free, connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] >= least_px).sum()) - 1


def independent_cycles(tree: Tree, loops: np.ndarray) -> int:
    """Independent cycles of the graph: links less nodes plus pieces."""
    label = list(range(tree.size))

    def top(n: int) -> int:
        while label[n] != n:
            n = label[n]
        return n

    cycles = 0
    links = [(c, int(p)) for c, p in enumerate(tree.parent) if p >= 0]
    for a, b in [*links, *map(tuple, loops)]:
        first, second = top(int(a)), top(int(b))
        cycles += first == second
        label[first] = second
    return cycles


@pytest.mark.parametrize("seed", range(3))
def test_loops_where_open_venation_has_none(seed):
    closed, open_ = grown(True, seed), grown(False, seed)
    assert len(open_.loops) == 0 and independent_cycles(open_, open_.loops) == 0
    assert independent_cycles(closed, closed.loops) > 10
    large = 400  # at four times the size: gaps of crossing strokes are smaller
    assert holes(draw_tree(closed), large) > 10
    assert holes(draw_tree(closed, joined=False), large) <= 2
    assert holes(draw_tree(open_), large) <= 2


def test_joined_nodes_are_near_each_other():
    """Both came within the kill distance of one attractor."""
    tree = grown(True)
    gaps = np.hypot(*(places(tree)[tree.loops[:, 0]] - places(tree)[tree.loops[:, 1]]).T)
    assert len(gaps) > 10 and gaps.max() <= 2 * PACE.kill_px and gaps.min() > 0


def test_every_join_is_at_an_attractor():
    tree, attractors = grown(True), grid()
    for pair in tree.loops:
        away = np.hypot(*(places(tree)[pair][:, None] - attractors[None]).transpose(2, 0, 1))
        assert (away <= PACE.kill_px + 1e-9).all(axis=0).any()


def test_no_vessel_joins_itself_a_few_steps_on():
    tree = grown(True)

    def line(n: int, steps: int) -> list[int]:
        found = [n]
        while len(found) < steps and tree.parent[found[-1]] >= 0:
            found.append(int(tree.parent[found[-1]]))
        return found

    for a, b in tree.loops:
        assert int(a) not in line(int(b), 6) and int(b) not in line(int(a), 6)


def test_two_fronts_join_at_the_attractor_between_them():
    roots = np.array([[60.0, 100.0], [140.0, 100.0]])
    one = np.array([[100.0, 100.0]])
    pace = replace(PACE, attraction_px=50)
    closed = grow_closed(plant(roots), one, OPEN, pace, 1)
    assert closed.loops.shape == (1, 2)
    joined = places(closed)[closed.loops[0]]
    assert sorted(joined[:, 0] < 100) == [False, True]
    assert np.abs(joined - one).max() <= pace.kill_px
    assert len(grow_tree(plant(roots), one, OPEN, pace, 1).loops) == 0


def test_blocked_pixels_are_never_entered():
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blocked = ((columns - 100) ** 2 + (rows - 100) ** 2 < 30**2).astype(np.uint8)
    blocked[150:, :60] = 2
    tree = grow_closed(plant(ROOTS), grid(), blocked, PACE, 1)
    at = np.floor(places(tree) + 0.5).astype(int)
    assert tree.size > 200 and len(tree.loops) > 5
    assert (blocked[at[:, 1], at[:, 0]] == 0).all()


def test_the_same_input_gives_the_same_tree_and_is_left_alone():
    attractors, root = grid(), plant(ROOTS)
    before = attractors.copy()
    first, second = (grow_closed(root, attractors, OPEN, PACE, seed) for seed in (1, 1))
    assert np.array_equal(places(first), places(second))
    assert np.array_equal(first.loops, second.loops) and len(first.loops)
    assert np.array_equal(attractors, before) and root.size == 3 and len(root.loops) == 0


@pytest.mark.parametrize("bound", [5, 60, 151])
def test_the_rule_of_most_nodes(bound):
    tree = grow_closed(plant(ROOTS), grid(), OPEN, replace(PACE, max_nodes=bound), 1)
    assert tree.size == bound
    assert tree.loops.max(initial=0) < bound


def test_the_rule_of_most_rounds():
    sizes = [
        grow_closed(plant(ROOTS), grid(), OPEN, replace(PACE, max_iterations=n), 1).size
        for n in (0, 1, 5, 40)
    ]
    assert sizes[0] == 3 and sizes == sorted(sizes) and sizes[-1] > sizes[1] > 3


def test_parents_stand_first_and_steps_are_exact():
    tree = grown(True)
    child = np.flatnonzero(tree.parent >= 0)
    assert (tree.parent[child] < child).all()
    gaps = places(tree)[child] - places(tree)[tree.parent[child]]
    assert np.allclose(np.hypot(*gaps.T), PACE.step_px)


def test_loops_that_were_there_are_kept():
    first = grown(True)
    second = grow_closed(first, grid(5), OPEN, PACE, 1)
    assert np.array_equal(second.loops[: len(first.loops)], first.loops)
    assert np.array_equal(places(second)[: first.size], places(first))


def test_nothing_to_grow_towards():
    tree = grow_closed(plant(ROOTS), np.zeros((0, 2)), OPEN, PACE, 1)
    assert tree.size == 3 and tree.loops.shape == (0, 2)


def octa(layers: bool) -> Growth:
    growth = growth_of(find_modality("octa"))
    return (
        growth if layers else replace(growth, stages=tuple(s for s in growth.stages if not s.layer))
    )


def test_the_capillary_layer_adds_loops():
    counts = []
    for layers in (False, True):
        made = [
            grow_mask(octa(layers), 256, 256, np.random.default_rng(seed)).pixels
            for seed in range(3)
        ]
        counts.append(np.mean([holes(pixels, 6) for pixels in made]))
    assert counts[1] > 20 + 3 * counts[0]


def test_the_capillary_layer_is_off_unless_asked_for(tmp_path):
    from univg.sca.synth import Synth, prepare_jobs

    plain, asked = (
        prepare_jobs(Synth(out=tmp_path / "new", modality=("octa",), layers=layers))[0].growth
        for layers in ((), ("capillaries",))
    )
    assert not any(stage.closed for stage in plain.stages)
    assert [stage.layer for stage in asked.stages if stage.closed] == ["capillaries"]
