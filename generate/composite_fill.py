"""A background without its vessels: holes of a picture filled as their surroundings go on.

In: a float32 picture H×W×C and the pixels of it that are known. Out: the picture with the others
filled in. The smooth part is interpolated (normalised convolution, coarse to fine); the texture is
copied from nearby places of the same picture, each hole from where its surroundings fit best. So a
hole has the grain, and the unlabelled small vessels, of the ground beside it and not a smear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask

from .fields import blur

Picture = npt.NDArray[np.float32]
IntPairs = npt.NDArray[np.int64]

NEAR_OFFSETS = 48
FAR_OFFSETS = 16
MOST_PEAK = 3.0
"""Borrowed texture has no peaks above so many standard deviations of where it goes."""
_SUPPORT = 0.12
"""Share of known pixels under a kernel at which it says half of what it could."""


@dataclass(frozen=True)
class Filled:
    """A picture without holes, and its smooth part, which texture is measured against."""

    picture: Picture
    smooth: Picture


def fill_holes(
    picture: Picture, known: BoolMask, finest_px: float, rng: np.random.Generator
) -> Filled:
    """Return `picture` (H, W, C) with what is not `known` filled; detail above `finest_px` smooth.

    `rng` draws the places that texture may come from.
    """
    smooth = fill_smoothly(picture, known, finest_px)
    if known.all():
        return Filled(picture, smooth)
    texture = (picture - smooth) * known[:, :, None]
    wanted = cv2.dilate((~known).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    borrowed = _borrow_texture(texture, known, wanted, finest_px, rng)
    # Over two pixels, so that the rim of a hole is no line.
    keep = np.minimum(blur(known.astype(np.float32), 1.0) * 2 - 1, known).clip(0, 1)[:, :, None]
    filled = smooth + texture * keep + borrowed * np.sqrt(1 - np.square(keep))
    return Filled(np.asarray(filled, np.float32), smooth)


def fill_smoothly(picture: Picture, known: BoolMask, finest_px: float) -> Picture:
    """Return the smooth part of `picture`, interpolated where it is not known."""
    weight = known.astype(np.float32)
    values = picture * weight[:, :, None]
    total = max(float(weight.sum()), 1.0)
    result = np.broadcast_to(
        (values.sum(axis=(0, 1)) / total).astype(np.float32), picture.shape
    ).astype(np.float32)
    sigma = finest_px * 2 ** max(0, math.ceil(math.log2(min(known.shape) / 6 / finest_px)))
    while sigma >= 0.99 * finest_px:
        support = blur(weight, sigma)
        mean = _with_channels(blur(values, sigma)) / (np.maximum(support, 1e-4))[:, :, None]
        share = (np.maximum(support, 0) / (np.maximum(support, 0) + _SUPPORT))[:, :, None]
        share *= 1 + _SUPPORT  # all of it where all is known
        result += np.minimum(share, 1) * (mean - result)
        sigma /= 2
    return result


def _borrow_texture(
    texture: Picture, known: BoolMask, wanted: BoolMask, scale_px: float, rng: np.random.Generator
) -> Picture:
    """Return texture for the `wanted` pixels, each from the offset whose surroundings fit best."""
    height, width, channels = texture.shape
    # What fits is judged on a coarser grid: finer grain is noise and fits nothing.
    step = max(1, int(scale_px / 3))
    small = (-(-width // step), -(-height // step))
    sure = np.asarray(
        cv2.resize(known.astype(np.float32), small, interpolation=cv2.INTER_AREA), np.float32
    )
    main = np.ascontiguousarray(texture[:, :, min(1, channels - 1)])
    main = np.asarray(cv2.resize(main, small, interpolation=cv2.INTER_AREA), np.float32)
    places = np.flatnonzero(wanted)
    rows, columns = np.divmod(places, width)
    judged = (rows // step) * small[0] + columns // step
    best = np.full(len(places), np.inf, np.float32)
    source = np.full(len(places), -1, np.int64)
    # Not from the rim of another hole, where some of what was cut out is left.
    usable = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1).ravel() > 0
    # Of magnitudes and not of squares: the rim of an optic disc is an edge and no texture.
    strength = blur(np.abs(main) * sure, 4.5 * scale_px / step)
    strength /= np.maximum(blur(sure, 4.5 * scale_px / step), 0.02)
    strength = np.square(np.float32(1.25) * np.maximum(strength, 0), dtype=np.float32)
    strength += np.float32(1e-3 * float(strength.mean()) + 1e-6)
    for down, right in _draw_offsets(min(height, width), scale_px, rng) // step:
        shift = (-int(down), -int(right))
        cost = _judge_offset(main, sure, strength, shift, 1.5 * scale_px / step).ravel()[judged]
        there = ((rows + down * step) % height) * width + (columns + right * step) % width
        better = (cost < best) & usable[there]
        best[better], source[better] = cost[better], there[better]
    result = np.zeros((height * width, channels), np.float32)
    found = source >= 0
    taken = texture.reshape(-1, channels)[source[found]]
    # As strong as the ground around the hole, where it comes from a busier place.
    busy = strength.ravel()[
        source[found] // width // step * small[0] + source[found] % width // step
    ]
    gain = np.sqrt(strength.ravel()[judged[found]] / busy)
    taken = taken * np.clip(gain, 0.3, 1.2)[:, None]
    peak = np.abs(taken[:, min(1, channels - 1)]) / np.sqrt(strength.ravel()[judged[found]])
    result[places[found]] = taken * np.minimum(1, MOST_PEAK / np.maximum(peak, 1e-3))[:, None]
    return result.reshape(texture.shape)


def _judge_offset(
    texture: Picture, sure: Picture, strength: Picture, shift: tuple[int, int], sigma_px: float
) -> Picture:
    """Return how badly `texture` moved by `shift` fits around each pixel.

    Over the geometric mean of both variances, `strength`: else flat places would always fit best.
    """
    moved, both = np.roll(texture, shift, (0, 1)), sure * np.roll(sure, shift, (0, 1))
    misfit = blur(np.square(texture - moved) * both, sigma_px)
    support = blur(both, sigma_px)
    there = np.roll(strength, shift, (0, 1))
    level = (misfit + 0.1 * (strength + there)) / (np.maximum(support, 0) + 0.05)
    return np.asarray(level / np.sqrt(strength * there))


def _draw_offsets(short_px: int, scale_px: float, rng: np.random.Generator) -> IntPairs:
    """Return (K, 2) shifts in px: many to the surroundings of a hole, some farther."""
    angle = rng.random(NEAR_OFFSETS + FAR_OFFSETS) * 2 * math.pi
    near = scale_px * (1.5 + 5 * rng.random(NEAR_OFFSETS))
    far = short_px * (0.08 + 0.3 * rng.random(FAR_OFFSETS))
    length = np.concatenate([near, far])
    pairs = np.stack([np.sin(angle) * length, np.cos(angle) * length], axis=1)
    return np.round(pairs).astype(np.int64)


def _with_channels(values: Picture) -> Picture:
    return values if values.ndim == 3 else values[:, :, None]
