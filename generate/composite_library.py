"""What the composite engine takes from the shots, once for a run: grounds, frames, vessels.

In: a few images with their masks, and others with what may be vessel in them. Out: a `Library`: of
each image the ground with its vessels filled in and gone on beyond the field of view, the frame of
the camera, where its vessels were; and, of the labelled ones alone, how vessels look
(`VesselStyle`). Labelled vessels are taken out; what the shots do not label (thin vessels,
capillaries) stays in the ground, as it would in a new image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.images import ImageArray
from univg.masks import BoolMask
from univg.resize import resize_image, resize_to
from univg.vesselness import find_field

from .blend import measure_grain
from .composite_fill import fill_holes
from .composite_style import learn_style
from .composite_vessels import SMOOTH_SHARE, VesselStyle, scale_style
from .fields import blur

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Shape = tuple[int, int]
Shot = tuple[str, ImageArray, BoolMask, BoolMask | None]

ALGORITHM = 1  # part of a library's identity: raise with every change that changes images
MAX_LIBRARY_PX = 2**22
"""Larger shots are worked on at this size; what they say does not get finer."""
MOST_LENT_PX = 2**25
"""Of unlabelled images so many pixels are kept at most: each process holds them all."""
MAP_PX = 48
"""Side of the maps by which grounds are laid under new vessels."""
RIM_SHARE = 0.025
"""Width of the ring, as a share of the short side, in which the edge of the view takes light."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What is left of a shot without its vessels."""

    name: str
    picture: Bytes
    """(H, W, C), without vessels and without a frame."""
    view: BoolMask
    """(H, W), where the camera sees."""
    frame: Bytes
    """(H, W, C), the shot itself: what is shown outside the view."""
    rim: Floats
    """(D, C), how much light is left at 0, 1, … px from the edge of the view."""
    vessel_map: Floats
    """(MAP_PX, MAP_PX), how many vessels the shot had where, less their mean."""
    grain: Floats
    """(C,), how strong its finest texture is."""
    colour: Floats
    """(C,), mean logarithm of the light inside the view."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """All that the composite engine knows of the shots."""

    identity: str
    """Hash of the shots' contents, of the size and of the algorithm."""
    size: Shape
    grey: bool
    grounds: tuple[Ground, ...]
    style: VesselStyle
    light_spread: float
    """How much the light differs between shots, in logarithms."""
    _fitted: dict[Shape, Library] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what can be made again."""
        return {**self.__dict__, "_fitted": {}}

    def at(self, shape: Shape) -> Library:
        """Return the library for images of `shape` (H, W); the last one is kept at hand."""
        if shape == self.size:
            return self
        if shape not in self._fitted:
            self._fitted.clear()
            self._fitted[shape] = fit_library(self, shape)
        return self._fitted[shape]


def build_library(
    shots: Sequence[Shot], size: Shape | None = None, others: Sequence[Shot] = ()
) -> Library:
    """Learn from `shots`: name, image, mask, field of view or None; for images of `size` (H, W).

    Without a size: the one most shots have. Shots of another size are stretched to it. `others`
    give grounds alone: their masks are of what may be vessel.
    """
    check_shots(shots)
    check_others(others, shots[0])
    identity = hash_shots(shots, size)
    if others:
        identity = hashlib.sha256(f"{identity} {hash_shots(others, size)}".encode()).hexdigest()
    shape = size or Counter(image.shape[:2] for _, image, _, _ in shots).most_common(1)[0][0]
    shape = _limit(shape)
    others = spread_out(others, MOST_LENT_PX // (shape[0] * shape[1]))
    top = max(int(image.max()) for _, image, _, _ in (*shots, *others))
    fitted = [_fit_shot(shot, shape, top) for shot in (*shots, *others)]
    rng = np.random.Generator(np.random.PCG64(int(identity[:15], 16)))
    grounds, smooths = [], []
    for name, image, mask, view in fitted:
        ground, smooth = _make_ground(name, image, mask, view, rng)
        grounds.append(ground)
        smooths.append(smooth)
    labelled = list(zip(fitted, smooths, grounds, strict=True))[: len(shots)]
    style = learn_style(
        [(image, smooth, ground.picture, mask & view, view)
         for (_, image, mask, view), smooth, ground in labelled]
    )  # fmt: skip
    return Library(
        identity=identity, size=shape, grey=shots[0][1].ndim == 2, grounds=tuple(grounds),
        style=style, light_spread=_measure_light(grounds),
    )  # fmt: skip


def spread_out(shots: Sequence[Shot], most: int) -> list[Shot]:
    """Return `most` of `shots`, at least one where there is any, spread over their order."""
    count = min(len(shots), max(1, most))
    return [shots[number * len(shots) // count] for number in range(count)]


def check_others(others: Sequence[Shot], shot: Shot) -> None:
    """Refuse unlabelled images that are of another kind than `shot`, in one line."""
    for name, image, _, _ in others:
        if image.ndim != shot[1].ndim or image.dtype != shot[1].dtype:
            kinds = [
                f"{'grey' if each.ndim == 2 else 'colour'}, {each.dtype}"
                for each in (image, shot[1])
            ]
            raise DataError(
                f"{name} is {kinds[0]} and the shot {shot[0]} is {kinds[1]}: bring unlabelled "
                "images to the kind of the shots"
            )


def check_shots(shots: Sequence[Shot]) -> None:
    """Refuse shots that nothing can be learnt from, in one line."""
    if not shots:
        raise DataError("the composite engine needs labelled shots: got none; give 1 to 20 pairs")
    first = shots[0]
    for name, image, mask, view in shots:
        shapes = [mask.shape] + ([] if view is None else [view.shape])
        if image.ndim not in {2, 3} or any(shape != image.shape[:2] for shape in shapes):
            raise DataError(
                f"{name}: the image is {image.shape[:2]}, its mask and field of view {shapes}; "
                "bring them to one size"
            )
        if not mask.any() or mask.all():
            what = "no vessel" if not mask.any() else "nothing but vessels"
            raise DataError(f"{name}: its mask shows {what}; leave this shot out or label it")
        if view is not None and not (mask & view).any():
            raise DataError(f"{name}: no vessel lies in its field of view; check that file")
        if image.ndim != first[1].ndim:
            kinds = ["grey" if each.ndim == 2 else "colour" for each in (image, first[1])]
            raise DataError(
                f"{name} is {kinds[0]} and {first[0]} is {kinds[1]}: bring all shots to one kind"
            )


def hash_shots(shots: Sequence[Shot], size: Shape | None) -> str:
    """Return the hash of all that decides a library."""
    digest = hashlib.sha256(f"composite {ALGORITHM} {size}".encode())
    for name, image, mask, view in shots:
        for values in (image, mask, np.zeros(0, np.bool_) if view is None else view):
            digest.update(f"\0{name} {values.dtype} {values.shape}\0".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def fit_library(library: Library, shape: Shape) -> Library:
    """Return `library` for images of `shape`."""
    scale = (shape[0] * shape[1] / (library.size[0] * library.size[1])) ** 0.5
    grounds = []
    for each in library.grounds:
        view = _resize_view(each.view, shape)
        count = max(2, round(len(each.rim) * scale))
        picture = _resize(each.picture, shape)
        rim = cv2.resize(each.rim, (each.rim.shape[1], count), interpolation=cv2.INTER_LINEAR)
        grounds.append(
            replace(
                each, picture=picture, frame=_resize(each.frame, shape), view=view,
                grain=measure_grain(picture.astype(np.float32)),
                rim=np.asarray(rim, np.float32).reshape(count, -1),
            )
        )  # fmt: skip
    return replace(
        library, size=shape, grounds=tuple(grounds), style=scale_style(library.style, scale),
        _fitted={},
    )  # fmt: skip


def _limit(shape: tuple[int, ...]) -> Shape:
    height, width = int(shape[0]), int(shape[1])
    factor = min(1.0, (MAX_LIBRARY_PX / (height * width)) ** 0.5)
    return max(16, int(height * factor)), max(16, int(width * factor))


def _fit_shot(shot: Shot, shape: Shape, top: int) -> tuple[str, Bytes, BoolMask, BoolMask]:
    """Return name, 8-bit image (H, W, C), mask and view at `shape`."""
    name, image, mask, view = shot
    view = find_field(image) if view is None else view
    if image.dtype != np.uint8:
        # One factor for all shots; 16-bit files often use 10 or 12 of their bits.
        image = (image.astype(np.float32) * np.float32(255 / max(top, 1)) + 0.5).astype(np.uint8)
    plain = np.asarray(image, np.uint8)
    stored = _resize(plain if plain.ndim == 3 else plain[:, :, None], shape)
    return name, stored, resize_to(mask, shape), _resize_view(view, shape)


def _resize(picture: Bytes, shape: Shape) -> Bytes:
    resized = resize_image(picture, shape)
    return resized if resized.ndim == 3 else resized[:, :, None]


def _resize_view(view: BoolMask, shape: Shape) -> BoolMask:
    if view.shape == shape:
        return np.ascontiguousarray(view)
    plain = view.astype(np.uint8) * 255
    small = cv2.resize(plain, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small > 127)


def _make_ground(
    name: str, image: Bytes, mask: BoolMask, view: BoolMask, rng: np.random.Generator
) -> tuple[Ground, Floats]:
    """Return the ground of a shot, and its smooth part."""
    short = min(mask.shape)
    picture = image.astype(np.float32)
    inner = distance_to_edge(view)
    # The outermost ring is darker: no ground to go on from.
    trusted = inner > max(2.0, RIM_SHARE * short) if not view.all() else view
    if not (trusted & ~mask).any():
        trusted = view
    known = trusted & ~widen_vessels(mask)
    filled = fill_holes(picture, known, max(1.5, SMOOTH_SHARE * short), rng)
    ground = np.clip(filled.picture + 0.5, 0, 255).astype(np.uint8)
    seen = np.log(np.maximum(filled.smooth[view], 1.0))
    made = Ground(
        name=name, picture=ground, view=view, frame=image,
        rim=_measure_rim(picture, filled.smooth, inner, view & ~widen_vessels(mask)),
        vessel_map=map_vessels(mask), grain=measure_grain(ground.astype(np.float32)),
        colour=seen.mean(axis=0).astype(np.float32),
    )  # fmt: skip
    return made, filled.smooth


def widen_vessels(mask: BoolMask) -> BoolMask:
    """Return `mask` with the blurred rims of its vessels, which are wider where vessels are."""
    short = min(mask.shape)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside, labels = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    radius = cv2.dilate(inside, np.ones((7, 7), np.uint8))
    table = np.zeros(int(labels.max()) + 1, np.float32)
    table[labels[mask]] = radius[mask]
    blurred = max(1.0, min(2.0, 0.0065 * short), 0.0045 * short)
    return np.asarray(outside <= blurred + 0.35 * table[labels])


def distance_to_edge(view: BoolMask) -> Floats:
    """Return how deep inside the view each pixel is, in px; the image's border is no edge."""
    if view.all():
        return np.full(view.shape, float(max(view.shape)), np.float32)
    return np.asarray(cv2.distanceTransform(view.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def map_vessels(mask: BoolMask) -> Floats:
    """Return where the vessels of a mask are, coarsely, less their mean."""
    cover = cv2.resize(mask.astype(np.float32), (MAP_PX, MAP_PX), interpolation=cv2.INTER_AREA)
    fine, wide = (blur(np.asarray(cover, np.float32), sigma) for sigma in (1.5, 5.0))
    # Squared: where most vessels meet counts most.
    both = fine / max(float(fine.max()), 1e-6) + 2 * np.square(wide / max(float(wide.max()), 1e-6))
    return np.asarray(both - both.mean(), np.float32)


def _measure_rim(picture: Floats, smooth: Floats, inner: Floats, known: BoolMask) -> Floats:
    """Return the share of light (D, C) at each distance from the edge of the view."""
    count = max(2, round(RIM_SHARE * min(inner.shape)) + 1)
    rim = np.ones((count, picture.shape[2]), np.float32)
    if known.all() or inner.min() > 0:
        return rim
    for step in range(count - 1):
        ring = known & (inner > step) & (inner <= step + 1)
        if ring.any():
            rim[step] = picture[ring].mean(axis=0) / np.maximum(smooth[ring].mean(axis=0), 1)
    return np.clip(rim, 0, 1.3)


def _measure_light(grounds: Sequence[Ground]) -> float:
    """Return how much the light of shots differs in place, their whole brightness left out."""
    maps = []
    for each in grounds:
        small = cv2.resize(each.picture, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
        logs = np.log(np.maximum(small.reshape(8, 8, -1).max(axis=2), 2.0))
        maps.append(logs - logs.mean())
    if len(maps) < 2:
        return 0.1
    return float(np.clip(np.std(maps, axis=0).mean(), 0.02, 0.3))
