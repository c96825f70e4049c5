"""Seeds depend on the run, the stage and the index alone, and never change."""

from __future__ import annotations

import itertools

import pytest

from univg.seeds import rng_for, seed_for

GOLDEN = {
    (0, "sca", 0): 5584231023577538185,
    (7, "sca/fundus", 0): 2464741368891793875,
    (7, "sca/fundus", 1): 1880679883096692841,
    (8, "sca/fundus", 0): 2403969443323577794,
    (2**63 - 1, "generate", 99_999_999): 2917116746771756554,
}


@pytest.mark.parametrize(("arguments", "seed"), GOLDEN.items())
def test_seeds_never_change(arguments, seed):
    """A changed seed makes every mask that anybody has made impossible to make again."""
    assert seed_for(*arguments) == seed


def test_the_generator_never_changes():
    drawn = rng_for(7, "sca/fundus", 3).integers(2**32, size=3).tolist()
    assert drawn == [2411271953, 345578500, 3177993959]


def test_seeds_fit_a_signed_64_bit_integer():
    assert all(0 <= seed_for(run, "x", 5) < 2**63 for run in (0, 1, 2**63 - 1))


def test_runs_stages_and_items_share_no_seed():
    keys = itertools.product(range(20), ("sca/fundus", "sca/octa", "train"), range(200))
    seeds = [seed_for(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)


def test_digits_do_not_run_into_each_other():
    assert seed_for(1, "a", 23) != seed_for(12, "a", 3)
    assert seed_for(1, "a1", 2) != seed_for(1, "a", 12)


def test_generators_of_one_key_are_alike_and_independent():
    first, second = rng_for(3, "s", 1), rng_for(3, "s", 1)
    first.random(100)
    assert rng_for(3, "s", 1).random() == second.random()
