"""Distances of sets: the core's own, and the mask stage's names for the same."""

from __future__ import annotations

import numpy as np
import pytest

import univg.distance as core
from univg.errors import DataError
from univg.sca import distance as of_masks


def normal(count: int, width: int = 5, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)) + shift


def test_the_mask_stage_uses_the_same_arithmetic():
    for name in of_masks.__all__:
        if name != "LEAST_MASKS":
            assert getattr(of_masks, name) is getattr(core, name)
    assert of_masks.LEAST_MASKS == core.LEAST_ITEMS


def test_the_draws_are_those_of_published_figures():
    """The stream of random draws must not move, or every figure stated so far would."""
    found = core.compare(normal(12), normal(14, shift=0.5, seed=1), draws=20)
    assert found.frechet.mean == pytest.approx(0.485530082123378, rel=1e-9)
    assert found.energy.mean == pytest.approx(0.047474581096828936, rel=1e-9)


def test_messages_name_what_is_compared():
    with pytest.raises(DataError, match="2 images is too small to compare; give at least 3"):
        core.compare(normal(2), normal(9), what="images")
    with pytest.raises(DataError, match="2 masks is too small"):
        core.compare(normal(2), normal(9))


def test_order_of_the_items_does_not_matter_to_the_distances():
    first, second = normal(9), normal(7, shift=1, seed=1)
    mixed = np.random.default_rng(0).permutation(first)
    assert core.frechet_distance(first, second) == pytest.approx(
        core.frechet_distance(mixed, second)
    )
    assert core.energy_distance(first, second) == pytest.approx(core.energy_distance(mixed, second))
