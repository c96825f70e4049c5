"""What several metrics need of a mask and of a pair of masks, worked out once and only if asked.

In: bool masks (H, W), a field of view, probabilities. Out: `MaskFacts` (skeleton, boundary, box) of
one mask, `MaskPair` (counts, distances from boundary to boundary) of two.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.masks import BoolMask

Probability = npt.NDArray[Any]
"""Grey levels or shares (H, W): the larger, the more likely vessel. Only their order counts."""
Distances = npt.NDArray[np.float64]
Box = tuple[slice, slice]

_EXACT_UP_TO_PX = 1000.0  # float32 still tells the squares of such distances apart


class MaskFacts:
    """A mask (H, W), already cut to the field of view, and what follows from it alone."""

    def __init__(self, mask: BoolMask) -> None:
        self.mask = mask

    @cached_property
    def area_px(self) -> int:
        """Vessel pixels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> Box:
        """The smallest rectangle that holds all vessel pixels; the mask must not be empty."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    @cached_property
    def skeleton(self) -> BoolMask:
        """The skeleton of scikit-image (Zhang and Suen), which clDice is defined with."""
        from skimage.morphology import skeletonize

        skeleton = np.zeros_like(self.mask)
        if self.area_px:
            # Thinning looks at neighbours only, so the empty margin changes nothing but the time.
            inside = np.ascontiguousarray(self.mask[self.box])
            skeleton[self.box] = skeletonize(inside)  # type: ignore[no-untyped-call, unused-ignore]
        return skeleton

    @cached_property
    def boundary(self) -> BoolMask:
        """Vessel pixels with one of their four neighbours outside; beyond the picture is outside.

        The edges of MONAI's surface metrics.
        """
        padded = np.pad(self.mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.asarray(self.mask & ~inner)

    @cached_property
    def rim(self) -> BoolMask:
        """Vessel pixels less than 1.5 px from background; beyond the picture is nothing.

        The surface of the paper's code: eight neighbours instead of four.
        """
        grown = cv2.dilate((~self.mask).astype(np.uint8), np.ones((3, 3), np.uint8))
        return np.asarray(self.mask & (grown > 0))


class MaskPair:
    """A prediction and its truth, of one size; both are cut to `fov` before anything is measured.

    `tolerance_px` is that of the surface metrics, `patch_px` that of the Betti errors in patches.
    """

    def __init__(
        self,
        prediction: BoolMask | MaskFacts,
        truth: BoolMask | MaskFacts,
        *,
        fov: BoolMask | None = None,
        probability: Probability | None = None,
        tolerance_px: float = 2.0,
        patch_px: int = 64,
    ) -> None:
        self.prediction, self.truth = cut_to(prediction, fov), cut_to(truth, fov)
        self.shape = self.truth.mask.shape
        self.fov, self.probability = fov, probability
        self.tolerance_px, self.patch_px = tolerance_px, patch_px
        self._check()

    def _check(self) -> None:
        given = {
            "prediction": self.prediction.mask,
            "fov": self.fov,
            "probability": self.probability,
        }
        for name, array in given.items():
            if array is not None and array.shape != self.shape:
                raise DataError(
                    f"the {name} is {array.shape}, the truth {self.shape}: give one size"
                )
        if self.fov is not None and not self.fov.any():
            raise DataError("the field of view is empty: nothing can be measured inside it")

    @cached_property
    def area_px(self) -> int:
        """Pixels that are judged: of the field of view, or all."""
        return int(self.truth.mask.size if self.fov is None else np.count_nonzero(self.fov))

    @cached_property
    def hit_px(self) -> int:
        """Vessel pixels of the truth that were found."""
        return int(np.count_nonzero(self.prediction.mask & self.truth.mask))

    @property
    def false_px(self) -> int:
        """Predicted vessel pixels that are none."""
        return self.prediction.area_px - self.hit_px

    @property
    def missed_px(self) -> int:
        """Vessel pixels of the truth that were not found."""
        return self.truth.area_px - self.hit_px

    @property
    def both_empty(self) -> bool:
        """Neither mask has a vessel pixel."""
        return not (self.prediction.area_px or self.truth.area_px)

    @property
    def one_empty(self) -> bool:
        """One mask has vessel pixels, the other has none."""
        return bool(self.prediction.area_px) != bool(self.truth.area_px)

    @cached_property
    def boundary_distances_px(self) -> tuple[Distances, Distances]:
        """From each boundary pixel of one mask to the boundary of the other: (N,) and (M,).

        Prediction to truth, then truth to prediction. Neither mask may be empty.
        """
        ours, theirs = self.prediction.boundary, self.truth.boundary
        box = _join(self.prediction.box, self.truth.box)
        ours, theirs = ours[box], theirs[box]
        return measure_distances(ours, theirs), measure_distances(theirs, ours)

    @cached_property
    def rim_distances_px(self) -> tuple[Distances, Distances]:
        """The same as the paper's code has it: from each rim pixel to the other mask, filled."""
        box = _join(self.prediction.box, self.truth.box)
        ours, theirs = self.prediction, self.truth
        return (
            measure_distances(ours.rim[box], theirs.mask[box]),
            measure_distances(theirs.rim[box], ours.mask[box]),
        )


def cut_to(mask: BoolMask | MaskFacts, fov: BoolMask | None) -> MaskFacts:
    """Return `mask` without what lies outside `fov`; `MaskFacts` count as cut."""
    if isinstance(mask, MaskFacts):
        return mask
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise DataError(f"a mask is bool of height x width, not {mask.dtype} of {mask.shape}")
    if fov is None:
        return MaskFacts(mask)
    if fov.dtype != np.bool_ or fov.shape != mask.shape:
        raise DataError(
            f"the field of view is {fov.dtype} of {fov.shape}, its mask {mask.shape}: "
            "give a bool array of the size of the mask"
        )
    return MaskFacts(mask & fov)


def measure_distances(points: BoolMask, target: BoolMask) -> Distances:
    """Return how far each pixel of `points` is from the nearest of `target`, both (H, W), in px."""
    away = (~target).astype(np.uint8)
    found = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[points]
    exact = found.astype(np.float64)
    if exact.size and exact.max() > _EXACT_UP_TO_PX:
        from scipy.ndimage import distance_transform_edt  # twelve times as slow, and exact

        return np.asarray(distance_transform_edt(away)[points], np.float64)
    # Squares of distances between pixels are whole numbers: what float32 lost comes back.
    return np.sqrt(np.rint(exact * exact))


def _join(first: Box, second: Box) -> Box:
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return rows, columns
