"""From an ideal picture to a recorded one: field of view, blur, noise, tone, compression.

In: float32 H×W or H×W×3, about 0..1. Out: uint8 of the same shape.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from .fields import Field, blur, distance_from, white_noise
from .looks import Look

Picture = npt.NDArray[np.float32]

FINISH = ("blur_px", "photon_noise", "read_noise", "grain_px", "gamma", "contrast", "lightness")
"""Values that every card has, besides `jpeg` and `invert`."""


def record(
    picture: Picture,
    look: Look,
    rng: np.random.Generator,
    view: Field | None = None,
    outside: float = 0.0,
) -> npt.NDArray[np.uint8]:
    """Return `picture` as a device would store it; `view` (0..1) is where light falls."""
    picture = blur(picture, look["blur_px"])
    if look["gamma"] != 1:
        picture = np.asarray(np.power(np.clip(picture, 0, 4), np.float32(max(look["gamma"], 0.1))))
    picture = (picture - 0.5) * np.float32(look["contrast"]) + np.float32(0.5 + look["lightness"])
    picture = np.clip(picture, 0, 1)
    if look["invert"] > 0.5:
        picture = 1 - picture
    picture = add_noise(picture, look, rng)
    if view is not None:
        edge = view if picture.ndim == 2 else view[:, :, None]
        picture = picture * edge + np.float32(outside) * (1 - edge)
    stored = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return compress(stored, look["jpeg"])


def add_noise(picture: Picture, look: Look, rng: np.random.Generator) -> Picture:
    """Add photon noise (grows with the root of light) and read noise, both with one grain."""
    photon, read = np.float32(look["photon_noise"]), np.float32(look["read_noise"])
    if photon <= 0 and read <= 0:
        return picture
    grain = _grain(rng, picture.shape[:2], look["grain_px"])
    level = picture if picture.ndim == 2 else picture.mean(axis=2)
    noise = grain * (read + photon * np.sqrt(np.clip(level, 0, 1)))
    if picture.ndim == 2:
        return np.asarray(picture + noise)
    # Colour cameras: most noise is common to the channels after demosaicing, some is each one's.
    own = np.stack([_grain(rng, picture.shape[:2], look["grain_px"]) for _ in range(3)], axis=2)
    return np.asarray(picture + 0.75 * noise[:, :, None] + own * (0.5 * (read + photon * 0.5)))


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> Field:
    noise = white_noise(rng, (shape[0], shape[1]))
    if sigma_px < 0.3:
        return noise
    smooth = blur(noise, sigma_px)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)


def compress(stored: npt.NDArray[np.uint8], quality: float) -> npt.NDArray[np.uint8]:
    """Return `stored` with the marks of JPEG at `quality`; 0 leaves it as it is."""
    if quality < 1:
        return stored
    flags = [cv2.IMWRITE_JPEG_QUALITY, round(quality)]
    _, data = cv2.imencode(".jpg", stored, flags)
    back: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return np.asarray(back, np.uint8)


def vignette(shape: tuple[int, int], centre: tuple[float, float], strength: float) -> Field:
    """Return 1 at `centre`, falling by `strength` towards the corners."""
    half = (shape[0] / 2 * 1.2, shape[1] / 2 * 1.2)
    far = distance_from(shape, centre, half)
    return np.asarray(1 - np.float32(strength) * far**2.5, np.float32)


def keep_view(mask: BoolMask, view: Field, least_share: float = 0.6) -> bool:
    """Whether enough of the vessels lies inside `view`."""
    whole = int(mask.sum())
    return whole == 0 or int((mask & (view > 0.5)).sum()) >= least_share * whole
