"""`univg run` from five shots to the answer; done once, redone where something changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from univg.config import from_plain
from univg.errors import ConfigError, DataError, ProblemReport
from univg.generate.images import Images
from univg.generate.images import run as make_images
from univg.images import encode_image, read_image
from univg.masks import encode_mask
from univg.recipe import Recipe, plan, run
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


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run(settings_of(data, out))
    return out


def test_it_ends_in_an_answer(done):
    text = (done / "report.html").read_text()
    assert "Did the pairs help?" in text and "with synthetic pairs" in text
    names = {name.rsplit("-", 1)[0] for name in steps_in(done)}
    assert names == {
        "grown", "pairs", "gate", "alone", "both", "found-alone", "found-both", "test",
    }  # fmt: skip


def test_a_second_run_does_nothing_and_says_so(data, done, capsys):
    before = (done / "report.html").read_bytes()
    run(settings_of(data, done))
    assert capsys.readouterr().out.count("done before") == 8
    assert (done / "report.html").read_bytes() == before


def test_a_change_redoes_only_what_depends_on_it(data, done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = steps_in(out)
    run(settings_of(data, out, keep="density < 0.5"))
    new = {name.rsplit("-", 1)[0] for name in steps_in(out) - before}
    assert new == {"gate", "both", "found-both", "test"}


def test_the_plan_names_the_steps(data, tmp_path):
    text = plan(settings_of(data, tmp_path / "out", image_engine="diffusion", fit_card=True))
    for words in ("card", "ControlNet", "segmenter on shots and pairs", "test set"):
        assert words in text
    assert not (tmp_path / "out").exists()


def spoil(data: Path, place: Path, how: str) -> dict[str, object]:
    """Return changes to the settings, with shots spoilt in one way."""
    shots = place / "shots"
    shutil.copytree(data / "shots", shots)
    (shots / "manifest.jsonl").unlink()
    image, mask = (sorted((shots / name).iterdir())[1] for name in ("images", "masks"))
    if how == "four":
        image.unlink()
        mask.unlink()
    elif how == "size":
        image.write_bytes(encode_image(read_image(image)[:-8]))
    elif how == "swapped":
        (shots / "images").rename(shots / "x")
        (shots / "masks").rename(shots / "images")
        (shots / "x").rename(shots / "masks")
    elif how == "empty":
        mask.write_bytes(encode_mask(np.zeros(SIDES, np.bool_)))
    elif how == "modality":
        return {"shots": shots, "modality": "fundus"}
    elif how == "leak":
        test = place / "test"
        shutil.copytree(data / "test", test)
        (test / "manifest.jsonl").unlink()
        for name, path in (("images", image), ("masks", mask)):
            shutil.copy(path, test / name / path.name)
        return {"shots": shots, "test": test}
    return {"shots": shots}


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("four", "holds 4 annotated images, and 5 are expected"),
        ("size", "cannot be used"),
        ("swapped", "swapped|cannot be used"),
        ("empty", "cannot be used"),
        ("modality", "is it fundus"),
        ("leak", "is the shot"),
    ],
)
def test_bad_shots_are_refused_before_work_starts(data, tmp_path, how, named):
    changes = spoil(data, tmp_path, how)
    with pytest.raises(DataError, match=named) as caught:
        run(settings_of(data, tmp_path / "out", **changes))
    assert isinstance(caught.value, ProblemReport) or how == "four"
    assert not (tmp_path / "out").exists()


def test_contradictions_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="unlabelled"):
        run(settings_of(data, tmp_path / "out", unlabelled=data / "test"))
    with pytest.raises(DataError, match="folder of the shots"):
        run(settings_of(data, tmp_path / "out", test=data / "shots"))
