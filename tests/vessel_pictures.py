"""Pictures of vessels made by the tests themselves: lines over a ground of smooth noise."""

from __future__ import annotations

import cv2
import numpy as np


def draw_lines(seed: int, size: int = 256, count: int = 7, width: int = 3) -> np.ndarray:
    """Return a bool mask of winding lines."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(count):
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, 50))
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * size / 40
        points = np.cumsum(steps, axis=0) + rng.uniform(0.2, 0.8, 2) * size
        cv2.polylines(canvas, [points.round().astype(np.int32)], False, 1, width)
    return canvas.astype(bool)


def draw_ground(seed: int, size: int = 256, sigma: float = 7.0) -> np.ndarray:
    """Return smooth noise (size, size) of mean 0 and standard deviation 1."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return (smooth - smooth.mean()) / smooth.std()


def paint(
    mask: np.ndarray, ground_seed: int, *, contrast: float = -45.0, noise: float = 4.0
) -> np.ndarray:
    """Return an image (H, W) of `mask`: vessels darker (contrast below 0) or brighter."""
    size = mask.shape[0]
    grain = np.random.default_rng(ground_seed + 10_000).standard_normal(mask.shape)
    light = 120 + 40 * np.linspace(-1, 1, size)[None, :]
    lines = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), 0.8)
    picture = light + 12 * draw_ground(ground_seed, size) + contrast * lines + noise * grain
    return np.clip(picture, 0, 255).astype(np.uint8)
