"""Drawn pictures are finished as the shots ask for: vessels put back, no clearer than real ones."""

from __future__ import annotations

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from training_shots import QUICK, write_shots
from vessel_pictures import draw_lines, paint

from univg.config import from_plain
from univg.errors import ConfigError, DataError, UserError
from univg.files import sha256_of_file
from univg.generate import images
from univg.generate.images import Images
from univg.images import encode_image, read_image
from univg.loop.device import make_accelerator
from univg.loop.loop import train
from univg.loop.options import Training
from univg.manifest import read_rows
from univg.sd_engine import load_refiner, read_card
from univg.sd_refiner import Finisher, Refiner
from univg.testing import tiny_base
from univg.train import adapt_images, finishing
from univg.train.adapt_images import AdaptImages
from univg.train.finishing import STRENGTHS, choose_strength
from univg.train.refiner_task import RefinerTask, bend, soften

SIDE = 64


def pair_of(seed: int, **looks) -> tuple[np.ndarray, np.ndarray]:
    mask = draw_lines(seed, SIDE, count=3)
    return np.repeat(paint(mask, seed, **looks)[..., None], 3, axis=2), mask


def blur(pictures) -> list[np.ndarray]:
    return [cv2.GaussianBlur(picture, (0, 0), 4) for picture in pictures]


def error_on_vessels(picture, wanted, mask) -> float:
    return float(np.abs(picture.astype(float) - wanted)[mask].mean())


def test_lost_vessels_of_pictures_never_seen_come_back(tmp_path):
    pairs = [pair_of(seed) for seed in range(5)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        refiner = Refiner(8)
    task = RefinerTask(refiner, [i for i, _ in pairs], [m for _, m in pairs], (0, 4), blur)
    settings = Training(
        out=tmp_path, max_steps=120, batch=4, learning_rate=5e-3, schedule="cosine",
        warmup_steps=10, optimizer="adamw", weight_decay=0.01, ema=0.0, precision="no",
        gradient_checkpointing=False, tracker="none", save_every=120, preview_every=0,
        validate_every=0,
    )  # fmt: skip
    train(task, settings, make_accelerator(settings))
    image, mask = pair_of(77)
    (given,) = blur([image])
    (refined,) = Finisher(refiner, task.fields).refine([given], [mask])
    assert error_on_vessels(refined, image, mask) < 0.5 * error_on_vessels(given, image, mask)
    beside = ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)
    assert error_on_vessels(refined, image, beside) < 1.2 * error_on_vessels(given, image, beside)


def test_a_sample_follows_from_its_generator():
    pairs = [pair_of(seed) for seed in range(2)]
    task = RefinerTask(Refiner(8), [i for i, _ in pairs], [m for _, m in pairs], range(8), blur)
    assert task.items == 16
    first, again = (task.load(3, np.random.default_rng(5)) for _ in range(2))
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["planes"].equal(task.load(3, np.random.default_rng(6))["planes"])
    assert not first["wanted"].equal(task.load(4, np.random.default_rng(5))["wanted"])


def test_pictures_are_bent_a_little_and_blurred():
    image, _ = pair_of(0, noise=0.0)
    inside = np.s_[8:56, 8:56]
    bent = [bend(image, inside, np.random.default_rng(k)).astype(int) for k in range(20)]
    moved = [np.abs(each - image[inside]).mean() for each in bent]
    assert 0 < np.median(moved) < 12
    soft = [soften(image, np.random.default_rng(k)).astype(int).std() for k in range(20)]
    assert min(soft) < 0.97 * image.std()
    assert max(soft) <= image.std() + 0.1


class Clearer:
    """Makes vessels clearer, the more the stronger."""

    def refine(self, pictures, masks, strength):
        return [
            np.clip(picture - strength * 60.0 * mask[..., None], 0, 255).astype(np.uint8)
            for picture, mask in zip(pictures, masks, strict=True)
        ]


@pytest.mark.parametrize(("contrast", "wanted"), [(-70.0, {1.0}), (-25.0, {0.25, 0.5})])
def test_vessels_are_put_back_until_they_show_as_real_ones_do(tmp_path, contrast, wanted):
    """The clearer the shots' vessels, the stronger; what is lost for good gets the whole."""
    pairs = [
        (np.repeat(paint(m, k, contrast=contrast)[..., None], 3, axis=2), m)
        for k, m in enumerate(draw_lines(seed, 128, count=4) for seed in range(5))
    ]
    lost = [np.repeat(paint(m, k, contrast=-1.0)[..., None], 3, axis=2)
            for k, (_, m) in enumerate(pairs)]  # fmt: skip
    found = choose_strength(Clearer(), tmp_path, [i for i, _ in pairs], lost, [m for _, m in pairs])
    assert found.strength in STRENGTHS
    assert found.strength in wanted


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("finishing")
    tiny_base(place / "base")
    write_shots(place / "shots")
    adapt(place, place / "whole")
    return place


def adapt(place, out, **changed):
    values = {**QUICK, "base": str(place / "base"), "shots": place / "shots", "max_steps": 2}
    return adapt_images.run(AdaptImages(out=out, **{**values, "refine_steps": 4, **changed}))


def test_a_run_stopped_in_the_middle_goes_on_to_the_same_refiner(place, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(place, tmp_path / "run")
    with pytest.raises(DataError, match="its run is not finished"):
        read_card(tmp_path / "run", "images")
    adapt(place, tmp_path / "run")
    found, whole = (read_card(each, "images") for each in (tmp_path / "run", place / "whole"))
    assert found.refiner_sha256 == whole.refiner_sha256 != ""
    assert found == whole
    adapt(place, tmp_path / "run")
    assert read_card(tmp_path / "run", "images") == whole


def test_the_paper_knows_no_refiner(place, tmp_path):
    adapt(place, tmp_path / "run", refine_steps=None)
    card = read_card(tmp_path / "run", "images")
    assert card.refiner == ""
    assert card.grain is not None
    assert load_refiner(card) is None


def test_a_shot_held_out_teaches_the_finish_nothing(place, tmp_path, monkeypatch):
    seen = []
    learn = finishing.learn_grain
    monkeypatch.setattr(
        finishing, "learn_grain", lambda real, given: seen.append(len(real)) or learn(real, given)
    )
    adapt(place, tmp_path / "run", hold_out=2, refine_steps=0)
    assert seen == [3]


def test_a_refiner_that_was_changed_is_refused(place, tmp_path):
    adapt(place, tmp_path / "run")
    path = tmp_path / "run" / "refiner" / "refiner.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="is missing or not the refiner"):
        load_refiner(read_card(tmp_path / "run", "images"))


def test_a_refiner_that_is_gone_is_looked_for_nowhere_else(place, tmp_path, monkeypatch):
    run = shutil.copytree(place / "whole", tmp_path / "run")
    (run / "refiner" / "refiner.safetensors").unlink()
    monkeypatch.chdir(place / "whole")  # where one lies under the same relative path
    with pytest.raises(DataError, match=re.escape(f"{run}/refiner/refiner.safetensors: is miss")):
        draw_pairs(place, tmp_path / "pairs", engine_dir=run)
    draw_pairs(place, tmp_path / "plain", engine_dir=run, refine=0.0)
    assert len(read_rows(tmp_path / "plain")) == 5
    shutil.rmtree(run / "controlnet")
    with pytest.raises(UserError, match=re.escape(str(run / "controlnet"))):
        draw_pairs(place, tmp_path / "pairs", engine_dir=run)


def test_what_an_engine_lacks_cannot_be_asked_for(place, tmp_path):
    adapt(place, tmp_path / "run", refine_steps=0)
    for values in ({"refine": 1.0}, {"refine": 0.0}):
        draw_pairs(place, tmp_path / "pairs", engine_dir=tmp_path / "run", **values)
    with pytest.raises(ConfigError, match=r"refine is 1.5, and the engine has learned none"):
        draw_pairs(place, tmp_path / "more", engine_dir=tmp_path / "run", refine=1.5)
    assert not (tmp_path / "more").exists()


def test_an_engine_made_longer_and_killed_is_unfinished_not_broken(place, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    adapt(place, run, stop_at=1)
    assert read_card(run, "images").refiner
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(place, run)
    with pytest.raises(DataError, match="its run is not finished"):
        read_card(run, "images")


def test_shots_without_colour_make_pictures_without(place, tmp_path):
    assert read_card(place / "whole", "images").is_grey
    draw_pairs(place, tmp_path / "grey")
    assert read_image(tmp_path / "grey" / "images" / "shot-0.png").ndim == 2
    tinted = tmp_path / "shots"
    shutil.copytree(place / "shots", tinted)
    path = tinted / "images" / "shot-0.png"
    path.write_bytes(encode_image(read_image(path) // np.array([1, 2, 1], np.uint8)))
    adapt(place, tmp_path / "run", shots=tinted)
    assert not read_card(tmp_path / "run", "images").is_grey


def draw_pairs(place, out, **changed):
    values = {
        "masks": place / "shots" / "masks", "out": out, "steps": 2, "size": (64, 64),
        "engine_dir": place / "whole", **changed,
    }  # fmt: skip
    images.run(from_plain(Images, values))


def test_drawn_pairs_are_refined_and_say_so(place, tmp_path):
    for name, refine in (("with", 1.0), ("without", 0.0), ("again", 1.0)):
        draw_pairs(place, tmp_path / name, refine=refine, grain=0.0)
    rows = {name: read_rows(tmp_path / name) for name in ("with", "without", "again")}
    card = json.loads((place / "whole" / "engine.json").read_text())
    assert rows["without"][0]["parameters"]["refiner"] == [0.0, ""]
    wanted = [card["refiner_strength"], card["refiner_sha256"][:16]]
    assert rows["with"][0]["parameters"]["refiner"] == wanted
    sums = {
        name: [sha256_of_file(tmp_path / name / row["image"]) for row in found]
        for name, found in rows.items()
    }
    assert sums["with"] == sums["again"]
    assert all(a != b for a, b in zip(sums["with"], sums["without"], strict=True))
