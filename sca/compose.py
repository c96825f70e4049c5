"""One mask, from a modality's parameters and a generator.

In: a `Growth`, a size, a generator and, for R-SCA, a real template. Out: the mask and the numbers
it was made with. Order: draw the parameters, lay the guides, grow the trunks along them, fill the
space round by round, then widths, smoothing and drawing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from . import attractors as place
from .conditioning import Steering, distance_at, steer
from .growth import grow_tree
from .guides import Curve, lay_guides
from .params import Growth, Stage
from .raster import draw_vessels
from .sampling import (
    Frame,
    Generator,
    draw,
    draw_calibre,
    draw_finish,
    draw_pace,
    draw_points,
    draw_variant,
)
from .shape import shape_vessels
from .template import Template
from .tree import Bytes, Floats, Tree, plant
from .venation import grow_closed


@dataclass(frozen=True)
class Synthetic:
    """pixels: uint8 (H, W) of 0 and 255. parameters: what was drawn, for the manifest."""

    pixels: Bytes
    parameters: dict[str, Any]
    growth_s: float
    drawing_s: float


def grow_mask(
    growth: Growth, height: int, width: int, rng: Generator, templates: Sequence[Template] = ()
) -> Synthetic:
    """Synthesize one mask of `height` × `width` pixels, on real courses where given templates."""
    start = time.perf_counter()
    frame = Frame(height, width)
    variant = draw_variant(growth, rng)
    places = draw_points(growth, rng)
    strength = draw(rng, growth.real.strength) if templates else 0.0
    steering = None
    if strength == 0.0 and (growth.guides or growth.roots):
        blocked = block(growth, places, frame, rng)
        curves = lay_guides(growth, variant, places, frame, rng)
        trees = grow_trunks(growth, curves, places, blocked, frame, rng)
    else:
        blocked = np.zeros((height, width), np.uint8)
        steering, trees = grow_on_real(growth, templates, strength, blocked, frame, rng)
    for stage in growth.stages:
        trees = fill(stage, growth, trees, places, blocked, frame, rng, steering)
    grown_at = time.perf_counter()
    canvas = np.zeros((height, width), np.uint8)
    calibre = draw_calibre(growth, rng, frame.scale)
    calibre = replace(calibre, pinned=steering is not None)
    course = growth.course if steering is None else growth.real.course or growth.course
    finish = draw_finish(course, rng, frame.scale)
    nodes = 0
    for tree in trees.values():
        vessels = shape_vessels(tree, calibre, finish)
        draw_vessels(canvas, vessels)
        nodes += len(vessels.x)
    canvas[blocked > 1] = 0
    mirrored = bool(rng.random() < growth.mirror)
    if mirrored:
        canvas = np.ascontiguousarray(canvas[:, ::-1])
    parameters: dict[str, Any] = {
        "mirrored": mirrored,
        "points": {name: [round(float(v), 4) for v in at] for name, at in places.items()},
        "exponent": round(calibre.exponent, 4),
        "tip_radius_px": round(calibre.tip_radius_px, 4),
        "nodes": nodes,
    }
    if variant and steering is None:
        parameters["variant"] = variant
    if steering is not None:
        parameters |= steering.parameters
    return Synthetic(canvas, parameters, grown_at - start, time.perf_counter() - grown_at)


def block(growth: Growth, places: dict[str, Floats], frame: Frame, rng: Generator) -> Bytes:
    """Map of where no node may stand: 2 outside the field of view, 1 in an obstacle, else 0."""
    if growth.view.shape == "circle":
        blocked = np.full((frame.height, frame.width), 2, np.uint8)
        centre = frame.to_px([0.5, 0.5])
        radius = draw(rng, growth.view.diameter) * frame.side / 2
        cv2.circle(blocked, _whole(centre), round(radius), 0, thickness=-1)
    else:
        blocked = np.zeros((frame.height, frame.width), np.uint8)
    for obstacle in growth.obstacles:
        radius = draw(rng, obstacle.radius_px) * frame.scale
        axes = (max(0, round(radius)), max(0, round(radius * obstacle.squash)))
        centre = frame.to_px(places[obstacle.at])
        cv2.ellipse(blocked, _whole(centre), axes, 0, 0, 360, 1, thickness=-1)
    return blocked


def _whole(point: Floats) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def grow_trunks(
    growth: Growth, curves: list[Curve], places: dict[str, Floats], blocked: Bytes, frame: Frame,
    rng: Generator,
) -> dict[str, Tree]:  # fmt: skip
    """Grow each tree along its guides; trees do not see each other."""
    pace = draw_pace(growth.trunk, growth, rng, frame.scale)
    spacing = 0.5 * pace.step_px
    trees: dict[str, Tree] = {}
    for name in sorted({curve.tree for curve in curves}):
        mine = [curve for curve in curves if curve.tree == name]
        roots = np.array([curve.course[0, :2] for curve in mine if curve.rooted])
        targets = np.vstack([place.along(curve.course, spacing, 0.0, rng) for curve in mine])
        targets = place.outside(targets, blocked, pace.margin_px)
        seed = int(rng.integers(2**62))
        trees[name] = grow_tree(plant(roots), targets, blocked, pace, seed)
    if not trees and not growth.roots:  # no guide was drawn: something must still grow
        trees["roots"] = plant(frame.to_px(np.array([[0.5, 0.5]])))
    if growth.roots:
        roots = frame.to_px(np.array([places[name] for name in growth.roots]))
        trees["roots"] = plant(roots)
    return trees


def grow_on_real(
    growth: Growth, templates: Sequence[Template], strength: float, blocked: Bytes, frame: Frame,
    rng: Generator,
) -> tuple[Steering, dict[str, Tree]]:  # fmt: skip
    """R-SCA's first round: grow along what is kept of the real vessels."""
    real = growth.real
    pace = replace(
        draw_pace(growth.trunk, growth, rng, frame.scale),
        attraction_px=draw(rng, real.attraction_px) * frame.scale,
        kill_px=draw(rng, real.kill_px) * frame.scale,
        step_px=draw(rng, real.step_px) * frame.scale,
        margin_px=0.5 * frame.side,  # moved roots may lie far outside, and must still grow
    )
    which = int(rng.integers(len(templates)))
    steering = steer(templates[which], templates, strength, real, frame, rng)
    seed = int(rng.integers(2**62))
    # Piece by piece: pieces that are apart in the real mask must not take each other's vessels.
    trees = []
    for piece, root in enumerate(steering.roots):
        targets = steering.attractors[steering.piece == piece]
        if len(targets):
            targets = place.outside(targets, blocked, pace.margin_px)
            trees.append(grow_tree(plant(root[None]), targets, blocked, pace, seed + piece))
    return steering, {"all": join_trees(trees) if trees else plant(steering.roots)}


def fill(
    stage: Stage, growth: Growth, trees: dict[str, Tree], places: dict[str, Floats],
    blocked: Bytes, frame: Frame, rng: Generator, steering: Steering | None = None,
) -> dict[str, Tree]:  # fmt: skip
    """One round: place attractors in the free space and let the trees grow towards them."""
    pace = draw_pace(stage, growth, rng, frame.scale)
    cell = draw(rng, stage.cell_px) * frame.scale
    if stage.placement == "grid":
        points = place.jittered_grid(frame, cell, rng)
    else:
        points = place.scattered(frame, round(frame.height * frame.width / cell**2), rng)
    keep = draw(rng, stage.keep) * (growth.real.fill if steering is not None else 1.0)
    points = place.thin_out(points, keep, draw(rng, stage.patchiness), frame, rng)
    points = place.outside(points, blocked)
    if steering is not None:
        away = distance_at(steering.away, points, frame)
        near, far = draw(rng, growth.real.near_px), draw(rng, growth.real.far_px)
        points = points[(away >= near * frame.scale) & (away <= far * frame.scale)]
    elif stage.within:
        far = np.hypot(*(points - frame.to_px(places[stage.within])).T)
        points = points[far < draw(rng, stage.within_px) * frame.scale]
    if not stage.apart:
        trees = {"all": join_trees(list(trees.values()))}
    grow = grow_closed if stage.closed else grow_tree
    grown = {}
    share = rng.integers(len(trees), size=len(points))
    for k, (name, tree) in enumerate(trees.items()):
        mine = np.ascontiguousarray(points[share == k])
        grown[name] = grow(tree, mine, blocked, pace, int(rng.integers(2**62)))
    return grown


def join_trees(trees: list[Tree]) -> Tree:
    """Return one forest; parents still stand before their children."""
    if len(trees) == 1:
        return trees[0]
    starts = np.cumsum([0, *(tree.size for tree in trees)])
    parent = [
        np.where(tree.parent >= 0, tree.parent + start, -1).astype(np.int32)
        for tree, start in zip(trees, starts, strict=False)
    ]
    loops = [tree.loops + start for tree, start in zip(trees, starts, strict=False)]
    return Tree(
        np.concatenate([tree.x for tree in trees]),
        np.concatenate([tree.y for tree in trees]),
        np.concatenate(parent),
        np.concatenate([tree.dx for tree in trees]),
        np.concatenate([tree.dy for tree in trees]),
        np.concatenate([tree.turn for tree in trees]),
        np.concatenate([tree.floor for tree in trees]),
        np.concatenate(loops).astype(np.int32),
    )
