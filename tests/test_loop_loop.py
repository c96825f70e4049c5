"""The loop: exact to resume, the same whatever the micro-batch, and honest when it fails."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from loop_runs import check_same, figures_of, interrupt
from safetensors import safe_open
from safetensors.torch import load_file
from train_tasks import NetTask, settings_for, state_of, train_net

from univg.errors import UserError
from univg.files import DiskFullError
from univg.loop.checkpoints import list_checkpoints
from univg.loop.device import make_accelerator
from univg.loop.looking import BEST
from univg.loop.loop import Stopped, train

RUN = Path(__file__).with_name("train_net_command.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_net(NetTask(), settings_for(out))
    return out


# Resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [(5,), (9, 30), (17, 18, 41)])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, whole, places):
    """By a real signal, once and again; dropout, average, schedule, accumulation included."""
    out, left = tmp_path / "run", list(places)
    stops = 0
    while True:
        seen = figures_of(out)[-1]["step"] * 4 if out.exists() else 0
        at = {max(0, place - seen): interrupt for place in left[:1]}
        left = left[1:]
        try:
            train_net(NetTask(at=at), settings_for(out))
            break
        except Stopped as stop:
            stops += 1
            assert "the same command goes on" in str(stop)
    assert stops == len(places)
    check_same(out, whole)


@pytest.mark.parametrize("stops", [(6,), (2, 7), (1, 2, 3, 11)])
def test_stopping_at_a_step_and_going_on_changes_nothing(tmp_path, whole, stops):
    out = tmp_path / "run"
    for stop in stops:
        assert train_net(NetTask(), settings_for(out, stop_at=stop)).steps == stop
    outcome = train_net(NetTask(), settings_for(out))
    assert outcome.first_step == stops[-1]
    assert state_of(out) == state_of(whole)
    assert (out / "net.safetensors").read_bytes() == (whole / "net.safetensors").read_bytes()


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    out = shutil.copytree(whole, tmp_path / "run")
    task = NetTask()
    outcome = train_net(task, settings_for(out))
    assert outcome.steps == outcome.first_step == 12 and task.seen == []
    check_same(out, whole)


def test_figures_of_steps_after_the_checkpoint_are_dropped(tmp_path, whole):
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(list_checkpoints(out)[-1])
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 12, "loss": 1.0}\n{"step": 13, "lo')
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path, whole):
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 0, "validation": 1.0}\n{"step": 1, "loss"')
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


def truncate(folder: Path) -> None:
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def flip(folder: Path, name: str = "state.safetensors") -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lambda folder: flip(folder, "state.json"),
        lambda folder: (folder / "state.json").write_text("[]"),
        lambda folder: (folder / "state.safetensors").unlink(),
    ],
    ids=["truncated", "bit", "bit-of-values", "other-json", "missing"],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole, damage):
    out = shutil.copytree(whole, tmp_path / "run")
    damage(list_checkpoints(out)[-1])
    with pytest.warns(UserWarning, match=r"step-00000012: damaged .* the one before is taken"):
        outcome = train_net(NetTask(), settings_for(out))
    assert outcome.first_step == 9
    check_same(out, whole)


def test_checkpoints_rotate(whole):
    assert [path.name for path in list_checkpoints(whole)] == ["step-00000009", "step-00000012"]


def test_a_constant_schedule_can_be_made_longer(tmp_path):
    constant = {"schedule": "constant_with_warmup", "keep_checkpoints": 9}
    train_net(NetTask(), settings_for(tmp_path / "long", **constant))
    for steps in (6, 12):
        train_net(NetTask(), settings_for(tmp_path / "two", max_steps=steps, **constant))
    assert state_of(tmp_path / "two") == state_of(tmp_path / "long")


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, whole):
    out = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = sum(p.stat().st_size for p in list_checkpoints(whole)[0].glob("*.safetensors")) // 2

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(DiskFullError, match="no space left on the disk") as caught:
            train_net(NetTask(at={25: fill}), settings_for(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


def train_scaled(out: Path, **changed: Any) -> float:
    """Train with a gradient scaler as half precision has it; return its scale at the end.

    It grows with each step until gradients overflow, which skips a step and halves it.
    """
    asked = settings_for(out, clip_norm=None, **changed)
    out.mkdir(exist_ok=True)
    accelerator = make_accelerator(asked)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**118, growth_interval=1)
    train(NetTask(), asked, accelerator)
    return float(accelerator.scaler.get_scale())


def test_the_scale_of_half_precision_goes_on(tmp_path):
    end = train_scaled(tmp_path / "whole")
    assert 2.0**118 < end <= 2.0**127
    train_scaled(tmp_path / "parts", stop_at=7)
    assert train_scaled(tmp_path / "parts") == end
    check_same(tmp_path / "parts", tmp_path / "whole")


# Seeds, micro-batches -------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path, whole):
    task = NetTask()
    train_net(task, settings_for(tmp_path / "again"))
    check_same(tmp_path / "again", whole)
    other = NetTask()
    train_net(other, settings_for(tmp_path / "other", seed=1))
    assert task.seen != other.seen
    assert state_of(tmp_path / "other") != state_of(whole)


def test_torch_s_own_generators_are_put_back(tmp_path):
    task, before = NetTask(), torch.get_rng_state()
    train_net(task, settings_for(tmp_path))
    assert torch.equal(before, torch.get_rng_state())


def test_micro_batches_change_only_rounding(tmp_path):
    ends = {}
    for size in (1, 2, 3, 4):
        train_net(NetTask(dropout=0), settings_for(tmp_path / str(size), micro_batch=size, ema=0.0))
        ends[size] = load_file(tmp_path / str(size) / "net.safetensors")
    for size in (1, 2, 3):
        for name, value in ends[4].items():
            torch.testing.assert_close(ends[size][name], value, rtol=1e-4, atol=1e-5)


def test_what_is_saved_is_the_average_and_stays_in_the_network(tmp_path):
    task = NetTask()
    train_net(task, settings_for(tmp_path))
    saved, last = load_file(tmp_path / "net.safetensors"), state_of(tmp_path)
    for name, weight in task.trained().items():
        assert torch.equal(saved[name], weight)
        assert saved[name].tolist() != last[f"state/weights/{name}"]


# Failures -------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_with_step_files_and_checkpoint(tmp_path):
    with pytest.raises(UserError) as caught:
        train_net(NetTask(items=40, bad_item=3), settings_for(tmp_path, save_every=1))
    text = str(caught.value)
    step = int(text.split()[1].rstrip(":"))
    assert "the loss is not a number" in text and "item-3.png" in text and "\n" not in text
    assert step > 1 and f"step-{step - 1:08d}" in text
    assert state_of(tmp_path)["step"] == step - 1


def test_weights_that_are_no_numbers_are_never_kept(tmp_path):
    def poison(task: NetTask) -> None:
        with torch.no_grad():
            next(iter(task.trained().values())).fill_(torch.nan)

    task = NetTask(dropout=0)
    asked = settings_for(tmp_path, max_steps=3, save_every=1, micro_batch=4)
    task.previewer = lambda step: poison(task) if step == 2 else None
    with pytest.raises(UserError, match=r"step 2: a weight is not a number.*step-00000001"):
        train_net(task, settings_for(tmp_path, **{**vars_of(asked), "preview_every": 1}))
    assert state_of(tmp_path)["step"] == 1


def vars_of(asked) -> dict[str, object]:
    return {"max_steps": asked.max_steps, "save_every": 1, "micro_batch": 4, "ema": 0.0}


def test_too_little_memory_lowers_the_micro_batch(tmp_path):
    with pytest.warns(UserWarning, match="micro-batch lowered to 2, 2 of them a step"):
        outcome = train_net(NetTask(most=3), settings_for(tmp_path / "a", micro_batch=None))
    assert outcome.micro_batch == 2
    train_net(NetTask(), settings_for(tmp_path / "b", micro_batch=2))
    check_same(tmp_path / "a", tmp_path / "b")


def test_a_lowered_micro_batch_says_what_it_changes(tmp_path):
    task = NetTask(most=3)
    task.sees_batches = True
    with pytest.warns(UserWarning, match="micro-batch lowered to 2, .* results change slightly"):
        train_net(task, settings_for(tmp_path, micro_batch=None, max_steps=1))


def test_memory_for_not_even_one_sample_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"out of memory with one sample at a time; .*--size-px"):
        train_net(NetTask(most=0), settings_for(tmp_path, validate_every=0))


def test_memory_lost_in_mid_run_is_one_line(tmp_path):
    task = NetTask()

    def shrink() -> None:
        task.module.most = 0

    task.at = {20: shrink}
    with pytest.raises(UserError, match=r"out of memory at step .*last checkpoint is safe"):
        train_net(task, settings_for(tmp_path))


# Previews, validation -------------------------------------------------------------------------


def test_previews_change_nothing_and_cannot_end_a_run(tmp_path, whole):
    def draw(step: int) -> np.ndarray:
        torch.randn(3)  # careless with the global generator
        if step == 8:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        return np.full((8, 8, 3), step, np.uint8)

    asked = settings_for(tmp_path, preview_every=4)
    with pytest.warns(UserWarning, match="no preview at step 8, training goes on: out of memory"):
        train_net(NetTask(previewer=draw), asked)
    check_same(tmp_path, whole)
    names = [path.name for path in sorted((tmp_path / "previews").iterdir())]
    assert names == ["step-00000000.png", "step-00000004.png", "step-00000012.png"]


def test_validation_shows_overtraining_and_the_best_is_kept(tmp_path):
    """The items pull away from what is held out: the held-out loss falls first, then rises."""
    asked = settings_for(
        tmp_path, max_steps=60, learning_rate=0.01, schedule="constant", ema=0.0, validate_every=1
    )
    outcome = train_net(NetTask(dropout=0), asked)
    losses = {row["step"]: row["validation"] for row in figures_of(tmp_path) if "validation" in row}
    best = min(range(1, 61), key=lambda step: losses[step])
    assert outcome.best_step == best < 60 and losses[60] > 1.1 * losses[best]
    with safe_open(tmp_path / BEST, "pt") as file:
        assert file.metadata() == {"step": str(best)}
    task = NetTask(dropout=0)
    with torch.no_grad():
        for name, weight in task.trained().items():
            weight.copy_(load_file(tmp_path / BEST)[name])
        checks = [task.load_check(number) for number in range(4)]
        batch = {key: torch.stack([check[key] for check in checks]) for key in checks[0]}
        assert float(task.module(batch).mean()) == pytest.approx(losses[best], rel=1e-5)


def test_validation_samples_may_go_together_and_weights_are_held(tmp_path, whole):
    """Three at once, the last one alone; whatever was kept of the weights is gone afterwards."""

    class Together(NetTask):
        checks_at_once = 3
        holding = False
        sizes: ClassVar[list[int]] = []

        @contextlib.contextmanager
        def held(self):
            self.holding = True
            yield
            self.holding = False

        def load_check(self, number):
            assert self.holding
            return super().load_check(number)

    def note(module, given, _):
        assert task.holding is not module.training
        if not module.training:
            Together.sizes.append(len(given[0]["x"]))

    task = Together()
    task.module.register_forward_hook(note)
    train_net(task, settings_for(tmp_path))
    for name in ("net.safetensors", BEST):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert task.sizes[:4] == [3, 1, 3, 1]
    here, there = (
        [row["validation"] for row in figures_of(folder) if "validation" in row]
        for folder in (tmp_path, whole)
    )
    assert here == pytest.approx(there, rel=1e-6)


# Threads, processes ---------------------------------------------------------------------------


def test_a_run_in_a_thread_works(tmp_path, whole):
    thread = threading.Thread(target=train_net, args=(NetTask(), settings_for(tmp_path)))
    thread.start()
    thread.join()
    check_same(tmp_path, whole)


def command(out: Path, *words: object) -> list[str]:
    return [sys.executable, str(RUN), str(out), *map(str, words)]


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, whole):
    killed = subprocess.run(command(tmp_path / "run", 29), check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert 3 <= state_of(tmp_path / "run")["step"] < 12
    train_net(NetTask(), settings_for(tmp_path / "run"))
    check_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again_at_any_moment(tmp_path):
    """Not between steps, but whenever the clock says, checkpoints half written included."""
    asked = {"max_steps": 400, "save_every": 1, "validate_every": 50}
    killed = []
    for seconds in (0.3, 0.9, 0.55):
        words = command(tmp_path / "run", 10**9, json.dumps({**asked, "seconds": seconds}))
        killed.append(subprocess.run(words, check=False).returncode == -signal.SIGKILL)
    assert killed[0]
    train_net(NetTask(), settings_for(tmp_path / "run", **asked))
    train_net(NetTask(), settings_for(tmp_path / "whole", **asked))
    check_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_do_the_work_of_one(tmp_path):
    """The same samples, the same weights but for rounding, and back to one process midway."""
    asked = {"ema": 0.0, "max_steps": 12, "stop_at": 6}
    twin = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    words = command(tmp_path / "two", 10**9, json.dumps({**asked, "dropout": 0}))[1:]
    subprocess.run([*twin, *words], check=True)
    one = NetTask(dropout=0)
    train_net(one, settings_for(tmp_path / "one", **asked))
    parts = [json.loads((tmp_path / "two" / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    # Each process first tries its share of the first step for memory.
    shares = [[tuple(pair) for pair in part[2:]] for part in parts]
    pairs = [zip(*[iter(share)] * 2, strict=True) for share in shares]
    together = [sample for halves in zip(*pairs, strict=True) for h in halves for sample in h]
    assert together == one.seen[4:]
    for stop_at in (6, None):
        for name in ("two", "one"):
            train_net(
                NetTask(dropout=0), settings_for(tmp_path / name, **{**asked, "stop_at": stop_at})
            )
        ends = [load_file(tmp_path / name / "net.safetensors") for name in ("one", "two")]
        for name, value in ends[0].items():
            torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)
