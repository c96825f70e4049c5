"""The edge of the camera's field in a drawn picture, brought to where a field has it.

In: a picture whose field has a ragged edge, the field that it is to have. Out: the picture, with
bays filled from what is beside them and what hangs over put out; elsewhere unchanged.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask, find_fov

Pixels = npt.NDArray[np.uint8]

DEEPEST_SHARE = 0.06
"""Of the shorter side: with a bay deeper than this it is another field."""
RIM_SHARE = 0.025
"""So far beside a ragged edge its blur reaches."""
FILL_SHARE = 0.01
EDGE_PX = 0.7
"""How soft the new edge is."""


def mend_edge(picture: Pixels, field: BoolMask) -> Pixels:
    """Return `picture` (H, W, 3) with the edge of `field`."""
    own = find_fov(picture)
    side = min(field.shape)
    outside = ~field & ~own
    if field.all() or not outside.any():
        return picture
    depth = cv2.distanceTransform(field.astype(np.uint8), cv2.DIST_L2, 5)
    bays = field & ~own
    ragged = bays | (own & ~field)
    if not ragged.any() or depth[bays].max(initial=0) > DEEPEST_SHARE * side:
        return picture
    near = widen(ragged, RIM_SHARE * side)
    inside = fill(picture, ~widen(~own | ~field, RIM_SHARE * side), FILL_SHARE * side)
    surround = np.median(picture[outside], axis=0)
    share = cv2.GaussianBlur(field.astype(np.float32), (0, 0), EDGE_PX)[..., None]
    mended = np.rint(share * inside + (1 - share) * surround)
    return np.where(near[..., None], mended, picture).astype(np.uint8)


def widen(region: BoolMask, by_px: float) -> BoolMask:
    """Return all that lies no further than `by_px` from `region`."""
    distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(distance <= by_px, np.bool_)


def fill(picture: Pixels, known: BoolMask, sigma_px: float) -> npt.NDArray[np.float32]:
    """Return `picture` continued from where it is `known`, ever more smoothly further off."""
    total = np.zeros(picture.shape, np.float32)
    weight = np.zeros(known.shape, np.float32)
    share = known.astype(np.float32)
    values = picture * share[..., None]
    scale = 1.0
    for sigma in (sigma_px, 4 * sigma_px, 16 * sigma_px):
        near = cv2.GaussianBlur(share, (0, 0), sigma)
        total += scale * cv2.GaussianBlur(values, (0, 0), sigma)
        weight += scale * near
        scale *= 1e-3
    return np.asarray(total / np.maximum(weight, 1e-12)[..., None], np.float32)
