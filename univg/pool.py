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
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WATCH_EVERY_S = 0.2


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    prepare: Callable[..., None],
    context: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order; `prepare(*context)` runs once in each worker.

    With one worker all happens in this process. Few items are under way at a time, so memory does
    not grow with their number.
    """
    if workers <= 1:
        prepare(*context)
        for item in items:
            yield work(item)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _begin, (os.getpid(), prepare, context))
    pending: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int, prepare: Callable[..., None], context: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    prepare(*context)


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY_S)
    os._exit(1)
