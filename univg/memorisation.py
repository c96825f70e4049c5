"""Whether generated masks or images are copies of the few shots that they were learnt from.

In: generated items, the shots, other real items if there are any. Out: `Copying`: for each
generated item the nearest shot, and the share that lies nearer to a shot than real ones lie to
each other. Nearness sees through quarter turns, mirroring and shifts; of masks it is the overlap
(`univg.overlap`); of images the correlation of their fine structure, light and contrast taken out,
at 64 px. The vessels of an image come from its mask, so where masks are given the background is
compared by itself as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from univg.errors import DataError
from univg.images import ImageArray
from univg.masks import BoolMask
from univg.overlap import TURNS, make_thumbnail, overlap_table, turn_over
from univg.vesselness import Float32, find_field, shrink_image, take_grey

Kind = Literal["mask", "image"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SIGNATURE_PX = 64
_REACH_PX = 6  # about a tenth of the side, as for masks
_BACKGROUND_PX = 6.0
_SOFTEN_PX = 0.7
_LEAST_SHARED = 0.5  # of the smaller weight; a correlation over less is chance
_RIM_PX = 4
_FAINT = 1e-3  # a quarter of a grey level
_RARE = 0.05
_SAME = 1e-3
_COPY = 0.5  # of the threshold
_SAME_SUBJECT = 0.6  # of the median distance: two frames of one patient, both eyes
_BATCH = 64
_AREA = cv2.INTER_AREA


@dataclass(frozen=True, kw_only=True)
class NearestShot:
    """The shot that a generated item is nearest to."""

    index: int
    """Which generated item."""
    shot: int
    """Which shot."""
    distance: float
    """0 a copy, 1 nothing in common."""
    turn: int
    """How to lay the shot on the item: `univg.overlap.turn_over(shot, turn)`."""
    nearer: bool
    """Whether that is nearer than real ones are to each other."""
    copied: bool
    """Whether it is less than half as far as that: no chance, a copy."""


@dataclass(frozen=True, kw_only=True)
class Copying:
    """How many of the generated items are copies of shots."""

    kind: Kind
    share: float | None
    """Share of items nearer to a shot than `threshold`; None where there is no threshold."""
    expected: float | None
    """The share that new real items would have, about: a figure near this one is no memory."""
    threshold: float | None
    """The least distance of a real item from the nearest other; None of one shot alone."""
    nearest: tuple[NearestShot, ...]
    """One for each generated item, in their order."""
    real: tuple[float, ...]
    """Distances of real items from the nearest shot other than themselves."""
    background: Copying | None = None
    """The same with the vessels left out; None where no masks were given."""

    @property
    def copies(self) -> int:
        """How many items are copies beyond doubt."""
        return sum(each.copied for each in self.nearest)

    def describe(self) -> str:
        """Return the figures as one line."""
        distances = [each.distance for each in self.nearest]
        count = len(self.nearest)
        plural = "" if count == 1 else "s"
        if self.threshold is None or self.share is None:
            text = f"{count} {self.kind}{plural}: too few real ones to tell copies"
        else:
            nearer = sum(each.nearer for each in self.nearest)
            text = (
                f"{nearer} of {count} {self.kind}{plural} ({self.share:.0%}; of new real ones "
                f"about {self.expected or 0:.0%}) nearer to a shot than real ones to each other "
                f"({self.threshold:.2f}), {self.copies} of them copies"
            )
        text += f"; distance to the nearest shot: median {np.median(distances):.2f}"
        text += f", least {min(distances):.2f}"
        if self.real:
            text += f"; of real ones median {np.median(self.real):.2f}"
        if self.background is not None and self.background.share is not None:
            text += f"; without the vessels {self.background.share:.0%}"
            text += f" nearer, {self.background.copies} copies"
        return text

    def worst(self, count: int = 4) -> list[NearestShot]:
        """Return the `count` items nearest to a shot, the nearest first: the pairs to show."""
        return sorted(self.nearest, key=lambda each: each.distance)[:count]


def measure_copying(
    generated: Sequence[npt.NDArray[Any]],
    shots: Sequence[npt.NDArray[Any]],
    real_others: Sequence[npt.NDArray[Any]] = (),
    *,
    kind: Kind,
    generated_masks: Sequence[BoolMask] | None = None,
    shot_masks: Sequence[BoolMask] | None = None,
    other_masks: Sequence[BoolMask] | None = None,
) -> Copying:
    """Return how many of `generated` are copies of `shots`; all masks, or all images.

    The threshold is how near real items come to each other: each shot to the nearest other shot
    and each of `real_others` to the nearest shot; the least of these distances or, of more than
    20, the one that a twentieth of them falls below. A real item that equals a shot is left out,
    and so are distances below 0.6 of the median: pictures of one subject, which would hide copies.
    With the masks of the images, they are compared once more with the vessels left out; the
    threshold is then by the real items whose masks are given.
    """
    if not len(generated) or not len(shots):
        raise DataError(f"{len(generated)} generated items, {len(shots)} shots: give one at least")
    others = _leave_out_equal(real_others, shots)
    if kind == "mask":
        prints = [np.array([make_thumbnail(mask) for mask in each]) for each in (generated, shots)]
        strangers = [make_thumbnail(real_others[k]) for k in others]
        tables = [overlap_table(each, prints[1]) for each in prints]
        if strangers:
            tables.append(overlap_table(np.array(strangers), prints[1]))
        return _judge(kind, tables)
    found = _compare_images(generated, shots, [real_others[k] for k in others], ((), (), ()))
    if generated_masks is None or shot_masks is None:
        return found
    known = others if other_masks is not None else []
    vessels = (generated_masks, shot_masks, [other_masks[k] for k in known] if other_masks else [])
    rest = [real_others[k] for k in known]
    return replace(found, background=_compare_images(generated, shots, rest, vessels))


def sign_images(
    images: Sequence[ImageArray], vessels: Sequence[BoolMask] = ()
) -> tuple[Float32, Float32]:
    """Return what is compared of N images, values and weights (N, 64, 64).

    The grey, softened, less its local mean and over its local contrast: so light, colour and
    contrast play no part. Weights are 0 outside the field of view and on `vessels`, if given.
    """
    masks = list(vessels) if len(vessels) else [None] * len(images)
    signed = [_sign_image(image, mask) for image, mask in zip(images, masks, strict=True)]
    values, weights = (np.array([each[k] for each in signed], np.float32) for k in (0, 1))
    return values, weights


def correlation_table(
    images: tuple[Float32, Float32], sources: tuple[Float32, Float32]
) -> tuple[FloatArray, IntArray]:
    """Return the largest correlation (N, M) of each image with each source over turns and shifts.

    Second (N, M): the turn it was found at. Values and weights as `sign_images` gives them; each
    correlation is taken where both weigh: half of what the smaller one has, or more.
    """
    size = fft.next_fast_len(SIGNATURE_PX + _REACH_PX)
    spectra = _transform(*images, size)
    table = np.full((len(images[0]), len(sources[0])), -1.0)
    turns = np.zeros(table.shape, np.int64)
    for index, (value, weight) in enumerate(zip(*sources, strict=True)):
        for turn in range(TURNS):
            turned = _transform(turn_over(value, turn)[None], turn_over(weight, turn)[None], size)
            found = _correlate(spectra, turned, size)
            better = found > table[:, index]
            table[better, index] = found[better]
            turns[better, index] = turn
    return table, turns


def _compare_images(
    generated: Sequence[ImageArray],
    shots: Sequence[ImageArray],
    others: Sequence[ImageArray],
    vessels: tuple[Sequence[BoolMask], Sequence[BoolMask], Sequence[BoolMask]],
) -> Copying:
    sources = sign_images(shots, vessels[1])
    tables = [
        correlation_table(sign_images(generated, vessels[0]), sources),
        correlation_table(sources, sources),
    ]
    if len(others):
        tables.append(correlation_table(sign_images(others, vessels[2]), sources))
    return _judge("image", tables)


def _judge(kind: Kind, tables: Sequence[tuple[FloatArray, IntArray]]) -> Copying:
    """Return the verdict from likeness to the shots of generated, shots and other real ones."""
    (likeness, turns), (among, _), *rest = tables
    real = [1 - np.delete(row, k).max() for k, row in enumerate(among) if len(row) > 1]
    for table, _ in rest:
        real.extend(1 - table.max(axis=1))
    real = [float(np.clip(distance, 0, 1)) for distance in real]
    threshold, expected = _choose_threshold(real)
    nearest = []
    for index, row in enumerate(likeness):
        shot = int(row.argmax())
        distance = float(np.clip(1 - row[shot], 0, 1))
        nearest.append(
            NearestShot(
                index=index,
                shot=shot,
                distance=distance,
                turn=int(turns[index, shot]),
                nearer=threshold is not None and distance < threshold,
                copied=threshold is not None and distance < _COPY * threshold,
            )
        )
    share = None if threshold is None else float(np.mean([each.nearer for each in nearest]))
    return Copying(
        kind=kind,
        share=share,
        expected=expected,
        threshold=threshold,
        nearest=tuple(nearest),
        real=tuple(real),
    )


def _choose_threshold(real: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the distance that few real items fall below, and how many a new one would.

    Pictures of one subject do not count. Of k real distances in order, a new one falls below the
    first with a chance of 1 in k + 1.
    """
    if not len(real):
        return None, None
    if np.median(real) < _SAME:  # the same picture again and again tells nothing
        return None, None
    strangers = [distance for distance in real if distance >= _SAME_SUBJECT * np.median(real)]
    rank = int(_RARE * (len(strangers) - 1))
    return float(np.sort(strangers)[rank]), (rank + 1) / (len(strangers) + 1)


def _leave_out_equal(
    items: Sequence[npt.NDArray[Any]], shots: Sequence[npt.NDArray[Any]]
) -> list[int]:
    """Return which of `items` are no shot, pixel for pixel."""
    return [
        k for k, item in enumerate(items) if not any(np.array_equal(item, shot) for shot in shots)
    ]


def _sign_image(image: ImageArray, vessels: BoolMask | None) -> tuple[Float32, Float32]:
    small = shrink_image(image)
    grey = take_grey(small)
    field = _erode(find_field(small), 3).astype(np.float32)
    weight = field
    if vessels is not None:
        wide = cv2.resize(vessels.astype(np.float32), grey.shape[::-1], interpolation=_AREA) > 0
        weight = field * (cv2.dilate(wide.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    side = (SIGNATURE_PX, SIGNATURE_PX)
    share = np.asarray(cv2.resize(weight, side, interpolation=_AREA), np.float32)
    value = cv2.resize(grey * weight, side, interpolation=_AREA) / np.maximum(share, 1e-3)
    kept = (share > 0.3).astype(np.float32)
    flat = _weighted_mean(value, kept, _SOFTEN_PX) - _weighted_mean(value, kept, _BACKGROUND_PX)
    local = np.sqrt(_weighted_mean(flat * flat, kept, _BACKGROUND_PX))
    overall = float(np.sqrt((flat * flat * kept).sum() / max(float(kept.sum()), 1.0)))
    # Light falls off towards the rim of the disc in all images of a camera: that says nothing.
    kept *= _erode(cv2.resize(field, side, interpolation=_AREA) > 0.5, _RIM_PX)
    if overall < _FAINT:  # what rounding leaves of an even grey is no structure
        return np.zeros_like(kept), kept
    return (flat / np.maximum(local, 0.5 * overall) * kept).astype(np.float32), kept


def _erode(field: BoolMask, rim_px: int) -> BoolMask:
    kernel = np.ones((2 * rim_px + 1,) * 2, np.uint8)
    return cv2.erode(field.astype(np.uint8), kernel, borderValue=1).astype(np.bool_)


def _weighted_mean(values: npt.NDArray[Any], weights: npt.NDArray[Any], sigma_px: float) -> Float32:
    blurred = [
        cv2.GaussianBlur(each, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
        for each in (values * weights, weights)
    ]
    return np.asarray(blurred[0] / np.maximum(blurred[1], 1e-3), np.float32)


def _transform(values: Float32, weights: Float32, size: int) -> npt.NDArray[np.complex64]:
    """Return the spectra (3, N, …) of values, their squares, and the weights."""
    every = np.stack([values, values * values, weights])
    return np.asarray(fft.rfft2(every, (size, size)), np.complex64)


def _correlate(
    images: npt.NDArray[np.complex64], source: npt.NDArray[np.complex64], size: int
) -> FloatArray:
    """Return the largest correlation (N,) over all shifts within reach.

    Σ ab / √(Σ a² w_b · Σ w_a b²), each sum over where both weigh: zero padding cuts the rest off.
    """
    best = np.full(images.shape[1], -1.0)
    value, square, weight = np.conj(source)
    for start in range(0, len(best), _BATCH):
        a, a2, w = images[:, start : start + _BATCH]
        products = np.stack([a * value, a2 * weight, w * square, w * weight])
        sums = fft.irfft2(products, (size, size))
        near = np.r_[0 : _REACH_PX + 1, size - _REACH_PX : size]
        both, first, second, shared = sums[..., near[:, None], near[None, :]]
        norm = np.sqrt(np.maximum(first * second, 1e-6))
        least = np.minimum(images[2, start : start + _BATCH, 0, 0].real, weight[0, 0, 0].real)
        enough = shared >= np.maximum(_LEAST_SHARED * least, 1.0)[:, None, None]
        found = np.where(enough, both / norm, -1.0)
        best[start : start + _BATCH] = found.max(axis=(1, 2))
    return best
