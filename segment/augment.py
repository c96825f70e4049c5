"""What augmentation does to one sample: drawn first as plain numbers, applied by `augment_apply`.

In: a generator, a level. Out: an `Augmentation`: how the sample is warped, and how its tones
change. The same generator gives the same numbers, and those the same pixels; nothing else is
random.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Level = Literal["none", "light", "strong"]
Grid = tuple[tuple[float, ...], ...]

BEND_POINTS = 5
LIGHT_POINTS = 4
MOST_HOLES = 3
SEEDS = 2**62


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Where the pixels of a sample come from."""

    mirror: bool = False
    turn_deg: float = 0.0
    scale: float = 1.0
    """How much larger things become."""
    stretch: float = 1.0
    """Width over height of what was square."""
    shear: float = 0.0
    bend_x: Grid = ()
    """Displacements on a coarse grid, in shares of the side; between its points they are smooth."""
    bend_y: Grid = ()


@dataclass(frozen=True, kw_only=True)
class Tone:
    """How values change; an image goes from 0 to 1."""

    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    gains: tuple[float, ...] = ()
    """A factor a channel."""
    hue_deg: float = 0.0
    saturation: float = 1.0
    light: Grid = ()
    """Factors on a coarse grid: uneven illumination."""
    blur_px: float = 0.0
    sharpen: float = 0.0
    resolution: float = 1.0
    """Share of the resolution that is left."""
    noise: float = 0.0
    noise_seed: int = 0
    holes: tuple[tuple[float, float, float, float], ...] = ()
    """Top, left, height, width in shares of the side; filled with the mean."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """All that happens to one sample."""

    warp: Warp = field(default_factory=Warp)
    tone: Tone = field(default_factory=Tone)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far each change goes, and how often the costly ones happen."""

    mirror: bool = False
    quarter_turns: bool = False
    turn_deg: float = 0.0
    scale: float = 1.0
    """Between 1 over this and this."""
    stretch: float = 1.0
    shear: float = 0.0
    bend: float = 0.0
    """Standard deviation of displacements, in shares of the side."""
    bend_often: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    gain: float = 1.0
    hue_deg: float = 0.0
    saturation: float = 0.0
    light: float = 0.0
    light_often: float = 0.0
    blur_px: float = 0.0
    blur_often: float = 0.0
    sharpen: float = 0.0
    sharpen_often: float = 0.0
    resolution: float = 1.0
    """Least share that is left."""
    resolution_often: float = 0.0
    noise: float = 0.0
    noise_often: float = 0.0
    hole: float = 0.0
    """Largest side of a hole, in shares of the sample's."""
    holes_often: float = 0.0


LEVELS: dict[Level, Ranges] = {
    "none": Ranges(),
    "light": Ranges(
        mirror=True, quarter_turns=True, turn_deg=10.0, scale=1.1,
        gamma=1.15, contrast=1.15, brightness=0.05,
    ),
    "strong": Ranges(
        mirror=True, quarter_turns=True, turn_deg=45.0, scale=1.35, stretch=1.15, shear=0.15,
        bend=0.015, bend_often=0.5,
        gamma=1.5, contrast=1.4, brightness=0.12, gain=1.15, hue_deg=12.0, saturation=0.4,
        light=0.2, light_often=0.4, blur_px=1.2, blur_often=0.2, sharpen=1.0, sharpen_often=0.15,
        resolution=0.5, resolution_often=0.15, noise=0.06, noise_often=0.3,
        hole=0.15, holes_often=0.15,
    ),
}  # fmt: skip
"""What the names mean. `strong` goes beyond what a camera does: five shots are seen thousands of
times."""


def draw_augmentation(rng: np.random.Generator, level: Level, channels: int) -> Augmentation:
    """Draw the numbers of one sample of `channels` channels."""
    ranges = LEVELS[level]
    if level == "none":
        return Augmentation()
    return Augmentation(warp=_draw_warp(rng, ranges), tone=_draw_tone(rng, ranges, channels))


def without_tone(augmentation: Augmentation) -> Augmentation:
    """Return the warp alone."""
    return replace(augmentation, tone=Tone())


def _draw_warp(rng: np.random.Generator, ranges: Ranges) -> Warp:
    turn = _around(rng, ranges.turn_deg)
    if ranges.quarter_turns:
        turn += 90.0 * int(rng.integers(4))
    bend_x: Grid = ()
    bend_y: Grid = ()
    mirror = ranges.mirror and bool(rng.random() < 0.5)
    scale, stretch = _factor(rng, ranges.scale), _factor(rng, ranges.stretch)
    shear = _around(rng, ranges.shear)
    if rng.random() < ranges.bend_often:
        bend_x, bend_y = (
            _plain(rng.normal(0.0, ranges.bend, (BEND_POINTS, BEND_POINTS))) for _ in range(2)
        )
    return Warp(
        mirror=mirror, turn_deg=turn, scale=scale, stretch=stretch, shear=shear,
        bend_x=bend_x, bend_y=bend_y,
    )  # fmt: skip


def _draw_tone(rng: np.random.Generator, ranges: Ranges, channels: int) -> Tone:
    # In a fixed order, whatever happens, so that one number more does not change the others.
    plain = {
        "gamma": _factor(rng, ranges.gamma),
        "contrast": _factor(rng, ranges.contrast),
        "brightness": _around(rng, ranges.brightness),
    }
    coloured = channels > 1
    gains = tuple(_factor(rng, ranges.gain) for _ in range(channels)) if coloured else ()
    hue = _around(rng, ranges.hue_deg) if coloured else 0.0
    saturation = 1.0 + (_around(rng, ranges.saturation) if coloured else 0.0)
    light: Grid = ()
    if rng.random() < ranges.light_often:
        light = _plain(1.0 + rng.normal(0.0, ranges.light, (LIGHT_POINTS, LIGHT_POINTS)))
    blur = _up_to(rng, ranges.blur_px, ranges.blur_often)
    sharpen = _up_to(rng, ranges.sharpen, ranges.sharpen_often)
    resolution = 1.0 - _up_to(rng, 1.0 - ranges.resolution, ranges.resolution_often)
    noise = _up_to(rng, ranges.noise, ranges.noise_often)
    return Tone(
        **plain, gains=gains, hue_deg=hue, saturation=saturation, light=light, blur_px=blur,
        sharpen=sharpen, resolution=resolution, noise=noise,
        noise_seed=int(rng.integers(SEEDS)), holes=_draw_holes(rng, ranges),
    )  # fmt: skip


def _draw_holes(
    rng: np.random.Generator, ranges: Ranges
) -> tuple[tuple[float, float, float, float], ...]:
    if rng.random() >= ranges.holes_often:
        return ()
    holes = []
    for _ in range(int(rng.integers(1, MOST_HOLES + 1))):
        high, wide = (float(value) for value in rng.uniform(0.2, 1.0, 2) * ranges.hole)
        top, left = float(rng.uniform(0, 1 - high)), float(rng.uniform(0, 1 - wide))
        holes.append((top, left, high, wide))
    return tuple(holes)


def _around(rng: np.random.Generator, most: float) -> float:
    return float(rng.uniform(-most, most))


def _factor(rng: np.random.Generator, most: float) -> float:
    """Return a factor between 1 / most and most, both ways alike."""
    return float(most ** rng.uniform(-1.0, 1.0))


def _up_to(rng: np.random.Generator, most: float, often: float) -> float:
    """Return 0, or `often` a value up to `most`."""
    happens, value = rng.random() < often, float(rng.uniform(0.0, most))
    return value if happens else 0.0


def _plain(values: np.ndarray) -> Grid:
    return tuple(tuple(float(value) for value in row) for row in values)
