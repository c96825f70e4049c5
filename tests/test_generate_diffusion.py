"""Masks and images drawn by adapted engines: the same one by one, in blocks, after a stop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from training_shots import QUICK, write_shots

from univg.binarise import Cut, choose_cut, cut_mask
from univg.config import from_plain
from univg.errors import ConfigError, DataError, ResumeError
from univg.generate import images, masks, pairs
from univg.generate.diffusion import CPU_BLOCK
from univg.generate.images import Images
from univg.generate.masks import Masks
from univg.generate.pairs import Pairs, find_common_modality
from univg.manifest import read_rows
from univg.masks import inspect_mask, write_mask
from univg.pairs import check_pairs, open_pairs
from univg.sd_engine import ENGINE_NAME, load_engine, read_card
from univg.testing import tiny_base
from univg.train import adapt_images, adapt_masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import AdaptMasks


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny base, five shots, a mask engine and an image engine adapted to them."""
    place = tmp_path_factory.mktemp("engines")
    tiny_base(place / "base")
    write_shots(place / "shots")
    values = {**QUICK, "base": str(place / "base"), "shots": place / "shots", "modality": "octa"}
    adapt_masks.run(AdaptMasks(out=place / "mask-engine", learning_rate=1e-3, **values))
    adapt_images.run(
        AdaptImages(out=place / "image-engine", unet="lora", learning_rate=1e-2, **values)
    )
    masks = place / "masks"
    masks.mkdir()
    for k, pair in enumerate(open_pairs(place / "shots").pairs * 2):
        write_mask(masks / f"m{k}.png", np.rot90(inspect_mask(pair.mask).mask, k))
    return place


def draw_images(place: Path, out: Path, **changes: object) -> None:
    values = {
        "masks": place / "masks", "out": out, "engine_dir": place / "image-engine", "seed": 4,
        "steps": 2, **changes,
    }  # fmt: skip
    images.run(from_plain(Images, {k: v for k, v in values.items() if v is not None}))


def draw_masks(place: Path, out: Path, **changes: object) -> None:
    values = {
        "out": out, "engine_dir": place / "mask-engine", "seed": 4, "steps": 2, "count": 6,
        "threshold": 0.5, **changes,
    }  # fmt: skip
    masks.run(from_plain(Masks, {k: v for k, v in values.items() if v is not None}))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_image_engine_makes_a_pair_of_each_mask(place, tmp_path):
    draw_images(place, tmp_path / "a")
    assert check_pairs(tmp_path / "a", strict=True) == []
    rows = read_rows(tmp_path / "a")
    assert [row["id"] for row in rows] == [f"m{k}" for k in range(10)]
    card = read_card(place / "image-engine", "images")
    for row in rows:
        found = row["parameters"]
        assert row["engine"] == "diffusion" and row["size_px"] == [64, 64]
        assert found["base"] == card.base_identity
        assert found["control"] == card.control_sha256[:16]
        assert found["adapters"] == [[card.adapters[0].sha256[:16], 1.0]]
        assert (found["steps"], found["scheduler"], found["guidance"]) == (2, "ddim", 2.0)


def test_a_pair_is_the_same_alone_and_after_a_stop(place, tmp_path):
    draw_images(place, tmp_path / "whole")
    draw_images(place, tmp_path / "alone", first=5, count=1)
    for name in ("images/m5.png", "masks/m5.png"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    draw_images(place, tmp_path / "parts", first=3, count=4)
    draw_images(place, tmp_path / "parts", count=2)
    draw_images(place, tmp_path / "parts")
    same = {k: v for k, v in hashes(tmp_path / "whole").items() if k != "config.yaml"}
    assert {k: v for k, v in hashes(tmp_path / "parts").items() if k != "config.yaml"} == same
    (tmp_path / "parts" / "images" / "m7.png").unlink()
    draw_images(place, tmp_path / "parts")
    assert {k: v for k, v in hashes(tmp_path / "parts").items() if k != "config.yaml"} == same


def test_variants_of_a_mask_differ(place, tmp_path):
    draw_images(place, tmp_path / "a", variants=3, count=6)
    rows = read_rows(tmp_path / "a")
    assert [row["id"] for row in rows] == [f"m{k}-v0{v}" for k in range(2) for v in range(3)]
    assert len({row["sha256"]["image"] for row in rows}) == 6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 3}, "steps"),
        ({"guidance": 1.0}, "guidance"),
        ({"control_strength": 0.5}, "control_strength"),
        ({"scheduler": "unipc"}, "scheduler"),
        ({"prompt": "something else"}, "prompt"),
    ],
)
def test_what_changes_pictures_is_another_run(place, tmp_path, changes, named):
    draw_images(place, tmp_path / "a", count=1)
    with pytest.raises(ResumeError, match=named):
        draw_images(place, tmp_path / "a", **changes)


def test_a_batch_is_a_matter_of_the_machine(place, tmp_path):
    draw_images(place, tmp_path / "a", count=5)
    draw_images(place, tmp_path / "a", batch=3)
    draw_images(place, tmp_path / "b")
    kept = ("images/", "masks/", "manifest", "run.json")
    ours, theirs = (
        {k: v for k, v in hashes(tmp_path / f).items() if k.startswith(kept)} for f in "ab"
    )
    assert ours == theirs


def test_a_mask_engine_makes_exact_masks(place, tmp_path):
    draw_masks(place, tmp_path / "a", size=(130, 200))
    rows = read_rows(tmp_path / "a")
    assert [row["mask"] for row in rows] == [f"masks/octa-00000{k}.png" for k in range(6)]
    for row in rows:
        reading = inspect_mask(tmp_path / "a" / row["mask"])
        assert reading.stored == "binary 0/255" and reading.mask.shape == (130, 200)
        assert row["parameters"]["adapters"][0][1] == 0.7
    draw_masks(place, tmp_path / "b", size=(130, 200), first=4, count=1)
    name = "masks/octa-000004.png"
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    draw_images(place, tmp_path / "c", masks=tmp_path / "a", count=2)
    assert read_rows(tmp_path / "c")[1]["source"] == "octa-000001.png"


def test_the_strength_of_the_adaptation_counts(place, tmp_path):
    for name, strength in (("a", None), ("b", 0.0)):
        draw_masks(place, tmp_path / name, strength=strength, count=2)
    assert read_rows(tmp_path / "b")[0]["parameters"]["adapters"][0][1] == 0.0
    first, second = (read_rows(tmp_path / name)[0]["sha256"] for name in ("a", "b"))
    assert first != second


def test_without_an_engine_masks_are_grown(place, tmp_path):
    draw_masks(place, tmp_path / "a", engine_dir=None, threshold=None, count=2, size=(64, 64))
    assert json.loads((tmp_path / "a" / "run.json").read_text())["stage"] == "sca synth"


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"engine_dir": "nowhere"}, DataError, "does not exist"),
        ({"engine_dir": "shots"}, DataError, "holds no engine.json"),
        ({"engine_dir": "mask-engine"}, DataError, "engine of masks, not of images"),
        ({"size": (70, 64)}, ConfigError, "multiples of"),
        ({"image_engine": "procedural"}, ConfigError, "engine_dir is of no use"),
        ({"device": "quantum"}, ConfigError, "device is 'quantum'"),
        ({"device": "meta"}, ConfigError, "does not compute there"),
        ({"base": "elsewhere"}, ConfigError, "leave --base"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused(place, tmp_path, changes, error, named):
    if isinstance(changes.get("engine_dir"), str):
        changes = {"engine_dir": place / changes["engine_dir"]}
    with pytest.raises(error, match=named):
        draw_images(place, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_what_grown_masks_do_not_know_is_refused(tmp_path):
    for changes in ({"prompt": "x"}, {"threshold": 0.4}, {"strength": 0.3}):
        with pytest.raises(ConfigError, match="of no use to mask_engine sca"):
            masks.run(from_plain(Masks, {"out": tmp_path / "a", "count": 1, **changes}))
    assert not (tmp_path / "a").exists()


def test_pairs_refuse_a_wrong_image_engine_before_masks_are_made(place, tmp_path):
    for changes, error, named in (
        ({"engine_dir": place / "mask-engine"}, DataError, "engine of masks, not of images"),
        ({"size": (70, 64)}, ConfigError, "multiples of"),
    ):
        values = {"out": tmp_path / "a", "engine_dir": place / "image-engine", "count": 2}
        with pytest.raises(error, match=named):
            pairs.run(from_plain(Pairs, {**values, **changes}))
    assert not list(tmp_path.iterdir())


def test_pairs_are_of_the_modality_of_their_engines(place, tmp_path):
    asked = from_plain(Pairs, {"out": tmp_path / "a", "engine_dir": place / "image-engine"})
    assert find_common_modality(asked) == "octa"
    text = (place / "mask-engine" / ENGINE_NAME).read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ENGINE_NAME).write_text(text.replace('"octa"', '"fundus"'))
    both = dataclasses.replace(asked, mask_engine_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match="of fundus, the image engine of octa"):
        find_common_modality(both)
    assert find_common_modality(dataclasses.replace(both, modality="octa")) == "octa"


def test_an_engine_that_changed_is_refused(place, tmp_path):
    card = read_card(place / "image-engine", "images")
    with pytest.raises(DataError, match="was trained on base"):
        load_engine(dataclasses.replace(card, base_identity="0" * 12))
    with pytest.raises(DataError, match="not the adapter"):
        wrong = dataclasses.replace(card.adapters[0], sha256="0" * 64)
        load_engine(dataclasses.replace(card, adapters=(wrong,)))
    with pytest.raises(DataError, match="ControlNet has changed"):
        load_engine(dataclasses.replace(card, control_sha256="0" * 64))


def test_a_damaged_card_is_told(place, tmp_path):
    (tmp_path / "run").mkdir()
    text = (place / "image-engine" / ENGINE_NAME).read_text()
    for wrong in (text[:40], "[]", text.replace('"kind"', '"sort"')):
        (tmp_path / "run" / ENGINE_NAME).write_text(wrong)
        with pytest.raises(DataError, match="damaged"):
            read_card(tmp_path / "run", "images")


@pytest.mark.parametrize(
    ("name", "value"),
    [("refiner_strength", None), ("refiner_strength", "1.0"), ("size_px", "64"), ("size_px", True),
     ("is_grey", 1), ("prompt", None), ("base", 3)],
)  # fmt: skip
def test_a_card_of_wrong_types_is_told(place, tmp_path, name, value):
    plain = json.loads((place / "image-engine" / ENGINE_NAME).read_text())
    (tmp_path / ENGINE_NAME).write_text(json.dumps(plain))
    read_card(tmp_path, "images")
    (tmp_path / ENGINE_NAME).write_text(json.dumps({**plain, name: value}))
    with pytest.raises(DataError, match=f"damaged .{name} is "):
        read_card(tmp_path, "images")


def test_the_cut_brings_masks_back():
    masks = [np.zeros((64, 64), np.bool_) for _ in range(2)]
    masks[0][10:14, 5:60] = True
    masks[1][5:60, 30:36] = True
    faint = [np.repeat((mask * 90 + 10).astype(np.uint8)[..., None], 3, 2) for mask in masks]
    cut = choose_cut(faint, masks)
    assert 10 < cut.threshold * 255 <= 100
    for picture, mask in zip(faint, masks, strict=True):
        assert (cut_mask(picture, cut) == mask).all()
    large = cut_mask(faint[0], cut, (256, 128))
    assert large.shape == (256, 128) and 0.8 < large.mean() / masks[0].mean() < 1.25


def test_specks_go_and_pinholes_close():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:50, 10:90] = 255
    picture[44, 50] = 0
    picture[5, 5] = 255
    cut = cut_mask(picture, Cut(speck=4e-4, hole=4e-4))
    assert not cut[5, 5] and cut[44, 50]
    kept = cut_mask(picture, Cut(speck=0, hole=0))
    assert kept[5, 5] and not kept[44, 50]


def test_a_block_is_filled_up(place):
    assert CPU_BLOCK > 1  # else the tests above show nothing


@pytest.mark.parametrize("side", [256, 320, 448, 512])
def test_a_piece_as_large_as_the_shots_smallest_stays(side):
    """Whatever a share of the picture and back comes to in floating point."""
    for area in range(1, 60):
        mask = np.zeros((side, side), bool)
        mask[side // 2, :] = True
        mask[10, 10 : 10 + area] = True
        picture = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
        cut = choose_cut([picture], [mask])
        assert cut_mask(picture, Cut(speck=cut.speck))[10, 10], area
