"""Any vessels at all: light on dark or dark on light, grey or coloured, smooth or rough.

In: the vessels of a mask and a `Look` of the card `generic` (a modality without a card of its own)
or of another with this renderer (`unseen`). Out: RGB and the mask, unchanged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from . import fields as f
from .camera import record, vignette
from .looks import Look
from .vessels import Vessels, thickness_gain


def render(
    vessels: Vessels, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], BoolMask]:
    """Return (RGB uint8, bool mask)."""
    shape, short = vessels.shape, min(vessels.shape)
    ground, blood = look.colour("ground"), look.colour("vessels")
    texture = paint_texture(shape, look, rng)
    light = vignette(shape, (shape[0] / 2, shape[1] / 2), look["vignette"])
    light = light * np.exp(look["gradient"] * f.ramp(shape, look["gradient_angle"]))
    cover = paint_cover(vessels, look, rng)
    tint = look["tint_variation"] * f.smooth_noise(rng, shape, 0.3 * short)
    channels = []
    for c in range(3):
        back = ground[c] * np.exp(texture + (c - 1) * tint) * light
        vessel = blood[c] * np.exp(0.3 * texture) * light
        channels.append(back + cover * (vessel - back))
    picture = np.stack(channels, axis=2).astype(np.float32)
    if look["glow"] > 0:
        halo = np.exp(-vessels.outside_px / (0.02 * short)) * (1 - vessels.cover)
        picture += (look["glow"] * halo)[:, :, None] * np.array(blood, np.float32)
    if look["grey"] > 0:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    return record(picture, look, rng), vessels.mask


def paint_texture(shape: f.Shape, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the logarithm of the ground's brightness."""
    short = min(shape)
    texture = look["mottling"] * f.fractal_noise(rng, shape, 0.4 * short, 2.0, look["slope"])
    if look["cells"] > 0:  # bright bodies with dark borders
        lines = f.mesh(rng, shape, look["cell_size"] * short, 0.35)
        texture -= look["cells"] * (lines - 0.4)
    if look["blobs"] > 0:
        count = round(look["blob_count"])
        small = look["cell_size"] * short
        texture += look["blobs"] * f.spots(rng, shape, count, (0.2 * small, 0.6 * small))
    if look["stripes"] > 0:
        wave = f.ramp(shape, look["stripe_angle"]) * look["stripe_count"] * np.pi
        wave = wave + 0.8 * f.smooth_noise(rng, shape, 0.3 * short)
        texture += look["stripes"] * np.sin(wave)
    return np.asarray(texture, np.float32)


def paint_cover(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field:
    """Return how far a pixel is vessel, 0..1; `walls` makes the middle show less than the rim."""
    shape, short = vessels.shape, min(vessels.shape)
    gain = thickness_gain(vessels, look["thin_contrast"], 0.7)
    hollow = np.exp(-np.square(vessels.across / 0.55)) * (vessels.radius_px > 1.3)
    profile = vessels.mask * (1 - look["walls"] * hollow)
    fading = np.exp(look["fading"] * f.smooth_noise(rng, shape, 0.1 * short))
    cover = f.blur(profile, look["vessel_soft_px"]) * gain * fading * look["vessel_contrast"]
    return np.asarray(np.clip(cover, 0, 1), np.float32)
