"""At which size a network sees images, and what is lost where they are made smaller.

In: shapes and masks of shots, the longest side that was asked for. Out: the longest side. What is
lost is how far a mask that is made as small and large again is from itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from univg.masks import BoolMask

from .data_store import Shape

AUTO = "auto"
AUTO_SIZES_PX = (512, 768, 1024, 1536, 2048)
"""What `auto` chooses from: the first that costs little, or the last."""
CUTS = (0.3, 0.35, 0.4, 0.45, 0.5)
LITTLE = 0.02
"""Loss of Dice that is not worth telling."""


def choose_longest(
    asked: int | str | None, shapes: Sequence[Shape], masks: Callable[[], Sequence[BoolMask]]
) -> int:
    """Return the longest side that all images are scaled to, 0 for none.

    `auto` is the smallest size at which `masks` lose little. Shots are not enlarged: beyond their
    own size there is nothing to see.
    """
    if not asked:
        return 0
    sides = sorted(max(shape.size) for shape in shapes)
    own = sides[len(sides) // 2]
    if asked != AUTO:
        return min(int(asked), own)
    if own <= AUTO_SIZES_PX[0]:
        return own
    seen = masks()
    good = (px for px in AUTO_SIZES_PX if px >= own or measure_loss(seen, px) <= LITTLE)
    return min(next(good, AUTO_SIZES_PX[-1]), own)


def describe_loss(masks: Sequence[BoolMask], longest_px: int) -> str:
    """Return what to tell of `masks` seen at `longest_px`; nothing where little is lost."""
    loss = measure_loss(masks, longest_px)
    if loss <= LITTLE:
        return ""
    size = max(max(mask.shape) for mask in masks)
    return (
        f"images of {size} px are seen at {longest_px} px, which alone costs {100 * loss:.0f} of "
        "100 Dice at the borders of vessels; --size-px 0 keeps their size"
    )


def measure_loss(masks: Sequence[BoolMask], longest_px: int) -> float:
    """Return by how much Dice of `masks` to themselves falls, seen at `longest_px`; the mean.

    As a segmenter finds them that knows which share of each large pixel is vessel: scaled up, and
    cut where it suits all best.
    """
    found = [_lose(mask, longest_px) for mask in masks if mask.any()]
    return float(np.mean(found, axis=0).min()) if found else 0.0


def _lose(mask: BoolMask, longest_px: int) -> list[float]:
    """Return the loss at each of `CUTS`."""
    longest = max(mask.shape)
    if longest <= longest_px or not longest_px:
        return [0.0] * len(CUTS)
    height, width = (max(1, round(side * longest_px / longest)) for side in mask.shape)
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    again = cv2.resize(share, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    cuts = [again > cut for cut in CUTS]
    return [1.0 - 2.0 * float((c & mask).sum()) / float(c.sum() + mask.sum()) for c in cuts]
