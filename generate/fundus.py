"""Colour photographs of the retina.

In: the vessels of a mask and a `Look` of the card `fundus`. Out: RGB and the mask as far as it lies
in the round field of view. The disc sits where thick vessels converge, the fovea two to three disc
diameters away on the emptier side; light passes the blood twice, so vessels absorb by colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from . import fields as f
from .camera import Picture, keep_view, record, vignette
from .looks import Look
from .trees import split_trees
from .vessels import Vessels, find_hub, thickness_gain

Point = tuple[float, float]
BLOOD = (0.22, 1.0, 0.85)
"""How strongly blood takes away red, green and blue."""
PIGMENT = (0.55, 1.0, 1.1)


@dataclass(frozen=True)
class Places:
    """Where the landmarks are, (y, x) px."""

    disc: Point
    disc_radius_px: float
    fovea: Point


def render(
    vessels: Vessels, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], BoolMask]:
    """Return (RGB uint8, bool mask)."""
    places = find_places(vessels, look, rng)
    tissue = paint_tissue(vessels, places, look, rng)
    paint_disc(tissue, places, look, rng)
    paint_lesions(tissue, vessels, places, look, rng)
    paint_vessels(tissue, vessels, places, look, rng)
    paint_haze(tissue, look, rng)
    view = draw_view(vessels, look, rng)
    if view is None:
        return record(tissue, look, rng), vessels.mask
    image = record(tissue, look, rng, view, outside=look["outside"])
    return image, vessels.mask & (view > 0.5)


def find_places(vessels: Vessels, look: Look, rng: np.random.Generator) -> Places:
    """Place disc and fovea by the vessels."""
    short = min(vessels.shape)
    hub = find_hub(vessels)
    radius = np.clip(look["disc_per_vessel"] * vessels.thickest_px, 0.045 * short, 0.12 * short)
    hub = (
        hub[0] + float(rng.normal(0, 0.15)) * radius, hub[1] + float(rng.normal(0, 0.15)) * radius,
    )  # fmt: skip
    far = look["fovea_disc_diameters"] * 2 * radius
    crowd = f.blur(vessels.cover, 0.06 * short)
    best, place = np.inf, hub
    for side in (0.0, np.pi):
        for tilt in (-0.2, 0.0, 0.2):
            y, x = hub[0] + far * np.sin(side + tilt), hub[1] + far * np.cos(side + tilt)
            inside = 0 <= y < vessels.shape[0] and 0 <= x < vessels.shape[1]
            # Outside the picture is possible where the disc is in its middle, but not preferred.
            price = float(crowd[int(y), int(x)]) if inside else 0.05
            price += 0.01 * abs(tilt)
            if price < best:
                best, place = price, (float(y), float(x))
    return Places(hub, float(radius), place)


def paint_tissue(vessels: Vessels, places: Places, look: Look, rng: np.random.Generator) -> Picture:
    """Background: pigment, choroid, macula, light."""
    shape, short = vessels.shape, min(vessels.shape)
    density = look["mottling"] * f.fractal_noise(rng, shape, 0.3 * short, 0.03 * short, 0.7)
    density += look["graininess"] * f.fractal_noise(rng, shape, 0.03 * short, 2.0, 0.3)
    fovea = f.distance_from(shape, places.fovea, (2.2 * places.disc_radius_px,) * 2)
    density += look["macula"] * np.exp(-2 * np.square(fovea)) + 0.4 * look["macula"] * np.exp(
        -12 * np.square(fovea)
    )
    if look["choroid"] > 0:
        density -= (
            look["choroid"]
            * paint_choroid(shape, look, rng)
            * (1 - 0.8 * np.exp(-np.square(fovea)))
        )
    shade = look["gradient"] * f.ramp(shape, look["gradient_angle"])
    light = vignette(shape, (shape[0] / 2, shape[1] / 2), look["vignette"]) * np.exp(shade)
    light *= np.exp(0.12 * f.smooth_noise(rng, shape, 0.5 * short))
    base = look.colour("tissue")
    tint = look["tint_variation"] * f.smooth_noise(rng, shape, 0.35 * short)
    channels = [
        base[c] * light * np.exp(-np.float32(PIGMENT[c]) * density + (0.0, 1.0, 1.4)[c] * tint)
        for c in range(3)
    ]
    return np.asarray(np.stack(channels, axis=2), np.float32)


def paint_choroid(shape: f.Shape, look: Look, rng: np.random.Generator) -> f.Field:
    """Return the pale ribbons of the deep vessels between pigment, strongest here and there."""
    short = min(shape)
    spacing = look["choroid_spacing"] * short
    ribbons = 0.7 * f.oriented_noise(rng, shape, spacing, 2.2, 0.35 * short)
    ribbons += 0.5 * f.fractal_noise(rng, shape, 2 * spacing, 0.25 * spacing, 0.6)
    where = f.soft_step(f.smooth_noise(rng, shape, 0.4 * short) + 0.2, 0.7)
    return np.asarray(np.tanh(ribbons) * where, np.float32)


def paint_disc(tissue: Picture, places: Places, look: Look, rng: np.random.Generator) -> None:
    """Optic disc with its cup, a rim that is sharper on one side, and the crescent beside it."""
    shape = tissue.shape[:2]
    radius = places.disc_radius_px
    axes = (radius * (1 + look["disc_oval"]), radius * (1 - look["disc_oval"]))
    wobble = 0.05 * f.smooth_noise(rng, (shape[0], shape[1]), radius)
    far = f.distance_from((shape[0], shape[1]), places.disc, axes) + wobble
    around = np.exp(-np.square(np.maximum(far - 1, 0)) / (2 * look["disc_halo_width"] ** 2))
    tissue *= 1 + (look["disc_halo"] * around)[:, :, None]
    cover = f.soft_step(1 - far, look["disc_edge"]) * np.float32(look["disc_strength"])
    colour = np.array(look.colour("disc"), np.float32)
    shift = rng.normal(0, 0.2, 2) * radius
    cup = f.distance_from(
        (shape[0], shape[1]), (places.disc[0] + shift[0], places.disc[1] + shift[1]),
        (axes[0] * look["cup"], axes[1] * look["cup"]),
    )  # fmt: skip
    bright = 1 + look["cup_light"] * f.soft_step(1 - cup, 0.35)
    bright *= 1 + 0.06 * f.smooth_noise(rng, (shape[0], shape[1]), radius / 3)
    local = tissue[:, :, :1] / max(look.colour("tissue")[0], 0.1)  # the light that falls there
    disc = colour * bright[:, :, None] * np.clip(local, 0.5, 1.3)
    tissue += cover[:, :, None] * (disc - tissue)


def paint_lesions(
    tissue: Picture, vessels: Vessels, places: Places, look: Look, rng: np.random.Generator
) -> None:
    """Exudates, drusen, laser scars, haemorrhages, and the sheen of the nerve fibres."""
    shape, short = vessels.shape, min(vessels.shape)
    free = 1 - np.clip(f.blur(vessels.cover, 1.0) * 1.5, 0, 1)  # nothing hides a vessel
    gathered = (*places.fovea, 0.12 * short)
    light = tissue[:, :, :1] / max(look.colour("tissue")[0], 0.1)
    for name, radii, soft, where, colour, strength in (
        ("exudates", (0.002, 0.01), 0.35, gathered, (0.98, 0.88, 0.5), 0.75),
        ("drusen", (0.005, 0.014), 0.8, None, (0.9, 0.65, 0.3), 0.35),
        ("scars", (0.008, 0.016), 0.8, None, (0.92, 0.7, 0.38), 0.5),
        ("dark_scars", (0.006, 0.016), 0.35, None, (0.2, 0.16, 0.1), 0.7),
        ("bleeding", (0.002, 0.014), 0.6, None, None, 1.1),
    ):
        if look[name] <= 0:
            continue
        radii_px = (radii[0] * short, radii[1] * short)
        amount = strength * f.spots(rng, shape, round(look[name]), radii_px, where, soft) * free
        if colour is None:
            tissue *= np.exp(-amount[:, :, None] * np.array(BLOOD, np.float32))
        else:
            tissue += amount[:, :, None] * (np.array(colour, np.float32) * light - tissue)
    if look["sheen"] > 0:
        beside = np.exp(-vessels.outside_px / (0.02 * short)) * (vessels.radius_px > 0.006 * short)
        streaks = np.maximum(f.fractal_noise(rng, shape, 0.05 * short, 2.0, 0.4), 0)
        amount = (look["sheen"] * f.blur(beside * free, 1.5) * streaks)[:, :, None]
        tissue += amount * np.array((0.35, 0.4, 0.28), np.float32)


def paint_vessels(
    tissue: Picture, vessels: Vessels, places: Places, look: Look, rng: np.random.Generator
) -> None:
    """Absorb by thickness; arteries paler and with a bright reflex along the middle."""
    shape, short = vessels.shape, min(vessels.shape)
    artery = split_trees(vessels, places.disc, 1.3 * places.disc_radius_px, rng)
    gain = thickness_gain(vessels, look["thin_contrast"], 0.7)
    round_tube = 0.7 + 0.3 * np.sqrt(np.maximum(1 - np.square(np.minimum(vessels.across, 1)), 0))
    cover = f.blur(vessels.mask * round_tube, look["vessel_soft_px"])
    fading = np.exp(look["fading"] * f.smooth_noise(rng, shape, 0.15 * short))
    amount = look["vessel_contrast"] * gain * cover * fading * (1 - look["artery_pale"] * artery)
    k = np.array(BLOOD, np.float32)
    k[0] += look["red_absorption"]
    tissue *= np.exp(-amount[:, :, None] * k)
    wide = np.clip(vessels.radius_px / 1.5 - 0.6, 0, 1)
    line = np.exp(-np.square(vessels.across / 0.3)) * cover * wide * (0.3 + 0.7 * artery)
    broken = 0.7 + 0.3 * np.clip(f.smooth_noise(rng, shape, 0.03 * short), -1, 1)
    tissue *= 1 + (look["reflex"] * line * broken)[:, :, None] * np.array(
        (0.35, 1, 0.8), np.float32
    )
    if look["faint_vessels"] > 0:  # real ones that no annotator draws
        lines = f.mesh(rng, shape, 0.09 * short, 0.07)
        where = f.soft_step(f.smooth_noise(rng, shape, 0.2 * short) - 0.4, 0.4)
        away = np.clip(vessels.outside_px / (0.012 * short) - 0.5, 0, 1)
        faint = look["faint_vessels"] * look["vessel_contrast"] * f.blur(lines, 0.5) * where * away
        tissue *= np.exp(-faint[:, :, None] * np.array(BLOOD, np.float32))


def paint_haze(tissue: Picture, look: Look, rng: np.random.Generator) -> None:
    """A cloudy lens, stray light from the rim, a dark lid or lash."""
    shape = (tissue.shape[0], tissue.shape[1])
    short = min(shape)
    haze = look["haze"] * (1 + 0.4 * np.clip(f.smooth_noise(rng, shape, 0.4 * short), -1.5, 1.5))
    veil = np.array((0.62, 0.5, 0.4), np.float32) * float(tissue.mean()) * 2
    tissue += haze[:, :, None] * (veil - tissue)
    side = f.ramp(shape, look["crescent_angle"]) * np.float32(1.15)
    rim = f.soft_step(side - 1.0 + 0.3 * look["crescent_depth"], 0.12)
    light = look["crescent_light"] * np.array((0.5, 0.42, 0.2), np.float32)
    tissue *= 1 - (look["crescent_dark"] * rim)[:, :, None]
    tissue += rim[:, :, None] * light


def draw_view(vessels: Vessels, look: Look, rng: np.random.Generator) -> f.Field | None:
    """Return the round field of view, 0..1, wide enough for the vessels, or None."""
    height, width = vessels.shape
    if look["full_frame"] > 0 or not vessels.mask.any():
        return None
    centre = (height / 2 + rng.normal(0, 0.006) * height, width / 2 + rng.normal(0, 0.006) * width)
    half = (height / 2 * (1 + look["view_tall"]), width / 2)
    far = f.distance_from(vessels.shape, centre, half)
    needed = float(np.percentile(far[vessels.mask], 99.5))
    wide = max(needed + look["view_margin"], look["view_least"])  # vessels run to the border
    if wide > 1.3:
        return None
    edge_px = max(0.6, look["view_edge"] * min(height, width))
    view = f.soft_step((wide - far) * min(height, width) / 2, edge_px)
    view = np.clip(view * 1.02 - 0.01, 0, 1)
    return view if keep_view(vessels.mask, view) else None
