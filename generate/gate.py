"""What is measured on one image-mask pair, to tell whether it is fit for a data set.

In: an image, its mask, a field of view if there is one. Out: a dict of the measures of the table
`MEASURES`, by name. Lengths and widths are relative to the image (or at 512 px of its longest
side), so that shots and synthetic pairs of other sizes can be compared. Distances to the shots
are the work of `gate_shots`, near-duplicates that of `gate_near`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from skimage.morphology import skeletonize

from univg.agreement import cldice, dice, mask_agreement
from univg.errors import DataError
from univg.images import ImageArray
from univg.masks import BoolMask
from univg.vesselness import Polarity

Segmenter = Callable[[npt.NDArray[np.uint8]], Any]
"""Takes a uint8 image (H, W) or (H, W, 3), returns the probability of vessel (H, W), 0 to 1."""
Score = float | int | bool | None
Scores = dict[str, Score]

SPECK_SHARE = 1e-4
"""A component of at most this share of the image is a speck: 26 px at 512 × 512."""
RADIUS_AT_PX = 512
_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of a pair."""

    what: str
    kind: Literal["number", "flag"] = "number"
    needs: Literal["", "shots", "set"] = ""
    """What it is measured against, beside the pair itself."""


MEASURES: dict[str, Measure] = {
    "density": Measure(what="share of the field of view that is vessel"),
    "components": Measure(what="connected pieces of the mask"),
    "specks": Measure(what="pieces of at most a ten-thousandth of the image"),
    "speck_share": Measure(what="share of the pieces that are specks"),
    "largest": Measure(what="share of the vessel pixels in the largest piece"),
    "radius": Measure(what="mean vessel radius, in px at 512 px of the longest side"),
    "length": Measure(what="length of all vessels, in sides of a square of the same area"),
    "agreement": Measure(what="clDice of the vessels found in the image against the mask"),
    "agreement_dice": Measure(what="the same by Dice"),
    "mask_distance": Measure(what="distance to the mask of the nearest shot", needs="shots"),
    "image_distance": Measure(what="distance to the image of the nearest shot", needs="shots"),
    "background_distance": Measure(what="the same, vessels left out", needs="shots"),
    "mask_copied": Measure(what="the mask is a copy of a shot's", kind="flag", needs="shots"),
    "image_copied": Measure(what="the image is a copy of a shot's", kind="flag", needs="shots"),
    "background_copied": Measure(
        what="the background is a copy of a shot's", kind="flag", needs="shots"
    ),
    "copied": Measure(what="mask_copied or image_copied", kind="flag", needs="shots"),
    "mask_duplicate": Measure(
        what="the mask nearly repeats an earlier pair's of another source", kind="flag", needs="set"
    ),
    "image_duplicate": Measure(
        what="the image nearly repeats an earlier pair's", kind="flag", needs="set"
    ),
    "duplicate": Measure(what="mask_duplicate or image_duplicate", kind="flag", needs="set"),
}
"""All measures by name, in the order in which they are shown."""


def measure_mask(mask: BoolMask, fov: BoolMask | None = None) -> Scores:
    """Return the measures of `mask` (H, W) alone; those that an empty mask has not are None."""
    field_px = mask.size if fov is None else max(int(np.count_nonzero(fov)), 1)
    vessel_px = int(np.count_nonzero(mask if fov is None else mask & fov))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    specks = int(np.count_nonzero(sizes <= SPECK_SHARE * mask.size))
    scores: Scores = {
        "density": vessel_px / field_px,
        "components": count - 1,
        "specks": specks,
        "speck_share": None,
        "largest": None,
        "radius": None,
        "length": 0.0,
    }
    if len(sizes):
        skeleton = np.asarray(skeletonize(mask), np.bool_)  # type: ignore[no-untyped-call, unused-ignore]
        scores["speck_share"] = specks / len(sizes)
        scores["largest"] = float(sizes.max() / sizes.sum())
        scores["radius"] = _mean_radius_px(mask, skeleton) * RADIUS_AT_PX / max(mask.shape)
        scores["length"] = _length_px(skeleton) / float(np.sqrt(field_px))
    return _round(scores)


def measure_agreement_of(
    image: ImageArray,
    mask: BoolMask,
    fov: BoolMask | None = None,
    *,
    polarity: Polarity | Literal["auto"] = "auto",
    segmenter: Segmenter | None = None,
) -> Scores:
    """Return how well the vessels found in `image` lie on `mask`, by the detector or `segmenter`.

    None where the mask is empty: nothing can follow it.
    """
    if not mask.any():
        return {"agreement": None, "agreement_dice": None}
    if segmenter is None:
        found = mask_agreement(image, mask, fov=fov, polarity=polarity)
        return _round({"agreement": found.cldice, "agreement_dice": found.dice})
    predicted = predict_vessels(image, segmenter)
    if fov is not None:
        predicted = predicted & fov
    return _round({"agreement": cldice(predicted, mask), "agreement_dice": dice(predicted, mask)})


def predict_vessels(image: ImageArray, segmenter: Segmenter) -> BoolMask:
    """Return where `segmenter` gives a probability above a half, as a mask (H, W)."""
    pixels = image if image.dtype == np.uint8 else image // 257
    try:
        given = np.asarray(segmenter(np.ascontiguousarray(pixels, np.uint8)))
    except Exception as error:  # a user's code may raise anything, and it is theirs to mend
        reason = " ".join(str(error).split())
        raise DataError(f"the segmenter failed with {type(error).__name__}: {reason}") from error
    good = given.shape == image.shape[:2] and given.dtype.kind in "fbiu"
    if not good or not np.isfinite(given).all() or given.min() < 0 or given.max() > 1:
        shown = f"{given.dtype} of {given.shape}"
        if given.size and given.dtype.kind in "fbiu":
            shown += f" from {float(given.min()):g} to {float(given.max()):g}"
        raise DataError(
            f"the segmenter returned {shown} for an image of {image.shape}: it must return "
            f"probabilities 0 to 1 of {image.shape[:2]}"
        )
    return np.asarray(given > 0.5)


def measure_pair(
    image: ImageArray,
    mask: BoolMask,
    fov: BoolMask | None = None,
    *,
    polarity: Polarity | Literal["auto"] = "auto",
    segmenter: Segmenter | None = None,
) -> Scores:
    """Return all that can be told from a pair alone."""
    return {
        **measure_mask(mask, fov),
        **measure_agreement_of(image, mask, fov, polarity=polarity, segmenter=segmenter),
    }


def round_score(value: float) -> float:
    """Return `value` as it is written: what lies below differs between machines."""
    return round(float(value), _DECIMALS)


def _round(scores: Scores) -> Scores:
    return {k: round_score(v) if isinstance(v, float) else v for k, v in scores.items()}


def _mean_radius_px(mask: BoolMask, skeleton: BoolMask) -> float:
    """Return the mean over the skeleton; what lies outside the image is no background."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.minimum(distance[skeleton], max(mask.shape) / 2).mean(dtype=np.float64))


def _length_px(skeleton: BoolMask) -> float:
    """Return the length of a skeleton: 1 a straight step, √2 a diagonal one that cuts no corner."""
    across, down = skeleton[:, 1:] & skeleton[:, :-1], skeleton[1:] & skeleton[:-1]
    straight = np.count_nonzero(across) + np.count_nonzero(down)
    a, b = skeleton[:-1, :-1], skeleton[:-1, 1:]
    c, d = skeleton[1:, :-1], skeleton[1:, 1:]
    diagonal = np.count_nonzero(a & d & ~b & ~c) + np.count_nonzero(b & c & ~a & ~d)
    return float(straight + np.sqrt(2) * diagonal)
