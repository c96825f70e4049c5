"""Where attractors stand: at random, in a jittered grid, or densely along given courses.

In: the placement's numbers and a generator. Out: positions (k, 2) in pixels. The paper's
real-conditioned placement (R-SCA) is `along` the real vessels and `jittered_grid` elsewhere.
"""

from __future__ import annotations

import cv2
import numpy as np

from .guides import arc_length, resample
from .sampling import Floats, Frame, Generator
from .tree import Bytes


def scattered(frame: Frame, count: int, rng: Generator) -> Floats:
    """`count` attractors anywhere in the image."""
    return rng.random((count, 2)) * [frame.width, frame.height] - 0.5


def jittered_grid(frame: Frame, cell_px: float, rng: Generator) -> Floats:
    """One attractor in each cell of a regular grid, anywhere in its cell."""
    columns = max(1, round(frame.width / cell_px))
    rows = max(1, round(frame.height / cell_px))
    at = rng.random((rows, columns, 2))
    at[..., 0] += np.arange(columns)
    at[..., 1] += np.arange(rows)[:, None]
    placed: Floats = at * [frame.width / columns, frame.height / rows] - 0.5
    return placed.reshape(-1, 2)


def thin_out(
    points: Floats, keep: float, patchiness: float, frame: Frame, rng: Generator
) -> Floats:
    """Keep a share of `points`; patchy: a smooth random field decides where more are kept."""
    chance = np.full(len(points), keep)
    if patchiness > 0:
        field = cv2.resize(rng.random((5, 5)), (32, 32), interpolation=cv2.INTER_CUBIC)
        column = np.clip(points[:, 0] / frame.width * 32, 0, 31).astype(int)
        row = np.clip(points[:, 1] / frame.height * 32, 0, 31).astype(int)
        chance *= np.clip(1 + patchiness * (2 * field[row, column] - 1), 0, 2)
    return points[rng.random(len(points)) < chance]


def outside(points: Floats, blocked: Bytes, margin_px: float = 0.0) -> Floats:
    """Those of `points` (k, 2 or 3) on no blocked pixel and at most `margin_px` off the image."""
    height, width = blocked.shape
    x, y = points[:, 0], points[:, 1]
    near = (x >= -0.5 - margin_px) & (x < width - 0.5 + margin_px)
    near &= (y >= -0.5 - margin_px) & (y < height - 0.5 + margin_px)
    column = np.clip(np.floor(x + 0.5).astype(int), 0, width - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, height - 1)
    inside = (np.abs(x - column) <= 0.5) & (np.abs(y - row) <= 0.5)
    kept: Floats = points[near & (~inside | (blocked[row, column] == 0))]
    return kept


def along(curve: Floats, spacing_px: float, jitter_px: float, rng: Generator) -> Floats:
    """Attractors along `curve` (k, 2 or 3), `spacing_px` apart, scattered by `jitter_px`."""
    length = arc_length(curve)[-1]
    count = max(2, int(length / spacing_px) + 1)
    points = resample(curve, np.linspace(0, length, count))
    if jitter_px > 0:
        points[:, :2] += jitter_px * rng.standard_normal((count, 2))
    return points
