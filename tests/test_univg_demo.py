"""The demo: one page that stands alone, the same when run again, and nothing deleted."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from test_univg_report import assert_stands_alone

from univg.cli import main
from univg.demo import Demo, distance_matrix, run
from univg.demo_page import TRAITS, _tell_apart
from univg.modalities import modality_names
from univg.pairs import find_masks

COUNT = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    settings = Demo(out=out, count=COUNT, seed=3, workers=1)
    page = run(settings)
    return settings, page, page.read_text(encoding="utf-8")


def test_the_page_stands_alone(made):
    _, path, text = made
    outline = assert_stands_alone(text)
    assert path.name == "index.html"
    words = "".join(outline.words)
    assert all(trait.words in words for trait in TRAITS)
    assert len(outline.all("img")) >= 6 * len(modality_names()) + 5 + 6


def test_run_again_it_is_the_same_page_and_no_mask_is_made_anew(made, capsys):
    settings, path, text = made
    masks = {p: p.stat().st_mtime_ns for p in settings.out.rglob("*.png")}
    assert run(settings) == path
    assert f"0 masks written in 0.0 s, {COUNT * len(modality_names())} were" in re.sub(
        r"in \d+\.\d s", "in 0.0 s", capsys.readouterr().out
    )
    assert path.read_text(encoding="utf-8") == text
    assert {p: p.stat().st_mtime_ns for p in settings.out.rglob("*.png")} == masks


def test_the_masks_lie_where_the_page_came_from(made):
    settings, _, _ = made
    (place,) = (settings.out / "runs").iterdir()
    for name in modality_names():
        assert len(find_masks(place / "masks" / name)) == COUNT
    shots = find_masks(place / "shots")
    sources = find_masks(place / "masks" / "fundus")[:5]
    assert [p.read_bytes() for p in shots] == [p.read_bytes() for p in sources]
    conditioned = find_masks(place / "conditioned")
    assert len(conditioned) == COUNT
    assert not {p.read_bytes() for p in conditioned} & {p.read_bytes() for p in shots}


def test_times_stand_in_one_place(made):
    settings, _, text = made
    (place,) = (settings.out / "runs").iterdir()
    times = json.loads((place / "masks-times.json").read_bytes())
    assert times["masks"] == COUNT * len(modality_names()) and times["wall_s"] > 0
    last = text[text.rindex("<section") :]
    assert ">Times<" in last and "Masks/s" in last
    assert "Masks/s" not in text[: text.rindex("<section")]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "d"), "--dry-run"]) == 0
    assert "index.html" in capsys.readouterr().out
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("words", [["--count", "3"], ["--seed", "-1"], ["--workers", "0"]])
def test_settings_out_of_range_are_refused(tmp_path, capsys, words):
    assert main(["demo", "--out", str(tmp_path / "d"), *words]) == 2
    assert words[0][2:] in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "d").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "d")]) == 2
    assert "choose another" in capsys.readouterr().err
    assert (tmp_path / "d").read_text() == "mine"


def test_distances_between_kinds_stand_out_from_those_within():
    from univg.sca.descriptors import DESCRIPTORS

    class One:
        def __init__(self, rng, shift):
            self.descriptors = rng.normal(shift, 1, len(DESCRIPTORS))

    rng = np.random.default_rng(0)
    sets = [[One(rng, shift) for _ in range(40)] for shift in (0, 0.5, 5)]
    matrix = distance_matrix(sets)
    assert matrix.shape == (3, 3)
    assert np.diag(matrix).max() < matrix[~np.eye(3, dtype=bool)].min()
    said = _tell_apart(matrix, ["a", "b", "c"])
    assert "b and a" in said and "c" not in said.split(",")[0].removeprefix("Hardest")[10:]
    assert _tell_apart(matrix[:1, :1], ["a"]) == ""
