"""Augmentation applied: one warp for image, mask and field of view, then the tones of the image.

In: arrays of a picture, an `Augmentation`. Out: a square sample. OpenCV does the work, which lets
other threads run meanwhile.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .augment import Grid, Tone, Warp

Float32 = npt.NDArray[np.float32]
BORDER = cv2.BORDER_REFLECT_101
"""Beyond its border a picture is mirrored, its mask too, so that they go on to match."""


def make_map(warp: Warp, side_px: int, centre: tuple[float, float]) -> Float32:
    """Return where each pixel of a sample comes from, (S, S, 2) as (x, y).

    `centre` (x, y) of the picture comes to the middle of the sample.
    """
    angle = math.radians(warp.turn_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    wide = math.sqrt(warp.stretch)
    shape = np.array([[1 / wide, warp.shear], [0.0, wide]])
    flip = np.diag([-1.0 if warp.mirror else 1.0, 1.0])
    matrix = (turn @ shape @ flip / warp.scale).astype(np.float32)
    columns, rows = _offsets(side_px)
    found = np.empty((side_px, side_px, 2), np.float32)
    for axis in range(2):
        found[:, :, axis] = matrix[axis, 0] * columns + (
            matrix[axis, 1] * rows + np.float32(centre[axis])
        )
    if warp.bend_x:
        for axis, grid in enumerate((warp.bend_x, warp.bend_y)):
            found[:, :, axis] += _spread(grid, side_px) * np.float32(side_px)
    return found


def warp_picture(picture: npt.NDArray[Any], places: Float32) -> npt.NDArray[Any]:
    """Return `picture` (H, W, C) at `places`, (S, S, C), between pixels linearly."""
    no_second: Any = None  # it may be left out, but the annotations do not say so
    found: npt.NDArray[Any] = cv2.remap(
        picture, places, no_second, cv2.INTER_LINEAR, borderMode=BORDER
    )
    return found if found.ndim == 3 else found[:, :, None]


def change_tones(image: Float32, tone: Tone, mean: npt.NDArray[np.float32]) -> Float32:
    """Return `image` (S, S, C), values 0 to 1, with its tones changed; `mean` is its picture's."""
    if tone == Tone():
        return image
    image = _change_sharpness(image, tone)
    if tone.gamma != 1.0:
        image = _as_planes(cv2.pow(np.clip(image, 0.0, 1.0), tone.gamma))
    if tone.gains or tone.hue_deg or tone.saturation != 1.0:
        image = _change_colour(image, tone)
    middle = float(mean.mean())
    offset = middle * (1.0 - tone.contrast) + tone.brightness
    image = image * np.float32(tone.contrast) + np.float32(offset)
    if tone.light:
        image *= _spread(tone.light, image.shape[0])[:, :, None]
    if tone.noise:
        # Not the sample's own generator: noise comes out the same alone.
        rng = np.random.Generator(np.random.SFC64(tone.noise_seed))
        image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(tone.noise)
    for hole in tone.holes:
        top, left, high, wide = (round(share * image.shape[0]) for share in hole)
        image[top : top + max(high, 1), left : left + max(wide, 1)] = mean
    return image


def _change_sharpness(image: Float32, tone: Tone) -> Float32:
    side = image.shape[0]
    if tone.resolution < 1.0:
        small = max(2, round(side * tone.resolution))
        coarse = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = _as_planes(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR))
    if tone.blur_px > 0.1:
        image = _as_planes(cv2.GaussianBlur(image, (0, 0), tone.blur_px))
    if tone.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = _as_planes(cv2.addWeighted(image, 1.0 + tone.sharpen, soft, -tone.sharpen, 0.0))
    return image


def _change_colour(image: Float32, tone: Tone) -> Float32:
    """Turn the colours round the axis of greys, pull them towards it, then weigh the channels."""
    turn = math.radians(tone.hue_deg)
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = math.cos(turn) * np.eye(3) + (1 - math.cos(turn)) * grey + math.sin(turn) * across
    matrix = (grey + tone.saturation * (np.eye(3) - grey)) @ hue
    gains = np.array(tone.gains or (1.0, 1.0, 1.0))
    return _as_planes(cv2.transform(image, (gains[:, None] * matrix).astype(np.float32)))


def _as_planes(image: npt.NDArray[Any]) -> Float32:
    """Return what OpenCV gave as (S, S, C): it drops the axis of a single channel."""
    return image if image.ndim == 3 else image[:, :, None]


def _spread(grid: Grid, side_px: int) -> Float32:
    """Return a coarse grid as a smooth field (S, S)."""
    coarse = np.array(grid, np.float32)
    field = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field, np.float32)


@lru_cache(maxsize=8)
def _offsets(side_px: int) -> tuple[Float32, Float32]:
    """Return how far columns (1, S) and rows (S, 1) lie from the middle."""
    away = np.arange(side_px, dtype=np.float32) - np.float32((side_px - 1) / 2)
    return away[None, :], away[:, None]
