"""OCT projected en face: vessels cast shadows on a grey, speckled, striped ground.

In: the vessels of a mask and a `Look` of the card `oct`. Out: grey and the mask, unchanged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from . import fields as f
from .camera import record
from .looks import Look
from .octa import add_scan_marks
from .vessels import Vessels, find_gap, find_hub, thickness_gain


def render(
    vessels: Vessels, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], BoolMask]:
    """Return (grey uint8, bool mask)."""
    shape, short = vessels.shape, min(vessels.shape)
    layers = look["mottling"] * f.fractal_noise(rng, shape, 0.5 * short, 0.02 * short, 0.8)
    layers += look["fine_mottling"] * f.fractal_noise(rng, shape, 0.04 * short, 2.0, 0.3)
    picture = look["ground"] * np.exp(layers)
    picture *= np.exp(look["gradient"] * f.ramp(shape, look["gradient_angle"]))
    paint_fovea(picture, vessels, look)
    paint_disc_side(picture, vessels, look)
    picture *= np.exp(-paint_shadow(vessels, look, rng))
    fine = f.blur(
        rng.gamma(look["speckle_looks"], size=shape).astype(np.float32), look["speckle_px"]
    )
    picture *= 1 + look["speckle"] * (fine / look["speckle_looks"] - 1)
    add_scan_marks(picture, look, rng)
    return record(np.asarray(picture, np.float32), look, rng), vessels.mask


def paint_fovea(picture: f.Field, vessels: Vessels, look: Look) -> None:
    """The pit: a spot, bright or dark, within a wider ring of thick retina, in place."""
    shape, short = vessels.shape, min(vessels.shape)
    middle = (shape[0] / 2, shape[1] / 2)
    centre, _ = find_gap(vessels, middle, 0.1 * short)
    radius = look["pit_radius"] * short
    far = f.distance_from(shape, centre, (radius, radius))
    picture *= 1 + look["pit"] * np.exp(-np.square(far))
    picture *= 1 + look["ring"] * np.exp(-np.square((far - 2.6) / 1.1))


def paint_disc_side(picture: f.Field, vessels: Vessels, look: Look) -> None:
    """Near the disc, which lies outside, nerve fibres brighten the ground, in place."""
    shape, short = vessels.shape, min(vessels.shape)
    hub = find_hub(vessels)
    side = shape[1] * 1.06 if hub[1] > shape[1] / 2 else -0.06 * shape[1]
    radius = look["disc_reach"] * short
    far = f.distance_from(shape, (shape[0] / 2, side), (radius * 1.2, radius))
    picture *= 1 + look["disc_light"] * np.exp(-np.square(far))


def paint_shadow(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return how much light the vessels take (or, rarely, give: a negative value)."""
    shape, short = vessels.shape, min(vessels.shape)
    gain = thickness_gain(vessels, look["thin_contrast"], 0.7)
    cover = f.blur(vessels.mask.astype(np.float32), look["vessel_soft_px"])
    core = np.exp(-np.square(vessels.across / 0.45)) * cover * (vessels.radius_px > 1.6)
    fading = np.exp(look["fading"] * f.smooth_noise(rng, shape, 0.12 * short))
    sign = -1.0 if look["bright_vessels"] > 0 else 1.0
    shade = look["vessel_contrast"] * gain * fading * (cover - look["reflex"] * core)
    if look["faint_vessels"] > 0:
        lines = f.blur(f.mesh(rng, shape, 0.11 * short, 0.06), 0.8)
        away = np.clip(vessels.outside_px / (0.012 * short) - 0.5, 0, 1)
        where = f.soft_step(f.smooth_noise(rng, shape, 0.2 * short) - 0.4, 0.4)
        shade = shade + look["faint_vessels"] * look["vessel_contrast"] * lines * away * where
    return np.asarray(sign * shade, np.float32)
