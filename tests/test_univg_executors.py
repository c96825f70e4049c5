"""Where items are made: the pipeline of one process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from univg import executors
from univg.executors import Pipeline
from univg.run_folder import Written


class Slow:
    """Draws slowly what is written at once."""

    def prepare(self) -> None:
        """Nothing to prepare."""

    def load(self, task: list[int]) -> list[int]:
        """Return the task itself."""
        return task

    def draw(self, task: list[int]) -> list[int]:
        """Take longer than it takes to write."""
        time.sleep(0.1)
        return task


def test_what_is_written_is_told_at_once(monkeypatch):
    """A killed run draws again what was not told: no more than what is being written."""
    written: list[int] = []

    def finish(_maker: Any, _folder: Path, task: list[int], spans: dict[str, float]) -> Written:
        written.append(task[0])
        return Written([{"id": task[0]}], spans)

    monkeypatch.setattr(executors, "_finish", finish)
    maker: Any = Slow()
    told = []
    for each in Pipeline().run(maker, Path(), [[number] for number in range(8)]):
        told.append(each.rows[0]["id"])
        assert len(written) - len(told) <= 3  # and 4 where it is told when the queue is full
    assert told == list(range(8))
