"""Losses of a run between two looks at them: fetched together, checked, noted.

In: a loss a step, on the device. Out: rows of the journal, a running mean for the bar; a run whose
loss or weights are no longer numbers ends with the step and the files behind it.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NoReturn

import torch

from univg.errors import UserError

from .checkpoints import list_checkpoints

if TYPE_CHECKING:
    from .loop import _Run

SMOOTHING = 0.98


class Losses:
    """What has come since the last look."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.waiting: list[torch.Tensor] = []
        self.smooth = math.nan
        self.start = time.monotonic()

    @property
    def note(self) -> str:
        """The running mean, for the bar."""
        return f"loss {self.smooth:.4f}" if math.isfinite(self.smooth) else ""

    def add(self, loss: torch.Tensor) -> None:
        """Keep the loss of a step, which may not be computed yet."""
        self.waiting.append(loss)

    def look(self) -> None:
        """Fetch, check and note what is waiting."""
        if not self.waiting:
            return
        run, count = self.run, len(self.waiting)
        losses = torch.stack(self.waiting)
        if run.world > 1:
            losses = run.accelerator.reduce(losses, "mean")
        values = losses.tolist()
        self.waiting = []
        for number, value in enumerate(values):
            if not math.isfinite(value):
                refuse_nan(run, run.step - count + number, "the loss")
        mean = sum(values) / count
        if math.isnan(self.smooth):
            self.smooth = mean
        self.smooth = SMOOTHING * self.smooth + (1 - SMOOTHING) * mean
        now = time.monotonic()
        rate = count * run.batch / max(now - self.start, 1e-9)
        self.start = now
        learning_rate = run.schedule.get_last_lr()[0]
        run.journal.write(
            run.step, {"loss": mean, "lr": learning_rate, "samples_per_s": round(rate, 3)}
        )


def refuse_nan(run: _Run, step: int, what: str) -> NoReturn:
    """End the run: `what` is not a number after `step` (counted from 0)."""
    positions = range(step * run.batch, (step + 1) * run.batch)
    items = [run.order.item_at(position) for position in positions]
    files = ", ".join(dict.fromkeys(run.task.name_items(items)))
    kept = list_checkpoints(run.asked.out)
    last = str(kept[-1]) if kept else "none"
    raise UserError(
        f"step {step + 1}: {what} is not a number; its batch: {files}; last good checkpoint: "
        f"{last}; try a lower --learning-rate, or --precision no, in another --out"
    )
