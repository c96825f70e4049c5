"""Descriptors of masks in a specialist's words, for the demo's tables.

In: arrays of descriptors by name. Out: cells, mean ± standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trait:
    """A descriptor in a specialist's words; `show` turns it from image sides and logarithms.

    `unit`: sides are shown in pixels, shares in percent, log(1 + n) as n.
    """

    words: str
    name: str
    digits: int
    unit: Literal["as it is", "pixels", "percent", "count"] = "as it is"


TRAITS: tuple[Trait, ...] = (
    Trait("Vessel density [% of the image]", "vessel_density", 1, "percent"),
    Trait("Length of the centre lines [image sides]", "skeleton_length", 1),
    Trait("Calibre, median [px]", "width_q50", 1, "pixels"),
    Trait("Calibre of the widest 2 % [px]", "width_q98", 1, "pixels"),
    Trait("Branch length, median [px]", "segment_q50", 0, "pixels"),
    Trait("Branchings a side of centre line", "junction_density", 1),
    Trait("Free ends a side of centre line", "tip_density", 1),
    Trait("Branching angle, median [°]", "angle_q50", 0),
    Trait("Tortuosity, arc over chord − 1 [%]", "tortuosity_mean", 1, "percent"),
    Trait("Fractal dimension, vessels", "fractal_mask", 2),
    Trait("Fractal dimension, centre lines", "fractal_skeleton", 2),
    Trait("Loops (Betti 1)", "holes_log", 0, "count"),
    Trait("Separate pieces (Betti 0)", "components_log", 0, "count"),
)


def show_spread(trait: Trait, descriptors: Mapping[str, FloatArray], size_px: int) -> str:
    """Return mean ± standard deviation of `trait` over masks of `size_px`."""
    values = descriptors[trait.name]
    if trait.unit == "count":
        values = np.expm1(values)
    else:
        values = values * {"as it is": 1, "pixels": size_px, "percent": 100}[trait.unit]
    return f"{values.mean():.{trait.digits}f} ± {values.std():.{trait.digits}f}"
