"""A polite end: Ctrl-C and SIGTERM let the step finish and a checkpoint be written.

In: signals. Out: a flag that the loop looks at after each step. A second Ctrl-C ends at once. A
second SIGTERM changes nothing: schedulers, launchers and `timeout` send it to a process and to its
group, and have SIGKILL as their last word. What comes after the loop is ended by the first, as
before it.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

TWICE_S = 0.3
"""A Ctrl-C that comes again sooner is the same one, handed on by a launcher; no finger is faster
on purpose."""


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only raises a flag."""

    def __init__(self) -> None:
        self.asked = False
        self._interrupted_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: it was set by other than Python code, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._interrupted_at is not None and now - self._interrupted_at > TWICE_S:
            raise KeyboardInterrupt
        self._interrupted_at = self._interrupted_at or now
