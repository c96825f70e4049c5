"""`univg segment fit`: learns, keeps the synthetic share, resumes exactly, refuses early."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_shots import SIZE, write_shots

from univg.cli import main
from univg.errors import ConfigError, ResumeError, UserError
from univg.files import sha256_of_file
from univg.loop.checkpoints import load_newest
from univg.loop.folds import find_best_step
from univg.loop.looking import BEST
from univg.segment import fit
from univg.segment.fit import Fit, count_steps, count_synthetic, parse_options, resolve
from univg.segment.fit_data import arrange, read_pairs
from univg.segment.fit_run import count_trained, describe_plan, make_task
from univg.segment.fit_task import SegmentTask
from univg.segment.thresholds import THRESHOLDS, choose_threshold, score_thresholds
from univg.segment.weights import load_network, read_card

TINY: dict[str, Any] = {
    "network": "unet-small",
    "network_options": ("channels=4", "depth=3"),
    "patch_px": 32,
    "max_steps": 6,
    "batch": 4,
    "save_every": 2,
    "validate_every": 3,
    "preview_every": 0,
    "report_samples": 1,
    "precision": "no",
    "tracker": "none",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with five shots and eight synthetic pairs."""
    place = tmp_path_factory.mktemp("segment")
    write_shots(place / "shots")
    write_shots(place / "made", 8)
    return place


def settings_for(place: Path, out: Path, **changed: Any) -> Fit:
    given = {"shots": place / "shots", "synthetic": (place / "made",), "out": out}
    return Fit(**{**given, **TINY, **changed})


def task_for(place: Path, **changed: Any) -> SegmentTask:
    asked = settings_for(place, place / "unused", **changed)
    shots, made = read_pairs(asked)
    asked = resolve(asked, len(shots), len(made))
    return make_task(asked, arrange(asked, shots, made))


def test_it_learns_lines_on_noise(place, tmp_path):
    asked = settings_for(
        place, tmp_path / "out", max_steps=120, batch=4, hold_out=1, ema=0.9, warmup_steps=5,
        network_options=("channels=8", "depth=3"), augment="light", save_every=120,
        validate_every=60, preview_every=120, learning_rate=1e-2,
    )  # fmt: skip
    fit.run(asked)
    found = json.loads((asked.out / "result.json").read_text())
    assert found["dice"] > 0.8, found["dice"]
    card = read_card(asked.out / "model.safetensors")
    assert card.threshold == found["threshold"] and card.channels_in == 1
    assert card.facts["preparation"]["channels"] == "grey"
    assert card.facts["training"]["held_out"] == ["shot-4"]
    page = (asked.out / "report.html").read_text()
    assert "Held-out shots" in page and "shot-4" in page and "http" not in page.split("<body>")[1]
    assert len(list((asked.out / "previews").glob("*.png"))) == 2


def test_a_resumed_run_equals_one_in_one_go(place, tmp_path):
    changed = {"hold_out": 1, "ema": 0.9, "augment": "strong", "schedule": "cosine"}
    whole = settings_for(place, tmp_path / "whole", **changed)
    parts = settings_for(place, tmp_path / "parts", **changed)
    fit.run(whole)
    fit.run(dataclasses.replace(parts, stop_at=3, memory_mb=0))
    fit.run(dataclasses.replace(parts, micro_batch=4))
    for name in ("model.safetensors", BEST):
        assert sha256_of_file(whole.out / name) == sha256_of_file(parts.out / name), name
    states = [load_newest(asked.out) for asked in (whole, parts)]
    assert states[0] is not None and states[1] is not None
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


def test_loading_threads_change_nothing(place, tmp_path):
    """More pairs than memory holds, so that threads read files too."""
    for loaders in (1, 3):
        fit.run(settings_for(place, tmp_path / str(loaders), loaders=loaders, memory_mb=0))
    ends = [tmp_path / name / "model.safetensors" for name in ("1", "3")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    again = settings_for(place, tmp_path / "1", loaders=2)
    assert fit.run(again).steps == 6  # and the folder takes it for the same run


def test_the_statistics_of_the_file_belong_to_its_weights(place, tmp_path):
    """Also with a moving average, whose weights were never trained with."""
    asked = settings_for(place, tmp_path / "out", ema=0.95, hold_out=1)
    fit.run(asked)
    network, _ = load_network(asked.out / "model.safetensors")
    task = task_for(place, hold_out=1, ema=0.95)
    with torch.no_grad():
        for name, weight in task.network.named_parameters():
            weight.copy_(dict(network.named_parameters())[name])
    task.module.refresh_statistics()
    for name, buffer in task.network.named_buffers():
        assert torch.equal(buffer, dict(network.named_buffers())[name]), name


def test_odd_batches_and_batches_of_one():
    assert [count_synthetic(batch, 0.5, 8) for batch in (2, 3, 5, 7, 9)] == [1, 1, 2, 3, 4]
    assert [count_synthetic(1, share, 8) for share in (0.0, 1.0)] == [0, 1]
    assert count_synthetic(1, 0.5, 0) == 0
    with pytest.raises(ConfigError, match="batch is 1"):
        count_synthetic(1, 0.5, 8)


@pytest.mark.parametrize(
    ("share", "count"), [(0.5, 2), (0.0, 0), (1.0, 4), (0.25, 1), (0.01, 1), (0.99, 3)]
)
def test_each_batch_holds_the_share_of_synthetic_pairs(place, share, count):
    task = task_for(place, synthetic_share=share, vessel_share=0.0)
    assert task.synthetic_count == count == count_synthetic(4, share, 8)
    for step in range(3):
        task._recent.clear()
        rng = np.random.default_rng(step)
        for item in range(task.items):
            task.load(item, rng)
        assert sum("made" in name for name in task._recent) == count


def test_after_a_while_all_samples_are_real_if_asked(place):
    task = task_for(place, max_steps=10, synthetic_until=0.6, synthetic_share=0.5)

    def count_made(step: int) -> int:
        task._recent.clear()
        for item in range(task.items):
            task.load_in_step(step, item, np.random.default_rng(item))
        return sum("made" in name for name in task._recent)

    assert [count_made(step) for step in (0, 5, 6, 9)] == [2, 2, 0, 0]
    task._recent.clear()
    assert len(list(task._draw_statistics()))
    assert not any("made" in name for name in task._recent), "statistics are of what comes last"
    never = task_for(place, max_steps=10, synthetic_share=0.5)
    assert never.synthetic_steps is None


def test_synthetic_first_goes_on_to_the_same_weights(place, tmp_path):
    values = {"max_steps": 6, "synthetic_until": 0.5}
    fit.run(settings_for(place, tmp_path / "whole", **values))
    for stop in (2, 4, None):
        fit.run(settings_for(place, tmp_path / "parts", stop_at=stop, **values))
    whole, parts = (tmp_path / n / "model.safetensors" for n in ("whole", "parts"))
    assert load_file(whole).keys() == load_file(parts).keys()
    for name, weight in load_file(whole).items():
        assert torch.equal(weight, load_file(parts)[name]), name
    fit.run(settings_for(place, tmp_path / "mixed", max_steps=6))
    mixed = load_file(tmp_path / "mixed" / "model.safetensors")
    assert any(not torch.equal(mixed[name], weight) for name, weight in load_file(whole).items())


def test_without_synthetic_pairs_all_are_real(place):
    task = task_for(place, synthetic=())
    assert task.synthetic_count == 0 and task.synthetic is None
    assert task.load(0, np.random.default_rng(0))["image"].shape == (1, 32, 32)


def test_a_sample_follows_from_its_generator_alone(place):
    one, other = task_for(place, augment="strong"), task_for(place, augment="strong", memory_mb=0)
    for item in (0, 3, 1):
        samples = [task.load(item, np.random.default_rng(item)) for task in (one, other)]
        for name, value in samples[0].items():
            assert torch.equal(value, samples[1][name])


def test_whole_images_of_the_paper(place):
    task = task_for(place, preset="paper", patch_px=None, max_steps=None, epochs=2, batch=4)
    assert task.cut.whole and task.cut.side_px == SIZE and task.cut.level == "none"
    assert task.module.loss == "bce"


def test_length_is_counted_in_epochs_or_steps(place, tmp_path):
    assert count_steps(300, 4, 2, 5, 500) == 300 * 250
    assert count_steps(300, 4, 0, 5, 0) == 300 * 2
    asked = Fit(shots=place, out=tmp_path / "x", preset="paper")
    assert resolve(asked, 5, 500).max_steps == 75_000
    assert resolve(dataclasses.replace(asked, epochs=10), 5, 500).max_steps == 2500
    assert resolve(dataclasses.replace(asked, max_steps=7), 5, 500).max_steps == 7
    laptop = resolve(dataclasses.replace(asked, preset="laptop", max_steps=40), 5, 0)
    assert laptop.warmup_steps == 4
    strong = dataclasses.replace(asked, preset="strong")
    assert resolve(strong, 5, 0).network_options == ("channels=32", "norm=instance")
    swin = dataclasses.replace(strong, network="swin-unet")
    assert resolve(swin, 5, 0).network_options == ()
    with pytest.raises(ConfigError, match="epochs and max_steps"):
        resolve(dataclasses.replace(asked, epochs=1, max_steps=1), 5, 0)


def test_epochs_count_the_shots_that_are_trained_on(place, tmp_path):
    asked = settings_for(place, tmp_path, epochs=4, max_steps=None, synthetic=(), batch=1)
    shots, _ = read_pairs(asked)
    whole = resolve(asked, count_trained(asked, len(shots)), 0)
    less = dataclasses.replace(asked, left_out=0)
    assert whole.max_steps == 4 * len(shots)
    assert resolve(less, count_trained(less, len(shots)), 0).max_steps == 4 * (len(shots) - 1)


def test_another_run_is_refused_and_left_as_it_is(place, tmp_path):
    asked = settings_for(place, tmp_path / "out", max_steps=2)
    fit.run(asked)
    before = sha256_of_file(asked.out / "model.safetensors")
    with pytest.raises(ResumeError, match="another run"):
        fit.run(dataclasses.replace(asked, loss="dice"))
    with pytest.raises(ResumeError, match="another run"):
        fit.run(dataclasses.replace(asked, synthetic=()))
    assert sha256_of_file(asked.out / "model.safetensors") == before


def test_it_starts_from_earlier_weights(place, tmp_path):
    first = settings_for(place, tmp_path / "first")
    fit.run(first)
    start = tmp_path / "first" / "model.safetensors"
    left_open = {"network": None, "network_options": None, "preset": "strong"}
    asked = settings_for(place, tmp_path / "out", start_from=str(tmp_path / "first"), **left_open)
    shots, made = read_pairs(asked)
    asked = resolve(asked, len(shots), len(made))
    assert asked.network == "unet-small"
    assert set(asked.network_options) >= {"channels=4", "depth=3"}
    weights = make_task(asked, arrange(asked, shots, made)).network.state_dict()
    for name, tensor in load_network(start)[0].state_dict().items():
        assert torch.equal(weights[name], tensor)

    fit.run(asked)
    again = dataclasses.replace(asked, out=tmp_path / "again")
    fit.run(dataclasses.replace(again, stop_at=3))
    fit.run(again)
    assert sha256_of_file(tmp_path / "out" / "model.safetensors") == sha256_of_file(
        tmp_path / "again" / "model.safetensors"
    )
    with pytest.raises(ResumeError, match="another run"):
        fit.run(dataclasses.replace(asked, start_from=None))
    fit.run(dataclasses.replace(first, out=tmp_path / "other", seed=1))
    with pytest.raises(ResumeError, match="another run"):
        fit.run(dataclasses.replace(asked, start_from=str(tmp_path / "other")))


def test_a_start_of_another_network_is_refused(place, tmp_path):
    fit.run(settings_for(place, tmp_path / "first", max_steps=1))
    start = {"start_from": str(tmp_path / "first")}
    for changed in ({"network": "unet"}, {"network_options": ("channels=8", "depth=3")}):
        with pytest.raises(UserError, match="start-from none"):
            fit.run(settings_for(place, tmp_path / "out", **start, **changed))
    with pytest.raises(UserError, match="no such file"):
        fit.run(
            settings_for(place, tmp_path / "out", start_from=str(tmp_path / "none.safetensors"))
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"network": "unet-smal"}, "did you mean unet-small"),
        ({"network_options": ("chanels=4",)}, "no option chanels"),
        ({"network_options": ("channels",)}, "name=value"),
        ({"hold_out": 5}, "leaves none"),
        ({"hold_out": 9}, "leaves none"),
        ({"leave_one_out": True, "stop_at": 1}, "leave --stop-at away"),
        ({"left_out": 5}, "there are 5 shots"),
        ({"wanted": 6}, "6 are asked for"),
        ({"patch_px": 8}, "at least 16"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"fov": "given"}, "--fov"),
    ],
)
def test_mistakes_are_told_before_the_work_starts(place, tmp_path, changed, told):
    with pytest.raises(UserError, match=told):
        fit.run(settings_for(place, tmp_path / "out", **changed))
    assert not list(tmp_path.glob("out/checkpoints/*"))


@pytest.mark.parametrize("fov", ["whole", "found"])
def test_fields_of_view_that_are_not_used_stop_no_training(tmp_path, fov):
    shots = write_shots(tmp_path / "shots")
    (shots / "fov").mkdir()
    (shots / "fov" / "shot-1.png").write_bytes(b"no picture at all")
    asked = settings_for(tmp_path, tmp_path / "out", shots=shots, synthetic=(), max_steps=1)
    with pytest.raises(UserError, match=r"fov/shot-1\.png"):
        fit.run(asked)
    fit.run(dataclasses.replace(asked, fov=fov))
    assert (asked.out / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["a run", "something else"])
def test_leave_one_out_needs_a_folder_that_it_can_have(place, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "a run":
        fit.run(settings_for(place, out, max_steps=1))
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    asked = settings_for(place, out, max_steps=1, leave_one_out=True)
    for attempt in (fit.run, describe_plan):
        with pytest.raises(UserError, match=r"without --leave-one-out|notes\.txt"):
            attempt(asked)
    assert not (tmp_path / "out-folds").exists()


def test_a_run_without_any_validation_cannot_choose_steps():
    with pytest.raises(UserError, match="smaller --validate-every"):
        find_best_step([{0: 1.0}, {0: 1.0}])


def test_the_plan_builds_the_network(place, tmp_path):
    with pytest.raises(UserError, match="channels"):
        describe_plan(settings_for(place, tmp_path / "out", network_options=("channels=0",)))


def test_the_plan_says_what_would_be_done(place, tmp_path, capsys):
    words = ["segment", "fit", "--shots", str(place / "shots"), "--synthetic", str(place / "made"),
             "--out", str(tmp_path / "out"), "--hold-out", "1", "--dry-run"]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "4 shots, 1 held out, 8 synthetic pairs" in told and "1000 steps of 8" in told
    assert not (tmp_path / "out").exists()


def test_options_of_a_network_are_read_as_yaml():
    words = ("channels=8", "depths=[2, 2]", "norm=instance")
    assert parse_options(words) == {"channels": 8, "depths": [2, 2], "norm": "instance"}


def test_dice_by_threshold():
    mask = np.zeros((8, 8), bool)
    mask[:, :3] = True
    fov = np.ones_like(mask)
    fov[0] = False
    probability = np.where(mask, 0.7, 0.2).astype(np.float32)
    probability[0] = 1.0  # outside, so that it does not count
    curve = score_thresholds(probability, mask, fov)
    truth = mask & fov
    found = [fov & (probability >= threshold) for threshold in THRESHOLDS]
    cut = [2 * (truth & one).sum() / (truth.sum() + one.sum()) for one in found]
    inner = (np.abs(THRESHOLDS - 0.7) > 0.011) & (np.abs(THRESHOLDS - 0.2) > 0.011)
    assert np.allclose(curve[inner], np.array(cut)[inner])
    assert choose_threshold([curve]) == (0.5, 1.0)
    empty = score_thresholds(np.zeros((8, 8), np.float32), np.zeros_like(mask), fov)
    assert (empty == 1).all()


def test_batch_normalisation_of_few_shots_is_warned_of(place, tmp_path, capsys):
    few = settings_for(place, tmp_path / "batch", max_steps=1)
    options = (*few.network_options, "norm=batch")
    fit.run(dataclasses.replace(few, network_options=options))
    assert "5 shots say little of how images differ; norm=instance" in capsys.readouterr().out
    fit.run(dataclasses.replace(few, out=tmp_path / "instance"))
    assert "say little of how" not in capsys.readouterr().out


def test_what_scaling_costs_is_told(place, tmp_path, capsys):
    seen_small = settings_for(place, tmp_path / "small", max_steps=1, size_px=32)
    fit.run(seen_small)
    assert "px are seen at 32 px, which alone costs" in capsys.readouterr().out
    fit.run(dataclasses.replace(seen_small, out=tmp_path / "auto", size_px="auto"))
    assert "which alone costs" not in capsys.readouterr().out


def test_a_shot_is_predicted_once_for_the_same_weights(place, tmp_path, monkeypatch):
    """The last preview, the threshold, the file and the page look at the same five shots."""
    from univg.segment.fit_task import Judged

    calls, real = [], Judged.predict
    monkeypatch.setattr(Judged, "predict", lambda self, image: calls.append(1) or real(self, image))
    asked = settings_for(place, tmp_path / "once", max_steps=2)
    fit.run(dataclasses.replace(asked, preview_every=0, report_samples=5))
    assert len(calls) == 5
