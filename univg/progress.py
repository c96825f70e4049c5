"""Progress of long work, on stderr: a bar for a person, a line now and then for a log.

In: a total and what is counted. Out: a `Progress` whose `advance` is cheap to call.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

LOG_EVERY_S = 10.0


class Progress(Protocol):
    """Something that can be told how much has been done."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` is shown beside the rate."""


@contextlib.contextmanager
def show_progress(total: int, label: str, unit: str, done: int = 0) -> Iterator[Progress]:
    """Show work on `total` things, `done` of which were done before."""
    if sys.stderr.isatty():
        with _bar(total, label, unit, done) as bar:
            yield bar
    else:
        yield _Log(total, label, unit, done)


@contextlib.contextmanager
def _bar(total: int, label: str, unit: str, done: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    ]  # fmt: skip
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=total, completed=done, rate="")
        start = time.monotonic()

        class Bar:
            """The bar of this task."""

            made = 0

            def advance(self, count: int = 1, note: str = "") -> None:
                self.made += count
                rate = self.made / max(time.monotonic() - start, 1e-9)
                shown.update(task, advance=count, rate=f"{rate:,.1f} {unit}/s {note}".rstrip())

        yield Bar()


class _Log:
    """A line every `LOG_EVERY_S` seconds."""

    def __init__(self, total: int, label: str, unit: str, done: int) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self.start = self.last = time.monotonic()
        self.made = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.made += count
        now = time.monotonic()
        if now - self.last >= LOG_EVERY_S:
            self.last = now
            rate = self.made / (now - self.start)
            line = f"{self.label}: {self.done + self.made}/{self.total} {self.unit}, {rate:,.1f}/s"
            line += f", {note}" if note else ""
            print(line, file=sys.stderr, flush=True)  # noqa: T201
