"""What tests of the loop ask of a run folder, and how they interrupt a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from train_tasks import state_of

from univg.loop.looking import BEST


def figures_of(out: Path) -> list[dict[str, float]]:
    """Return the journal without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "samples_per_s"} for row in rows]


def check_same(first: Path, second: Path) -> None:
    assert state_of(first) == state_of(second)
    assert figures_of(first) == figures_of(second)
    for name in ("net.safetensors", BEST):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
