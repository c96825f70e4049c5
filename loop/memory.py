"""Out of memory: told from other errors, and met with smaller micro-batches.

In: an attempt at so many samples. Out: the number of samples that fits, or one line that says what
to do.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from univg.errors import UserError

WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
    "unable to find an engine",
    "unable to find a valid cudnn",
)
"""What drivers and allocators say that raise no error of their own kind."""
ADVICE = "take a smaller --size-px, --gradient-checkpointing True, or --precision bf16"


@dataclass(frozen=True)
class Memory:
    """The memory that a run lives in, by the name that a user knows it under."""

    name: str

    def describe_fit(self, fitted: int, parts: int, sees_batches: bool = False) -> str:
        """Return a line about a micro-batch that was lowered."""
        end = "change slightly: they depend on what goes through the network at once"
        return (
            f"out of {self.name}: micro-batch lowered to {fitted}, {parts} of them a step; results "
            f"{end if sees_batches else 'stay the same'}"
        )

    def describe_end(self, step: int) -> str:
        """Return a line about a run that ends for lack of memory after its first step."""
        return (
            f"out of {self.name} at step {step}; the last checkpoint is safe: free some, or give a "
            "lower --micro-batch, and run the same command again"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in WORDS)


def fit_micro_batch(attempt: Callable[[int], None], count: int, memory: Memory) -> int:
    """Return the largest of `count`, its half, … for which `attempt` finds memory enough."""
    while True:
        try:
            attempt(count)
            return count
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise UserError(
                    f"out of {memory.name} with one sample at a time; {ADVICE}"
                ) from error
        # After the except block: while it lasts, the error holds on to the tensors of the attempt.
        release()
        count = math.ceil(count / 2)


def release() -> None:
    """Give back what is not in use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
