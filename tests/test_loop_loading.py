"""Samples made by threads: in order, begun early enough, errors where they belong."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from loop_runs import check_same
from train_tasks import NetTask, settings_for, train_net

from univg.loop.loading import MOST_THREADS, Loader, choose_threads


def positions_of(step: int) -> range:
    return range(step * 3, step * 3 + 3)


def make(position: int) -> dict[str, torch.Tensor]:
    time.sleep(0.002 * (position * 7 % 5))  # later ones may be done first
    return {"x": torch.tensor(position)}


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_samples_come_in_order(threads):
    with Loader(make, positions_of, range(2, 7), threads) as loader:
        taken = [[int(sample["x"]) for sample in loader.take()] for _ in range(5)]
    assert taken == [list(positions_of(step)) for step in range(2, 7)]


def test_no_thread_stands_idle_where_steps_are_small():
    """Four threads at steps of one sample: four must be under way at once, or none gets on."""
    together = threading.Barrier(4, timeout=20)

    def meet(position: int) -> dict[str, torch.Tensor]:
        together.wait()
        return {"x": torch.tensor(position)}

    with Loader(meet, lambda step: range(step, step + 1), range(8), 4) as loader:
        assert [int(loader.take()[0]["x"]) for _ in range(8)] == list(range(8))


def test_an_error_comes_with_its_step_and_the_rest_is_let_go():
    made = []

    def fail(position: int) -> dict[str, torch.Tensor]:
        if position == 4:
            raise ValueError("position 4")
        made.append(position)
        return {"x": torch.tensor(position)}

    with pytest.raises(ValueError, match="position 4"), Loader(
        fail, positions_of, range(100), 2
    ) as loader:  # fmt: skip
        assert len(loader.take()) == 3
        loader.take()
    assert len(made) < 12


def test_threads_change_nothing_that_comes_out(tmp_path):
    """Each sample's generator follows from its position, so the order of making does not count."""
    for threads in (1, 3):
        task = NetTask()
        task.loaders = threads
        train_net(task, settings_for(tmp_path / str(threads)))
        assert len(task.seen) == 4 + 12 * 4
    check_same(tmp_path / "1", tmp_path / "3")


def test_the_network_keeps_the_processors_of_a_small_machine(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert choose_threads(None, on_gpu=False) == 1
    assert choose_threads(5, on_gpu=False) == choose_threads(5, on_gpu=True) == 5
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    assert choose_threads(None, on_gpu=True) == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_threads(None, on_gpu=True) == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(1)))
    assert choose_threads(None, on_gpu=True) == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(200)))
    assert choose_threads(None, on_gpu=True) == MOST_THREADS
