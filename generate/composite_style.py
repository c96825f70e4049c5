"""How the vessels of a few labelled images look.

In: shots with their grounds, which have no vessels. Out: a `VesselStyle`: profiles across a vessel
by its radius, contrasts of single branches, how much texture a vessel shows. Vessels take a share
of the light behind them or add light of their own, whichever varies less between branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from .composite_vessels import (
    ACROSS,
    MIDDLE,
    OUTSIDE,
    RADII,
    Courses,
    VesselStyle,
    at_radius,
    light_above,
    light_behind,
    look_up,
    measure_courses,
    profile_steps,
    radius_steps,
)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Learnt = tuple[Bytes, Floats, Bytes, BoolMask, BoolMask]
"""Image, smooth ground, ground, vessels inside the view, view."""

POWERS = (0.0, 1.0)
BRIGHT = 1.5
"""Ground so many times as bright as usual is an optic disc or the like."""
CORE = 0.7
"""What lies nearer to the centre line, as a share of the radius, gives a branch's contrast."""
LEAST_REFLEX_PX = 1.5
"""Thinner vessels have no middle of their own."""
MOST_TEXTURE = 1.0
"""What vessels vary more than the ground is their course, not texture."""


def learn_style(shots: Sequence[Learnt]) -> VesselStyle:
    """Learn how vessels look from shots, at least one of them with a vessel."""
    short = min(shots[0][3].shape)
    reach_px = max(2.0, 0.006 * short)
    whole_vessels = []
    for shot in shots:
        courses = measure_courses(shot[3], reach_px)
        if courses is not None:
            whole_vessels.append((shot, courses))
    measured = [(shot, _leave_out_bright(courses, shot)) for shot, courses in whole_vessels]
    level = np.mean([shot[1][shot[4]].mean(axis=0) for shot, _ in measured], axis=0)
    level = np.maximum(level, 8.0).astype(np.float32)
    power = _choose_power(measured, level)
    changes = [_measure_change(shot[0], shot[1], level, power) for shot, _ in measured]
    spread = np.concatenate([each.graph.radii for _, each in measured])
    low, high = np.quantile(spread, [0.05, 0.98])
    radii = np.geomspace(max(0.7, low), max(1.5 * max(0.7, low), high), RADII).astype(np.float32)
    profile = _learn_profile(measured, changes, radii)
    core = _mean_core(profile)
    branch_radii_px, contrasts = _learn_branches(measured, changes)
    _, middles = _learn_branches(measured, changes, MIDDLE)
    expected = at_radius(core, radii, branch_radii_px)
    inner = at_radius(profile[:, : int(MIDDLE * ACROSS)].mean(axis=1), radii, branch_radii_px)
    whole, besides = contrasts - expected, (middles - contrasts) - (inner - expected)
    besides[branch_radii_px < LEAST_REFLEX_PX] = 0
    on_bright = np.zeros(len(level), np.float32)
    if power > 0:  # light of their own does not grow with the light behind
        on_bright = _learn_bright(whole_vessels, changes, profile, radii, level)
    return VesselStyle(
        power=power, level=level, radii_px=radii, reach_px=reach_px, profile=profile, core=core,
        branch_radii_px=branch_radii_px,
        branch_changes=np.stack([_tame(whole), _tame(besides)], axis=1),
        on_bright=on_bright,
        texture=_learn_texture(measured, changes, profile, radii, (level, power)),
        main=int(np.argmax(np.abs(core).mean(axis=0))),
    )  # fmt: skip


def _tame(changes: Floats) -> Floats:
    """Return (B, C) with outliers drawn in: branches on an optic disc, or labelled beside it."""
    middle = np.median(changes, axis=0)
    spread = 1.5 * 1.48 * np.median(np.abs(changes - middle), axis=0) + 1e-6
    return np.asarray(spread * np.tanh((changes - middle) / spread), np.float32)


def _leave_out_bright(courses: Courses, shot: Learnt) -> Courses:
    """Return `courses` without the vessels on much brighter ground, if enough others are left.

    Those on an optic disc look otherwise than all others, and are many of the widest ones.
    """
    channel = min(1, shot[1].shape[2] - 1)
    light = shot[1][:, :, channel]
    usual = light < BRIGHT * float(np.median(light[shot[4]]))
    inside = courses.across < 1
    if np.count_nonzero(inside & usual) < 0.6 * np.count_nonzero(inside):
        return courses
    return replace(courses, across=np.where(usual, courses.across, 9).astype(np.float32))


def _measure_change(image: Bytes, smooth: Floats, level: Floats, power: float) -> Floats:
    """Return how much `image` differs from the smooth ground, in units of the light behind."""
    return np.asarray((image - smooth) / light_behind(smooth, level, power), np.float32)


def _choose_power(measured: Sequence[tuple[Learnt, Courses]], level: Floats) -> float:
    """Return the power of the light behind at which the contrasts of branches vary least."""
    spreads = []
    for power in POWERS:
        changes = [_measure_change(shot[0], shot[1], level, power) for shot, _ in measured]
        _, contrasts = _learn_branches(measured, changes)
        middle = np.median(contrasts, axis=0)
        spread = contrasts.std(axis=0) / np.maximum(np.abs(middle), 1e-6)
        spreads.append(float(spread.min()))
    return POWERS[int(np.argmin(spreads))]


def _learn_profile(
    measured: Sequence[tuple[Learnt, Courses]], changes: Sequence[Floats], radii: Floats
) -> Floats:
    steps, channels = ACROSS + OUTSIDE, changes[0].shape[2]
    total = np.zeros((RADII, steps, channels))
    weight = np.zeros((RADII, steps))
    for (shot, courses), change in zip(measured, changes, strict=True):
        # Where a vessel is cut by the view's edge, light falls for another reason.
        deep = cv2.erode(shot[4].astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=1) > 0
        used = deep & (courses.across < 2)
        step = profile_steps(courses.across[used]).astype(np.int64)
        place = radius_steps(courses.radius_px[used], radii)
        low = np.minimum(place.astype(np.int64), RADII - 2)
        high_share = place - low
        for share, at in ((1 - high_share, low), (high_share, low + 1)):
            np.add.at(weight, (at, step), share)
            for channel in range(channels):
                np.add.at(total[:, :, channel], (at, step), share * change[used][:, channel])
    profile = total / np.maximum(weight, 1e-6)[:, :, None]
    for row in range(RADII):
        known = weight[row] > 8
        for channel in range(channels):
            if known.any():
                profile[row, :, channel] = np.interp(
                    np.arange(steps), np.flatnonzero(known), profile[row, known, channel]
                )
    fade = np.ones(steps)
    fade[ACROSS:] = np.clip(1.15 - (np.arange(OUTSIDE) + 0.5) / OUTSIDE, 0, 1)
    return np.asarray(profile * fade[None, :, None], np.float32)


def _mean_core(profile: Floats) -> Floats:
    return np.asarray(profile[:, : int(CORE * ACROSS)].mean(axis=1), np.float32)


def _learn_branches(
    measured: Sequence[tuple[Learnt, Courses]], changes: Sequence[Floats], inside: float = CORE
) -> tuple[Floats, Floats]:
    """Return radius (B,) and mean change inside (B, C) of the branches with pixels enough."""
    radii, contrasts = [], []
    for (_, courses), change in zip(measured, changes, strict=True):
        used = courses.across < CORE
        sizes = np.bincount(courses.branch[used], minlength=courses.graph.branch_count)
        enough = sizes >= min(12, int(sizes.max()))
        used = courses.across < inside
        branch = courses.branch[used]
        sizes = np.bincount(branch, minlength=courses.graph.branch_count)
        sums = [
            np.bincount(branch, change[used][:, channel], courses.graph.branch_count)
            for channel in range(change.shape[2])
        ]
        contrasts.append((np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None])[enough])
        radii.append(courses.branch_radii_px[enough])
    return (
        np.maximum(np.concatenate(radii), 0.5).astype(np.float32),
        np.concatenate(contrasts).astype(np.float32),
    )


def _learn_bright(
    measured: Sequence[tuple[Learnt, Courses]],
    changes: Sequence[Floats],
    profile: Floats,
    radii_px: Floats,
    level: Floats,
) -> Floats:
    """Return (C,): how the change goes on with the light, beyond what the profile says."""
    product, square = np.zeros(len(level)), np.zeros(len(level))
    for (shot, courses), change in zip(measured, changes, strict=True):
        inside = courses.across < CORE
        above = light_above(shot[1][inside], level)
        rest = change[inside] - look_up(profile, radii_px, courses)[inside]
        product += (above * rest).sum(axis=0)
        square += np.square(above).sum(axis=0)
    # Some pixels' worth of no change: little evidence gives little slope.
    return np.asarray(np.clip(product / (square + 10), -0.8, 0.8), np.float32)


def _learn_texture(
    measured: Sequence[tuple[Learnt, Courses]],
    changes: Sequence[Floats],
    profile: Floats,
    radii_px: Floats,
    scale: tuple[Floats, float],
) -> Floats:
    """Return (C,): how strong the texture inside vessels is beside that of the ground."""
    ratios = []
    for (shot, courses), change in zip(measured, changes, strict=True):
        ground = _measure_change(shot[2], shot[1], *scale)
        inside, beside = courses.across < CORE, (courses.across > 2) & shot[4]
        if np.count_nonzero(inside) < 30 or not beside.any():
            continue
        rest = (change - look_up(profile, radii_px, courses))[inside]
        branch, count = courses.branch[inside], courses.graph.branch_count
        sizes = np.maximum(np.bincount(branch, minlength=count), 1)
        for channel in range(rest.shape[1]):
            means = np.bincount(branch, rest[:, channel], count) / sizes
            rest[:, channel] -= means[branch]
        ratios.append(rest.std(axis=0) / np.maximum(ground[beside].std(axis=0), 1e-6))
    if not ratios:
        return np.ones(changes[0].shape[2], np.float32)
    return np.asarray(np.clip(np.median(ratios, axis=0), 0.25, MOST_TEXTURE), np.float32)
