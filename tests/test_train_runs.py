"""The four commands on the tiny base: resumed exactly, refused in one line, started in all ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training_shots import QUICK, write_shots

from univg.cli import main
from univg.errors import ResumeError, UserError
from univg.loop.checkpoints import load_newest
from univg.manifest import lock_folder
from univg.testing import tiny_base
from univg.train import adapt_images, adapt_masks, images, masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import AdaptMasks
from univg.train.images import TrainImages
from univg.train.masks import TrainMasks

KINDS = {
    "loha": (
        adapt_masks,
        AdaptMasks,
        {"turns": "mirror", "hold_out": 1, "warmup_steps": 2, "micro_batch": 1},
        "adapter.safetensors",
    ),
    "control": (
        adapt_images,
        AdaptImages,
        {"turns": "all", "schedule": "cosine", "warmup_steps": 2, "micro_batch": 1},
        "controlnet/diffusion_pytorch_model.safetensors",
    ),
    "look": (
        adapt_images,
        AdaptImages,
        {"unet": "lora", "look_dim": 2, "vessel_weight": 4.0, "ema": 0.9, "micro_batch": 1},
        "look.safetensors",
    ),
    "unet": (
        images,
        TrainImages,
        {"schedule": "cosine", "ema": 0.9, "micro_batch": 1, "min_snr": 5.0, "noise_offset": 0.1},
        "base/unet/diffusion_pytorch_model.safetensors",
    ),
    "lora": (masks, TrainMasks, {}, "adapter.safetensors"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the tiny base and shots."""
    place = tmp_path_factory.mktemp("runs")
    tiny_base(place / "base")
    write_shots(place / "shots")
    return place


def run(place: Path, kind: str, out: Path, **changed: Any) -> Any:
    module, settings, options, _ = KINDS[kind]
    source = {"shots": place / "shots"}
    if kind in {"unet", "lora"}:
        source = {"data": (place / "shots",)}
    values = {**QUICK, **options, **source, "base": str(place / "base"), "out": out, **changed}
    return module.run(settings(**values))


def steps_of(out: Path) -> list[tuple[int, tuple[str, ...]]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], tuple(sorted(row))) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_twice_ends_as_one_that_was_not(place, tmp_path, kind):
    run(place, kind, tmp_path / "whole")
    for stop_at in (2, 4, None):
        run(place, kind, tmp_path / "parts", stop_at=stop_at)
    name = KINDS[kind][3]
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    ends = [load_newest(tmp_path / out) for out in ("whole", "parts")]
    assert ends[0].values == ends[1].values
    assert all(ends[1].tensors[k].equal(v) for k, v in ends[0].tensors.items())
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "parts")
    seen = steps_of(tmp_path / "whole")
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_weights_and_another_others(place, tmp_path, kind):
    quick = {"max_steps": 2, "validate_every": 0, "learning_rate": 0.01, "warmup_steps": 0}
    name = KINDS[kind][3]
    for out, seed in (("one", 7), ("two", 7), ("other", 8)):
        run(place, kind, tmp_path / out, seed=seed, **quick)
    one, two, other = ((tmp_path / out / name).read_bytes() for out in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_a_run_folder_tells_how_to_repeat_it(place, tmp_path, capsys):
    run(place, "loha", tmp_path)
    said = capsys.readouterr().out
    assert "6 steps of 2 at 64 px on cpu" in said and "memory, estimated" in said
    assert "to go" in said and "samples/s" in said and "adapter.safetensors" in said
    claimed = json.loads((tmp_path / "run.json").read_text())
    assert claimed["settings"]["seed"] == 0 and len(claimed["data"]["masks"]) == 64
    around = json.loads((tmp_path / "environment.json").read_text())
    assert around["libraries"]["torch"] and around["processes"] == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 6 and result["files"][0] == "adapter.safetensors"


def test_the_best_of_held_out_shots_is_saved_beside_the_last(place, tmp_path):
    """At a rate that throws all away after its warm-up."""
    wild = {"learning_rate": 0.5, "schedule": "constant_with_warmup", "validate_every": 1}
    outcome = run(place, "loha", tmp_path, max_steps=3, **wild)
    assert outcome.best_step < 3
    best, last = (
        load_file(tmp_path / p) for p in ("best/adapter.safetensors", "adapter.safetensors")
    )
    assert best.keys() == last.keys()
    assert any(not best[name].equal(last[name]) for name in best)


def test_a_rate_far_too_high_ends_with_step_files_and_checkpoint(place, tmp_path):
    wild = {"learning_rate": 1.0, "schedule": "constant", "max_steps": 50, "save_every": 1}
    with pytest.raises(UserError) as caught:
        run(place, "loha", tmp_path, **wild)
    text = str(caught.value)
    assert "is not a number" in text and "shot-" in text and "\n" not in text
    state = load_newest(tmp_path)
    assert f"step-{state.step:08d}" in text
    assert all(tensor.isfinite().all() for k, tensor in state.tensors.items() if "weights" in k)


# Refusals -------------------------------------------------------------------------------------


def test_other_settings_in_the_same_folder_are_refused(place, tmp_path):
    run(place, "loha", tmp_path / "out", max_steps=1)
    with pytest.raises(ResumeError, match=r"settings\.learning_rate is .* there and 0\.5 here"):
        run(place, "loha", tmp_path / "out", max_steps=1, learning_rate=0.5)
    write_shots(tmp_path / "other", count=4)
    with pytest.raises(ResumeError, match=r"data\.masks is"):
        run(place, "loha", tmp_path / "out", max_steps=1, shots=tmp_path / "other")


def test_the_same_shots_elsewhere_are_the_same_run(place, tmp_path):
    run(place, "loha", tmp_path / "out", stop_at=2)
    write_shots(tmp_path / "moved")
    assert run(place, "loha", tmp_path / "out", shots=tmp_path / "moved").first_step == 2


def test_a_second_run_at_the_same_time_is_refused(place, tmp_path):
    with lock_folder(tmp_path), pytest.raises(ResumeError, match="another run is writing here"):
        run(place, "loha", tmp_path)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "fewer shots than asked": ("loha", {"wanted": 9}, "9"),
    "no shots": ("control", {"shots": Path("nowhere")}, "nowhere"),
    "all held out": ("loha", {"hold_out": 5}, "--hold-out 5: of 5 shots"),
    "no such shot": ("loha", {"left_out": 5, "hold_out": 0}, "--left-out 5: there are 5 shots"),
    "no such base": ("loha", {"base": "nowhere/at-all"}, "nowhere/at-all"),
    "no such adapter": ("loha", {"adapter": ("a.safetensors:0.7",)}, "a.safetensors: there is no"),
    "odd size": ("loha", {"size_px": 100}, "--size-px 100"),
    "unknown modality": ("loha", {"modality": "toes"}, "toes"),
    "no kernels": ("loha", {"attention": "xformers"}, "--attention xformers needs"),
    "no 8-bit optimizer": ("loha", {"optimizer": "adamw8bit"}, "--optimizer adamw8bit needs"),
    "no such tracker": ("loha", {"tracker": "wandb"}, "--tracker wandb needs the package wandb"),
    "nothing but noise": ("unet", {"zero_terminal_snr": True}, "predicts noise"),
    "held out in two ways": ("loha", {"left_out": 1, "hold_out": 1}, "give one of them"),
    "no such control": ("control", {"from_": "nowhere", "base": "also/gone"}, "nowhere"),
    "held out twice": ("loha", {"leave_one_out": True, "hold_out": 1}, "leave --hold-out away"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(place, tmp_path, case):
    kind, changed, words = REFUSED[case]
    with pytest.raises(UserError) as caught:
        run(place, kind, tmp_path / "out", **changed)
    assert words in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_bad_shots_are_told_before_the_base_is_looked_for(place, tmp_path):
    shots = write_shots(tmp_path / "shots")
    (shots / "masks" / "shot-2.png").write_bytes(b"no picture")
    (tmp_path / "base" / "unet").mkdir(parents=True)
    for kind in ("loha", "control"):
        with pytest.raises(UserError, match=r"shot-2\.png"):
            run(place, kind, tmp_path / "out", shots=shots)
    assert not (tmp_path / "out").exists()


def test_bad_shots_can_be_left_out(place, tmp_path):
    shots = write_shots(tmp_path / "shots")
    (shots / "masks" / "shot-2.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"shot-2\.png"):
        run(place, "loha", tmp_path / "out", shots=shots, skip_bad=True, max_steps=1)


@pytest.mark.parametrize("kind", ["unet", "lora"])
def test_unreadable_pictures_are_told_or_left_out(place, tmp_path, kind):
    data = write_shots(tmp_path / "data")
    for name in ("images", "masks"):
        (data / name / "shot-2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"shot-2\.png"):
        run(place, kind, tmp_path / "out", data=(data,), max_steps=1)
    with pytest.warns(UserWarning, match=r"left out: .*shot-2\.png"):
        run(place, kind, tmp_path / "out", data=(data,), max_steps=1, skip_bad=True)


def test_a_base_of_which_parts_are_missing_is_one_line(place, tmp_path):
    import shutil

    base = shutil.copytree(place / "base", tmp_path / "base")
    shutil.rmtree(base / "vae")
    with pytest.raises(UserError, match="vae"):
        run(place, "loha", tmp_path / "out", base=str(base))


# As a user starts them ------------------------------------------------------------------------


def words_of(place: Path, out: Path, *more: object) -> list[str]:
    options = {**QUICK, **KINDS["loha"][2], "shots": place / "shots", "base": place / "base"}
    words: list[object] = ["--out", out]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", value]
    return [str(word) for word in [*words, *more]]


def test_dry_run_tells_steps_and_memory_and_writes_nothing(place, tmp_path, capsys):
    assert main(["train", "adapt-masks", *words_of(place, tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 steps of 2, 12 samples" in said and "memory, estimated: " in said
    assert not (tmp_path / "out").exists()


def wait_for_steps(out: Path, count: int, child: subprocess.Popen) -> None:
    path = out / "metrics.jsonl"
    while not path.exists() or path.read_text().count('"loss"') < count:
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_goes_on(place, tmp_path, number):
    out = tmp_path / "run"
    steps = {"max_steps": 300, "save_every": 1000, "validate_every": 0}
    more = [w for k, v in steps.items() for w in (f"--{k.replace('_', '-')}", v)]
    words = ["-m", "univg.train.adapt_masks", *words_of(place, out, *more)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, *words], text=True, **pipes)
    wait_for_steps(out, 3, child)
    child.send_signal(number)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert said.startswith("univg: ") and said.count("\n") == 1
    state = load_newest(out)
    assert state is not None and 3 <= state.step < 300
    assert run(place, "loha", out, **steps, stop_at=state.step + 1).first_step == state.step


@pytest.mark.slow
def test_two_processes_train_what_one_trains(place, tmp_path):
    twin = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    module = ["-m", "univg.train.adapt_masks"]
    more = ["--micro-batch", "2", "--batch", "4"]
    subprocess.run([*twin, *module, *words_of(place, tmp_path / "two", *more)], check=True)
    run(place, "loha", tmp_path / "one", micro_batch=2, batch=4)
    ends = [load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two")]
    for name, value in ends[0].items():
        assert value.sub(ends[1][name]).abs().max() < 1e-4, name


@pytest.mark.slow
def test_accelerate_launch_starts_a_run(place, tmp_path):
    words = words_of(place, tmp_path / "out")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    subprocess.run([*launch, "-m", "univg.train.adapt_masks", *words], check=True, env=environment)
    assert (tmp_path / "out" / "adapter.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while it compiles
def test_compile_trains_the_same_but_for_rounding(place, tmp_path):
    run(place, "loha", tmp_path / "plain", max_steps=2)
    run(place, "loha", tmp_path / "compiled", max_steps=2, compile=True)
    ends = [load_file(tmp_path / name / "adapter.safetensors") for name in ("plain", "compiled")]
    for name, value in ends[0].items():
        assert value.sub(ends[1][name]).abs().max() < 1e-3, name
