"""Whether each shot has its own mask: not that of another shot, and not a mirrored one.

In: images and masks of shots. Out: those that another mask would fit much better. A fixed detector
finds what could be vessels (`univg.agreement`); on a mask of another image there is little of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from univg.agreement import prepare, score_fit
from univg.errors import Problem
from univg.masks import BoolMask
from univg.pairs import Pair, PairFacts, read_pair
from univg.vesselness import Polarity, Ridges, choose_polarity

LEAST_GAIN = 0.1
"""Of Dice; how often real shots gain as much, and how often wrong ones: see
`benchmarks/results/shot_checks.md`."""
LEAST_FIT = 0.3
"""Of Dice, that the better mask must reach: the detector finds no vessels that are like cracks or
ribbons, and what it finds then says nothing. Own masks of four modalities reach 0.36, others 0.27
at most."""
GOOD_FIT = 0.5
"""Of Dice: a mask that fits so well is the image's own, and is not laid on others."""
MOST_COMPARED = 30
"""Of more shots than that each is looked at by itself: an order of all would take its time."""
TURNS: Mapping[str, Callable[[BoolMask], BoolMask]] = {
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "turned by 180°": lambda mask: np.rot90(mask, 2),
    "turned to the left": lambda mask: np.rot90(mask, 1),
    "turned to the right": lambda mask: np.rot90(mask, 3),
    "with rows and columns exchanged": lambda mask: mask.T,
}


@dataclass(frozen=True)
class Trace:
    """What of a shot tells whether a mask fits: small, so many may be held."""

    pair: Pair
    ridges: Ridges
    mask: BoolMask


def trace_shot(facts: PairFacts) -> Trace:
    """Return the trace of a shot that can be read."""
    return Trace(facts.pair, *prepare(facts.image, facts.reading.mask))


def doubt_pairing(pairs: Iterable[Pair]) -> list[str]:
    """Say of which of a few shots the masks seem to be those of others; of many pairs nothing."""
    few = list(pairs)
    if len(few) > MOST_COMPARED:
        return []
    facts = [found for pair in few if (found := read_pair(pair)[1])]
    return [problem.line() for problem in judge_pairing([trace_shot(each) for each in facts])]


def judge_pairing(traces: Sequence[Trace]) -> list[Problem]:
    """Return the shots whose masks would fit better in another order, or turned."""
    if not traces:
        return []
    polarity = choose_polarity([trace.ridges for trace in traces])
    odd = [each for each in traces if score_fit(each.ridges, each.mask, polarity) < GOOD_FIT]
    exchanged = _list_exchanged(odd, polarity) if len(odd) <= MOST_COMPARED else {}
    if exchanged:
        return [
            _tell(odd[k], f"fits its image worse than {odd[other].pair.mask.name} does",
                  "are masks mixed up?")
            for k, other in exchanged.items()
        ]  # fmt: skip
    return [
        _tell(trace, f"fits its image better {turn}", "turn it so")
        for trace in odd
        if (turn := _find_turn(trace, polarity))
    ]


def _list_exchanged(traces: Sequence[Trace], polarity: Polarity) -> dict[int, int]:
    """Return the shots that gain by other masks, and whose."""
    from scipy.optimize import linear_sum_assignment

    if len(traces) < 2:
        return {}
    table = np.array([
        [score_fit(one.ridges, other.mask, polarity) for other in traces] for one in traces
    ])  # fmt: skip
    _, order = linear_sum_assignment(table, maximize=True)
    found: dict[int, int] = {}
    for first in range(len(order)):
        ring = _follow(order, first)
        fit = np.mean([table[k, order[k]] for k in ring])
        if _is_better(fit, np.mean([table[k, k] for k in ring])):
            found |= {k: int(order[k]) for k in ring}
    return dict(sorted(found.items()))


def _follow(order: Sequence[int], first: int) -> list[int]:
    """Return the ring of shots that exchange their masks with `first`."""
    ring = [first]
    while (following := int(order[ring[-1]])) != first:
        ring.append(following)
    return ring


def _find_turn(trace: Trace, polarity: Polarity) -> str:
    """Return how a mask would fit its image much better; nothing where it would not."""
    own = score_fit(trace.ridges, trace.mask, polarity)
    fits = {name: score_fit(trace.ridges, turn(trace.mask), polarity)
            for name, turn in TURNS.items()}  # fmt: skip
    best = max(fits, key=lambda name: fits[name])
    return best if _is_better(fits[best], own) else ""


def _is_better(fit: float, own: float) -> bool:
    return bool(fit >= LEAST_FIT and fit - own >= LEAST_GAIN)


def _tell(trace: Trace, detail: str, remedy: str) -> Problem:
    return Problem(path=trace.pair.mask, kind="swapped", detail=detail, remedy=remedy)
