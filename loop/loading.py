"""Samples of the coming steps, made by threads while the network learns from those at hand.

In: what makes the sample of a position, the positions of each step. Out: lists of samples, step by
step, in order: how many threads made them changes neither order nor bytes, for all that is random
in a sample follows from its position.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from .task import Sample

MOST_THREADS = 8


class Loader:
    """A context in which `take` gives the samples of one step after the other."""

    def __init__(
        self,
        load: Callable[[int], Sample],
        positions_of: Callable[[int], Sequence[int]],
        steps: range,
        threads: int,
    ) -> None:
        self._load, self._positions_of, self._steps = load, positions_of, iter(steps)
        self._pool = ThreadPoolExecutor(threads, "load")
        self._ahead: deque[list[Future[Sample]]] = deque()
        # Steps of few samples are begun earlier, so that no thread stands idle.
        count = len(positions_of(steps.start)) if steps else 1
        for _ in range(-(-threads // count)):
            self._begin()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self) -> list[Sample]:
        """Return the samples of the next step, and begin a later one."""
        samples = [future.result() for future in self._ahead.popleft()]
        self._begin()
        return samples

    def _begin(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            positions = self._positions_of(step)
            self._ahead.append([self._pool.submit(self._load, place) for place in positions])


def choose_threads(asked: int | None, on_gpu: bool) -> int:
    """Return how many threads make samples: `asked`, else what leaves the network its processors.

    On a CPU that is one, for the network computes on all of them.
    """
    if asked is not None:
        return asked
    if not on_gpu:
        return 1
    free = count_processors() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1
    return max(1, min(MOST_THREADS, free))


def count_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
