"""Where the figures of a run go: a bar for a person, `metrics.jsonl`, a tracker.

In: figures by step. Out: `OUT/metrics.jsonl`, one JSON object a line, cut back to the checkpoint
when a run goes on, so that no step stands there twice; the same in TensorBoard or wandb.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from accelerate import Accelerator

from univg.errors import UserError
from univg.files import explain_os_error, make_folder, write_atomic

METRICS = "metrics.jsonl"
PREVIEWS = "previews"


class Journal:
    """Writes figures and previews of one run; silent on all processes but the first."""

    def __init__(
        self,
        accelerator: Accelerator,
        out: Path,
        tracker: str,
        start_step: int,
        looked: bool = True,
    ) -> None:
        self.accelerator, self.out = accelerator, out
        self.is_writer = accelerator.is_main_process
        self.tracks, self.start_step = False, start_step
        if not self.is_writer:
            return
        self.path = out / METRICS
        _cut_back(self.path, start_step, looked)
        self._stream = self.path.open("a", encoding="utf-8")
        self.tracks = self._start_tracker(tracker)

    def _start_tracker(self, tracker: str) -> bool:
        if tracker == "none":
            return False
        # Events after the checkpoint come again: TensorBoard is told to drop the old ones.
        options = {"tensorboard": {"purge_step": self.start_step + 1}} if self.start_step else {}
        try:
            self.accelerator.init_trackers(f"univg-{self.out.name}", init_kwargs=options)
        except ImportError as error:
            raise UserError(f"--tracker {tracker}: {error}") from error
        return bool(self.accelerator.trackers)

    def write(
        self, step: int, figures: Mapping[str, float], notes: Mapping[str, Any] | None = None
    ) -> None:
        """Note the figures of `step`; `notes`, plain values, stand beside them in the file."""
        if not self.is_writer:
            return
        try:
            self._stream.write(json.dumps({"step": step, **figures, **(notes or {})}) + "\n")
            self._stream.flush()
            if self.tracks:
                self.accelerator.log(dict(figures), step=step)
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def show(self, step: int, picture: npt.NDArray[np.uint8]) -> None:
        """Keep a preview as PNG and hand it to the tracker."""
        if not self.is_writer:
            return
        folder = make_folder(self.out / PREVIEWS)
        ok, data = cv2.imencode(".png", picture[..., ::-1])
        if ok:
            write_atomic(folder / f"step-{step:08d}.png", data.tobytes())
        for tracker in self.accelerator.trackers if self.tracks else ():
            _log_picture(tracker, picture, step)

    def close(self) -> None:
        """Flush and end."""
        if not self.is_writer:
            return
        # What cannot be written any more has been told by `write`.
        with contextlib.suppress(OSError):
            self._stream.close()
        if self.tracks:
            for tracker in self.accelerator.trackers:
                tracker.finish()  # `end_training` would end the group of processes as well


class Silent:
    """Progress of a process that shows none."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Show nothing."""


def describe_time(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _log_picture(tracker: Any, picture: npt.NDArray[np.uint8], step: int) -> None:
    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    try:
        tracker.log_images({"preview": picture[None]}, step=step, **layout)
    except Exception as error:
        # A tracker must not end a run of hours; the PNG is on disk already.
        warnings.warn(f"the tracker took no preview at step {step}: {error}", stacklevel=2)


def _cut_back(path: Path, start_step: int, looked: bool) -> None:
    """Drop figures of steps after the checkpoint: they will be made again.

    Without a checkpoint that is all of them, those of step 0 too; and where its own step was not
    `looked` at, those of looking.
    """
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            is_whole = looked or "loss" in row
            if start_step and int(row["step"]) < start_step + is_whole:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a killed run
    write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
