"""Figures land in metrics.jsonl and in TensorBoard, each step once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from train_tasks import NetTask, settings_for, train_net

from univg.loop.journal import describe_time


def read_events(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "log" / f"univg-{out.name}"))
    events.Reload()
    return events


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_figures_and_previews_of_a_run_in_two_parts(tmp_path):
    out = tmp_path / "run"
    options = {"tracker": "tensorboard", "preview_every": 6}

    def draw(step: int) -> np.ndarray:
        return np.full((8, 8, 3), step, np.uint8)

    for stop_at in (5, None):
        train_net(NetTask(previewer=draw), settings_for(out, stop_at=stop_at, **options))
    events = read_events(out)
    assert {"loss", "validation", "lr"} <= set(events.Tags()["scalars"])
    steps = [event.step for event in events.Scalars("loss")]
    assert steps == list(range(1, 13))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    written = {row["step"]: row["loss"] for row in rows if "loss" in row}
    for event in events.Scalars("loss"):
        assert event.value == pytest.approx(written[event.step], rel=1e-6)
    assert [event.step for event in events.Images("preview")] == [0, 6, 12]


def test_without_a_tracker_there_is_no_log(tmp_path):
    train_net(NetTask(), settings_for(tmp_path, max_steps=2))
    assert not (tmp_path / "log").exists()
    assert (tmp_path / "metrics.jsonl").exists()


def test_times_are_told_as_a_person_would():
    assert [describe_time(s) for s in (0.2, 61, 900, 36_000)] == ["1 s", "61 s", "15 min", "10.0 h"]
