"""What the steps of `fewshot.py` share: what is asked for, a job, a chain for several processes.

Two processes may work in the same folder: one waits where the other is at a step that it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_rows import LONGEST_PX, Row
from splits import Split

from univg.errors import ResumeError
from univg.files import make_folder
from univg.manifest import lock_folder
from univg.recipe_steps import Chain, Result, Step

WAIT_S = 2.0
Folders = Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What all rows of a call share."""

    data: Path
    work: Path
    on: str
    steps: int
    seed: int = 0
    base: str = "nano"
    card: str = "fitted"
    """fitted: the growth of masks is fitted to the shots; shipped: as univg brings it."""
    engine_steps: int | None = None
    """Of each diffusion engine; None: its preset's."""
    start: str = "vessels"
    """Weights that `pretrained` rows start from."""
    longest: int | None = None
    """Longest side of all sets in pixels; None: that of each, `LONGEST_PX`."""
    trial: str = ""
    """Name of a trial of changed code: what is synthetic is made anew."""

    def longest_of(self, split: Split) -> int:
        """Return the longest side at which a set is worked on, 0: as it comes."""
        return LONGEST_PX[split.name] if self.longest is None else self.longest


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row on one set and draw."""

    row: Row
    split: Split
    draw: str

    @property
    def where(self) -> str:
        """Set and draw as they name a folder."""
        return f"{self.split.name}-{self.draw}"


class SharedChain(Chain):
    """A chain that several processes may go along."""

    def do(self, step: Step) -> Result:
        """Do `step` unless it is done; wait for a process that is at it."""
        folder = make_folder(self.out / "steps" / f"{step.name}-{self.key_of(step)}")
        with lock_waiting(folder):
            return super().do(dataclasses.replace(step, work=count_seconds(step.work)))


@contextlib.contextmanager
def lock_waiting(folder: Path) -> Iterator[None]:
    """Keep others out of `folder`; wait until they have left it."""
    with contextlib.ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(lock_folder(folder))
                break
            except ResumeError:
                if not told:
                    print(f"waiting for the process that is at {folder}", flush=True)
                told = True
                time.sleep(WAIT_S)
        yield


def count_seconds(work: Any) -> Any:
    """Return `work` that also tells the processor time it took."""

    def counted(folder: Path, done: Folders) -> dict[str, Any]:
        start = sum(os.times()[:4])
        facts = work(folder, done)
        return {**(facts or {}), "cpu_s": round(sum(os.times()[:4]) - start, 2)}

    return counted


def count_masks(folder: Path) -> int:
    """Return how many pairs a prepared folder holds."""
    return len(list((folder / "masks").glob("*.png")))
