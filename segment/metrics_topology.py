"""How many pieces and how many holes a mask has, and how far two masks differ in that.

In: bool masks (H, W). Out: Betti numbers and their absolute differences, of whole masks or as the
mean over patches. Vessels hang together over eight neighbours, background over four.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from univg.masks import BoolMask


def count_pieces(mask: BoolMask) -> int:
    """Return the first Betti number b0: connected pieces of vessel, over eight neighbours."""
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def count_holes(mask: BoolMask) -> int:
    """Return the second Betti number b1: pieces of background, over four neighbours, enclosed.

    What touches the edge of the picture is not enclosed.
    """
    ground = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    return int(cv2.connectedComponents(ground, connectivity=4)[0]) - 2


def cut_patches(
    shape: tuple[int, ...], patch_px: int, fov: BoolMask | None = None
) -> Iterator[tuple[slice, slice]]:
    """Yield the patches of a grid over `shape`, at the far edges smaller ones.

    A grid and not random places, so that the figure needs no seed. Patches without a pixel of
    `fov` are left out.
    """
    height, width = shape[:2]
    for top in range(0, height, patch_px):
        for left in range(0, width, patch_px):
            patch = (slice(top, top + patch_px), slice(left, left + patch_px))
            if fov is None or fov[patch].any():
                yield patch


def compare_pieces(prediction: BoolMask, truth: BoolMask) -> float:
    """Return |b0(P) - b0(L)|."""
    return float(abs(count_pieces(prediction) - count_pieces(truth)))


def compare_holes(prediction: BoolMask, truth: BoolMask) -> float:
    """Return |b1(P) - b1(L)|."""
    return float(abs(count_holes(prediction) - count_holes(truth)))
