"""The cards that ship are whole and right; a user's own is one file; mistakes are told."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from univg.config import to_plain
from univg.errors import ConfigError
from univg.modalities import CARD_FOLDER, find_modality, modality_names
from univg.sca.params import growth_of

FIVE = ["brain", "coronary", "fundus", "oct", "octa"]


def test_the_five_ship():
    assert modality_names() == FIVE


@pytest.mark.parametrize("name", modality_names())
def test_a_card_that_ships(name):
    card = find_modality(name)
    assert card.name == name
    assert card.title and card.description and card.mask_prompt and card.image_prompt
    growth = growth_of(card)
    assert growth.guides or growth.roots, "nothing to grow from"
    assert growth.widths.exponent and growth.real.strength is not None


@pytest.mark.parametrize("name", modality_names())
def test_a_card_is_the_same_by_name_and_by_path(name):
    assert find_modality(str(CARD_FOLDER / f"{name}.yaml")) == find_modality(name)


def test_a_copied_card_is_a_modality_of_its_own(tmp_path):
    card = to_plain(find_modality("fundus")) | {"name": "cornea", "title": "Corneal nerves"}
    path = tmp_path / "mine.YML"
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    mine = find_modality(str(path))
    assert (mine.name, mine.title) == ("cornea", "Corneal nerves")
    assert growth_of(mine) == growth_of(find_modality("fundus"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fundis", "did you mean fundus?"),
        ("", "known:"),
        ("xyz", "known:"),
        ("../fundus", "known:"),
    ],
)
def test_an_unknown_name(name, hint):
    with pytest.raises(ConfigError) as caught:
        find_modality(name)
    assert hint in str(caught.value) and "fundus" in str(caught.value)


def test_all_that_a_card_lacks_is_told_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ntitel: y\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        find_modality(str(path))
    text = str(caught.value)
    for part in (
        str(path),
        "title is missing",
        "mask_prompt is missing",
        "sca is missing",
        "titel",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"pionts": {}}, ["pionts is not a setting", "did you mean points?"]),
        ({"roots": ["nowhere"]}, ["roots names `nowhere`", "no point"]),
        ({"obstacles": [{"at": "a", "radius_px": 3}]}, ["obstacles.0.at names `a`"]),
        ({"guides": [{"kind": "fan", "origin": "a"}]}, ["guides.0.origin names `a`"]),
        ({"guides": [{"kind": "spline", "through": [[0, 0]]}]}, ["guides.0.through", "2 points"]),
        ({"guides": [{"kind": "spiral"}]}, ["guides.0.kind is 'spiral'"]),
        ({"points": {"a": {"at": [0, 0], "of": "b"}}}, ["points.a.of names `b`"]),
        ({"stages": [{"kill_px": [9, 3]}]}, ["stages.0.kill_px is [9.0, 3.0]", "low end"]),
        ({"stages": [{"kill_px": -1}]}, ["stages.0.kill_px"]),
        ({"stages": [{"keep": 2}]}, ["stages.0.keep"]),
        ({"widths": {"exponent": 0}}, ["widths.exponent"]),
        ({"widths": {"exponent": "two"}}, ["widths.exponent"]),
        ({"mirror": 1.5}, ["mirror is 1.5"]),
        ({"max_nodes": 1}, ["max_nodes is 1"]),
        ({"view": {"shape": "hexagon"}}, ["view.shape is 'hexagon'"]),
        ({"roots": ["a"], "stages": [{"within": "b"}]}, ["roots names `a`", "stages.0.within"]),
    ],
)
def test_mistakes_in_the_growth_section(section, said):
    card = dataclasses.replace(find_modality("fundus"), sca=section)
    with pytest.raises(ConfigError) as caught:
        growth_of(card)
    for part in ("modality fundus, sca", *said):
        assert part in str(caught.value)
