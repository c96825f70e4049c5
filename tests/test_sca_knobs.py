"""The knobs of the search: where they stand, what a turn does, and what it leaves alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from univg.config import from_plain, to_plain
from univg.modalities import find_modality, modality_names
from univg.sca.knobs import FREE_KNOBS, REAL_KNOBS, Knob, start_of, turn
from univg.sca.params import Growth, growth_of

SETS = {"real": REAL_KNOBS, "free": FREE_KNOBS}
ALL = [*REAL_KNOBS, *FREE_KNOBS]


def section(name: str) -> dict:
    return to_plain(growth_of(find_modality(name)))


@pytest.mark.parametrize("knob", [pytest.param(k, id=f"{n}-{k.path}") for n, k in enumerate(ALL)])
def test_value_and_position_invert_each_other(knob):
    for position in (0.0, 0.21, 0.5, 1.0):
        assert knob.position(knob.value(position)) == pytest.approx(position)
    assert knob.value(0.0) == pytest.approx(knob.low)
    assert knob.value(1.0) == pytest.approx(knob.high)


def test_a_position_stays_in_the_unit_interval():
    for knob in ALL:
        assert knob.position(knob.low * 0.5 if knob.low else -1.0) == 0.0
        assert knob.position(knob.high * 3) == 1.0


@pytest.mark.parametrize("knobs", SETS.values(), ids=SETS)
@pytest.mark.parametrize("name", modality_names())
def test_a_turned_card_is_a_card(name, knobs):
    """Every path is one of a card's: a setting that is unknown would be refused."""
    rng = np.random.default_rng(5)
    for at in (np.zeros(len(knobs)), np.ones(len(knobs)), rng.random(len(knobs))):
        turned = turn(section(name), knobs, at)
        assert turned != section(name)
        from_plain(Growth, turned, name)


@pytest.mark.parametrize("knob", [pytest.param(k, id=f"{n}-{k.path}") for n, k in enumerate(ALL)])
def test_every_knob_turns_something(knob):
    low, high = (turn(section("octa"), [knob], np.array([at])) for at in (0.0, 1.0))
    assert from_plain(Growth, low) != from_plain(Growth, high)


@pytest.mark.parametrize("knobs", SETS.values(), ids=SETS)
@pytest.mark.parametrize("drop_course", [False, True])
def test_the_section_is_left_alone(knobs, drop_course):
    given = section("octa")
    if drop_course:
        given["real"]["course"] = None
    before = copy.deepcopy(given)
    turn(given, knobs, np.full(len(knobs), 0.9))
    assert given == before
    start_of(given, knobs)
    assert given == before


def test_a_factor_stretches_every_range_and_keeps_its_spread():
    knob = Knob(path="stages.*.cell_px", low=0.5, high=2.0, factor=True)
    given = {"stages": [{"cell_px": [40, 60]}, {"cell_px": 20.0}]}
    for position, factor in ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0)):
        turned = turn(given, [knob], np.array([position]))
        assert turned["stages"][0]["cell_px"] == pytest.approx([40 * factor, 60 * factor])
        assert turned["stages"][1]["cell_px"] == pytest.approx(20 * factor)


def test_a_share_is_never_above_one():
    knob = Knob(path="stages.*.keep", low=0.3, high=2.5, factor=True, share=True)
    given = {"stages": [{"keep": [0.3, 0.8]}, {"keep": 0.9}]}
    turned = turn(given, [knob], np.array([1.0]))
    assert turned["stages"][0]["keep"] == pytest.approx([0.75, 1.0])
    assert turned["stages"][1]["keep"] == 1.0


def test_a_spread_makes_a_range_about_the_value():
    knob = Knob(path="widths.exponent", low=2.0, high=4.0, spread=0.1)
    turned = turn({"widths": {"exponent": 2.5}}, [knob], np.array([0.5]))
    assert turned["widths"]["exponent"] == pytest.approx([2.7, 3.3])


def test_a_whole_knob_gives_whole_numbers():
    knob = Knob(path="course.smooth_rounds", low=0, high=10, whole=True)
    for position in np.linspace(0, 1, 7):
        rounds = turn({"course": {}}, [knob], np.array([position]))["course"]["smooth_rounds"]
        assert type(rounds) is int and rounds == pytest.approx(10 * position, abs=0.51)


def test_the_search_starts_where_the_card_stands():
    """A turn to the start changes no value by more than rounding and no range's middle."""
    knobs = [k for k in REAL_KNOBS if not k.factor]
    given = turn(section("fundus"), knobs, np.full(len(knobs), 0.3))
    assert start_of(given, knobs) == pytest.approx(np.full(len(knobs), 0.3), abs=2e-3)
    factors = [k for k in FREE_KNOBS if k.factor]
    turned = turn(given, factors, start_of(given, factors))
    for old, new in zip(given["stages"], turned["stages"], strict=True):
        assert np.allclose(old["cell_px"], new["cell_px"], rtol=1e-3)
        assert np.allclose(old["keep"], new["keep"], rtol=1e-3, atol=1e-4)


def test_what_the_card_does_not_say_starts_in_the_middle():
    knob = Knob(path="real.course.join_px", low=0.0, high=12.0)
    assert start_of({}, [knob]) == pytest.approx([0.5])
    assert start_of({"real": {"course": {"join_px": 3.0}}}, [knob]) == pytest.approx([0.25])
