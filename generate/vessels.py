"""What a renderer needs to know about the vessels of a mask: how thick, how deep, from where.

In: a bool mask H×W. Out: `Vessels`, fields over the whole image: radius of the nearest vessel, how
far a pixel lies from its centre line, the length of the ray inside the lumen; and points: where the
vessels come from, where there are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from univg.masks import BoolMask

from .fields import Field, blur, distance_from

HUB_PX = 256
"""Short side at which a hub is looked for."""


@dataclass(frozen=True)
class Vessels:
    """Fields over the image of one mask."""

    mask: BoolMask
    outside_px: Field
    """Distance to the nearest vessel; 0 inside."""
    radius_px: Field
    """Radius of the nearest vessel, known everywhere."""
    across: Field
    """0 on the centre line, 1 at the wall, more outside."""
    depth_px: Field
    """Length of the ray through the lumen, as of a round tube; 0 outside."""
    cover: Field
    """The mask with soft edges, 0..1."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width [px]."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def thickest_px(self) -> float:
        """Radius of the thickest vessels."""
        return float(np.percentile(self.radius_px[self.mask], 98)) if self.mask.any() else 1.0


def measure_vessels(mask: BoolMask) -> Vessels:
    """Measure the vessels of `mask`."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ridge = mask & (inside >= cv2.dilate(inside, np.ones((3, 3), np.uint8)) - 0.3)
    if not ridge.any():
        far = np.full(mask.shape, np.float32(max(mask.shape)))
        none = np.zeros(mask.shape, np.float32)
        return Vessels(mask, far, np.ones(mask.shape, np.float32), far, none, none)
    # Half a pixel lies between the centre of the outermost vessel pixel and the wall.
    inside = np.maximum(inside - 0.5, 0)
    weight = blur(ridge.astype(np.float32), 2.0)
    # A vessel of even width has its axis between two rows of ridge pixels, half a pixel further in.
    crowd = cv2.boxFilter(ridge.astype(np.float32), -1, (3, 3), normalize=False)
    half = inside + 0.5 * np.clip((crowd - 3) / 3, 0, 1)
    along = blur(np.where(ridge, half, 0).astype(np.float32), 2.0) / (weight + 1e-6)
    _, labels = cv2.distanceTransformWithLabels(
        (~ridge).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(labels.max()) + 1, np.float32)
    table[labels[ridge]] = along[ridge]
    radius = np.maximum(table[labels], np.float32(0.5))
    # From the wall and not from the ridge, whose pixels have gaps.
    off_centre = np.where(mask, np.maximum(radius - inside, 0), radius + outside)
    depth = 2 * np.sqrt(np.maximum(np.square(radius + 0.25) - np.square(off_centre), 0)) * mask
    return Vessels(
        mask=mask,
        outside_px=np.asarray(outside, np.float32),
        radius_px=radius,
        across=np.asarray(off_centre / radius, np.float32),
        depth_px=depth.astype(np.float32),
        cover=blur(mask.astype(np.float32), 0.6),
    )


def thickness_gain(vessels: Vessels, thinnest: float, power: float) -> Field:
    """Return how visible a vessel is by its thickness: `thinnest` to 1."""
    widest = max(vessels.thickest_px, 1.5)
    relative = np.clip((vessels.radius_px - 0.5) / (widest - 0.5), 0, 1)
    return np.asarray(thinnest + (1 - thinnest) * relative**power, np.float32)


def find_hub(vessels: Vessels) -> tuple[float, float]:
    """Return (y, x) of the place where vessels converge; the middle if there are none.

    Dense thick vessels alone would find an arcade, so places where all run one way count less. On
    150 synthesized retinas the place lies 4 px (median) and 6 px (9 of 10) from the disc's centre,
    at 256 px.
    """
    height, width = vessels.shape
    if not vessels.mask.any():
        return height / 2, width / 2
    weight = np.where(vessels.mask, vessels.radius_px, 0).astype(np.float32)
    cover = vessels.cover
    shrink = min(height, width) // HUB_PX
    if shrink >= 2:  # found and measured at one scale
        small = (-(-width // shrink), -(-height // shrink))
        weight = np.asarray(cv2.resize(weight, small, interpolation=cv2.INTER_AREA), np.float32)
        cover = np.asarray(cv2.resize(cover, small, interpolation=cv2.INTER_AREA), np.float32)
    sigma = 0.035 * min(weight.shape)
    dense = blur(weight, sigma) + 3 * blur(weight, 3 * sigma)
    down, right = (cv2.Sobel(cover, cv2.CV_32F, *axis) for axis in ((0, 1), (1, 0)))
    yy, xx, yx = (blur(p, 1.3 * sigma) for p in (down * down, right * right, down * right))
    coherence = np.sqrt(np.square(yy - xx) + 4 * np.square(yx)) / (yy + xx + 1e-4)
    score = dense * (1 - 0.5 * coherence)
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    return (float(y) + 0.5) * height / score.shape[0], (float(x) + 0.5) * width / score.shape[1]


def find_gap(
    vessels: Vessels, near: tuple[float, float], spread_px: float
) -> tuple[tuple[float, float], float]:
    """Return (y, x) of the widest vessel-free place around `near`, and how far it is free [px]."""
    closeness = np.exp(-np.square(distance_from(vessels.shape, near, (spread_px, spread_px))) / 2)
    score = blur(np.minimum(vessels.outside_px, spread_px), 2.0) * closeness
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    return (float(y), float(x)), float(vessels.outside_px[y, x])


def find_inflow(vessels: Vessels) -> tuple[float, float]:
    """Return (y, x) of an end of the thickest vessel: where contrast agent comes in."""
    if not vessels.mask.any():
        return vessels.shape[0] / 2, vessels.shape[1] / 2
    thick = vessels.mask & (vessels.radius_px >= 0.8 * vessels.thickest_px)
    rows, columns = np.nonzero(thick)
    highest = int(rows.argmin())  # catheters come from above
    return float(rows[highest]), float(columns[highest])
