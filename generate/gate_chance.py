"""What agreement chance gives: the vessels found in an image against the mask of another.

In: what the gate found. Out: the mean clDice over a few pairs spread over the set; without it and
the agreement of the shots, an agreement of 0.5 says nothing.
"""

from __future__ import annotations

import numpy as np

from univg.masks import inspect_mask

from .gate import Segmenter, measure_agreement_of
from .gate_pairs import open_pair
from .gate_run import GateResult

_PAIRS = 24


def measure_chance(result: GateResult, segmenter: Segmenter | None = None) -> float | None:
    """Return the mean agreement of images with a mask half a set away; None if there is none."""
    usable = [k for k, row in enumerate(result.rows) if "scores" in row]
    step = max(1, len(usable) // _PAIRS)
    found = []
    for place in range(0, len(usable), step)[:_PAIRS]:
        own = result.found.pairs[usable[place]]
        other = result.found.pairs[usable[(place + len(usable) // 2) % len(usable)]]
        facts, fov, _ = open_pair(own)
        if facts is None:
            continue
        mask = inspect_mask(other.mask).mask
        if mask.shape != facts.reading.mask.shape or np.array_equal(mask, facts.reading.mask):
            continue
        scores = measure_agreement_of(
            facts.image, mask, fov, polarity=result.polarity, segmenter=segmenter
        )
        if scores["agreement"] is not None:
            found.append(float(scores["agreement"]))
    return float(np.mean(found)) if found else None
