"""Which sample comes when: decided by arithmetic from the seed, never by state.

In: the seed, the number of items, a position (samples seen so far). Out: the item and its own
random generator. So any number of processes, any micro-batch and any interruption give each
position the same sample, noise included.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from univg.seeds import rng_for


class Order:
    """The endless sequence of samples of a run: epochs, each in an order of its own."""

    def __init__(self, seed: int, name: str, items: int) -> None:
        self.seed, self.name, self.items = seed, name, items
        self._epoch_order = lru_cache(maxsize=4)(self._shuffle)

    def item_at(self, position: int) -> int:
        """Return the item that stands at `position`."""
        epoch, place = divmod(position, self.items)
        return int(self._epoch_order(epoch)[place])

    def rng_at(self, position: int) -> np.random.Generator:
        """Return the generator of the sample at `position`."""
        return rng_for(self.seed, f"train {self.name}", position)

    def _shuffle(self, epoch: int) -> npt.NDArray[np.int64]:
        return rng_for(self.seed, f"order {self.name}", epoch).permutation(self.items)


def share_of(step: int, batch: int, rank: int, world: int) -> range:
    """Return the positions of `step` that process `rank` of `world` takes."""
    part = batch // world
    start = step * batch + rank * part
    return range(start, start + part)
