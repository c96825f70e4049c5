"""The only source of randomness: a seed for each item of each stage of a run.

In: the run's seed, the stage's name, the item's index. Out: an integer seed or a generator that
depends on nothing else, so an item comes out the same alone, in a batch, or on another machine.
"""

from __future__ import annotations

import hashlib

import numpy as np

SEED_BITS = 63  # fits a signed 64-bit integer, which torch and JSON readers ask for


def seed_for(run_seed: int, stage: str, index: int = 0) -> int:
    """Return the seed of item `index` of `stage` in the run `run_seed`.

    A hash and not `run_seed + index`: neighbouring runs and stages must not share items.
    """
    text = f"univg\0{run_seed}\0{stage}\0{index}".encode()
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def rng_for(run_seed: int, stage: str, index: int = 0) -> np.random.Generator:
    """Return a fresh generator for item `index` of `stage` in the run `run_seed`."""
    return np.random.Generator(np.random.PCG64(seed_for(run_seed, stage, index)))
