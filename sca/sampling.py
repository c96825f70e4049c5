"""Drawing a mask's parameters, before anything grows.

In: a `Growth`, a generator, the image's `Frame`. Out: where the points lie, the pace of each round,
the widths and the finish, all in pixels of this image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .params import REFERENCE_SIDE_PX, Course, Growth, Span, Stage
from .shape import Calibre, Finish
from .tree import Pace

Generator = np.random.Generator
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The image's pixel frame: unit coordinates to pixels, reference lengths to pixels."""

    height: int
    width: int

    @property
    def side(self) -> float:
        """Side of the unit square in pixels."""
        return float(np.sqrt(self.height * self.width))

    @property
    def scale(self) -> float:
        """Pixels of this image to one pixel of the reference size."""
        return self.side / REFERENCE_SIDE_PX

    def to_px(self, unit: Any) -> Floats:
        """Map unit coordinates (…, 2) to pixels; the square is centred in the image."""
        centre = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        mapped: Floats = centre + (np.asarray(unit, np.float64) - 0.5) * self.side
        return mapped


def draw(rng: Generator, span: Span) -> float:
    """Return the number, or one drawn evenly from its range."""
    if isinstance(span, tuple):
        return float(rng.uniform(*span))
    return float(span)


def draw_points(growth: Growth, rng: Generator) -> dict[str, Floats]:
    """Place the named points, in unit coordinates."""
    places: dict[str, Floats] = {}
    for name, point in growth.points.items():
        offset = np.array(point.at) + np.array(point.spread) * rng.uniform(-1, 1, 2)
        places[name] = offset + places[point.of] if point.of else offset
    return places


def draw_variant(growth: Growth, rng: Generator) -> str:
    """Return the variant that this mask is of, or nothing where there is one kind only."""
    if not growth.variants:
        return ""
    weights = np.array(list(growth.variants.values()))
    return list(growth.variants)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def draw_pace(stage: Stage, growth: Growth, rng: Generator, scale: float) -> Pace:
    """Return the pace of one round in pixels of this image."""
    return Pace(
        attraction_px=draw(rng, stage.attraction_px) * scale,
        kill_px=draw(rng, stage.kill_px) * scale,
        step_px=draw(rng, stage.step_px) * scale,
        max_nodes=growth.max_nodes,
        max_iterations=growth.max_iterations,
        inertia=draw(rng, stage.inertia),
        lean=draw(rng, stage.lean),
        wobble_rad=float(np.deg2rad(draw(rng, stage.wobble_deg))),
        wobble_memory=stage.wobble_memory,
        margin_px=draw(rng, growth.margin_px) * scale,
    )


def draw_calibre(growth: Growth, rng: Generator, scale: float) -> Calibre:
    """Return the widths in pixels of this image; the taper is a flow a pixel, so it shrinks."""
    widths = growth.widths
    return Calibre(
        tip_radius_px=draw(rng, widths.tip_radius_px) * scale,
        exponent=draw(rng, widths.exponent),
        taper_per_px=draw(rng, widths.taper_per_px) / scale,
        max_radius_px=draw(rng, widths.max_radius_px) * scale,
    )


def draw_finish(course: Course, rng: Generator, scale: float) -> Finish:
    """Return the finish in pixels of this image."""
    return Finish(
        stub_px=draw(rng, course.stub_px) * scale,
        join_px=draw(rng, course.join_px) * scale,
        lean_px=draw(rng, course.lean_px) * scale,
        smooth_rounds=course.smooth_rounds,
    )
