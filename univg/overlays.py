"""What a segmenter found laid over what is there: found, false and missed vessel in three colours.

In: a predicted and a true mask, where there is one a field of view. Out: uint8 (H, W, 3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.report import shrink_mask

FOUND, FALSE, MISSED = (232, 232, 226), (245, 128, 32), (64, 150, 255)
"""Near white, orange, blue: told apart by every kind of eye, and by brightness."""
LEGEND = (
    "Near white: vessel that was found. Orange: predicted, but no vessel. Blue: vessel that was "
    "missed."
)
OUTSIDE = 34
TILE_PX = 288


def draw_overlay(
    prediction: BoolMask, truth: BoolMask, fov: BoolMask | None = None, longest_px: int = TILE_PX
) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3): found, false and missed vessel in three colours, on black.

    Grey is outside the field of view, where nothing is judged.
    """
    if fov is not None:
        prediction, truth = prediction & fov, truth & fov
    kinds = (
        (prediction & truth, FOUND),
        (prediction & ~truth, FALSE),
        (truth & ~prediction, MISSED),
    )
    shares = [shrink_mask(mask, longest_px).astype(np.float32) / 255 for mask, _ in kinds]
    total = np.maximum(sum(shares), 1.0)
    picture = np.zeros((*shares[0].shape, 3), np.float32)
    for share, (_, colour) in zip(shares, kinds, strict=True):
        picture += (share / total)[:, :, None] * np.array(colour, np.float32)
    if fov is not None:
        picture = np.maximum(picture, (shrink_mask(~fov, longest_px) > 127)[:, :, None] * OUTSIDE)
    # Coarse steps: the eye sees no more at this size, and the PNG is half as large.
    return (np.round(picture / 8) * 8).clip(0, 255).astype(np.uint8)
