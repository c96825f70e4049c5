"""What is trained: the one thing in which the training commands differ.

In: settings and data of one command. Out: a `Task`, which the loop asks for samples, losses,
pictures, and for saving what came out.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Sample = dict[str, torch.Tensor]
Preview = npt.NDArray[np.uint8]


class Task(abc.ABC):
    """A network with trainable weights, samples for it, and a loss a sample."""

    name: str
    """Short name, as it stands in seeds and files."""
    module: torch.nn.Module
    """Called with a batch of samples, gives a loss a sample, (B,)."""
    items: int
    """How many training items there are; an epoch is each of them once."""
    checks: int = 0
    """How many validation samples there are."""
    checks_at_once: int = 1
    """How many of them go through the network together; more than one: they have one shape."""
    sees_batches: bool = False
    """The loss of a sample depends on what goes through the network with it."""
    loaders: int = 1
    """How many threads may call `load` at once."""

    @abc.abstractmethod
    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Return training sample `item`; all that is random in it comes from `rng`."""

    def load_in_step(self, step: int, item: int, rng: np.random.Generator) -> Sample:  # noqa: ARG002
        """Return training sample `item` as `step` sees it: for most tasks as any does."""
        return self.load(item, rng)

    def load_check(self, number: int) -> Sample:
        """Return validation sample `number`: the same each time, noise and timestep included."""
        raise NotImplementedError

    def name_items(self, items: Sequence[int]) -> list[str]:
        """Return the files behind `items`, for messages."""
        return [str(item) for item in items]

    def preview(self, step: int) -> Preview | None:  # noqa: ARG002
        """Return a picture of what the network does now, (H, W, 3), or None."""
        return None

    def measure(self, step: int) -> Mapping[str, float]:  # noqa: ARG002
        """Return figures of what the network draws now; asked for with each preview."""
        return {}

    def noted(self) -> Mapping[str, Any]:
        """Return what the last validation found besides its loss, to stand beside it."""
        return {}

    def held(self) -> AbstractContextManager[None]:
        """Within, no weight changes: what follows from the weights alone may be kept."""
        return nullcontext()

    @abc.abstractmethod
    def save(self, folder: Path) -> list[Path]:
        """Write what was trained into `folder`, atomically; return the files."""

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the weights that move, by name."""
        return {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }


def stack_samples(samples: Sequence[Sample]) -> Sample:
    """Return a batch: each entry stacked along a new first dimension."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
