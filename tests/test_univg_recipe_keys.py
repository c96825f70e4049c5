"""What decides a step of `univg run`, and what does not: keys alone, nothing is done."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from test_univg_recipe import data as data  # a fixture
from test_univg_recipe import settings_of
from test_univg_recipe_inputs import place as place  # a fixture

from univg.errors import ConfigError
from univg.images import encode_image, read_image
from univg.masks import encode_mask, read_mask
from univg.modalities import CARD_FOLDER, find_modality
from univg.pairs import open_pairs
from univg.recipe import MARK, Recipe, check_inputs
from univg.recipe_chain import make_steps
from univg.recipe_page_sources import describe_images
from univg.recipe_segmenters import choose_grounds
from univg.recipe_steps import Chain, Result


@pytest.fixture
def others(place) -> Path:
    """Unlabelled images beside the shots and the test set."""
    others: Path = place / "others"
    others.mkdir()
    for number, path in enumerate(sorted((place / "test" / "images").iterdir())):
        shift = np.roll(read_image(path), number + 5, axis=0)
        (others / f"u{number}.png").write_bytes(encode_image(shift))
    return others


def keys_of(asked: Recipe) -> dict[str, str]:
    """Return the key of each step, as a run would find it."""
    chain = Chain(asked.out)
    for step in make_steps(asked):
        key = chain.key_of(step)
        chain.results[step.name] = Result(
            name=step.name, folder=asked.out, key=key, seconds=0.0, skipped=True, facts={}
        )
    return {name: result.key for name, result in chain.results.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


AFTER_PAIRS = {"pairs", "gate", "both", "found-both", "test"}


def test_another_name_of_a_shot_redoes_what_is_drawn_by_names(place):
    asked = settings_of(place, place / "out", fit_card=True)
    before = keys_of(asked)
    last = sorted((place / "shots" / "images").iterdir())[-1].name
    for folder in ("images", "masks"):
        (place / "shots" / folder / last).rename(place / "shots" / folder / "zz.png")
    assert changed(before, keys_of(asked)) == {"grown", *AFTER_PAIRS}


def test_a_test_mask_decides_the_evaluation_alone(place):
    asked = settings_of(place, place / "out")
    before = keys_of(asked)
    path = sorted((place / "test" / "masks").iterdir())[0]
    mask = read_mask(path)
    mask[0, 0] = ~mask[0, 0]
    path.write_bytes(encode_mask(mask))
    assert changed(before, keys_of(asked)) == {"test"}


def test_what_is_no_picture_decides_nothing(place, others):
    asked = settings_of(place, place / "out", preset="gpu", unlabelled=others)
    before = keys_of(asked)
    for name in ("Thumbs.db", "desktop.ini", "README.txt"):
        (others / name).write_bytes(b"nothing of use")
    assert keys_of(asked) == before
    shutil.copy(others / "u0.png", others / "u9.png")
    assert {"look", "image-engine"} <= changed(before, keys_of(asked))


def test_a_network_of_ones_own_is_known_by_its_file(place, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "my_network_of_today.py"
    source.write_text("def build(channels_in):\n    return None\n")
    asked = settings_of(place, place / "out", network=["my_network_of_today:build"])
    before = keys_of(asked)
    source.write_text("def build(channels_in):\n    return channels_in\n")
    found = changed(before, keys_of(asked))
    assert found == {"alone", "both", "found-alone", "found-both", "test"}


def test_grounds_are_images_and_no_fields_of_view(place, others):
    layout = place / "layout"
    shutil.copytree(others, layout / "images")
    (layout / "fov").mkdir()
    for path in (layout / "images").iterdir():
        view = np.ones(read_image(path).shape[:2], np.bool_)
        view[:5] = False
        (layout / "fov" / path.name).write_bytes(encode_mask(view))
    names = sorted(path.name for path in (layout / "images").iterdir())
    assert [path.name for path in choose_grounds(layout).values()] == names
    check_inputs(settings_of(place, place / "out", unlabelled=layout))


def test_a_card_is_found_at_home_and_a_stray_file_is_none(place, tmp_path, monkeypatch):
    shutil.copy(CARD_FOLDER / "octa.yaml", tmp_path / "leaf.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_modality("~/leaf.yaml") == find_modality("octa")
    there = keys_of(settings_of(place, place / "out", modality="~/leaf.yaml"))
    monkeypatch.chdir(tmp_path)
    assert keys_of(settings_of(place, place / "out", modality="leaf.yaml")) == there
    before = keys_of(settings_of(place, place / "out"))
    (tmp_path / "octa").write_text("hello")
    assert keys_of(settings_of(place, place / "out")) == before


def test_letters_with_accents_match_however_they_are_stored(place):
    images, masks = place / "shots" / "images", place / "shots" / "masks"
    first = sorted(images.iterdir())[0].name
    one, two = (unicodedata.normalize(form, "z\u00e9.png") for form in ("NFC", "NFD"))
    assert one != two
    (images / first).rename(images / one)
    (masks / first).rename(masks / two)
    pairs = open_pairs(place / "shots").pairs
    assert len(pairs) == 5 and {pair.mask.name for pair in pairs if pair.image.name == one} == {two}


@pytest.mark.parametrize(
    "name", ["config.yaml", "table.csv", "table.md", "report.html", "segmenter.safetensors"]
)
def test_a_folder_with_files_of_others_is_refused(place, name):
    out = place / "study"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"which holds {name}"):
        check_inputs(settings_of(place, out))
    assert (out / name).read_text() == "mine"
    (out / name).rename(out / "notes.txt")
    check_inputs(settings_of(place, out))  # what is not written there stands in nobody's way
    (out / "config.yaml").write_text(f"# univg 0: {MARK} THIS\n")
    (out / "table.md").write_text("of an earlier run")
    check_inputs(settings_of(place, out))


def test_the_words_name_all_that_images_come_from(place):
    asked = settings_of(place, place / "out", image_engine="diffusion")
    one = Result(name="", folder=place, key="", seconds=0, skipped=False, facts={"images": 7})
    assert "unlabelled" not in describe_images(asked, {})
    assert "trained on the unlabelled images" in describe_images(asked, {"look": one})
    asked = settings_of(place, place / "out", image_engine="composite")
    assert "7 unlabelled images" in describe_images(asked, {"grounds": one})
