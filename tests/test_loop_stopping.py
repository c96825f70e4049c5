"""A run that is asked to stop: whenever it is, what goes on ends as if nobody had asked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from loop_runs import check_same, figures_of, interrupt
from train_tasks import NetTask, settings_for, state_of, train_net

from univg.loop.checkpoints import list_checkpoints
from univg.loop.loop import Stopped
from univg.loop.stopping import TWICE_S, StopRequest


class Watched(NetTask):
    """Is interrupted as it loads its validation sample number `place`, counted over all looks."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.looks = place, 0

    def load_check(self, number):
        if self.looks == self.place:
            interrupt()
        self.looks += 1
        return super().load_check(number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_net(NetTask(), settings_for(out))
    return out


def previews_of(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "previews").iterdir())


def twice(number: int, pause_s: float) -> None:
    interrupt(number)
    time.sleep(pause_s)
    interrupt(number)


def test_signals_are_as_before_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped):
        train_net(NetTask(at={9: interrupt}), settings_for(tmp_path))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt) as caught, StopRequest() as stop:
        twice(signal.SIGINT, 1.5 * TWICE_S)
        time.sleep(1)
    assert stop.asked and not isinstance(caught.value, Stopped)


@pytest.mark.parametrize(("number", "pause_s"), [(signal.SIGINT, 0.01), (signal.SIGTERM, 0.4)])
def test_one_request_may_come_twice(tmp_path, whole, number, pause_s):
    """A terminal and a launcher hand on the same Ctrl-C; schedulers repeat SIGTERM."""
    task = NetTask(at={9: lambda: twice(number, pause_s)})
    with pytest.raises(Stopped, match="checkpoint written; the same command goes on"):
        train_net(task, settings_for(tmp_path / "run"))
    train_net(NetTask(), settings_for(tmp_path / "run"))
    check_same(tmp_path / "run", whole)


def test_a_request_before_the_first_step_leaves_nothing(tmp_path, whole):
    """While the first step is tried for memory."""
    out = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped before step 1;"):
        train_net(NetTask(at={0: interrupt}), settings_for(out))
    assert not list_checkpoints(out)
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


@pytest.mark.parametrize(("place", "step"), [(0, 0), (4, 2), (7, 2), (10, 4)])
def test_validation_is_left_off_and_made_up_for(tmp_path, whole, place, step):
    """Four samples a look, at steps 0, 2, 4 …: stopped at its first, its last, in between."""
    out, task = tmp_path / "run", Watched(place)
    with pytest.raises(Stopped):
        train_net(task, settings_for(out))
    assert task.looks == place + 1
    assert not [row for row in figures_of(out) if row["step"] == step and "validation" in row]
    if step:
        assert state_of(out)["step"] == step and state_of(out)["values"]["looked"] is False
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


def test_what_was_looked_at_without_a_checkpoint_is_not_noted_twice(tmp_path, whole):
    """Stopped in validation, then killed after it was made up for."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train_net(Watched(4), settings_for(out))
    kept = (out / "metrics.jsonl").read_text()
    (out / "metrics.jsonl").write_text(f'{kept}{{"step": 2, "validation": 1.0}}\n')
    train_net(NetTask(), settings_for(out))
    check_same(out, whole)


def test_a_preview_is_ended_and_none_begun(tmp_path):
    def draw(step: int) -> np.ndarray:
        if step == asks:
            interrupt()
        return np.full((8, 8, 3), step, np.uint8)

    asked, asks = {"preview_every": 4, "validate_every": 4}, 4
    names = [f"step-{step:08d}.png" for step in (0, 4, 8, 12)]
    with pytest.raises(Stopped):
        train_net(NetTask(previewer=draw), settings_for(tmp_path / "in", **asked))
    assert previews_of(tmp_path / "in") == names[:2]
    assert state_of(tmp_path / "in")["values"]["looked"] is True
    task = Watched(6)  # in the validation of step 4, after which comes the preview
    task.previewer, asks = draw, -1
    with pytest.raises(Stopped):
        train_net(task, settings_for(tmp_path / "before", **asked))
    assert previews_of(tmp_path / "before") == names[:1]
    for name in ("in", "before"):
        train_net(NetTask(previewer=draw), settings_for(tmp_path / name, **asked))
        assert previews_of(tmp_path / name) == names
    check_same(tmp_path / "in", tmp_path / "before")


@pytest.mark.parametrize("place", [0, 3])
def test_a_request_while_files_are_written_waits_for_them(tmp_path, whole, monkeypatch, place):
    calls, sync = [], os.fsync

    def sync_and_interrupt(stream) -> None:
        if len(calls) == place:
            interrupt()
        calls.append(stream)
        sync(stream)

    monkeypatch.setattr(os, "fsync", sync_and_interrupt)
    with pytest.raises(Stopped):
        train_net(NetTask(), settings_for(tmp_path / "run"))
    train_net(NetTask(), settings_for(tmp_path / "run"))
    check_same(tmp_path / "run", whole)
    assert len(calls) > place


def test_what_a_killed_run_left_half_written_is_removed(tmp_path, whole):
    leftover = tmp_path / "run" / "checkpoints" / ".step-00000005.tmp"
    leftover.mkdir(parents=True)
    (leftover / "state.safetensors").write_bytes(b"half")
    train_net(NetTask(), settings_for(tmp_path / "run"))
    assert not leftover.exists()
    check_same(tmp_path / "run", whole)
