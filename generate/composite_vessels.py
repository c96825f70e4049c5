"""New vessels that look like those of the shots, drawn into a ground.

In: a mask, a ground (H, W, C), a `VesselStyle` (`composite_style` learns it). Out: the ground with
the vessels in it. A vessel changes the light behind it by a profile that goes with its radius, its
branch's own contrast on top; texture goes on through it, as strong as it is in vessels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.sca.paths import branch_radii
from univg.skeleton import SkeletonGraph, skeleton_graph

from .fields import Field, blur

Floats = npt.NDArray[np.float32]

RADII = 6
ACROSS = 10
OUTSIDE = 8
"""Steps of a profile: radii; from the centre line to the wall; beyond it, to `reach_px`."""
WALL_BLUR_PX = 0.7
"""The wall of a mask is a staircase of pixels, that of a vessel is not."""
MIDDLE = 0.4
"""What lies nearer to the centre line than this may show a reflex."""
SMOOTH_SHARE = 0.012
"""What is finer than this share of the short side is texture, the rest smooth."""
LEAST_CONTRAST = 0.4
"""No branch is fainter than this share of what its radius has in the shots: it is labelled."""
KEEPS_ON = 0.85
"""Correlation of the contrasts of a branch and of the one that it grows from."""
NEIGHBOURS = 9


@dataclass(frozen=True, kw_only=True)
class VesselStyle:
    """How vessels look, of C channels."""

    power: float
    """1 where vessels take a share of the light behind them, 0 where they add or take light."""
    level: Floats
    """(C,), mean light of the ground, by which changes are measured."""
    radii_px: Floats
    """(RADII,), rising."""
    reach_px: float
    """How far beyond the wall a vessel is still seen."""
    profile: Floats
    """(RADII, ACROSS + OUTSIDE, C): change against the ground, from the centre line outwards."""
    core: Floats
    """(RADII, C), mean of it inside."""
    branch_radii_px: Floats
    """(B,), of the branches in the shots."""
    branch_changes: Floats
    """(B, 2, C), how much each of them differs from `core` at its radius: whole, and its middle
    besides (the reflex of light on some vessels)."""
    on_bright: Floats
    """(C,), what a change gains with each logarithm of light above `level`, as on an optic disc."""
    texture: Floats
    """(C,), texture inside vessels over that of the ground."""
    main: int
    """Channel in which vessels show best."""


@dataclass(frozen=True)
class Courses:
    """Fields over the image of one mask, and its branches."""

    across: Field
    """0 on the centre line, 1 at the wall; beyond it, 1 and the distance in `reach_px`."""
    radius_px: Field
    branch: npt.NDArray[np.int32]
    """The nearest branch."""
    graph: SkeletonGraph
    branch_radii_px: Floats


def measure_courses(mask: BoolMask, reach_px: float) -> Courses | None:
    """Return the courses of the vessels of `mask`; None where there are none."""
    if not mask.any():
        return None
    graph = skeleton_graph(mask)
    if graph.branch_count == 0:
        return None
    radii = np.nan_to_num(branch_radii(graph), nan=1.0).astype(np.float32)
    rows = np.clip(np.round(graph.rows), 0, mask.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.round(graph.columns), 0, mask.shape[1] - 1).astype(np.int64)
    bare = np.ones(mask.shape, np.uint8)
    bare[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(
        bare, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    count = int(labels.max()) + 1
    branch_table, radius_table = np.zeros(count, np.int32), np.ones(count, np.float32)
    branch_table[labels[rows, columns]] = np.repeat(
        np.arange(graph.branch_count, dtype=np.int32), np.diff(graph.offsets)
    )
    along = _smooth_along(graph.radii.astype(np.float32), graph.offsets)
    radius_table[labels[rows, columns]] = along
    radius = np.maximum(radius_table[labels], np.float32(0.7))
    inside, outside = _exact_distance(mask), _exact_distance(~mask)
    wall = np.where(mask, inside - 0.5, 0.5 - outside)  # how deep inside the lumen, px
    wall = np.asarray(cv2.GaussianBlur(wall, (0, 0), WALL_BLUR_PX))
    across = np.where(
        wall >= 0, 1 - wall / radius, 1 + np.minimum(-wall / np.float32(reach_px), 1.5)
    )
    return Courses(
        np.maximum(across, 0).astype(np.float32), radius, branch_table[labels], graph, radii
    )


def _exact_distance(mask: BoolMask) -> Floats:
    """Return the distance to what is not `mask`, the same on any number of threads."""
    found = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    found = np.minimum(found, np.float32(sum(mask.shape)))  # where there is nothing else
    return np.sqrt(np.rint(np.square(found))).astype(np.float32)


def _smooth_along(values: Floats, offsets: npt.NDArray[np.int64], half: int = 4) -> Floats:
    """Return the moving mean of `values` inside each branch."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    sizes = np.diff(offsets)
    low = np.maximum(places - half, np.repeat(offsets[:-1], sizes))
    high = np.minimum(places + half + 1, np.repeat(offsets[1:], sizes))
    return np.asarray((total[high] - total[low]) / (high - low), np.float32)


def scale_style(style: VesselStyle, scale: float) -> VesselStyle:
    """Return `style` for pictures `scale` times as large."""
    factor = np.float32(scale)
    return replace(
        style, radii_px=np.asarray(style.radii_px * factor),
        branch_radii_px=np.asarray(style.branch_radii_px * factor),
        reach_px=style.reach_px * scale,
    )  # fmt: skip


def light_behind(smooth: Floats, level: Floats, power: float) -> Floats:
    """Return what a change of 1 means at each pixel, in grey levels."""
    if power == 0:
        return np.broadcast_to(level, smooth.shape)
    relative = np.maximum(smooth, 8.0) / level
    return np.asarray(level * (relative if power == 1 else np.power(relative, power)), np.float32)


def light_above(smooth: Floats, level: Floats) -> Floats:
    """Return by how many logarithms the light is above `level`; 0 below."""
    return np.asarray(np.log(np.clip(smooth / level, 1, 4)), np.float32)


def profile_steps(across: Floats) -> Floats:
    """Return the place of `across` in a profile, 0 to ACROSS + OUTSIDE."""
    inner = across * ACROSS
    outer = ACROSS + (across - 1) * OUTSIDE
    return np.minimum(np.where(across < 1, inner, outer), ACROSS + OUTSIDE - 0.01)


def radius_steps(radius: Floats, radii: Floats) -> Floats:
    """Return the place of `radius` between `radii`, 0 to RADII - 1."""
    low, high = math.log(float(radii[0])), math.log(float(radii[-1]))
    place = (np.log(radius) - low) * ((RADII - 1) / (high - low))
    return np.asarray(np.clip(place, 0, RADII - 1), np.float32)


def at_radius(core: Floats, radii: Floats, wanted: Floats) -> Floats:
    place = radius_steps(wanted, radii)
    low = np.minimum(place.astype(np.int64), RADII - 2)
    share = (place - low)[:, None]
    return np.asarray(core[low] * (1 - share) + core[low + 1] * share, np.float32)


def look_up(profile: Floats, radii_px: Floats, courses: Courses) -> Floats:
    """Return what `profile` says at each pixel (H, W, C)."""
    steps = profile_steps(courses.across) - np.float32(0.5)
    places = radius_steps(courses.radius_px, radii_px)
    found = cv2.remap(
        profile, steps.astype(np.float32), places, cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(found, np.float32).reshape(*places.shape, -1)


def draw_vessels(
    ground: Floats, mask: BoolMask, style: VesselStyle, contrast: float, rng: np.random.Generator
) -> Floats:
    """Return `ground` (H, W, C) with the vessels of `mask` in it, `contrast` times as strong."""
    courses = measure_courses(mask, style.reach_px)
    if courses is None:
        return ground
    changes = draw_branches(courses, style, rng)
    change = look_up(style.profile, style.radii_px, courses)
    cover = blur(mask.astype(np.float32), 0.7)
    whole = cv2.GaussianBlur(changes[:, 0][courses.branch], (0, 0), 1.5).reshape(ground.shape)
    middle = np.clip(2 - courses.across / MIDDLE, 0, 1)[:, :, None]
    change = change + whole * cover[:, :, None] + changes[:, 1][courses.branch] * middle
    change[courses.across >= 2] = 0
    short = min(mask.shape)
    smooth = blur(ground, max(1.5, SMOOTH_SHARE * short)).reshape(ground.shape)
    change += style.on_bright * light_above(smooth, style.level) * cover[:, :, None]
    kept = 1 + (style.texture - 1) * cover[:, :, None]
    lifted = change * np.float32(contrast)
    lifted *= light_behind(smooth, style.level, style.power)
    return np.asarray(smooth + lifted + (ground - smooth) * kept, np.float32)


def draw_branches(courses: Courses, style: VesselStyle, rng: np.random.Generator) -> Floats:
    """Return how much each branch (B, 2, C) differs from the mean of its radius.

    Each takes the contrast of a branch of the shots of about its radius; branches that grow from
    each other take similar ones.
    """
    ranks = draw_ranks(courses, rng)
    radii = np.maximum(courses.branch_radii_px, 0.5)
    gap = np.abs(np.log(radii)[:, None] - np.log(style.branch_radii_px)[None, :])
    count = min(NEIGHBOURS, gap.shape[1])
    near = np.argpartition(gap, count - 1, axis=1)[:, :count]
    order = np.argsort(style.branch_changes[near, 0, style.main], axis=1, kind="stable")
    chosen = np.take_along_axis(near, order, axis=1)[
        np.arange(len(radii)), np.minimum((ranks * count).astype(np.int64), count - 1)
    ]
    changes = style.branch_changes[chosen]
    core = at_radius(style.core, style.radii_px, radii)
    # A labelled vessel is seen, and no channel of it turns from dark to bright.
    least = np.abs(core) * np.where(np.arange(core.shape[1]) == style.main, LEAST_CONTRAST, 0)
    changes[:, 0] = np.sign(core) * np.maximum(np.sign(core) * changes[:, 0], least - np.abs(core))
    return np.asarray(changes, np.float32)


def draw_ranks(courses: Courses, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return 0..1 for each branch: its place among those of its radius, kept on along the tree."""
    graph = courses.graph
    fresh = rng.standard_normal(graph.branch_count)
    values = np.full(graph.branch_count, np.nan)
    meeting: dict[int, list[int]] = {}
    for branch, ends in enumerate(graph.ends):
        for junction in {int(end) for end in ends if end >= 0}:
            meeting.setdefault(junction, []).append(branch)
    for start in np.argsort(-courses.branch_radii_px, kind="stable"):
        if not np.isnan(values[start]):
            continue
        values[start] = fresh[start]
        queue = [int(start)]
        while queue:
            branch = queue.pop()
            for other in sorted(
                {b for end in graph.ends[branch] for b in meeting.get(int(end), ())}
            ):
                if np.isnan(values[other]):
                    share = math.sqrt(1 - KEEPS_ON**2)
                    values[other] = KEEPS_ON * values[branch] + share * fresh[other]
                    queue.append(other)
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])
