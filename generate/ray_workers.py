"""Items made by the workers of a Ray cluster.

In: a maker, a folder that all machines see, tasks. Out: what is written, in order. Each worker
holds a loaded engine; one that is lost is replaced and its task given to another: a task writes
the same bytes whoever does it, and is named in the manifest once, by this process.
"""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from univg.errors import UserError
from univg.run_folder import Maker, Written, make_and_write

LOSSES = 20
"""Workers lost in a row without a task done: then something is wrong with all of them."""


class RayWorkers:
    """A number of Ray actors."""

    def __init__(self, count: int, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--engine ray needs the package ray: pip install 'univg[ray]'"
            ) from error
        self.ray: Any = ray
        self.count, self.gpus = count, gpus

    def run(self, maker: Maker, folder: Path, tasks: Sequence[list[int]]) -> Iterator[Written]:
        """Make and write `tasks`."""
        if not tasks:
            return
        ray = self.ray
        started = not ray.is_initialized()
        if started:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        try:
            shared = ray.put(maker)
            crew = _Crew(self, shared, str(folder.resolve()), min(self.count, len(tasks)))
            yield from crew.work(tasks)
        finally:
            if started:
                ray.shutdown()


class _Crew:
    """The actors at work on one run."""

    def __init__(self, asked: RayWorkers, maker: Any, folder: str, count: int) -> None:
        self.ray, self.maker, self.folder = asked.ray, maker, folder
        options = {"num_cpus": 0 if asked.gpus else 1, "num_gpus": asked.gpus, "max_restarts": 0}
        self.kind = self.ray.remote(**options)(_Actor)
        self.idle = [self._hire() for _ in range(count)]
        self.losses = 0

    def _hire(self) -> Any:
        return self.kind.remote(self.maker, self.folder)

    def work(self, tasks: Sequence[list[int]]) -> Iterator[Written]:
        """Yield what is written, in the order of `tasks`."""
        following, fresh = 0, 0
        again: collections.deque[int] = collections.deque()  # tasks of lost workers
        running: dict[Any, tuple[int, Any]] = {}
        done: dict[int, Written] = {}
        while following < len(tasks):
            room = 4 * (len(self.idle) + len(running)) - len(done)
            # What was lost goes first, room or not: what is done may be waiting for its turn.
            while self.idle and (again or (fresh < len(tasks) and room > 0)):
                number = again.popleft() if again else fresh
                fresh = max(fresh, number + 1)
                actor = self.idle.pop()
                running[actor.make.remote(tasks[number])] = (number, actor)
            ready, _ = self.ray.wait(list(running), num_returns=1)
            number, actor = running.pop(ready[0])
            try:
                done[number] = self.ray.get(ready[0])
                self.idle.append(actor)
                self.losses = 0
            except self.ray.exceptions.RayActorError as error:
                self._replace(error)
                again.append(number)
            except self.ray.exceptions.RayTaskError as error:
                raise _first_cause(error) from error
            while following in done:
                yield done.pop(following)
                following += 1

    def _replace(self, error: Exception) -> None:
        self.losses += 1
        if self.losses >= LOSSES:
            raise UserError(
                f"{LOSSES} Ray workers were lost one after the other ({_in_one_line(error)}); what "
                "is written is safe: run the same command again when the cluster is well"
            ) from error
        warnings.warn("a Ray worker was lost; its items are made by another", stacklevel=2)
        self.idle.append(self._hire())


class _Actor:
    """Runs on the cluster."""

    def __init__(self, maker: Maker, folder: str) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.maker, self.folder = maker, Path(folder)
        self.maker.prepare()

    def make(self, indices: list[int]) -> Written:
        """Make and write one task."""
        return make_and_write(self.maker, self.folder, indices)


def _first_cause(error: Any) -> Exception:
    """Return what went wrong in the worker, as it would have been raised here."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else UserError(_in_one_line(error)[-300:])


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
