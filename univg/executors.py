"""Where items are made: worker processes, or a pipeline in this one that keeps a GPU busy.

In: a maker, a folder, tasks. Out: what is written, in the order of the tasks. No byte depends on
which of them is taken.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from univg.pool import Workers
from univg.run_folder import Maker, Written, make_and_write, write_made

AHEAD = 2
"""Tasks that are read, or waiting to be written, while one is drawn: memory stays bounded."""


class Processes:
    """A number of worker processes; with one, all happens in this process."""

    def __init__(self, count: int) -> None:
        self.count = count

    def run(self, maker: Maker, folder: Path, tasks: Sequence[list[int]]) -> Iterator[Written]:
        """Make and write `tasks`."""
        if tasks:
            with SharedProcesses(min(self.count, len(tasks)), [(maker, folder)]) as shared:
                yield from shared.run(maker, folder, tasks)


class SharedProcesses:
    """Worker processes for several runs, one after the other; use as a context manager."""

    def __init__(self, count: int, runs: Sequence[tuple[Maker, Path]]) -> None:
        makers = {str(folder): maker for maker, folder in runs}
        self.workers = Workers(count, _prepare, (makers,))

    def run(self, maker: Maker, folder: Path, tasks: Sequence[list[int]]) -> Iterator[Written]:  # noqa: ARG002 - the workers have it
        """Make and write `tasks`."""
        yield from self.workers.map_in_order(_make, ((str(folder), task) for task in tasks))

    def __enter__(self) -> SharedProcesses:
        self.workers.__enter__()
        return self

    def __exit__(self, *found: object) -> None:
        self.workers.__exit__(*found)


_makers: dict[str, Maker] = {}  # what a worker process needs for every task, by folder


def _prepare(makers: dict[str, Maker]) -> None:
    import cv2

    cv2.setNumThreads(1)
    for maker in makers.values():
        maker.prepare()
    _makers.update(makers)


def _make(task: tuple[str, list[int]]) -> Written:
    name, indices = task
    return make_and_write(_makers[name], Path(name), indices)


class Pipeline:
    """This process: one task is drawn while others are read, encoded and written by threads."""

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    def run(self, maker: Maker, folder: Path, tasks: Sequence[list[int]]) -> Iterator[Written]:
        """Make and write `tasks`."""
        if not tasks:
            return
        maker.prepare()
        with (
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(self.threads, "write") as writer,
        ):
            reading: collections.deque[Future[Any]] = collections.deque()
            writing: collections.deque[Future[Written]] = collections.deque()
            try:
                for number in range(len(tasks)):
                    while len(reading) < AHEAD and number + len(reading) < len(tasks):
                        reading.append(reader.submit(maker.load, tasks[number + len(reading)]))
                    start = time.perf_counter()
                    loaded = reading.popleft().result()
                    waited = time.perf_counter() - start
                    drawn = maker.draw(loaded)
                    spans = {
                        "waiting for masks": waited,
                        "drawing": time.perf_counter() - start - waited,
                    }
                    writing.append(writer.submit(_finish, maker, folder, drawn, spans))
                    # What is written is told at once: a killed run loses no more.
                    while writing and (writing[0].done() or len(writing) > self.threads + AHEAD):
                        yield writing.popleft().result()
                while writing:
                    yield writing.popleft().result()
            finally:
                for future in (*reading, *writing):
                    future.cancel()


def _finish(maker: Maker, folder: Path, drawn: Any, spans: dict[str, float]) -> Written:
    start = time.perf_counter()
    made = maker.finish(drawn)
    spans = {**spans, "encoding": time.perf_counter() - start}
    written = write_made(maker, folder, made)
    return Written(written.rows, {**spans, **written.seconds})
