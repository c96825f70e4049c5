"""Whether the vessels of an image are where a mask says they are.

In: images and the masks that they were made from. Out: clDice and Dice of what a fixed detector
(`univg.vesselness`) finds in the image against the mask, at 256 px of the longest side. The
detector keeps as many pixels as the mask has, so no threshold comes into it. It is no perfect
reader: judge a figure beside the one of real pairs (the ceiling) and beside that of an image with
the mask of another (chance), never beside 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from skimage.morphology import skeletonize

from univg.errors import DataError
from univg.images import ImageArray
from univg.masks import BoolMask
from univg.resize import resize_to
from univg.vesselness import Polarity, Ridges, choose_polarity, measure_ridges, threshold_ridges


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well one image follows its mask."""

    cldice: float
    dice: float
    polarity: Polarity


@dataclass(frozen=True, kw_only=True)
class AgreementSummary:
    """How well a set of images follows its masks: means over the images."""

    count: int
    cldice: float
    dice: float
    chance: float | None
    """clDice of each image with the mask of another; None where all masks are the same."""
    polarity: Polarity
    each: tuple[float, ...]
    """clDice of each image."""

    def describe(self) -> str:
        """Return the figures as one line."""
        chance = "" if self.chance is None else f"; with the mask of another {self.chance:.3f}"
        plural = "" if self.count == 1 else "s"
        return (
            f"vessels follow the mask: clDice {self.cldice:.3f}, Dice {self.dice:.3f} "
            f"({self.count} image{plural}, {self.polarity} vessels{chance})"
        )


def dice(prediction: BoolMask, truth: BoolMask) -> float:
    """Return 2 |P ∩ L| / (|P| + |L|); 1 where both are empty, 0 where only one is."""
    _check_shapes(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def cldice(prediction: BoolMask, truth: BoolMask) -> float:
    """Return the clDice of two masks (H, W); 1 where both are empty, 0 where only one is.

    Harmonic mean of Tprec = |S(P) ∩ L| / |S(P)| and Tsens = |S(L) ∩ P| / |S(L)|, S the skeleton.
    """
    _check_shapes(prediction, truth)
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    precision = _share_inside(prediction, truth)
    sensitivity = _share_inside(truth, prediction)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total > 0 else 0.0


def mask_agreement(
    image: ImageArray,
    mask: BoolMask,
    *,
    fov: BoolMask | None = None,
    polarity: Polarity | Literal["auto"] = "auto",
) -> Agreement:
    """Return how well the vessels of `image` lie on `mask`; both (H, W), of the same size.

    `polarity` "auto" is chosen from the image alone; where the modality is known, name it.
    """
    ridges, small = prepare(image, mask, fov)
    chosen = choose_polarity([ridges]) if polarity == "auto" else polarity
    found = _detect(ridges, small, chosen)
    return Agreement(cldice=cldice(found, small), dice=dice(found, small), polarity=chosen)


def measure_agreement(
    images: Sequence[ImageArray],
    masks: Sequence[BoolMask],
    *,
    fovs: Sequence[BoolMask | None] | None = None,
    polarity: Polarity | Literal["auto"] = "auto",
) -> AgreementSummary:
    """Return how well each of `images` follows its mask, on average, and what chance would give.

    `polarity` "auto" is chosen once for all images together.
    """
    if not images or len(images) != len(masks):
        raise DataError(f"{len(images)} images and {len(masks)} masks: give one mask an image")
    fovs = [None] * len(images) if fovs is None else fovs
    pairs = [prepare(*each) for each in zip(images, masks, fovs, strict=True)]
    ridges, smalls = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    chosen = choose_polarity(ridges) if polarity == "auto" else polarity
    found = [_detect(each, small, chosen) for each, small in pairs]
    own = [cldice(one, small) for one, small in zip(found, smalls, strict=True)]
    overlaps = [dice(one, small) for one, small in zip(found, smalls, strict=True)]
    others = [_next_other(smalls, k) for k in range(len(smalls))]
    by_chance = [
        cldice(one, other) for one, other in zip(found, others, strict=True) if other is not None
    ]
    return AgreementSummary(
        count=len(images),
        cldice=float(np.mean(own)),
        dice=float(np.mean(overlaps)),
        chance=float(np.mean(by_chance)) if by_chance else None,
        polarity=chosen,
        each=tuple(own),
    )


def prepare(
    image: ImageArray, mask: BoolMask, fov: BoolMask | None = None
) -> tuple[Ridges, BoolMask]:
    """Return what could be vessels in `image`, and its mask, at the size of comparison."""
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        raise DataError(
            f"the mask is {mask.dtype} of {mask.shape}, its image {image.shape[:2]}: "
            "give a bool mask of the size of its image"
        )
    ridges = measure_ridges(image, fov)
    return ridges, resize_to(mask, (ridges.dark.shape[0], ridges.dark.shape[1]))


def score_fit(ridges: Ridges, mask: BoolMask, polarity: Polarity) -> float:
    """Return the Dice of what is found in an image against a mask, both as prepared."""
    return dice(_detect(ridges, mask, polarity), mask) if ridges.dark.shape == mask.shape else 0.0


def _detect(ridges: Ridges, mask: BoolMask, polarity: Polarity) -> BoolMask:
    return threshold_ridges(ridges.of(polarity), int(np.count_nonzero(mask)))


def _next_other(masks: Sequence[BoolMask], index: int) -> BoolMask | None:
    """Return the next mask after `index` that is another one and of the same size."""
    own = masks[index]
    for step in range(1, len(masks)):
        other = masks[(index + step) % len(masks)]
        if other.shape == own.shape and not np.array_equal(other, own):
            return other
    return None


def _share_inside(mask: BoolMask, other: BoolMask) -> float:
    """Return the share of the skeleton of `mask` that lies in `other`."""
    skeleton = np.asarray(skeletonize(mask), np.bool_)  # type: ignore[no-untyped-call, unused-ignore]
    length = int(np.count_nonzero(skeleton))
    return int(np.count_nonzero(skeleton & other)) / max(length, 1)


def _check_shapes(prediction: BoolMask, truth: BoolMask) -> None:
    if prediction.shape != truth.shape:
        raise DataError(f"masks of {prediction.shape} and {truth.shape} cannot be compared")
