"""Real-conditioned placement (R-SCA): attractors dense on real vessels, a grid elsewhere.

In: `Template`s, the card's `real` section, a generator. Out: roots and dense attractors in
pixels, and a map of how far each place is from the real vessels. The real vessels are taken apart
first: some subtrees fall, others from other real masks are grafted in their place, and the whole is
moved and bent. This departs from the paper, whose masks repeat the vessels that they grow on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .params import Conditioning
from .sampling import Floats, Frame, Generator, draw
from .template import Template

TRUNK_SHARE = 0.05  # of all vessels: what carries more than this seldom falls
GRAFT_TURN_RAD = 0.2
MAP_SIDE = 128  # pixels of the distance map, which need not be finer than a grid cell


@dataclass(frozen=True)
class Steering:
    """roots: (r, 2) px. attractors: (k, 2) px. away: (MAP, MAP) distance to the
    real vessels, px.
    """

    roots: Floats
    attractors: Floats
    piece: npt.NDArray[np.int64]
    away: Floats
    parameters: dict[str, Any]


def steer(
    template: Template, donors: Sequence[Template], strength: float, real: Conditioning,
    frame: Frame, rng: Generator,
) -> Steering:  # fmt: skip
    """Take `template` apart, put it together anew, move it and cover it with attractors."""
    kept, fallen = thin_branches(template, strength, rng)
    sizes = np.diff(template.start)
    points = [template.points[np.repeat(kept, sizes)]]
    piece = [np.repeat(template.piece[kept], sizes[kept])]
    grafts = 0
    for branch in fallen:
        if rng.random() < draw(rng, real.graft):
            grafted = graft(template, branch, donors[int(rng.integers(len(donors)))], rng)
            if grafted is not None:
                grafts += 1
                points.append(grafted)
                piece.append(np.full(len(grafted), template.piece[branch]))
    move = draw_move(real, frame, rng)
    course = move_course(np.vstack(points), move, draw(rng, real.width_factor) * frame.side)
    away = _distance_map(move(template.points[:, :2]), frame)
    jitter = draw(rng, real.jitter_px) * frame.scale
    course[:, :2] += jitter * rng.standard_normal((len(course), 2))
    return Steering(
        roots=move(template.roots),
        attractors=course,
        piece=np.concatenate(piece),
        away=away,
        parameters={
            "template": template.name,
            "strength": round(strength, 4),
            "kept": round(float(template.length[kept].sum() / max(template.length.sum(), 1e-9)), 4),
            "grafts": grafts,
        },
    )


def move_course(points: Floats, move: Move, width: float) -> Floats:
    """Move points with radii; a real width in sides becomes `width` times that, zoomed, in px."""
    zoom = float(np.sqrt(abs(np.linalg.det(move.matrix))))
    return np.hstack([move(points[:, :2]), width * zoom * points[:, 2:]])


def thin_branches(
    template: Template, strength: float, rng: Generator
) -> tuple[npt.NDArray[np.bool_], list[int]]:
    """Which branches stay, and where a subtree fell off a branch that stays.

    A branch with much hanging on it must not fall as easily as a twig, or little but stumps would
    remain: the chance that one falls shrinks with the share of all vessels that hangs on it.
    """
    share = template.below / max(float(template.length.sum()), 1e-9)
    chance = 1.0 - (1.0 - strength) * np.exp(-share / TRUNK_SHARE)
    chance *= min(1.0, 4.0 * strength)  # towards strength 0 the trunks go too
    kept = rng.random(template.branch_count) < chance
    fallen = []
    for b, parent in enumerate(template.parent):
        if parent >= 0 and not kept[parent]:
            kept[b] = False
        elif parent >= 0 and not kept[b]:
            fallen.append(b)
    return kept, fallen


def graft(host: Template, branch: int, donor: Template, rng: Generator) -> Floats | None:
    """Return a subtree of `donor`, turned to leave `host` where and as its `branch` did.

    One of like length, so that the mask keeps its balance; None where the donor has none.
    """
    wanted = host.below[branch]
    fitting = np.flatnonzero(
        (donor.below > 0.6 * wanted) & (donor.below < 1.7 * wanted) & (donor.parent >= 0)
    )
    if len(fitting) == 0:
        return None
    chosen = donor.subtree(int(rng.choice(fitting)))
    parts = [donor.points[donor.start[b] : donor.start[b + 1]] for b in chosen]
    old = host.points[host.start[branch] : host.start[branch + 1]]
    angle = _departure(old) - _departure(parts[0]) + rng.normal(0.0, GRAFT_TURN_RAD)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = rng.uniform(0.85, 1.15) * np.array([[cos, -sin], [sin, cos]])
    points = np.vstack(parts)
    points[:, :2] = (points[:, :2] - points[0, :2]) @ turn.T + old[0, :2]
    ratio = np.median(old[:, 2]) / np.median(parts[0][:, 2])  # about as wide as what fell
    points[:, 2] *= np.clip(ratio, 0.6, 1.4)
    return points


def _departure(points: Floats) -> float:
    """Direction in which a branch leaves, over its first few points."""
    far = points[min(6, len(points) - 1)] - points[0]
    return float(np.arctan2(far[1], far[0]))


@dataclass(frozen=True)
class Move:
    """A similarity about the centre, mirror and flip, and a smooth warp; unit coordinates in."""

    matrix: Floats
    shift: Floats
    warp: Floats
    frame: Frame

    def __call__(self, unit: Floats) -> Floats:
        """Map unit coordinates (k, 2) to pixels."""
        if not len(unit):  # nothing of the real mask was kept; OpenCV refuses empty maps
            return np.zeros((0, 2))
        moved = (unit - 0.5) @ self.matrix.T + 0.5
        px = self.frame.to_px(moved) + self.shift
        x = np.clip(moved[:, 0], 0, 1) * (MAP_SIDE - 1)
        y = np.clip(moved[:, 1], 0, 1) * (MAP_SIDE - 1)
        sampled = cv2.remap(
            self.warp, x.astype(np.float32)[None], y.astype(np.float32)[None], cv2.INTER_LINEAR
        )
        result: Floats = px + sampled[0]
        return result


def draw_move(real: Conditioning, frame: Frame, rng: Generator) -> Move:
    """Draw how the real vessels are moved."""
    angle = np.deg2rad(draw(rng, real.rotate_deg)) + (
        rng.integers(4) * np.pi / 2 if real.quarter_turns else 0.0
    )
    zoom = draw(rng, real.zoom)
    mirror = -1.0 if real.mirror and rng.random() < 0.5 else 1.0
    flip = -1.0 if real.flip and rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-1, 1, 2) * draw(rng, real.shift_px) * frame.scale
    amplitude = draw(rng, real.warp_px) * frame.scale
    coarse = rng.uniform(-1, 1, (5, 5, 2)).astype(np.float32) * np.float32(amplitude)
    warp: npt.NDArray[Any] = cv2.resize(coarse, (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_CUBIC)
    return Move(zoom * turn @ np.diag([mirror, flip]), shift, warp, frame)


def _distance_map(points: Floats, frame: Frame) -> Floats:
    free = np.full((MAP_SIDE, MAP_SIDE), 255, np.uint8)
    cells = points / [frame.width, frame.height] * MAP_SIDE
    inside = ((cells >= 0) & (cells < MAP_SIDE)).all(axis=1)
    column, row = cells[inside].astype(int).T
    free[row, column] = 0
    distance = cv2.distanceTransform(free, cv2.DIST_L2, 3).astype(np.float64)
    scaled: Floats = distance * (frame.side / MAP_SIDE)
    return scaled


def distance_at(away: Floats, points: Floats, frame: Frame) -> Floats:
    """Look the distance to the real vessels up at `points` (k, 2) px."""
    column = np.clip(points[:, 0] / frame.width * MAP_SIDE, 0, MAP_SIDE - 1).astype(int)
    row = np.clip(points[:, 1] / frame.height * MAP_SIDE, 0, MAP_SIDE - 1).astype(int)
    found: Floats = away[row, column]
    return found
