"""The curves that trunks follow, laid out from a modality card.

In: the card's guides, the points' places, a generator. Out: curves in pixels, each with its tree
and whether it starts a root of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .params import Growth, Guide
from .sampling import Floats, Frame, Generator, draw

SAMPLES = 48
"""Points of a curve before it is cut to attractors; more changes no pixel."""


@dataclass(frozen=True)
class Curve:
    """A course from the root outwards.

    course: (SAMPLES, 3): x, y and least radius, px. rooted: a root stands at its first point.
    """

    tree: str
    course: Floats
    rooted: bool


def lay_guides(
    growth: Growth, variant: str, places: dict[str, Floats], frame: Frame, rng: Generator
) -> list[Curve]:
    """Lay out every guide that a mask of `variant` gets."""
    curves: list[Curve] = []
    stem: Curve | None = None  # the last curve that later ones may branch off
    for guide in growth.guides:
        if guide.variant not in {"", variant}:
            continue
        if rng.random() >= guide.probability or (guide.follow and stem is None):
            # A spline that is not drawn leaves its followers without a stem; others change nothing.
            stem = stem if guide.follow or guide.kind != "spline" else None
        elif guide.kind == "fan":
            curves += _fan(guide, places, frame, rng)
        elif guide.kind == "inward":
            curves += _inward(guide, growth, places, frame, rng)
        else:
            points = _spline(guide, places, frame, rng, stem)
            rooted = stem is None or not guide.follow or guide.tree != stem.tree
            curves.append(_curve(guide, points, frame, rng, rooted))
            stem = stem if guide.follow else curves[-1]
    return curves


def _spline(
    guide: Guide, places: dict[str, Floats], frame: Frame, rng: Generator, stem: Curve | None
) -> Floats:
    origin = places[guide.origin] if guide.origin else np.array([0.0, 0.0])
    toward = places[guide.toward] if guide.toward else origin + np.array([1.0, 0.0])
    u = toward - origin
    v = np.array([-u[1], u[0]])
    control = np.array(guide.through)
    scatter = guide.spread * rng.uniform(-1, 1, control.shape)
    if guide.origin and not guide.follow:
        scatter[0] *= 0.3  # the first point is the root: it stays near its place
    control = control + scatter
    unit = origin + control[:, :1] * u + control[:, 1:] * v
    points = frame.to_px(unit)
    if stem is not None and guide.follow:
        start = stem.course[int(draw(rng, guide.branch_at) * (SAMPLES - 1)), :2]
        points = np.vstack([start, points[1:]])
    curve = catmull_rom(points, SAMPLES)
    curve = _cut(curve, draw(rng, guide.reach))
    return _wave(curve, guide, frame, rng)


def _curve(
    guide: Guide, points: Floats, frame: Frame, rng: Generator, rooted: bool = True
) -> Curve:
    """Give the curve its least radius: that of its end."""
    radius = np.full((len(points), 1), draw(rng, guide.end_radius_px) * frame.scale)
    return Curve(guide.tree, np.hstack([points, radius]), rooted)


def _fan(guide: Guide, places: dict[str, Floats], frame: Frame, rng: Generator) -> list[Curve]:
    root = places[guide.origin] if guide.origin else np.array([0.5, 0.5])
    ahead = places[guide.toward] - root if guide.toward else np.array([1.0, 0.0])
    zero = np.arctan2(ahead[1], ahead[0])
    count = int(rng.integers(guide.count[0], guide.count[1] + 1))
    low, high = np.deg2rad(guide.sector_deg)
    curves = []
    for k in range(count):
        angle = zero + low + (high - low) * (k + rng.uniform(0.1, 0.9)) / count
        length = draw(rng, guide.length) * frame.side * draw(rng, guide.reach)
        points = _arc(frame.to_px(root), angle, length, _bend(guide, rng))
        curves.append(_curve(guide, _wave(points, guide, frame, rng), frame, rng))
    return curves


def _inward(
    guide: Guide, growth: Growth, places: dict[str, Floats], frame: Frame, rng: Generator
) -> list[Curve]:
    target = places[guide.toward] if guide.toward else np.array([0.5, 0.5])
    count = int(rng.integers(guide.count[0], guide.count[1] + 1))
    low, high = np.deg2rad(guide.sector_deg)
    curves = []
    for k in range(count):
        angle = low + (high - low) * (k + rng.uniform(0.05, 0.95)) / count
        start = _on_border(growth, angle, frame, rng)
        aim = frame.to_px(target)
        way = aim - start
        aside = draw(rng, guide.miss) * frame.side * rng.choice([-1.0, 1.0])
        aim = aim + aside * np.array([-way[1], way[0]]) / max(float(np.hypot(*way)), 1e-9)
        way = aim - start
        bend = _bend(guide, rng)
        length = float(np.hypot(*way)) * draw(rng, guide.reach)
        points = _arc(start, float(np.arctan2(way[1], way[0])) - bend / 2, length, bend)
        curves.append(_curve(guide, _wave(points, guide, frame, rng), frame, rng))
    return curves


def _on_border(growth: Growth, angle: float, frame: Frame, rng: Generator) -> Floats:
    """Where the ray at `angle` from the centre leaves the field of view, in pixels."""
    cos, sin = np.cos(angle), np.sin(angle)
    half_x, half_y = (frame.width - 1) / 2, (frame.height - 1) / 2
    far = min(half_x / max(abs(cos), 1e-9), half_y / max(abs(sin), 1e-9))
    if growth.view.shape == "circle":
        far = min(far, draw(rng, growth.view.diameter) * frame.side / 2)
    return np.array([half_x + far * cos, half_y + far * sin])


def _bend(guide: Guide, rng: Generator) -> float:
    return float(np.deg2rad(draw(rng, guide.bend_deg)) * rng.choice([-1.0, 1.0]))


def _arc(start: Floats, angle: float, length: float, bend: float) -> Floats:
    """A curve that leaves at `angle` and turns by `bend` along its length."""
    steps = np.linspace(0, 1, SAMPLES)
    angles = angle + bend * steps
    each = length / (SAMPLES - 1)
    x = np.concatenate([[0.0], np.cumsum(np.cos(angles[:-1]) * each)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(angles[:-1]) * each)])
    points: Floats = start + np.stack([x, y], axis=1)
    return points


def catmull_rom(points: Floats, samples: int) -> Floats:
    """Smooth curve through `points` (k, 2), sampled evenly in the parameter."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    position = np.linspace(0, len(points) - 1, samples)
    segment = np.minimum(position.astype(int), len(points) - 2)
    t = (position - segment)[:, None]
    a, b, c, d = (padded[segment + k] for k in range(4))
    cubic = -a + 3 * b - 3 * c + d
    curve: Floats = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + cubic * t**3)
    return curve


def _cut(curve: Floats, share: float) -> Floats:
    """Return the first `share` of `curve`, resampled to as many points."""
    if share >= 1.0:
        return curve
    return resample(curve, np.linspace(0, share * arc_length(curve)[-1], len(curve)))


def arc_length(curve: Floats) -> Floats:
    """Length along `curve` (k, 2) at each of its points."""
    steps = np.hypot(*np.diff(curve[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def resample(curve: Floats, at: Floats) -> Floats:
    """Points of `curve` at the lengths `at`."""
    along = arc_length(curve)
    return np.stack([np.interp(at, along, column) for column in curve.T], axis=1)


def _wave(curve: Floats, guide: Guide, frame: Frame, rng: Generator) -> Floats:
    """Lay two sine waves over the curve, across its course, none at its root."""
    amplitude = draw(rng, guide.wave_px) * frame.scale
    if amplitude <= 0:
        return curve
    along = arc_length(curve)
    swing = np.zeros(len(curve))
    for part in (1.0, 0.5):
        wavelength = draw(rng, guide.wavelength_px) * frame.scale * part
        phase = rng.uniform(0, 2 * np.pi)
        swing += part * np.sin(2 * np.pi * along / wavelength + phase)
    rise = np.minimum(1.0, along / (20.0 * frame.scale))
    course = np.gradient(curve, axis=0)
    course /= np.maximum(np.hypot(course[:, 0], course[:, 1]), 1e-9)[:, None]
    across = np.stack([-course[:, 1], course[:, 0]], axis=1)
    waved: Floats = curve + (amplitude * swing * rise)[:, None] * across
    return waved
