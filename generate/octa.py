"""OCT angiography, en face: bright flow on a dark ground, a bed of capillaries, a dark fovea.

In: the vessels of a mask and a `Look` of the card `octa`. Out: grey and the mask, unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from . import fields as f
from .camera import record
from .looks import Look
from .vessels import Vessels, find_gap, thickness_gain

Point = tuple[float, float]


def render(
    vessels: Vessels, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], BoolMask]:
    """Return (grey uint8, bool mask)."""
    shape, short = vessels.shape, min(vessels.shape)
    zone = draw_zone(vessels, look, rng)
    bed = paint_bed(shape, look, rng)
    patches = np.exp(look["patchiness"] * f.fractal_noise(rng, shape, 0.5 * short, 0.1 * short))
    dropout = f.soft_step(f.smooth_noise(rng, shape, 0.15 * short) - 2.2 + look["dropout"], 0.25)
    ground = (
        (look["ground"] + look["bed"] * bed) * patches * (1 - 0.6 * dropout * (look["dropout"] > 0))
    )
    ground *= 1 - look["zone_depth"] * zone
    ground += look["twigs"] * paint_twigs(vessels, look, rng) * (1 - zone)
    flow = paint_flow(vessels, look, rng)
    picture = np.maximum(ground, 0) + flow * (1 - 0.35 * np.clip(ground, 0, 1))
    speckle = f.blur(
        rng.gamma(look["speckle_looks"], size=shape).astype(np.float32), look["speckle_px"]
    )
    picture *= 1 + look["speckle"] * (speckle / look["speckle_looks"] - 1)
    add_scan_marks(picture, look, rng)
    light = np.exp(look["gradient"] * f.ramp(shape, look["gradient_angle"]))
    return record(np.asarray(picture * light, np.float32), look, rng), vessels.mask


def draw_zone(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the foveal avascular zone, 0..1, where the mask leaves room for it."""
    shape, short = vessels.shape, min(vessels.shape)
    if look["zone_radius"] <= 0:
        return np.zeros(shape, np.float32)
    middle = (shape[0] / 2, shape[1] / 2)
    centre, free_px = find_gap(vessels, middle, look["zone_search"] * short)
    radius = min(look["zone_radius"] * short, 0.95 * free_px + 0.01 * short)
    oval = look["zone_oval"]
    far = f.distance_from(shape, centre, (radius * (1 - oval), radius * (1 + oval)))
    far += look["zone_ragged"] * f.smooth_noise(rng, shape, 0.05 * short)
    return f.soft_step(1 - far, look["zone_edge"])


def paint_bed(shape: f.Shape, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the capillary bed, about 0..1: lines that follow each other, and glitter."""
    short = min(shape)
    spacing = look["bed_spacing"] * short
    lines = f.oriented_noise(rng, shape, spacing, look["bed_length"], 0.25 * short)
    loops = f.band_noise(rng, shape, 1.3 * spacing)
    nets = np.maximum(
        f.near_zero(lines, look["bed_width"]), 0.5 * f.near_zero(loops, look["bed_width"])
    )
    broken = np.clip(0.8 + 0.4 * f.band_noise(rng, shape, 1.5 * spacing), 0, 1.6)
    glitter = np.abs(f.blur(f.white_noise(rng, shape), look["glitter_px"]))
    glitter = np.minimum(glitter / max(float(glitter.mean()), 1e-6), 4)
    share = look["glitter"]
    return np.asarray(nets * broken * (1 - share) + share * glitter * 0.5, np.float32)


def paint_twigs(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return small vessels that stand out of the bed and are not labelled, 0..1."""
    shape, short = vessels.shape, min(vessels.shape)
    lines = f.mesh(rng, shape, look["twig_spacing"] * short, 0.09)
    some = f.soft_step(f.smooth_noise(rng, shape, 0.12 * short) - 0.3, 0.4)
    away = np.clip(vessels.outside_px / (0.012 * short) - 0.4, 0, 1)
    return np.asarray(f.blur(lines, 0.4) * some * away, np.float32)


def paint_flow(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the light of the labelled vessels: wide ones saturate, thin ones flicker."""
    shape, short = vessels.shape, min(vessels.shape)
    gain = thickness_gain(vessels, look["thin_contrast"], 0.6)
    tube = 0.75 + 0.25 * np.sqrt(np.maximum(1 - np.square(np.minimum(vessels.across, 1)), 0))
    cover = f.blur(vessels.mask * tube, look["vessel_soft_px"])
    flicker = np.exp(look["flicker"] * f.smooth_noise(rng, shape, 0.012 * short))
    flicker *= np.exp(look["fading"] * f.smooth_noise(rng, shape, 0.2 * short))
    return np.asarray(look["vessel_light"] * gain * cover * flicker, np.float32)


def add_scan_marks(picture: npt.NDArray[Any], look: Look, rng: np.random.Generator) -> None:
    """Rows that differ by the eye's motion, and the jumps after it, in place."""
    rows = picture.shape[0]
    steps = np.clip(1 + look["row_noise"] * rng.standard_normal(rows), 0.2, 2)
    picture *= np.asarray(steps[:, None], np.float32)
    lift = np.where(rng.random(rows) < look["bright_rows"] / rows, look["bright_row_light"], 0)
    picture += np.asarray(lift[:, None], np.float32)
    if look["quilt"] > 0:
        for axis in (0, 1):
            period = max(4, round(look["quilt_px"]))
            count = math.ceil(picture.shape[axis] / period)
            wide = np.repeat(1 + look["quilt"] * rng.standard_normal(count), period)
            bands = np.asarray(cv2.blur(wide[: picture.shape[axis], None], (1, 3)), np.float32)
            picture *= bands if axis == 0 else bands.T
