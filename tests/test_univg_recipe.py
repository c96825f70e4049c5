"""`univg run` from five shots to the answer; done once, redone where something changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from univg.cli import main
from univg.config import from_plain, read_settings
from univg.errors import DataError, ProblemReport, UserError
from univg.files import sha256_of_file
from univg.generate.images import Images
from univg.generate.images import run as make_images
from univg.images import encode_image, read_image
from univg.masks import encode_mask, read_mask
from univg.pairs import open_pairs
from univg.recipe import HASHES, Recipe, check_inputs, list_steps, plan, resolve, run
from univg.recipe_steps import DONE
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize

SIDES = (96, 96)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five shots and three test pairs of a made-up OCTA."""
    place = tmp_path_factory.mktemp("data")
    masks = place / "masks"
    synthesize(Synth(out=masks, modality=("octa",), count=8, size=SIDES, seed=2, workers=1))
    for name, first, count in (("shots", 0, 5), ("test", 5, 3)):
        make_images(
            Images(
                masks=masks, out=place / name, modality="octa", first=first, count=count, workers=1
            )
        )
    return place


def settings_of(data: Path, out: Path, **changes: object) -> Recipe:
    values = {
        "shots": data / "shots", "test": data / "test", "out": out, "modality": "octa",
        "fit_card": False, "pairs": 4, "segment_steps": 2, "workers": 1, **changes,
    }  # fmt: skip
    return from_plain(Recipe, {k: v for k, v in values.items() if v is not None})


def steps_in(out: Path) -> set[str]:
    return {path.name for path in (out / "steps").iterdir()}


def kinds_in(names: set[str]) -> set[str]:
    return {name.rsplit("-", 1)[0] for name in names}


def figures_in(out: Path) -> tuple[str, str]:
    return (out / "table.md").read_text(), (out / "table.csv").read_text()


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run(settings_of(data, out))
    return out


@pytest.fixture
def copied(done, tmp_path) -> Path:
    """A finished run, elsewhere."""
    shutil.copytree(done, tmp_path / "out", symlinks=True)
    return tmp_path / "out"


def test_it_ends_in_an_answer(done):
    text = (done / "report.html").read_text()
    assert "Did the pairs help?" in text and "with synthetic pairs" in text
    assert kinds_in(steps_in(done)) == {
        "grown", "pairs", "gate", "alone", "both", "found-alone", "found-both", "test",
    }  # fmt: skip


def test_what_lies_at_the_top_can_be_used(data, done):
    table, figures = figures_in(done)
    assert table.startswith("3 test images") and table.count("| unet-small |") == 2
    rows = [line.split(",") for line in figures.splitlines()]
    assert rows[0][:4] == ["network", "metric", "shots alone", "shots and pairs"]
    dsc = next(row for row in rows if row[1] == "dsc")
    assert 0 <= float(dsc[2]) <= 1 and float(dsc[4]) == pytest.approx(float(dsc[3]) - float(dsc[2]))
    assert len(open_pairs(done / "pairs").pairs) == 4
    model = next(done.glob("steps/both-*/run/model.safetensors"))
    assert (done / "segmenter.safetensors").read_bytes() == model.read_bytes()
    again = read_settings(Recipe, done / "config.yaml")
    assert again == resolve(settings_of(data, done))


def test_a_second_run_does_nothing_and_says_so(data, done, capsys):
    before = (done / "report.html").read_bytes(), figures_in(done)
    run(settings_of(data, done))
    said = capsys.readouterr().out
    assert said.count("done before") == 8 and "Step 8 of 8, test: done before" in said
    assert ((done / "report.html").read_bytes(), figures_in(done)) == before


def test_the_same_recipe_elsewhere_gives_the_same_table(data, done, tmp_path):
    for name in ("shots", "test"):
        shutil.copytree(data / name, tmp_path / name)
    run(settings_of(tmp_path, tmp_path / "out"))
    assert steps_in(tmp_path / "out") == steps_in(done)
    assert figures_in(tmp_path / "out") == figures_in(done)


def test_steps_killed_before_their_note_are_found_finished(data, done, copied):
    """The last moment at which a step can be killed: all is written but for the note."""
    for note in copied.glob(f"steps/*/{DONE}"):
        note.unlink()
    run(settings_of(data, copied))
    assert steps_in(copied) == steps_in(done) and figures_in(copied) == figures_in(done)


def test_a_change_redoes_only_what_depends_on_it(data, copied):
    before = steps_in(copied)
    run(settings_of(data, copied, keep="density < 0.5"))
    assert kinds_in(steps_in(copied) - before) == {"gate", "both", "found-both", "test"}
    assert (copied / "pairs").resolve().name == "kept"


def test_another_network_is_trained_alone_and_has_its_rows(data, copied):
    before = steps_in(copied)
    first, second = "unet-small", "test_univg_recipe:build_small"
    asked = settings_of(data, copied, network=[first, second])
    run(asked)
    new = steps_in(copied) - before
    # The preset's network is there already, by whatever name it is asked for.
    assert kinds_in(new) == {"alone", "both", "found-alone", "found-both", "test"}
    assert len(new) == 5
    table, _ = figures_in(copied)
    assert table.count(f"| {first} |") == table.count(f"| {second} |") == 2
    assert (copied / "segmenter-test-univg-recipe-build-small.safetensors").exists()
    before = steps_in(copied)
    run(settings_of(data, copied, network=[second, first]))
    assert steps_in(copied) == before


def build_small(channels_in: int) -> object:
    """A network of a user's own."""
    from torch import nn

    return nn.Conv2d(channels_in, 1, 3, padding=1)


def test_the_plan_names_the_steps(data, tmp_path):
    text = plan(settings_of(data, tmp_path / "out", image_engine="diffusion", fit_card=True))
    for words in ("1 card", "ControlNet", "on shots and pairs", "test set", "in 10 steps"):
        assert words in text
    assert not (tmp_path / "out").exists()


def names_of(data: Path, out: Path, **changes: object) -> list[str]:
    return [name for name, _ in list_steps(settings_of(data, out, **changes))]


def test_presets_and_unlabelled_images_decide_the_engines(data, tmp_path):
    out = tmp_path / "out"
    assert names_of(data, out)[:3] == ["grown", "pairs", "gate"]
    laptop = names_of(data, out, unlabelled=data / "test", fit_card=None)
    assert laptop[:6] == ["card", "grown", "alone", "grounds", "pairs", "gate"]
    assert sorted(laptop[6:]) == sorted(["both", "found-alone", "found-both", "test"])
    drawn = names_of(data, out, unlabelled=data / "test", image_engine="diffusion")
    assert drawn[:4] == ["grown", "look", "image-engine", "pairs"]
    assert names_of(data, out, preset="gpu")[:4] == [
        "mask-engine",
        "masks",
        "image-engine",
        "pairs",
    ]
    assert resolve(settings_of(data, out, preset="paper", pairs=None)).pairs == 500
    drawn = names_of(data, out, preset="paper", pseudo_masks=9, fit_card=True)
    assert drawn[:4] == ["card", "grown", "mask-pretraining", "mask-engine"]


def spoil(data: Path, place: Path, how: str) -> dict[str, object]:
    """Return changes to the settings, with shots spoilt in one way."""
    shots, test = place / "shots", place / "test"
    for name, folder in (("shots", shots), ("test", test)):
        shutil.copytree(data / name, folder)
        (folder / "manifest.jsonl").unlink()
    image, mask = (sorted((shots / name).iterdir())[1] for name in ("images", "masks"))
    changes: dict[str, object] = {"shots": shots, "test": test}
    if how == "four":
        image.unlink()
        mask.unlink()
    elif how == "lone":
        mask.unlink()
    elif how == "size":
        image.write_bytes(encode_image(read_image(image)[:-8]))
    elif how == "swapped":
        (shots / "images").rename(shots / "x")
        (shots / "masks").rename(shots / "images")
        (shots / "x").rename(shots / "masks")
    elif how == "empty":
        mask.write_bytes(encode_mask(np.zeros(SIDES, np.bool_)))
    elif how == "inverted":
        mask.write_bytes(encode_mask(~read_mask(mask)))
    elif how == "grey":
        soft = cv2.GaussianBlur(read_mask(mask).astype(np.float32), None, 4)
        mask.write_bytes(encode_image((255 * soft).astype(np.uint8)))
    elif how == "truncated":
        image.write_bytes(image.read_bytes()[:-400])
    elif how == "twice":
        for path in (image, mask):
            shutil.copy(sorted(path.parent.iterdir())[0], path)
    elif how == "modality":
        changes["modality"] = "fundus"
    elif how in {"leak", "leak in another format"}:
        copy = test / "images" / f"{image.stem}.png"
        shutil.copy(image, copy)
        if how != "leak":
            cv2.imwrite(str(copy.with_suffix(".bmp")), read_image(copy))
            copy.unlink()
        shutil.copy(mask, test / "masks" / mask.name)
    elif how == "test without masks":
        shutil.rmtree(test / "masks")
    else:
        unlabelled = place / "unlabelled"
        unlabelled.mkdir()
        changes["unlabelled"] = shots if how == "unlabelled shots" else unlabelled
        if how == "unlabelled test":
            shutil.copy(sorted((test / "images").iterdir())[0], unlabelled / "other.png")
    return changes


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("four", "holds 4 annotated images, and 5 are expected"),
        ("lone", "has no mask of the same name"),
        ("size", "the mask is 96x96 px, its image 96x88 px"),
        ("swapped", "are images/ and masks/ swapped"),
        ("empty", "has no vessel pixel"),
        ("inverted", "is it inverted"),
        ("grey", "are neither vessel nor background"),
        ("truncated", "is truncated"),
        ("twice", "is the same picture as"),
        ("modality", "is it fundus"),
        ("leak", "is the shot"),
        ("leak in another format", "is the shot"),
        ("test without masks", "has no masks/"),
        ("unlabelled empty", "holds no picture"),
        ("unlabelled shots", "is the folder of the shots"),
        ("unlabelled test", "is the test image"),
    ],
)
def test_bad_data_are_refused_before_work_starts(data, tmp_path, how, named):
    changes = spoil(data, tmp_path, how)
    with pytest.raises(DataError, match=named) as caught:
        run(settings_of(data, tmp_path / "out", **changes))
    lines = str(caught.value).splitlines()
    bad = {"swapped": 5, "modality": 5, "twice": 2}.get(how, 1)  # twice: image and mask
    assert len(lines) == (1 + bad if isinstance(caught.value, ProblemReport) else 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unlabelled": "test", "image_engine": "procedural"}, "unlabelled is .*procedural"),
        ({"pseudo_masks": 3}, "pseudo_masks is 3"),
        ({"test": "shots"}, "folder of the shots"),
        ({"out": "shots"}, "which lies in"),
        ({"network": ["unet-smal"]}, "did you mean unet-small"),
        ({"network": ["unet", "unet"]}, "each only once"),
        ({"keep": "densty < 1"}, "densty"),
        ({"modality": "octo"}, "did you mean oct"),
        ({"image_engine": "diffusion", "base": "no/such/base"}, "base"),
    ],
)
def test_settings_that_cannot_work_are_refused(data, tmp_path, changes, named):
    folders = {"shots": data / "shots", "test": data / "test"}
    changes = {
        name: folders[value] if name in {"test", "unlabelled", "out"} else value
        for name, value in changes.items()
    }
    out = changes.pop("out", None)
    with pytest.raises(UserError, match=named):
        run(settings_of(data, out / "inside" if out else tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists() and not (data / "shots" / "inside").exists()


def test_a_recipe_file_tells_all_that_is_wrong_in_one_line(data, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"shots: {data / 'shots'}\nout: {tmp_path / 'out'}\npair: 3\nwanted: five\n")
    assert main(["run", "--config", str(recipe), "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "pair is not a setting (did you mean pairs?" in said and "wanted is 'five'" in said


def test_print_config_and_dry_run_write_nothing(data, tmp_path, capsys):
    words = ["run", "--shots", data / "shots", "--modality", "octa", "--out", tmp_path / "out"]
    for preset in ("laptop", "gpu", "paper"):
        for option in ("--print-config", "--dry-run"):
            assert main([*map(str, words), "--preset", preset, option]) == 0
            assert f"preset: {preset}\n" in capsys.readouterr().out
    more = ["--unlabelled", str(data / "test" / "images"), "--dry-run"]
    assert main([*map(str, words), *more]) == 0
    assert "what may be vessel in" in capsys.readouterr().out
    more += ["--image-engine", "diffusion"]
    assert main([*map(str, words), *more]) == 0
    assert "look: UNet of nano on unlabelled images" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_unlabelled_images_are_hashed_once(data, tmp_path):
    memory = tmp_path / HASHES
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    picture = unlabelled / "a.png"
    shutil.copy(sorted((data / "shots" / "images").iterdir())[0], picture)
    os.utime(picture, (1e9, 1e9))
    asked = settings_of(data, tmp_path / "out", unlabelled=unlabelled)
    check_inputs(asked, memory)
    before = memory.read_bytes()
    test = sorted((data / "test" / "images").iterdir())[0]
    remembered = memory.read_text().replace(sha256_of_file(picture), sha256_of_file(test))
    memory.write_text(remembered)
    with pytest.raises(ProblemReport, match="is the test image"):
        check_inputs(asked, memory)  # it goes by what it remembers
    os.utime(picture, (1e9, 1e9 + 1))
    check_inputs(asked, memory)  # unless the file has changed
    assert memory.read_bytes() != before


COMMAND = "import sys; from univg.cli import main; sys.exit(main(sys.argv[1:]))"


def kill_in(data: Path, out: Path, kind: str, wait_s: float) -> bool:
    """Start the recipe as a user does, kill -9 it a while after a step begins; was it running?"""
    words = ["run", "--shots", data / "shots", "--test", data / "test", "--out", out]
    words += ["--modality", "octa", "--no-fit-card", "--pairs", 4, "--segment-steps", 2]
    with out.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, words), "--workers", "1"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and not list(out.glob(f"steps/{kind}-*")):
            time.sleep(0.005)
        time.sleep(wait_s)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert running or process.returncode == 0, out.with_suffix(".log").read_text()
    return running


def check_kills(data: Path, done: Path, out: Path, moments: list[tuple[str, float]]) -> None:
    landed = [kill_in(data, out, kind, wait_s) for kind, wait_s in moments]
    assert sum(landed) > len(moments) // 2
    run(settings_of(data, out))
    assert steps_in(out) == steps_in(done) and figures_in(out) == figures_in(done)
    for name in ("pairs/manifest.jsonl", "segmenter.safetensors"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_killed_twice_it_comes_to_the_same_table(data, done, tmp_path):
    check_kills(data, done, tmp_path / "out", [("pairs", 0.0), ("both", 0.3)])


@pytest.mark.slow
def test_killed_at_ten_moments_it_comes_to_the_same_table(data, done, tmp_path):
    moments = [("grown", 0.0), ("grown", 0.2), ("pairs", 0.1), ("gate", 0.0), ("alone", 0.5)]
    moments += [("alone", 1.0), ("both", 0.2), ("found-alone", 0.0), ("found-both", 0.1)]
    check_kills(data, done, tmp_path / "out", [*moments, ("test", 0.05)])


def shift(image: np.ndarray) -> np.ndarray:
    """Return another picture of the same kind."""
    return np.roll(image[::-1], 31, axis=0)


def test_unlabelled_images_lend_their_grounds(data, tmp_path, monkeypatch):
    unlabelled = tmp_path / "unlabelled"
    for number, part in enumerate(("a", "b")):
        (unlabelled / part).mkdir(parents=True)
        image = shift(read_image(sorted((data / "test" / "images").iterdir())[number]))
        (unlabelled / part / "same.png").write_bytes(encode_image(image))
    monkeypatch.setattr("univg.generate.unlabelled.LEAST", 0.99)  # two steps teach little
    asked = settings_of(data, tmp_path / "out", unlabelled=unlabelled, pairs=8)
    run(asked)
    steps = tmp_path / "out" / "steps"
    pairs, grounds = (next(iter(steps.glob(f"{name}-*"))) for name in ("pairs", "grounds"))
    assert sorted(path.name for path in (grounds / "images").iterdir()) == [
        "00-same.png", "01-same.png",
    ]  # fmt: skip
    assert "grounds of 2 unlabelled images" in (tmp_path / "out" / "report.html").read_text()
    rows = [json.loads(line) for line in (pairs / "pairs/manifest.jsonl").read_text().splitlines()]
    shots = len(list((data / "shots" / "images").iterdir()))
    assert shots <= max(row["parameters"]["base"] for row in rows) < shots + 2

    colour = encode_image(np.dstack([image, image // 2, image // 3]))
    (unlabelled / "b" / "colour.png").write_bytes(colour)
    with pytest.raises(ProblemReport, match="grounds") as caught:
        run(asked)
    assert "colour.png: is colour of 8 bits" in str(caught.value)


def test_a_segmenter_that_finds_vessels_everywhere_leaves_no_ground(data, tmp_path, monkeypatch):
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    image = read_image(sorted((data / "test" / "images").iterdir())[0])
    (unlabelled / "a.png").write_bytes(encode_image(shift(image)))
    monkeypatch.setattr("univg.generate.unlabelled.LEAST", 0.0)
    run(settings_of(data, tmp_path / "out", unlabelled=unlabelled))
    grounds = next(iter((tmp_path / "out" / "steps").glob("grounds-*")))
    assert not list((grounds / "images").iterdir())


@pytest.mark.slow
def test_with_engines_and_unlabelled_images(data, tmp_path):
    """Every step there is, on a base of random weights; done again, nothing is."""
    from univg.sd import save_base
    from univg.testing import tiny_base

    base = tiny_base()
    base.vae.decoder.conv_out.bias.data -= 0.9  # else all that it draws is vessel
    save_base(base, tmp_path / "tiny", half=False)
    unlabelled = tmp_path / "unlabelled"
    shutil.copytree(data / "shots" / "images", unlabelled)
    asked = settings_of(
        data, tmp_path / "out", base=str(tmp_path / "tiny"), mask_engine="diffusion",
        image_engine="diffusion", unlabelled=unlabelled, pseudo_masks=6, fit_card=None,
        pretrain_steps=2, mask_steps=2, image_steps=2, refine_steps=2,
    )  # fmt: skip
    run(asked)
    assert len(steps_in(tmp_path / "out")) == len(list_steps(asked)) == 14
    before = figures_in(tmp_path / "out")
    (unlabelled / "more").mkdir()  # no picture, no other key
    run(asked)
    assert len(steps_in(tmp_path / "out")) == 14 and figures_in(tmp_path / "out") == before
