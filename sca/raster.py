"""Drawing vessels as an exactly binary mask of exactly the size asked for.

In: `Vessels` in pixels. Out: uint8 (H, W) of 0 and 255. Each segment is a cubic Hermite curve with
the tangents of its neighbours, filled with discs close enough that the outline has no scallops.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .shape import Vessels
from .tree import Bytes


def draw_vessels(canvas: Bytes, vessels: Vessels) -> None:
    """Draw `vessels` into `canvas` (H, W)."""
    _draw(canvas, vessels.x, vessels.y, vessels.radius, vessels.parent, vessels.main)
    if len(vessels.loops):
        _draw_loops(canvas, vessels.x, vessels.y, vessels.radius, vessels.parent, vessels.loops)


@njit(cache=True, nogil=True)
def _disc(canvas, x, y, radius):  # type: ignore[no-untyped-def]
    """Set the pixels whose centre lies within `radius`, and always the one at (x, y)."""
    height, width = canvas.shape
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    if 0 <= row < height and 0 <= column < width:
        canvas[row, column] = 255
    top = max(0, int(np.ceil(y - radius)))
    bottom = min(height - 1, int(np.floor(y + radius)))
    for r in range(top, bottom + 1):
        half = np.sqrt(max(0.0, radius * radius - (r - y) * (r - y)))
        left = max(0, int(np.ceil(x - half)))
        right = min(width - 1, int(np.floor(x + half)))
        for c in range(left, right + 1):
            canvas[r, c] = 255


@njit(cache=True, nogil=True)
def _curve(canvas, ax, ay, tax, tay, bx, by, tbx, tby, ra, rb):  # type: ignore[no-untyped-def]
    """Fill the Hermite curve from a to b with discs; the radius goes from `ra` to `rb`."""
    length = np.hypot(bx - ax, by - ay)
    stride = max(0.6, 0.2 * min(ra, rb))
    steps = max(1, int(np.ceil(length / stride)))
    for s in range(steps + 1):
        t = s / steps
        t2, t3 = t * t, t * t * t
        h00, h10, h01, h11 = 2 * t3 - 3 * t2 + 1, t3 - 2 * t2 + t, 3 * t2 - 2 * t3, t3 - t2
        x = h00 * ax + h10 * tax + h01 * bx + h11 * tbx
        y = h00 * ay + h10 * tay + h01 * by + h11 * tby
        _disc(canvas, x, y, ra + (rb - ra) * t)


@njit(cache=True, nogil=True)
def _draw(canvas, x, y, radius, parent, main):  # type: ignore[no-untyped-def]
    for n in range(len(x)):
        p = parent[n]
        if p < 0:
            continue
        goes_on = main[p] == n
        pp = parent[p]
        # Tangent at the parent: along the parent vessel where it goes on; a side branch leaves
        # it half-way between the vessel's course and its own.
        cx, cy = x[n] - x[p], y[n] - y[p]
        tax, tay = cx, cy
        if pp >= 0:
            vx, vy = x[p] - x[pp], y[p] - y[pp]
            tax, tay = 0.5 * (vx + cx), 0.5 * (vy + cy)
        tbx, tby = cx, cy
        m = main[n]
        if m >= 0:
            tbx, tby = 0.5 * (x[m] - x[p]), 0.5 * (y[m] - y[p])
        start = radius[p] if goes_on else min(radius[p], radius[n])
        _curve(canvas, x[p], y[p], tax, tay, x[n], y[n], tbx, tby, start, radius[n])


@njit(cache=True, nogil=True)
def _draw_loops(canvas, x, y, radius, parent, loops):  # type: ignore[no-untyped-def]
    for k in range(len(loops)):
        a, b = loops[k, 0], loops[k, 1]
        cx, cy = x[b] - x[a], y[b] - y[a]
        tax, tay = cx, cy
        if parent[a] >= 0:
            vx, vy = x[a] - x[parent[a]], y[a] - y[parent[a]]
            size = np.hypot(vx, vy)
            scale = np.hypot(cx, cy) / max(size, 1e-9)
            tax, tay = 0.5 * (cx + vx * scale), 0.5 * (cy + vy * scale)
        thin = min(radius[a], radius[b])
        _curve(canvas, x[a], y[a], tax, tay, x[b], y[b], cx, cy, thin, thin)
