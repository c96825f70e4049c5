"""One item of a run, made again alone; and pairs made in one go."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_shots import QUICK, write_shots

from univg.config import from_plain
from univg.errors import ConfigError, DataError, ResumeError
from univg.generate import images, masks, one, pairs
from univg.generate.images import Images
from univg.generate.masks import Masks
from univg.generate.one import One
from univg.generate.pairs import Pairs, mask_folder
from univg.manifest import read_rows
from univg.masks import encode_mask
from univg.pairs import check_pairs
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("grown")
    synthesize(Synth(out=out, count=4, size=(64, 64), seed=5, workers=1))
    return out


def again(folder: Path, name: str, **changes: object) -> one.Compared:
    return one.run(from_plain(One, {"manifest": folder, "id": name, **changes}))


@pytest.mark.parametrize("engine", ["procedural", "composite"])
def test_a_pair_comes_out_the_same_alone(engine, grown, tmp_path):
    shots = write_shots(tmp_path / "shots")
    values = {"masks": grown, "out": tmp_path / "a", "seed": 2, "variants": 2, "workers": 1}
    values |= {"shots": shots} if engine == "composite" else {}
    images.run(from_plain(Images, values))
    assert {row["engine"] for row in read_rows(tmp_path / "a")} == {engine}
    found = again(tmp_path / "a" / "manifest.jsonl", "fundus-000002-v01", out=tmp_path / "b")
    assert found.equal
    for name in ("images/fundus-000002-v01.png", "masks/fundus-000002-v01.png"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_grown_mask_comes_out_the_same_alone(grown):
    assert again(grown, "fundus-000003").equal
    assert again(grown, "2").equal  # by its number


def test_a_row_says_how_its_mask_was_made(grown, tmp_path):
    images.run(from_plain(Images, {"masks": grown, "out": tmp_path / "a", "workers": 1}))
    for row, origin in zip(read_rows(tmp_path / "a"), read_rows(grown), strict=True):
        for key in ("seed", "parameters", "modality", "version"):
            assert row["source_made"][key] == origin[key]


def test_what_does_not_come_out_the_same_is_told(grown, tmp_path):
    images.run(from_plain(Images, {"masks": grown, "out": tmp_path / "a", "workers": 1}))
    path = tmp_path / "a" / "images" / "fundus-000001.png"
    changed = cv2.imread(str(path))
    changed[:4] = 255 - changed[:4]
    cv2.imwrite(str(path), changed)
    with pytest.raises(DataError, match="does not come out the same"):
        again(tmp_path / "a", "fundus-000001")
    with pytest.raises(DataError, match="names no item 'fundus-9'"):
        again(tmp_path / "a", "fundus-9")
    (grown_copy := tmp_path / "m").mkdir()
    with pytest.raises(DataError, match="names no item"):
        again(grown_copy, "0")


def test_a_pair_comes_out_the_same_from_another_place(grown, tmp_path, monkeypatch):
    """Run with relative paths, looked at from elsewhere, its masks moved since."""
    shutil.copytree(grown, tmp_path / "m")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    images.run(from_plain(Images, {"masks": "m", "out": "a", "workers": 1}))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert again(Path("../a"), "fundus-000001").equal
    (tmp_path / "m").rename(tmp_path / "m2")
    with pytest.raises(DataError, match=r"m: is gone, and .* --masks"):
        again(Path("../a"), "fundus-000001")
    assert again(Path("../a"), "fundus-000001", masks="../m2").equal
    with pytest.raises(ConfigError, match="used none"):
        again(Path("../a"), "fundus-000001", masks="../m2", shots="../m2")


def test_masks_that_changed_since_are_told(grown, tmp_path):
    masks = tmp_path / "m"
    masks.mkdir()
    mask = np.zeros((64, 64), np.bool_)
    mask[20:24, 5:60] = True
    (masks / "a.png").write_bytes(encode_mask(mask))
    images.run(from_plain(Images, {"masks": masks, "out": tmp_path / "a", "workers": 1}))
    (masks / "a.png").write_bytes(encode_mask(mask.T))
    with pytest.raises(ResumeError, match="masks"):
        again(tmp_path / "a", "a")


def test_pairs_in_one_go(tmp_path):
    values = {"out": tmp_path / "a", "count": 5, "variants": 2, "size": (64, 64), "workers": 1}
    pairs.run(from_plain(Pairs, values))
    assert check_pairs(tmp_path / "a", strict=True) == []
    assert len(read_rows(tmp_path / "a")) == 5
    assert len(read_rows(mask_folder(tmp_path / "a"))) == 3
    assert (tmp_path / "a" / "quality" / "report.html").exists()
    assert all("agreement" in row["scores"] for row in read_rows(tmp_path / "a"))
    before = (tmp_path / "a" / "manifest.jsonl").read_bytes()
    pairs.run(from_plain(Pairs, values))
    assert (tmp_path / "a" / "manifest.jsonl").read_bytes() == before


def test_pairs_of_contradictions_are_refused_before_masks_are_made(tmp_path):
    values = {"out": tmp_path / "a", "count": 2, "size": (64, 64), "workers": 1}
    with pytest.raises(ConfigError, match="needs --shots"):
        pairs.run(from_plain(Pairs, {**values, "image_engine": "composite"}))
    with pytest.raises(ConfigError, match="shard"):
        pairs.run(from_plain(Pairs, {**values, "shard": "0/2"}))
    assert not mask_folder(tmp_path / "a").exists()


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    """A mask engine and an image engine of the tiny base, hardly trained."""
    from univg.testing import tiny_base
    from univg.train import adapt_images, adapt_masks
    from univg.train.adapt_images import AdaptImages
    from univg.train.adapt_masks import AdaptMasks

    place = tmp_path_factory.mktemp("engine")
    tiny_base(place / "base")
    values = {**QUICK, "base": str(place / "base"), "shots": write_shots(place / "shots")}
    values |= {"max_steps": 1, "validate_every": 0, "modality": "fundus"}
    adapt_masks.run(AdaptMasks(out=place / "masks", **values))
    adapt_images.run(AdaptImages(out=place / "images", **values))
    return place


def test_a_drawn_item_is_made_again_as_it_was_computed(engine, grown, tmp_path):
    """Kernels are no setting of a run, but they round in their own ways."""
    drawn = {"steps": 2, "attention": "sdpa", "channels_last": True, "count": 2, "batch": 3}
    course = {"batch": 8, "compile": False, "attention": "sdpa", "channels_last": True}
    values = {"masks": grown, "engine_dir": engine / "images", "out": tmp_path / "pairs", **drawn}
    images.run(from_plain(Images, values))
    values = {"engine_dir": engine / "masks", "out": tmp_path / "masks", "threshold": 0.5, **drawn}
    masks.run(from_plain(Masks, values))
    for name in ("pairs", "masks"):
        folder = tmp_path / name
        row = read_rows(folder)[1]
        assert row["parameters"]["course"] == course == one.course_of(row)
        assert "course" not in (folder / "run.json").read_text()
        assert again(folder, row["id"]).equal
        row["parameters"]["course"]["attention"] = "nonsense"
        with pytest.raises(ConfigError, match="attention"):
            one.make_again(folder, row)
    assert one.course_of({"parameters": None}) == {} == one.course_of({})
