"""What others bring: networks and metrics of a user's own that fail, model files nobody trained."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_segment_predict import settings_for, write_images, write_model
from torch import nn
from training_shots import write_shots

from univg.errors import ConfigError, DataError, ProblemReport, UserError
from univg.images import list_pictures
from univg.masks import encode_mask
from univg.segment import evaluate, fit, predict
from univg.segment.evaluate import Evaluate
from univg.segment.fit import Fit
from univg.segment.metrics import measure_pair
from univg.segment.networks import build_network
from univg.segment.weights import KEY, load_network, read_card, write_card

HERE = __name__


class Odd(nn.Module):
    """A layer whose forward does what `act` says."""

    def __init__(self, channels_in, act):
        super().__init__()
        self.layer, self.norm, self.act = nn.Conv2d(channels_in, 1, 1), nn.BatchNorm2d(1), act

    def forward(self, image):
        return self.act(self.norm(self.layer(image)), self.training)


def fail(kind, only_in_training=False):
    def act(found, training):
        if training or not only_in_training:
            raise kind("a word")
        return found

    return act


def build_failing(channels_in):
    raise KeyError("size")


def build_asserting(channels_in):
    return Odd(channels_in, fail(AssertionError))


def build_failing_in_training(channels_in):
    return Odd(channels_in, fail(IndexError, only_in_training=True))


def build_two_classes(channels_in):
    return nn.Conv2d(channels_in, 2, 1)


def build_two_in_training(channels_in):
    return Odd(channels_in, lambda found, training: torch.cat([found] * (1 + training), 1))


def build_frozen(channels_in):
    return nn.Conv2d(channels_in, 1, 1).requires_grad_(False)


def build_normal(channels_in):
    return Odd(channels_in, lambda found, training: found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("build_failing", "when it is built: KeyError"),
        ("build_asserting", "AssertionError: a word"),
        ("build_failing_in_training", "in training: IndexError: a word"),
        ("build_two_classes", "must give one map of logits each"),
        ("build_two_in_training", "must give one map of logits each"),
        ("build_frozen", "no weight that can be trained"),
    ],
)
def test_a_network_of_ones_own_that_fails_is_one_line(name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        build_network(f"{HERE}:{name}", 1)
    assert f"{HERE}:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_trying_a_network_out_leaves_it_as_it_was():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network = build_network(f"{HERE}:build_normal", 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert network.training and float(network.body.norm.running_mean) == 0.0
    assert int(network.body.norm.num_batches_tracked) == 0


def test_a_network_that_cannot_be_built_claims_no_folder(tmp_path):
    shots, out = write_shots(tmp_path / "shots"), tmp_path / "out"
    given = {"shots": shots, "out": out, "network": "unet-small", "max_steps": 1, "batch": 1,
             "patch_px": 32, "tracker": "none", "report_samples": 0}  # fmt: skip
    with pytest.raises(ConfigError, match="depth"):
        fit.run(Fit(**given, network_options=("channels=4", "depth=9")))
    assert not list(out.iterdir())
    fit.run(Fit(**given, network_options=("channels=4", "depth=3")))


# Metrics -----------------------------------------------------------------------------------------


def fail_to_measure(found, truth):
    raise ZeroDivisionError("none")


def give_nothing(found, truth):
    return None


def leave(found, truth):
    raise SystemExit(3)


def spoil(found, truth):
    found[:] = truth
    return 1.0


def give_infinity(found, truth):
    return float("inf")


def write_masks(folder, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encode_mask(rng.random((24, 24)) < 0.3))
    return folder


@pytest.mark.parametrize("name", ["fail_to_measure", "give_nothing", "leave"])
def test_a_metric_of_ones_own_that_fails_is_one_line(tmp_path, name):
    truth, found = write_masks(tmp_path / "t", 1), write_masks(tmp_path / "p", 2)
    asked = Evaluate(truth=truth, predicted=found, out=tmp_path / "out", workers=1,
                     metrics=("dsc", f"{HERE}:{name}"))  # fmt: skip
    with pytest.raises(ConfigError, match=name) as caught:
        evaluate.run(asked)
    assert "0.png" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_metric_of_ones_own_changes_no_mask():
    rng = np.random.default_rng(0)
    found, truth = rng.random((2, 32, 32)) < 0.4
    alone = measure_pair(found, truth, metrics=("dsc", "hd95"))
    after = measure_pair(found, truth, metrics=(f"{HERE}:spoil", "dsc", "hd95"))
    assert {name: after[name] for name in alone} == alone and alone["dsc"] < 1


def test_infinite_figures_are_null_in_json(tmp_path):
    truth, found = write_masks(tmp_path / "t", 1), write_masks(tmp_path / "p", 2)
    asked = Evaluate(truth=truth, predicted=found, out=tmp_path / "out", workers=1, draws=100,
                     metrics=("dsc", f"{HERE}:give_infinity"))  # fmt: skip
    with np.errstate(invalid="ignore"):
        evaluate.run(asked)

    def refuse(word):
        raise AssertionError(word)

    text = (tmp_path / "out" / "evaluation.json").read_text()
    told = json.loads(text, parse_constant=refuse)
    method = told["methods"][0]
    assert told["summaries"][method]["give_infinity"]["mean"] is None
    assert told["per_image"][0]["values"][method]["give_infinity"] is None


def test_an_evaluation_is_not_written_over_another_run(tmp_path):
    truth, found = write_masks(tmp_path / "t", 1), write_masks(tmp_path / "p", 2)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="folder of another run"):
        evaluate.run(Evaluate(truth=truth, predicted=found, out=run, workers=1))
    assert [path.name for path in run.iterdir()] == ["run.json"]


# Model files -------------------------------------------------------------------------------------


def rewrite(path: Path, change=None, **card) -> Path:
    """Write a model again, its tensors or its card changed."""
    tensors, text = load_file(path), dataclasses.replace(read_card(path), **card)
    if change is not None:
        change(tensors)
    save_file(tensors, path, {KEY: write_card(text)})
    return path


@pytest.mark.parametrize(
    "facts",
    [
        {"tile_px": 0},
        {"tile_px": -64},
        {"tile_px": 1},
        {"tile_px": "1e400"},
        {"preparation": {"channels": "grey", "longest_px": -5, "fov": "auto"}},
        {"preparation": {"channels": "grey", "longest_px": 10**7, "fov": "auto"}},
        {"preparation": {"channels": "grey", "longest_px": 0, "fov": "nonsense"}},
    ],
)
def test_facts_that_no_training_writes_are_refused(tmp_path, facts):
    write_model(tmp_path / "model.safetensors", **facts)
    write_images(tmp_path / "set")
    with pytest.raises(DataError, match="how its images are prepared"):
        predict.run(settings_for(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "card",
    [
        {"threshold": 5.0},
        {"threshold": -1.0},
        {"channels_in": 10**12},
        {"options": {"name": "x"}},
        {"options": {"channels_in": 3}},
    ],
)
def test_cards_that_no_training_writes_are_refused(tmp_path, card):
    path = rewrite(write_model(tmp_path / "model.safetensors"), **card)
    with pytest.raises(DataError, match="card cannot be read"):
        load_network(path)


def test_a_card_that_goes_too_deep_or_too_far_is_refused(tmp_path):
    path = write_model(tmp_path / "model.safetensors")
    whole = write_card(read_card(path))
    far = whole.replace('"threshold": 0.45', '"threshold": NaN')
    many = whole.replace('"channels_in": 1', '"channels_in": 1e999')
    assert whole not in (far, many)
    for text in ("[" * 100_000, far, many):
        save_file(load_file(path), tmp_path / "changed.safetensors", {KEY: text})
        with pytest.raises(DataError, match="card cannot be read"):
            read_card(tmp_path / "changed.safetensors")


def test_a_network_too_large_for_any_memory_is_refused(tmp_path):
    path = write_model(tmp_path / "model.safetensors")
    rewrite(path, options={"channels": 10**7, "depth": 8, "norm": "batch", "up": "bilinear"})
    with pytest.raises(DataError, match="cannot be built"):
        load_network(path)


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_a_model_that_gives_no_numbers_writes_nothing(tmp_path, value):
    def spoil_first(tensors):
        tensors[sorted(tensors)[0]].fill_(value)

    rewrite(write_model(tmp_path / "model.safetensors"), spoil_first)
    write_images(tmp_path / "set")
    with pytest.raises(DataError, match="values that are no numbers"):
        predict.run(settings_for(tmp_path, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    "options", [{"pretrained": True}, {"weights_path": 1}, {"act": "a/b"}, {"more": {"url": 1}}]
)
def test_a_file_has_monai_fetch_nothing(tmp_path, options):
    path = rewrite(
        write_model(tmp_path / "model.safetensors"), network="monai:DenseNet121", options=options
    )
    with pytest.raises(ConfigError, match="if you trust it, say --network"):
        load_network(path)


# Folders -----------------------------------------------------------------------------------------


def test_names_that_are_no_text_are_told(tmp_path):
    write_images(tmp_path)
    good = tmp_path / "images" / "odd.png"
    try:
        good.rename(good.with_name(os.fsdecode(b"caf\xe9.png")))
    except OSError:
        pytest.skip("this disk takes no such name")
    with pytest.raises(DataError, match=r"1 file names .*caf\\udce9\.png"):
        list_pictures(tmp_path / "images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_picture(tmp_path):
    write_images(tmp_path)
    os.mkfifo(tmp_path / "images" / "pipe.png")
    assert "pipe.png" not in [path.name for path in list_pictures(tmp_path / "images")]


def test_two_fields_of_view_and_empty_ones_are_told(tmp_path):
    write_model(tmp_path / "model.safetensors")
    views = write_images(tmp_path / "set") / "fov"
    views.mkdir()
    view = np.zeros((64, 64), bool)
    (views / "tiny.png").write_bytes(encode_mask(np.zeros((5, 7), bool)))
    view[8:50, 8:50] = True
    (views / "square.png").write_bytes(encode_mask(view))
    (views / "square.bmp").write_bytes(cv2.imencode(".bmp", view * np.uint8(255))[1].tobytes())
    with pytest.raises(ProblemReport) as caught:
        predict.run(settings_for(tmp_path, tmp_path / "out"))
    told = str(caught.value)
    assert "has 2 fields of view: square.bmp, square.png" in told
    assert "field of view tiny.png is empty" in told


def test_images_without_the_view_that_is_needed_are_told_first(tmp_path):
    write_model(tmp_path / "model.safetensors")
    views = write_images(tmp_path / "set") / "fov"
    views.mkdir()
    (views / "square.png").write_bytes(encode_mask(np.ones((64, 64), bool)))
    asked = settings_for(tmp_path, tmp_path / "out", fov="given")
    with pytest.raises(ProblemReport, match="3 of 4 images lack a field of view"):
        predict.run(asked)
    assert not (tmp_path / "out").exists()
    found = predict.run(dataclasses.replace(asked, skip_bad=True))
    assert (found.made, found.bad) == (1, 3)


# Runs --------------------------------------------------------------------------------------------


def test_a_longer_run_keeps_its_synthetic_part_and_a_shorter_one_is_refused(tmp_path):
    shots, made = write_shots(tmp_path / "shots"), write_shots(tmp_path / "made", 8)
    given = {"shots": shots, "synthetic": (made,), "network": "unet-small", "batch": 2,
             "network_options": ("channels=4", "depth=3"), "patch_px": 32, "tracker": "none",
             "schedule": "constant", "warmup_steps": 0, "ema": 0.0, "preview_every": 0,
             "report_samples": 0, "precision": "no"}  # fmt: skip
    out = tmp_path / "out"
    fit.run(Fit(**given, out=out, max_steps=2, synthetic_until=0.5))
    with pytest.raises(UserError, match="synthetic_steps"):
        fit.run(Fit(**given, out=out, max_steps=4, synthetic_until=0.5))
    other = tmp_path / "other"
    fit.run(Fit(**given, out=other, max_steps=3))
    kept = ("model.safetensors", "config.yaml", "result.json")
    before = [(other / name).read_bytes() for name in kept]
    with pytest.raises(UserError, match="trained for 3 steps already, 2 are asked for"):
        fit.run(Fit(**given, out=other, max_steps=2))
    assert [(other / name).read_bytes() for name in kept] == before


def test_each_shot_left_out_and_one_left_out_are_refused(tmp_path):
    shots = write_shots(tmp_path / "shots")
    asked = Fit(shots=shots, out=tmp_path / "out", max_steps=1, leave_one_out=True, left_out=1,
                tracker="none")  # fmt: skip
    for act in (fit.plan, fit.run):
        with pytest.raises(UserError, match="leave --left-out away"):
            act(asked)
    assert not (tmp_path / "out").exists()
    plain = dataclasses.replace(asked, left_out=None)
    count = len(list((shots / "images").iterdir()))
    assert f"First {count} runs, each without one shot" in fit.plan(plain)
