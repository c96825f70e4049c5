"""Random fields for backgrounds and textures: smooth, fractal, of one scale, meshed, spotted.

In: a generator, a shape and scales in pixels. Out: float32 fields of zero mean and unit spread, or
0..1 where the name says so. Coarse fields are drawn on a coarse grid and enlarged, so a field costs
about a millisecond at 256 × 256 whatever its scale.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Shape = tuple[int, int]


def white_noise(rng: np.random.Generator, shape: Shape) -> Field:
    """Return independent normal values."""
    return rng.standard_normal(shape, dtype=np.float32)


def normalize(field: npt.NDArray[Any]) -> Field:
    """Return `field` with zero mean and unit spread."""
    mean, spread = cv2.meanStdDev(field)
    return np.asarray((field - mean[0, 0]) / max(spread[0, 0], 1e-6), np.float32)


def blur(field: npt.NDArray[Any], sigma_px: float) -> Field:
    """Return `field` smoothed; wide kernels work on a shrunken copy."""
    if sigma_px < 0.2:
        return np.asarray(field, np.float32)
    height, width = field.shape[:2]
    factor = int(min(sigma_px / 3, min(height, width) / 8))
    if factor < 2:
        return np.asarray(
            cv2.GaussianBlur(field, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT), np.float32
        )
    small = cv2.resize(
        field, (-(-width // factor), -(-height // factor)), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / factor, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def smooth_noise(rng: np.random.Generator, shape: Shape, scale_px: float) -> Field:
    """Return noise whose blobs are about `scale_px` apart."""
    factor = int(min(scale_px / 4, min(shape) / 8))
    if factor >= 2:  # nothing finer is in it
        small = smooth_noise(
            rng, (-(-shape[0] // factor), -(-shape[1] // factor)), scale_px / factor
        )
        return np.asarray(
            cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32
        )
    scale = max(scale_px, 1.0)
    grid = [math.ceil(side / scale) + 3 for side in shape]
    coarse = white_noise(rng, (grid[0], grid[1]))
    # The map lets the grid start anywhere, so that blobs do not sit at the image's border.
    shift = rng.random(2)
    matrix = np.array([[1 / scale, 0, shift[1] + 0.5], [0, 1 / scale, shift[0] + 0.5]], np.float64)
    field = cv2.warpAffine(
        coarse, matrix, (shape[1], shape[0]),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return normalize(field)


def fractal_noise(
    rng: np.random.Generator, shape: Shape, coarse_px: float, fine_px: float, slope: float = 1.0
) -> Field:
    """Return noise of all scales from `coarse_px` down; finer ones weaker by scale ** slope."""
    total = np.zeros(shape, np.float32)
    scale = coarse_px
    while scale >= fine_px:
        total += np.float32((scale / coarse_px) ** slope) * smooth_noise(rng, shape, scale)
        scale /= 2
    return normalize(total)


def band_noise(
    rng: np.random.Generator, shape: Shape, scale_px: float, stretch: tuple[float, float] = (1, 1)
) -> Field:
    """Return noise of one scale; `stretch` draws it out along (y, x)."""
    step = max(1.0, scale_px / 4)
    small = (max(8, round(shape[0] / step)), max(8, round(shape[1] / step)))
    sigma = scale_px / step / 2
    raw = white_noise(rng, small)
    down, along = sigma * stretch[0], sigma * stretch[1]
    fine = cv2.GaussianBlur(raw, (0, 0), along, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    wide = cv2.GaussianBlur(fine, (0, 0), along, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    field = cv2.resize(fine - wide, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return normalize(field)


def oriented_noise(
    rng: np.random.Generator, shape: Shape, scale_px: float, length: float, turn_px: float
) -> Field:
    """Return streaks `scale_px` wide and `length` times as long, bending over `turn_px`."""
    height, width = shape
    side = math.ceil(1.2 * math.hypot(height, width))
    straight = band_noise(rng, (side, side), scale_px, (1, length))
    angle = rng.random() * 2 * math.pi
    # Turned as a whole and bent by a smooth shift of the places it is read at.
    y = ramp(shape, math.pi / 2) * np.float32(height / 2)
    x = ramp(shape, 0.0) * np.float32(width / 2)
    bend = np.float32(0.18 * turn_px)
    across = math.cos(angle) * y - math.sin(angle) * x + bend * smooth_noise(rng, shape, turn_px)
    along = math.sin(angle) * y + math.cos(angle) * x + bend * smooth_noise(rng, shape, turn_px)
    middle = np.float32(side / 2)
    field = cv2.remap(
        straight, (along + middle).astype(np.float32), (across + middle).astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return normalize(field)


def mesh(rng: np.random.Generator, shape: Shape, spacing_px: float, width: float = 0.25) -> Field:
    """Return a net of bright lines, 0..1: where noise of one scale crosses zero."""
    return near_zero(band_noise(rng, shape, spacing_px), width)


def near_zero(field: Field, width: float) -> Field:
    """Return 1 where `field` crosses zero, falling to both sides."""
    return np.asarray(np.exp(-np.square(field / np.float32(width))), np.float32)


def spots(
    rng: np.random.Generator,
    shape: Shape,
    count: int,
    radius_px: tuple[float, float],
    where: tuple[float, float, float] | None = None,
    soft: float = 0.35,
) -> Field:
    """Return `count` irregular soft spots, 0..1; `where` = (y, x, spread) px gathers them."""
    canvas = np.zeros(shape, np.float32)
    for _ in range(count):
        draw = rng.random(8)
        if where is None:
            y, x = draw[0] * shape[0], draw[1] * shape[1]
        else:
            angle, far = (
                2 * np.pi * draw[0],
                where[2] * math.sqrt(-2 * math.log(1 - 0.999 * draw[1])),
            )
            y, x = where[0] + far * math.sin(angle), where[1] + far * math.cos(angle)
        radius = radius_px[0] * (radius_px[1] / radius_px[0]) ** draw[2]
        axes = (radius * (0.7 + 0.6 * draw[3]), radius * (0.7 + 0.6 * draw[4]))
        # Fixed-point drawing: sixteenths of a pixel.
        cv2.ellipse(
            canvas, (round(x * 16), round(y * 16)), (round(axes[0] * 16), round(axes[1] * 16)),
            float(360 * draw[5]), 0, 360, float(0.4 + 0.6 * draw[6]), -1, cv2.LINE_AA, 4,
        )  # fmt: skip
    return blur(canvas, max(0.5, soft * radius_px[0]))


def distance_from(shape: Shape, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
    """Return the elliptic distance from `centre` (y, x), 1 at `radii` (y, x)."""
    y = (np.arange(shape[0], dtype=np.float32) - np.float32(centre[0])) / np.float32(radii[0])
    x = (np.arange(shape[1], dtype=np.float32) - np.float32(centre[1])) / np.float32(radii[1])
    return np.asarray(np.sqrt(np.square(y)[:, None] + np.square(x)[None, :]), np.float32)


def soft_step(field: npt.NDArray[Any], softness: float) -> Field:
    """Return 0..1, half where `field` is 0, over a width of about 2 `softness`."""
    return np.asarray(0.5 + 0.5 * np.tanh(field / np.float32(max(softness, 1e-3))), np.float32)


def ramp(shape: Shape, angle: float) -> Field:
    """Return a plane from -1 to 1 across the image in direction `angle` (radians)."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return np.asarray(y * np.float32(math.sin(angle)) + x * np.float32(math.cos(angle)), np.float32)
