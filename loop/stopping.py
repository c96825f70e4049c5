"""A polite end: Ctrl-C and SIGTERM let the step finish and a checkpoint be written.

In: signals. Out: a flag that the loop looks at after each step. A second Ctrl-C ends at once, and
what comes after the loop is ended by the first, as before it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only raises a flag."""

    def __init__(self) -> None:
        self.asked = False
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
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        # From now on the same signal does what it did before: a second Ctrl-C does not wait.
        signal.signal(number, self._before[number] or signal.SIG_DFL)
