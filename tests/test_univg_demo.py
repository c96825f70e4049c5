"""The demo: one page that stands alone, the same when run again, and nothing deleted."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_univg_report import assert_stands_alone

from univg import demo_engines
from univg.cli import main
from univg.demo import PACES, Demo, _make_engines, distance_matrix, plan, resolve, run
from univg.demo_engine_page import (
    PARTS,
    add_answer_section,
    add_engine_commands,
    add_engine_times,
    add_engines,
    describe_copies,
    judge,
)
from univg.demo_page import TRAITS, _tell_apart
from univg.distance import Comparison, Estimate
from univg.errors import UserError
from univg.files import sha256_hex
from univg.manifest import read_rows
from univg.memorisation import measure_copying
from univg.modalities import find_modality, modality_names
from univg.pairs import find_masks, find_pairs
from univg.recipe_steps import hash_content
from univg.report import Page
from univg.sd_source import EMBEDDED

COUNT = 10
DRAWN = 6
PAIRS = 8
DARKER = 0.9


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo with engines, on a base of random weights."""
    from univg.sd import save_base
    from univg.testing import tiny_base

    folder = tmp_path_factory.mktemp("demo")
    base = tiny_base()
    base.vae.decoder.conv_out.bias.data -= DARKER  # else all that it draws is vessel
    save_base(base, folder / "tiny", half=False)
    settings = Demo(
        out=folder / "out", count=COUNT, seed=3, workers=1, base=str(folder / "tiny"),
        mask_steps=3, image_steps=3, refine_steps=3, segment_steps=3, pairs=PAIRS, drawn=DRAWN,
    )  # fmt: skip
    page = run(settings)
    return settings, page, page.read_text(encoding="utf-8")


@pytest.fixture
def copied(made, tmp_path):
    """The same demo in a folder of its own, to be damaged."""
    settings = made[0]
    shutil.copytree(settings.out, tmp_path / "out", symlinks=True)
    return dataclasses.replace(settings, out=tmp_path / "out")


def place_of(settings) -> Path:
    """Return the one folder of the engines."""
    (place,) = (settings.out / "engines").iterdir()
    return place


def step_of(settings, name: str) -> Path:
    """Return the folder of a step of the recipe."""
    (folder,) = (place_of(settings) / "recipe" / "steps").glob(f"{name}-????????????")
    return folder


def wanted_of(settings, **changes) -> demo_engines.Wanted:
    names = [each.name for each in dataclasses.fields(demo_engines.Wanted) if each.name != "lean"]
    return demo_engines.Wanted(**{**{name: getattr(settings, name) for name in names}, **changes})


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
    assert ">Times<" in last and "Masks/s" in last and "Recipe, alone" in last
    before = text[: text.rindex("<section")]
    assert "Masks/s" not in before and "Recipe, alone" not in before
    assert all(words in last for words in PARTS.values())


def test_the_answer_comes_first_and_is_that_of_the_evaluation(made):
    settings, _, text = made
    evaluation = step_of(settings, "test") / "evaluation" / "evaluation.json"
    found = json.loads(evaluation.read_bytes())
    assert len(found["per_image"]) == demo_engines.TEST
    first = text[text.index("<section") :].split("</section>")[0]
    assert "Five shots alone, and with synthetic pairs" in first
    for method in ("shots alone", "shots and pairs"):
        for metric in ("dsc", "cldice"):
            assert f"<dd>{100 * found['summaries'][method][metric]['mean']:.2f}</dd>" in first
    gain = 100 * found["tests"]["dsc"]["difference"]
    assert f"<dd>{gain:+.2f}</dd>" in first
    assert first.count("<svg") == 2 and first.count('class="cases"') == 1


def test_the_segmenters_never_saw_the_test_set(made):
    settings, _, _ = made
    place = place_of(settings)
    masks = {p.read_bytes() for name in ("shots", "targets", "reference")
             for p in find_masks(place / name)}  # fmt: skip
    images = {p.read_bytes() for p in (place / "shots" / "images").iterdir()}
    test, problems = find_pairs(place / "test")
    assert len(test.pairs) == demo_engines.TEST and not problems
    assert not {pair.mask.read_bytes() for pair in test.pairs} & masks
    assert not {pair.image.read_bytes() for pair in test.pairs} & images
    for name, synthetic in (("alone", 0), ("both", PAIRS)):
        identity = json.loads((step_of(settings, name) / "run" / "run.json").read_bytes())
        assert identity["settings"]["max_steps"] == 3
        assert (identity["data"]["synthetic"] != sha256_hex(b"")) == bool(synthetic)


def test_it_is_the_recipe(made):
    settings, _, text = made
    place = place_of(settings)
    page = (place / "recipe" / "report.html").read_text(encoding="utf-8")
    outline = assert_stands_alone(page)
    words = "".join(outline.words)
    for heading in (
        "Did the pairs help?", "Shots and pairs", "The gate", "Learning curves", "Data card",
        "Licences of the sources", "Intended use", "Limits", "Provenance",
    ):  # fmt: skip
        assert heading in words
    assert hash_content(place / "shots")[:16] in words
    assert "torch" in words and "mask_steps" in words
    line = next(each for each in re.findall("univg run --shots shots[^<]*", text))
    assert "--mask-engine diffusion" in line and "--segment-steps 3" in line


def test_pairs_are_exported_in_two_layouts(made):
    import datasets

    settings, _, text = made
    place = place_of(settings)
    assert len(read_rows(step_of(settings, "pairs") / "pairs")) == PAIRS
    assert len(read_rows(place / "composites")) == PAIRS
    found = datasets.load_dataset(
        str(place / "export-hf"), split="train", cache_dir=str(settings.out / "cache")
    )
    assert len(found) == PAIRS
    with tarfile.open(place / "export-webdataset" / "pairs-000000.tar") as tar:
        assert len(tar.getnames()) == 3 * PAIRS
    assert f"{PAIRS} pairs, checked and exported" in text


def test_engines_are_adapted_and_shown(made):
    settings, _, text = made
    place = place_of(settings)
    assert (step_of(settings, "mask-engine") / "run" / "adapter.safetensors").is_file()
    assert (step_of(settings, "image-engine") / "run" / "controlnet" / "config.json").is_file()
    stems = {}
    for name, count in (("shots", 5), ("targets", DRAWN), ("reference", demo_engines.REFERENCE)):
        found, problems = find_pairs(place / name)
        assert len(found.pairs) == count and not problems
        stems[name] = {pair.stem for pair in found.pairs}
    assert len(set.union(*stems.values())) == sum(map(len, stems.values())), "none in two sets"
    for name in ("masks-before", "images-before"):
        assert len(list((place / "drawn" / name).glob("*.png"))) == DRAWN
    assert "Five shots of an unseen look" in text and "FD-looks" in text
    assert text.count('class="cases"') == 5


def test_adaptation_changes_what_is_drawn(made):
    settings, _, _ = made
    drawn = place_of(settings) / "drawn"
    masks = step_of(settings, "masks") / "masks"
    images = step_of(settings, "pairs") / "pairs" / "images"
    for before, after in (
        (drawn / "masks-before", find_masks(masks)), (drawn / "images-before", images.iterdir()),
    ):  # fmt: skip
        first = [p.read_bytes() for p in sorted(before.iterdir())]
        second = [p.read_bytes() for p in sorted(after)[:DRAWN]]
        assert len(first) == len(second) == DRAWN and first != second


def test_a_lost_part_alone_is_made_again_the_same(copied):
    place = place_of(copied)
    before = files_of(place)
    (step_of(copied, "both") / "done.json").unlink()
    (place / "drawn" / "masks-before" / "000002.png").unlink()
    kept = step_of(copied, "mask-engine") / "run" / "adapter.safetensors"
    changed = kept.stat().st_mtime_ns
    assert not isinstance(_make_engines(copied), str)
    after = files_of(place)
    weights = [path for path in before if path.suffix == ".safetensors"]
    assert weights and all(after[path] == before[path] for path in weights)
    drawn = [path for path in before if path.parts[0] == "drawn"]
    assert len(drawn) == 2 * DRAWN and all(after[path] == before[path] for path in drawn)
    assert kept.stat().st_mtime_ns == changed


def test_another_seed_or_base_gets_a_folder_of_its_own(made):
    settings, _, _ = made
    wanted = wanted_of(settings)
    found = demo_engines.describe(wanted)
    assert found == json.loads((place_of(settings) / "run.json").read_bytes())
    for change in ({"seed": 4}, {"drawn": 7}, {"mask_steps": 5}, {"pairs": 9}):
        assert demo_engines.describe(dataclasses.replace(wanted, **change)) != found
    for change in ({"workers": 2}, {"segment_steps": 9}):  # the recipe redoes what depends on it
        assert demo_engines.describe(dataclasses.replace(wanted, **change)) == found


def test_the_commands_on_the_page_are_what_was_done(copied, monkeypatch, capsys):
    place = place_of(copied)
    wanted = wanted_of(copied)
    results = demo_engines.do_recipe(demo_engines.make_recipe(place, wanted))
    first, *commands = demo_engines.list_commands(place, wanted, results, 64)
    assert shlex.split(first) == ["cd", str(place)]
    monkeypatch.chdir(place)
    before = files_of(place)
    capsys.readouterr()
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
    said = capsys.readouterr().out
    assert said.count("0 masks written") == 2 and said.count("0 pairs written") == 7
    assert said.count("done before") == len(results)
    assert "mask-engine: done before" in said and "masks: done before" in said
    after = files_of(place)
    weights = [path for path in before if path.suffix == ".safetensors"]
    assert weights and all(after[path] == before[path] for path in weights)
    # A step whose inputs were written anew may be done again; it comes to the same weights.
    of_both = {path.read_bytes() for path in place.glob("recipe/steps/both-*/run/*.safetensors")}
    assert len(of_both) == 1


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


@pytest.mark.parametrize(("precision", "pace"), [("no", "lean"), ("bf16", "whole")])
def test_a_slow_processor_does_less(monkeypatch, precision, pace):
    monkeypatch.setattr("univg.sd_compute.choose_precision", lambda asked: precision)
    found = resolve(Demo(pairs=99))
    assert found.pace == pace and found.pairs == 99
    assert found.mask_steps == PACES[pace]["mask_steps"]
    assert f"{found.segment_steps} steps each" in plan(Demo())
    assert resolve(Demo(pace="whole")).refine_steps == PACES["whole"]["refine_steps"]
    assert resolve(Demo(masks_only=True)).pace == "whole"


def test_without_the_packages_the_page_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_engines, "PACKAGES", ("torch", "no_such_package"))
    left_out = _make_engines(Demo(out=tmp_path / "out"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "no_such_package" in said[0] and "univg[diffusion]" in said[0]
    assert not (tmp_path / "out").exists()
    page = Page("t")
    add_answer_section(page, left_out)
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
    assert "index.html" in (said := capsys.readouterr().out) and "recipe" in said
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--count", "3"],
        ["--seed", "-1"],
        ["--workers", "0"],
        ["--drawn", "2"],
        ["--drawn", "61"],
        ["--pairs", "5"],
    ],
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
