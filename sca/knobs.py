"""The parameters that `univg sca fit` turns, and how a card looks after a turn.

In: the `sca` section as plain values and a position in the unit cube. Out: the section with the
knobs set. A knob either sets a value or stretches a range, so that a card keeps its diversity.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Section = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One parameter: where it stands (`*` any item of a list), and from where to where it goes.

    factor: the knob multiplies what stands there, on a logarithmic scale, and a share stays at
    most 1. Otherwise it sets the value, with the relative width `spread` about it where not zero.
    """

    path: str
    low: float
    high: float
    factor: bool = False
    whole: bool = False
    share: bool = False
    spread: float = 0.0

    def value(self, position: float) -> float:
        """The knob's value at `position` of [0, 1]."""
        if self.factor:
            return float(self.low * (self.high / self.low) ** position)
        return float(self.low + (self.high - self.low) * position)

    def position(self, value: float) -> float:
        """Where `value` lies in [0, 1]."""
        if self.factor:
            found = np.log(value / self.low) / np.log(self.high / self.low)
        else:
            found = (value - self.low) / (self.high - self.low)
        return float(np.clip(found, 0.0, 1.0))


REAL_KNOBS = (
    Knob(path="real.strength", low=0.4, high=0.95),
    Knob(path="real.graft", low=0.5, high=1.0),
    Knob(path="real.warp_px", low=10.0, high=45.0),
    Knob(path="real.jitter_px", low=0.1, high=1.5),
    Knob(path="real.width_factor", low=0.85, high=1.2),
    Knob(path="real.fill", low=0.0, high=1.5),
    Knob(path="real.attraction_px", low=5.0, high=10.0),
    Knob(path="real.step_px", low=2.0, high=4.5),
    Knob(path="real.course.stub_px", low=1.0, high=14.0, spread=0.2),
    Knob(path="real.course.join_px", low=0.0, high=12.0),
    Knob(path="real.course.lean_px", low=0.0, high=14.0),
    Knob(path="real.course.smooth_rounds", low=0, high=10, whole=True),
)
"""With real masks to follow."""

FREE_KNOBS = (
    Knob(path="stages.*.cell_px", low=0.5, high=1.7, factor=True),
    Knob(path="stages.*.keep", low=0.3, high=2.5, factor=True, share=True),
    Knob(path="stages.*.wobble_deg", low=0.4, high=2.0, factor=True),
    Knob(path="guides.*.end_radius_px", low=0.5, high=2.0, factor=True),
    Knob(path="guides.*.wave_px", low=0.4, high=2.5, factor=True),
    Knob(path="widths.tip_radius_px", low=0.4, high=2.2, spread=0.15),
    Knob(path="widths.exponent", low=1.8, high=4.0, spread=0.1),
    Knob(path="widths.taper_per_px", low=0.0, high=0.05),
    Knob(path="widths.max_radius_px", low=2.5, high=10.0, spread=0.15),
    Knob(path="course.stub_px", low=1.0, high=20.0, spread=0.2),
    Knob(path="course.join_px", low=0.0, high=12.0),
    Knob(path="course.lean_px", low=0.0, high=14.0),
    Knob(path="course.smooth_rounds", low=0, high=10, whole=True),
)
"""Without."""


def start_of(section: Section, knobs: Sequence[Knob]) -> npt.NDArray[np.float64]:
    """Where the knobs stand in `section`."""
    return np.array([_start(section, knob) for knob in knobs])


def _start(section: Section, knob: Knob) -> float:
    if knob.factor:
        return knob.position(1.0)
    holders = _holders(copy.deepcopy(section), knob.path)  # what is missing is made in a copy
    found = holders[0][0].get(holders[0][1]) if holders else None
    if found is None:
        return 0.5
    middle = float(np.mean(found))
    return knob.position(middle)


def turn(section: Section, knobs: Sequence[Knob], at: npt.NDArray[np.float64]) -> Section:
    """Return a copy of `section` with every knob at its position."""
    turned = copy.deepcopy(section)
    for knob, position in zip(knobs, at, strict=True):
        for holder, name in _holders(turned, knob.path):
            holder[name] = _set(knob, holder.get(name), knob.value(float(position)))
    return turned


def _holders(section: Section, path: str) -> list[tuple[Section, str]]:
    """The mappings that hold the last name of `path`; what is missing on the way is made."""
    *way, name = path.split(".")
    found: list[Any] = [section]
    for step in way:
        if step == "*":
            found = [item for holder in found for item in holder]
        else:
            for holder in found:
                if holder.get(step) is None:
                    holder[step] = [] if step in {"stages", "guides"} else {}
            found = [holder[step] for holder in found]
    return [(holder, name) for holder in found]


def _set(knob: Knob, old: Any, value: float) -> Any:
    if knob.whole:
        return round(value)
    if knob.factor:
        stretched = np.atleast_1d(np.asarray(0.0 if old is None else old, float)) * value
        if knob.share:
            stretched = np.minimum(stretched, 1.0)
        out = [round(float(v), 4) for v in stretched]
        return out if len(out) > 1 else out[0]
    if knob.spread:
        return [round(value * (1 - knob.spread), 4), round(value * (1 + knob.spread), 4)]
    return round(value, 4)
