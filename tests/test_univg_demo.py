"""The demo: one page that stands alone, the same when run again, and nothing deleted."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import tarfile

import numpy as np
import pytest
from test_univg_report import assert_stands_alone

from univg import demo_engines
from univg.cli import main
from univg.demo import Demo, _make_engines, distance_matrix, run
from univg.demo_engine_page import (
    PARTS,
    add_engine_commands,
    add_engine_times,
    add_engines,
    describe_copies,
    judge,
)
from univg.demo_page import TRAITS, _tell_apart
from univg.demo_pairs import PAIRS
from univg.distance import Comparison, Estimate
from univg.errors import UserError
from univg.manifest import read_rows
from univg.memorisation import measure_copying
from univg.modalities import find_modality, modality_names
from univg.pairs import find_masks, find_pairs
from univg.report import Page
from univg.sd_source import EMBEDDED

COUNT = 10
DRAWN = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo with engines, on a base of random weights."""
    from univg.testing import tiny_base

    folder = tmp_path_factory.mktemp("demo")
    tiny_base(folder / "tiny")
    settings = Demo(
        out=folder / "out", count=COUNT, seed=3, workers=1, base=str(folder / "tiny"),
        mask_steps=3, image_steps=3, drawn=DRAWN,
    )  # fmt: skip
    page = run(settings)
    return settings, page, page.read_text(encoding="utf-8")


@pytest.fixture
def copied(made, tmp_path):
    """The same demo in a folder of its own, to be damaged."""
    settings = made[0]
    shutil.copytree(settings.out, tmp_path / "out")
    return dataclasses.replace(settings, out=tmp_path / "out")


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
    assert ">Times<" in last and "Masks/s" in last and "ms a step" in last
    before = text[: text.rindex("<section")]
    assert "Masks/s" not in before and "ms a step" not in before


def test_pairs_are_exported_in_two_layouts(made):
    import datasets

    settings, _, text = made
    (place,) = (settings.out / "engines").iterdir()
    assert len(read_rows(place / "pairs")) == PAIRS
    assert all("agreement" in row["scores"] for row in read_rows(place / "pairs"))
    found = datasets.load_dataset(
        str(place / "export-hf"), split="train", cache_dir=str(settings.out / "cache")
    )
    assert len(found) == PAIRS
    with tarfile.open(place / "export-webdataset" / "pairs-000000.tar") as tar:
        assert len(tar.getnames()) == 3 * PAIRS
    assert f"{PAIRS} pairs, checked and exported" in text


def test_engines_are_adapted_and_shown(made):
    settings, _, text = made
    (place,) = (settings.out / "engines").iterdir()
    assert (place / "mask-engine" / "adapter.safetensors").is_file()
    assert (place / "image-engine" / "controlnet" / "config.json").is_file()
    stems = {}
    for name, count in (("shots", 5), ("targets", DRAWN), ("reference", demo_engines.REFERENCE)):
        found, problems = find_pairs(place / name)
        assert len(found.pairs) == count and not problems
        stems[name] = {pair.stem for pair in found.pairs}
    assert len(set.union(*stems.values())) == sum(map(len, stems.values())), "none in two sets"
    for name in ("masks-before", "masks-after", "images-before", "images-after"):
        assert len(list((place / "drawn" / name).glob("*.png"))) == DRAWN
    assert "Five shots of an unseen look" in text and "FD-looks" in text
    assert text.count('class="cases"') == 4
    assert all(words in text for words in PARTS.values())


def test_adaptation_changes_what_is_drawn_from_the_same_noise(made):
    settings, _, _ = made
    (place,) = (settings.out / "engines").iterdir()
    for kind in ("masks", "images"):
        before, after = (
            files_of(place / "drawn" / f"{kind}-{when}") for when in ("before", "after")
        )
        assert before.keys() == after.keys() and before != after


def test_a_lost_part_alone_is_made_again_the_same(copied):
    (place,) = (copied.out / "engines").iterdir()
    before = files_of(place)
    (place / "image-engine" / "result.json").unlink()
    (place / "drawn" / "masks-after" / "000002.png").unlink()
    kept = place / "mask-engine" / "adapter.safetensors"
    changed = kept.stat().st_mtime_ns
    assert not isinstance(_make_engines(copied), str)
    after = files_of(place)
    weights = next(p for p in before if p.name == "diffusion_pytorch_model.safetensors")
    assert after[weights] == before[weights]
    drawn = [path for path in before if path.parts[0] == "drawn"]
    assert len(drawn) == 4 * DRAWN and all(after[path] == before[path] for path in drawn)
    assert kept.stat().st_mtime_ns == changed


def test_another_seed_or_base_gets_a_folder_of_its_own(made):
    settings, _, _ = made
    wanted = demo_engines.Wanted(
        base=settings.base, seed=3, mask_steps=3, image_steps=3, drawn=DRAWN, workers=1
    )
    (place,) = (settings.out / "engines").iterdir()
    assert demo_engines.describe(wanted) == json.loads((place / "run.json").read_bytes())
    for change in ({"seed": 4}, {"drawn": 7}, {"mask_steps": 5}):
        other = dataclasses.replace(wanted, **change)
        assert demo_engines.describe(other) != demo_engines.describe(wanted)
    assert demo_engines.describe(dataclasses.replace(wanted, workers=2)) == (
        demo_engines.describe(wanted)
    )


def test_the_commands_on_the_page_are_what_was_done(copied, monkeypatch, capsys):
    (place,) = (copied.out / "engines").iterdir()
    wanted = demo_engines.Wanted(
        base=copied.base, seed=3, mask_steps=3, image_steps=3, drawn=DRAWN, workers=1
    )
    first, *commands = demo_engines.list_commands(place, wanted, 64)
    assert shlex.split(first) == ["cd", str(place)]
    monkeypatch.chdir(place)
    before = files_of(place)
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
    said = capsys.readouterr().out
    assert said.count("0 masks written") == 2 and said.count("0 pairs written") == 7
    after = files_of(place)
    weights = [path for path in before if path.suffix == ".safetensors"]
    assert weights and all(after[path] == before[path] for path in weights)


def test_times_of_a_broken_try_count_until_a_part_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt), demo_engines.timed(tmp_path, "part"):
        raise KeyboardInterrupt
    first = demo_engines.read_times(tmp_path)["part"]
    assert not first["done"] and first["seconds"] > 0
    with demo_engines.timed(tmp_path, "part"):
        pass
    second = demo_engines.read_times(tmp_path)["part"]
    assert second["done"] and second["seconds"] > first["seconds"]
    with demo_engines.timed(tmp_path, "part"):
        pass
    assert demo_engines.read_times(tmp_path)["part"] == second


def test_without_the_packages_the_page_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_engines, "PACKAGES", ("torch", "no_such_package"))
    left_out = _make_engines(Demo(out=tmp_path / "out"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "no_such_package" in said[0] and "univg[diffusion]" in said[0]
    assert not (tmp_path / "out").exists()
    page = Page("t")
    add_engines(page, left_out)
    section = page.section("Made again")
    add_engine_commands(section, left_out)
    add_engine_times(section, left_out)
    outline = assert_stands_alone(page.html())
    assert "no_such_package" in page.html() and not outline.all("pre") + outline.all("table")


def test_without_the_embedded_base_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(EMBEDDED, "nano", tmp_path / "none")
    left_out = _make_engines(Demo(out=tmp_path / "out"))
    assert isinstance(left_out, str)
    assert "The engines are left out" in left_out and "no embedded base" in left_out


def test_masks_alone_need_no_base_and_a_wrong_base_is_told_first(tmp_path):
    settings = Demo(out=tmp_path / "out", base="no/such folder", masks_only=True)
    assert "--masks-only" in str(_make_engines(settings))
    with pytest.raises(UserError, match="no such folder or file"):
        run(dataclasses.replace(settings, masks_only=False))
    assert not settings.out.exists()


def test_the_unseen_kind_is_no_modality_that_ships():
    card = find_modality(str(demo_engines.CARD))
    assert card.name not in modality_names()
    prompts = {find_modality(name).mask_prompt for name in modality_names()}
    assert card.mask_prompt not in prompts


def test_the_verdict_is_that_of_the_figures():
    def found(mean, low, high):
        of = Estimate(mean=mean, low=low, high=high)
        floor = Estimate(mean=1, low=1, high=1)
        return Comparison(
            n=5, draws=9, frechet=of, energy=of, frechet_floor=floor, energy_floor=floor,
            ratio=1, above_floor=1,
        )  # fmt: skip

    assert judge(found(9, 8, 10), found(3, 2, 4)).startswith("Nearer after adaptation, beyond")
    assert "within the spread" in judge(found(9, 8, 10), found(8.5, 7, 10))
    assert judge(found(9, 8, 10), found(11, 10, 12)).startswith("Not nearer")
    assert judge(found(9, 8, 10), found(8.999, 8, 10)).startswith("No nearer and no farther")


def test_copies_are_counted_in_words():
    rng = np.random.default_rng(0)
    shots = [rng.random((64, 64)) < 0.1 for _ in range(5)]
    said = describe_copies(measure_copying([shots[0], shots[1]], shots, kind="mask"))
    assert said.startswith("Copies of shots: 2 of 2") and "2 of them so near" in said


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "d"), "--dry-run"]) == 0
    assert "index.html" in (said := capsys.readouterr().out) and "engines" in said
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "words", [["--count", "3"], ["--seed", "-1"], ["--workers", "0"], ["--drawn", "2"]]
)
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
