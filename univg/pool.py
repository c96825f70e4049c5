"""Work spread over processes, its results in order.

In: a function, its items, a number of workers. Out: the results, in the order of the items, so
that what is written does not depend on the number of workers. Workers ignore Ctrl-C (the parent
stops them) and leave when the parent is gone, however it went.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from univg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

WATCH_EVERY_S = 0.2


class Workers:
    """Processes that were each prepared once, by `prepare(*context)`; use as a context manager.

    With one worker all happens in this process.
    """

    def __init__(
        self, count: int, prepare: Callable[..., None], context: tuple[Any, ...] = ()
    ) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        if count <= 1:
            prepare(*context)
        else:
            # Matrix products with a thread a core in every process slow each other down tenfold.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, spawn, _begin, (os.getpid(), prepare, context))

    def map_in_order(
        self, work: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield `work(item)` for each item, in order.

        Few items are under way at a time, so memory does not grow with their number.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        pending: collections.deque[Future[Result]] = collections.deque()
        try:
            for item in items:
                pending.append(self._pool.submit(work, item))
                if len(pending) > 2 * self.count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory, or killed); what is written is safe: run "
                "the same command again, with fewer --workers if it happens again. From a script, "
                'work must start under `if __name__ == "__main__":`'
            ) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    prepare: Callable[..., None],
    context: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order; `prepare(*context)` runs once in each worker."""
    with Workers(workers, prepare, context) as pool:
        yield from pool.map_in_order(work, items)


def _begin(parent: int, prepare: Callable[..., None], context: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    prepare(*context)


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY_S)
    os._exit(1)
