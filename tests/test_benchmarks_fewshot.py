"""The table of few shots: whole on tiny sets, resumable, blind to the test half while tuning."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vessel_pictures import draw_lines, paint

from univg.images import encode_image, read_image
from univg.masks import encode_mask, read_mask

FOLDER = Path(__file__).parent.parent / "benchmarks"
MODULES = ("fewshot", "fewshot_chain", "fewshot_data", "fewshot_masks", "fewshot_pairs")
MODULES += (
    "fewshot_rows",
    "fewshot_steps",
    "fewshot_table",
    "pair_agreement",
    "segment_presets",
    "splits",
)
SIZE = 64
PAIRS = 4
TINY: dict[str, Any] = {
    "network_options": ("channels=4", "depth=3"), "patch_px": 32, "batch": 2, "precision": "no",
    "warmup_steps": 0,
}  # fmt: skip
ROWS = ("baseline", "procedural", "composite")
STEMS = {
    "XCA": ("t01", "t05", "t09", "t14", "t19", "t02", "t03", "t21", "t22"),
    "CHASEDB1": tuple(f"Image_{e}" for e in ("01L", "03R", "04L", "06R", "07L", "02L", "08L")),
}
TEST = {"XCA": ("t21", "t22"), "CHASEDB1": ("Image_08L",)}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports a benchmark by name, its segmenters as small as they get."""
    monkeypatch.syspath_prepend(str(FOLDER))
    rows = importlib.import_module("fewshot_rows")
    for name, value in TINY.items():
        monkeypatch.setitem(rows.FIT, name, value)
    for name, row in rows.ROWS.items():
        monkeypatch.setitem(rows.ROWS, name, dataclasses.replace(row, pairs=PAIRS))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets of lines on noise, called as the real ones; their test halves cannot be read."""
    for name, stems in STEMS.items():
        for kind in ("images", "masks"):
            (tmp_path / "data" / name / kind).mkdir(parents=True)
        for seed, stem in enumerate(stems):
            write_pair(tmp_path / "data" / name, stem, seed, colour=name == "CHASEDB1")
        for stem in TEST[name]:
            for kind in ("images", "masks"):
                (tmp_path / "data" / name / kind / f"{stem}.png").write_bytes(b"not a picture")
    return tmp_path / "data"


def write_pair(folder: Path, stem: str, seed: int, colour: bool) -> None:
    mask = draw_lines(seed, SIZE, count=4)
    image = paint(mask, seed)
    if colour:
        image = np.stack([image, image // 2, image // 3], axis=2)
    (folder / "masks" / f"{stem}.png").write_bytes(encode_mask(mask))
    (folder / "images" / f"{stem}.png").write_bytes(encode_image(image))


def words_for(data: Path, *more: str, rows: tuple[str, ...] = ROWS) -> list[str]:
    words = ["--data", str(data), "--work", str(data.parent / "work"), "--draws", "A"]
    words += ["--sets", *STEMS, "--steps", "4", "--card", "shipped"]
    return [*words, "--rows", *rows, *more]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_rows_on_the_pool(load, data, capsys):
    """Whole; again, nothing is done and the CSV is the same; the test half is never opened."""
    fewshot = load("fewshot")
    work = data.parent / "work"
    fewshot.main(words_for(data, rows=ROWS[:1]))  # as if killed after its first rows
    first = {path: path.stat().st_mtime_ns for path in work.rglob("model.safetensors")}
    assert len(first) == 2
    fewshot.main(words_for(data))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    table = capsys.readouterr().out
    files = ("fewshot.csv", "fewshot-images.csv")
    made = [(work / name).read_bytes() for name in files]
    models = {path: path.stat().st_mtime_ns for path in work.rglob("model.safetensors")}
    assert len(models) == 6
    fewshot.main(words_for(data))
    assert [(work / name).read_bytes() for name in files] == made
    assert {p: p.stat().st_mtime_ns for p in work.rglob("model.safetensors")} == models

    rows = read_csv(work / "fewshot.csv")
    assert [(row["row"], row["set"]) for row in rows] == [
        (row, name) for row in ROWS for name in sorted(STEMS)
    ]
    assert {row["on"] for row in rows} == {"pool"}
    assert {row["fit_steps"] for row in rows} == {"4"} and {row["shots"] for row in rows} == {"5"}
    assert [row["pairs"] for row in rows] == ["0", "0", "4", "4", "4", "4"]
    assert [row["pairs_used"] for row in rows] == [row["pairs"] for row in rows]
    assert all(0 <= float(row["dsc"]) <= 100 and float(row["fit_s"]) > 0 for row in rows)
    assert {row["set"]: row["judged"].split()[0] for row in rows} == {
        "CHASEDB1": "inside", "XCA": "whole",
    }  # fmt: skip
    images = read_csv(work / "fewshot-images.csv")
    assert {row["image"] for row in images if row["set"] == "XCA"} == {"t02", "t03"}
    of_row = [float(i["dsc"]) for i in images if (i["set"], i["row"]) == ("XCA", "composite")]
    assert float(rows[-1]["dsc"]) == pytest.approx(100 * np.mean(of_row), abs=1e-3)
    assert "| composite | " in table and "paired permutation" in table
    page = (work / "fewshot.md").read_text()
    assert table.strip().splitlines()[-1] in page and str(data) not in page


def test_two_shares_are_the_whole(load, data):
    fewshot = load("fewshot")
    jobs = fewshot.list_jobs(["baseline", "ceiling"], ["A", "B"], ["XCA", "HRF"], "test")
    assert [(job.row.name, job.where) for job in jobs] == [
        ("baseline", "XCA-A"), ("baseline", "HRF-A"), ("baseline", "XCA-B"), ("baseline", "HRF-B"),
        ("ceiling", "XCA-all"), ("ceiling", "HRF-all"),
    ]  # fmt: skip
    shares = [fewshot._read_share(text) for text in ("1/2", "2/2")]
    parts = [jobs[part::parts] for part, parts in shares]
    assert not set(map(id, parts[0])) & set(map(id, parts[1])) and sum(map(len, parts)) == 6


def test_rows_at_another_size_have_a_name_of_their_own(load, data):
    words = [*words_for(data, "--longest", "48", rows=("baseline",)), "--sets", "XCA"]
    load("fewshot").main(words)
    row = read_csv(data.parent / "work" / "fewshot.csv")[0]
    assert (row["row"], row["size_px"]) == ("baseline@48px", "48x48")
    page = (data.parent / "work" / "fewshot.md").read_text()
    assert "- `baseline@48px`: five shots, strong augmentation; longest side 48 px" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "compsite"], "compsite"),
        (["--sets", "DRIVE"], "DRIVE"),
        (["--share", "3/2"], "3/2"),
        (["--rows", "ceiling"], "cannot be scored there"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_refused(load, data, capsys, words, told):
    with pytest.raises(SystemExit) as left:
        load("fewshot").main([*words_for(data), *words])
    assert told in str(left.value) + capsys.readouterr().err
    assert left.value.code != 0
    assert not list(data.parent.glob("work/rows/*.json"))


def test_the_test_half_is_opened_where_it_is_asked_for(load, data, capsys):
    """Else the other tests would not show that it stays shut."""
    with pytest.raises(SystemExit):
        load("fewshot").main(words_for(data, "--on", "test", rows=("baseline",)))
    assert "t21" in capsys.readouterr().err


def test_masks_are_bent_and_stay_masks(load, tmp_path):
    masks = load("fewshot_masks")
    shots = tmp_path / "shots"
    for kind in ("images", "masks"):
        (shots / kind).mkdir(parents=True)
    for seed in range(2):
        write_pair(shots, f"shot-{seed}", seed, colour=False)
    masks.warp_masks(shots, tmp_path / "bent", 4, seed=3)
    masks.warp_masks(shots, tmp_path / "again", 4, seed=3)
    names = sorted(path.name for path in (tmp_path / "bent").iterdir())
    made = [(tmp_path / "bent" / name).read_bytes() for name in names]
    assert made == [(tmp_path / "again" / name).read_bytes() for name in names]
    assert len(set(made)) == 4
    first = read_mask(tmp_path / "bent" / names[0])
    assert first.shape == (SIZE, SIZE) and 0.3 < first.sum() / draw_lines(0, SIZE, 4).sum() < 3


def test_squares_and_stretched_pairs(load, tmp_path):
    masks = load("fewshot_masks")
    shots = tmp_path / "shots"
    for kind in ("images", "masks"):
        (shots / kind).mkdir(parents=True)
    write_pair(shots, "shot", 5, colour=True)
    masks.cut_shots(shots, tmp_path / "squares", 40)
    whole = read_image(shots / "images" / "shot.png")
    parts = sorted((tmp_path / "squares" / "images").iterdir())
    assert 1 <= len(parts) <= 4
    for path in parts:
        top, left = (int(word) for word in path.stem.split("-")[1:])
        assert (read_image(path) == whole[top : top + 40, left : left + 40]).all()
    masks.cut_masks(shots, tmp_path / "cut", 40, seed=0)
    assert read_mask(tmp_path / "cut" / "shot.png").shape == (40, 40)
    masks.fit_pairs(tmp_path / "squares", tmp_path / "fitted", (80, 120))
    one = next((tmp_path / "fitted" / "masks").iterdir())
    assert read_mask(one).shape == (80, 120) and read_mask(one).any()
    assert read_image(tmp_path / "fitted" / "images" / one.name).shape == (80, 120, 3)


def test_labels_are_mended_near_the_masks_alone(load, tmp_path):
    masks = load("fewshot_masks")
    for kind in ("images", "masks"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    write_pair(tmp_path / "pairs", "one", 5, colour=False)
    own, found = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    own[20, 10:50] = True
    found[21, 10:50] = found[40, 10:50] = True
    (tmp_path / "pairs" / "masks" / "one.png").write_bytes(encode_mask(own))
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "one.png").write_bytes(encode_mask(found))
    masks.relabel_pairs(tmp_path / "pairs", tmp_path / "found", tmp_path / "out")
    mended = read_mask(tmp_path / "out" / "masks" / "one.png")
    assert mended[21, 10:50].all() and mended.sum() == 40
    assert (tmp_path / "out" / "images" / "one.png").exists()


def test_rows_are_compared_on_the_images_that_both_have(load):
    table = load("fewshot_table")

    def job(row: str, draw: str, **images: float) -> dict[str, Any]:
        scores = {stem: {"dsc": dsc, "cldice": dsc} for stem, dsc in images.items()}
        more = {
            "seconds": {"fit": 60.0},
            "cpu_s": {"fit": 30.0},
            "size_px": "64x64",
            "judged": "whole image",
            "shots_dice": {"A": 0.9, "B": 0.8}.get(draw),
        }
        return {"set": "XCA", "row": row, "draw": draw, "images": scores, **more}

    jobs = [
        job("baseline", "A", a=0.5, b=0.6), job("baseline", "B", a=0.7, c=0.5),
        job("composite", "A", a=0.6, b=0.6), job("composite", "B", a=0.7, c=0.9),
        job("ceiling", "all", a=0.8, b=0.8, c=0.8),
    ]  # fmt: skip
    mine, theirs = table.pair_images(jobs, "composite", "baseline", "XCA")
    assert mine == pytest.approx([65, 60, 90]) and theirs == pytest.approx([60, 60, 50])
    mine, theirs = table.pair_images(jobs, "ceiling", "baseline", "XCA")
    assert mine == pytest.approx([80, 80, 80]) and theirs == pytest.approx([60, 60, 50])
    text = table.describe_tables(jobs)
    # Means of the draws 60 and 80; of the differences (5, 0, 40).
    assert "| composite | 70.00 ± 14.14 / 70.00 ± 14.14 | 70.00 / 70.00 | 1.0 | 0.5 |" in text
    assert "| composite | +15.00 [" in text
    trained = text[text.index("images that a row is trained on") :]
    assert "| composite | 85.00 |" in trained and "| ceiling |  |" in trained


def test_a_table_is_read_back_and_grows(load, tmp_path):
    table, rows = load("fewshot_table"), load("fewshot_rows")
    out = tmp_path / "fewshot.csv"
    assert table.read_tables(out) == []

    def job(row, draw, dsc):
        found = dict.fromkeys(table.PROTOCOL, "")
        found |= {"set": "XCA", "draw": draw, "row": row, "on": "test", "steps": 9, "seed": 0}
        return {**found, "seen_px": 300, "size_px": "300x300", "threshold": 0.4, "shots_dice": 0.9,
                "seconds": {"fit": 5.25}, "cpu_s": {"fit": 4.0, "others": 0.5},
                "images": {"t1": {"dsc": dsc, "cldice": None}}}  # fmt: skip

    first = [job("plain", "A", 0.25), job(rows.REFERENCE, "A", 0.5)]
    table.write_tables(first, out, "page")
    assert table.read_tables(out) == first
    again, more = job("plain", "A", 0.75), job("plain", "B", 0.5)
    joined = table.join_jobs(table.read_tables(out), [more, again])
    assert joined == [again, more, first[1]]
    before = out.read_bytes()
    table.write_tables(table.read_tables(out), out, "page")
    assert out.read_bytes() == before


def test_presets_are_ranked_on_shots_alone(load, data, capsys, monkeypatch):
    """Every file but the five shots is unreadable; a fold that is done is not done again."""
    presets = load("segment_presets")
    options = {"network_options": ("channels=4", "depth=3"), "patch_px": 32, "batch": 2}
    alternatives = {presets.BASE: options, "bce": {**options, "loss": "bce"}}
    monkeypatch.setattr(presets, "ALTERNATIVES", alternatives)
    monkeypatch.setitem(presets.LIKE, "precision", "no")
    for stem in ("t02", "t03"):
        (data / "XCA" / "masks" / f"{stem}.png").write_bytes(b"not a picture")
    work = data.parent / "work"
    words = ["--data", str(data), "--work", str(work), "--sets", "XCA", "--folds", "1"]
    words += ["--steps", "2"]
    presets.main([*words, "--budget-minutes", "0.0000001"])
    assert "are over" in capsys.readouterr().out and not list(work.rglob("model.safetensors"))
    presets.main(words)
    told = capsys.readouterr().out
    assert "1 folds" in told and "| bce | " in told
    models = {path: path.stat().st_mtime_ns for path in work.rglob("model.safetensors")}
    assert len(models) == 2
    rows = read_csv(work / "segment_presets.csv")
    assert [row["alternative"] for row in rows] == [presets.BASE, "bce"]
    presets.main(words)
    assert {p: p.stat().st_mtime_ns for p in work.rglob("model.safetensors")} == models
    assert read_csv(work / "segment_presets.csv") == rows


def test_agreement_tells_borders_from_what_is_elsewhere(load):
    compare = load("pair_agreement").compare
    label, found = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    label[10:14, 5:35] = True  # 120 pixels
    found[11:15, 5:35] = True  # one row missed, one beside
    found[30, 5:17] = True  # 12 pixels elsewhere
    everywhere = np.ones((40, 40), bool)
    dsc, *shares = compare(label, found, everywhere)
    assert dsc == pytest.approx(2 * 90 / (120 + 132))
    assert shares == pytest.approx([12 / 120, 30 / 120, 0, 30 / 120])
    everywhere[30] = False
    assert compare(label, found, everywhere)[1] == 0
    assert compare(label & False, found, everywhere) is None


@pytest.mark.slow
def test_a_killed_run_goes_on(load, data, tmp_path):
    """Killed as soon as one row is there: the CSV in the end is that of all rows."""
    words = words_for(data)
    start = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import fewshot, fewshot_rows as r; "
    start += "import dataclasses; r.ROWS |= {n: dataclasses.replace(row, pairs=4) "
    start += f"for n, row in r.ROWS.items()}}; r.FIT |= {TINY!r}; fewshot.main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.DEVNULL)
    rows = data.parent / "work" / "rows"
    while not list(rows.glob("*.json")) and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()
    steps = (data.parent / "work" / "runs").glob("*/steps/fit-*/done.json")
    models = [path.parent / "run" / "model.safetensors" for path in steps]
    first = {path: path.stat().st_mtime_ns for path in models}
    assert first
    load("fewshot").main(words)
    assert len(read_csv(data.parent / "work" / "fewshot.csv")) == 6
    assert {path: path.stat().st_mtime_ns for path in first} == first
    done = [json.loads(path.read_text()) for path in rows.glob("*.json")]
    assert len(done) == 6 and all(each["images"] for each in done)


@pytest.mark.slow
def test_diffusion_rows(load, data):
    """Through both engines, barely trained; the rows share what they have in common."""
    names = ("diffusion", "diffusion-relabelled", "diffusion-tiles", "diffusion-no-pretraining")
    base = data.parent / "base"
    importlib.import_module("univg.testing").tiny_base(base)
    words = [*words_for(data, rows=names), "--sets", "XCA", "--engine-steps", "2"]
    words += ["--base", str(base)]
    load("fewshot").main(words)
    steps = data.parent / "work" / "runs" / "XCA-A" / "steps"
    assert len(list(steps.glob("masks-*"))) == 1
    assert len(list(steps.glob("image-engine-*"))) == 3
    rows = read_csv(data.parent / "work" / "fewshot.csv")
    assert [row["row"] for row in rows] == list(names)
    assert {row["pairs_used"] for row in rows} == {"4"}
