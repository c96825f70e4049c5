"""X-ray angiograms: of the coronary arteries on a moving chest, and of the brain, subtracted.

In: the vessels of a mask and a `Look` of the cards `coronary` or `brain`. Out: grey and the visible
mask. Contrast agent weakens the beam by the length of its way through the lumen (Beer-Lambert).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from . import fields as f
from .camera import keep_view, record, vignette
from .looks import Look
from .vessels import Vessels, find_inflow

Made = tuple[npt.NDArray[np.uint8], BoolMask]


def render_coronary(vessels: Vessels, look: Look, rng: np.random.Generator) -> Made:
    """Return (grey uint8, bool mask) of a coronary angiogram."""
    shape, short = vessels.shape, min(vessels.shape)
    thick = paint_chest(shape, look, rng)
    residue = f.fractal_noise(rng, shape, 0.12 * short, 0.02 * short, 0.8)
    thick = (1 - look["subtracted"]) * thick + 0.06 * look["subtracted"] * residue
    thick += draw_catheter(vessels, look, rng)
    thick += absorb(vessels, look, rng) + paint_stain(vessels, look, rng)
    light = look["light"] * np.exp(look["gradient"] * f.ramp(shape, look["gradient_angle"]))
    light *= vignette(shape, (shape[0] / 2, shape[1] / 2), look["vignette"])
    picture = np.asarray(light * np.exp(-thick), np.float32)
    return finish(picture, vessels, look, rng)


def render_brain(vessels: Vessels, look: Look, rng: np.random.Generator) -> Made:
    """Return (grey uint8, bool mask) of a cerebral angiogram, subtracted or not."""
    shape, short = vessels.shape, min(vessels.shape)
    skull = paint_skull(shape, look, rng)
    moved = np.roll(skull, (round(look["motion_y_px"]), round(look["motion_x_px"])), (0, 1))
    thick = (1 - look["subtracted"]) * skull + look["subtracted"] * look["residue"] * (
        skull - moved
    )
    thick = thick + look["mottling"] * f.fractal_noise(rng, shape, 0.25 * short, 0.02 * short, 0.8)
    thick = thick + absorb(vessels, look, rng) + paint_stain(vessels, look, rng)
    light = look["light"] * np.exp(look["gradient"] * f.ramp(shape, look["gradient_angle"]))
    light *= vignette(shape, (shape[0] / 2, shape[1] / 2), look["vignette"])
    picture = np.asarray(light * np.exp(-thick), np.float32)
    return finish(picture, vessels, look, rng)


def absorb(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return what the contrast agent takes: by the depth of the lumen, unevenly mixed."""
    shape, short = vessels.shape, min(vessels.shape)
    widest = max(2 * vessels.thickest_px, 1.0)
    # Between a flat band and a round tube: agent and blood mix, and detectors saturate.
    tube = np.power(vessels.depth_px / widest, np.float32(look["depth_power"]))
    mixing = np.exp(look["fading"] * f.smooth_noise(rng, shape, 0.15 * short))
    least = look["least_contrast"] * vessels.mask
    soft = f.blur(np.maximum(tube * mixing, least), look["vessel_soft_px"])
    return np.asarray(look["vessel_contrast"] * soft, np.float32)


def paint_chest(shape: f.Shape, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the thickness of what lies in the beam: heart, lung, diaphragm, spine, ribs."""
    short = min(shape)
    thick = look["mottling"] * f.fractal_noise(rng, shape, 0.5 * short, 0.02 * short, 0.9)
    thick += look["streaks"] * f.oriented_noise(rng, shape, 0.03 * short, 4.0, 0.4 * short)
    side = f.ramp(shape, look["lung_angle"])
    bend = 0.35 * f.smooth_noise(rng, shape, 0.6 * short)
    thick -= look["lung"] * f.soft_step(side - look["lung_edge"] + bend, look["lung_soft"])
    if look["diaphragm"] > 0:
        centre = (shape[0] * look["dome_y"], shape[1] * look["dome_x"])
        far = f.distance_from(
            shape, centre, (look["dome_radius"] * shape[0] * 0.7, look["dome_radius"] * shape[1])
        )
        far += 0.01 * f.smooth_noise(rng, shape, 0.15 * short)
        thick += look["diaphragm"] * f.soft_step(1 - far, look["dome_soft"])
    if look["spine"] > 0:
        across = f.ramp(shape, look["spine_angle"]) - look["spine_at"]
        along = f.ramp(shape, look["spine_angle"] + np.pi / 2)
        discs = 1 + 0.3 * np.sin(along * look["spine_discs"] * np.pi)
        thick += look["spine"] * np.exp(-np.power(np.abs(across) / 0.28, 4)) * discs
    if look["ribs"] > 0:
        y = f.ramp(shape, np.pi / 2) + look["rib_bend"] * np.square(f.ramp(shape, 0.0) + 0.3)
        wave = np.sin((y + 0.3 * f.ramp(shape, look["rib_angle"])) * np.pi * look["rib_count"])
        edges = f.soft_step(np.abs(wave) - 0.6, 0.12) + 0.5 * np.exp(
            -np.square((np.abs(wave) - 0.6) / 0.1)
        )
        thick += look["ribs"] * edges * f.soft_step(f.smooth_noise(rng, shape, 0.5 * short), 0.7)
    return np.asarray(thick, np.float32)


def paint_skull(shape: f.Shape, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the bone of a head: vault, base, teeth-like clutter below, sutures."""
    short = min(shape)
    centre = (shape[0] * look["skull_y"], shape[1] * look["skull_x"])
    far = f.distance_from(
        shape, centre, (look["skull_height"] * shape[0], look["skull_width"] * shape[1])
    )
    far += 0.02 * f.smooth_noise(rng, shape, 0.3 * short)
    wall = np.exp(-np.square((far - 0.97) / 0.03)) + 0.7 * f.soft_step(1 - far, 0.05)
    base = f.soft_step(
        f.ramp(shape, np.pi / 2 + look["base_tilt"]) - look["base_y"]
        + 0.25 * f.fractal_noise(rng, shape, 0.25 * short, 0.03 * short, 0.7), 0.15,
    )  # fmt: skip
    clutter = f.fractal_noise(rng, shape, 0.08 * short, 2.0, 0.6)
    sutures = f.mesh(rng, shape, 0.3 * short, 0.03)
    bone = wall + base * (0.8 + 0.25 * clutter) - 0.15 * sutures + 0.06 * clutter
    return np.asarray(look["bone"] * bone, np.float32)


def draw_catheter(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return a catheter from the border to where the contrast agent comes in."""
    shape, short = vessels.shape, min(vessels.shape)
    canvas = np.zeros(shape, np.float32)
    if look["catheter"] <= 0:
        return canvas
    end = np.array(find_inflow(vessels))
    start = np.array(
        [-0.05 * shape[0], np.clip(end[1] + rng.normal(0, 0.25) * shape[1], 0, shape[1])]
    )
    bulge = (rng.normal(0, 0.2, 2) + np.array([0.05, 0])) * short
    knots = np.array([start, start + (end - start) * 0.5 + bulge, end + (0.3 * bulge), end])
    t = np.linspace(0, 1, 40)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    curve = weights @ knots
    points = np.round(curve[:, ::-1] * 16).astype(np.int32).reshape(-1, 1, 2)
    wide = max(1, round(look["catheter_width"] * short))
    cv2.polylines(canvas, [points], False, 1.0, wide, cv2.LINE_AA, 4)
    # Past the ostium the vessel alone decides how dark it is.
    return np.asarray(look["catheter"] * f.blur(canvas, 0.7) * (1 - vessels.cover), np.float32)


def paint_stain(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return what is not labelled: stained tissue and vessels too faint to draw."""
    shape, short = vessels.shape, min(vessels.shape)
    near = f.blur(vessels.mask.astype(np.float32), 0.08 * short)
    stain = look["stain"] * near / max(float(near.max()), 1e-6)
    stain = stain * (1 + 0.4 * f.smooth_noise(rng, shape, 0.06 * short))
    lines = f.blur(f.mesh(rng, shape, look["faint_spacing"] * short, 0.05), 0.7)
    away = np.clip(vessels.outside_px / (0.012 * short) - 0.5, 0, 1)
    where = f.soft_step(f.smooth_noise(rng, shape, 0.25 * short) - 0.4, 0.4)
    faint = look["faint_vessels"] * look["vessel_contrast"] * lines * away * where
    return np.asarray(stain + faint, np.float32)


def finish(picture: f.Field, vessels: Vessels, look: Look, rng: np.random.Generator) -> Made:
    """Record the picture, through the round or the square window of the device."""
    shape, short = vessels.shape, min(vessels.shape)
    rows = np.where(
        np.arange(shape[0]) % 2 == 0, 1 + look["lines"], 1 - look["lines"]
    )  # interlaced
    picture = picture * np.asarray(rows[:, None], np.float32)
    if look["sharpen"] > 0:  # devices enhance edges, which leaves halos
        picture = picture + look["sharpen"] * (picture - f.blur(picture, 0.012 * short))
    view = None
    if look["view_radius"] > 0:
        centre = (shape[0] * look["view_y"], shape[1] * look["view_x"])
        radius = look["view_radius"] * short
        far = f.distance_from(shape, centre, (radius, radius))
        if vessels.mask.any():
            far = far * np.float32(
                min(1.0, 1.0 / max(float(np.percentile(far[vessels.mask], 99)), 1e-3))
            )
        view = np.clip(f.soft_step((1 - far) * radius, 0.8) * 1.02 - 0.01, 0, 1).astype(np.float32)
        if not keep_view(vessels.mask, view):
            view = None
    if view is None:
        return record(picture, look, rng), vessels.mask
    image = record(picture, look, rng, view, outside=look["outside"])
    return image, vessels.mask & (view > 0.5)
