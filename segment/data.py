"""The pairs that a segmenter learns from, brought to the form that its network sees.

In: files of images, masks and fields of view; a `Preparation`, which is kept with the weights.
Out: pixels as they are stored (8 or 16 bits) at one scale, what turns them into what the network
takes, and where vessels and field of view are. Prediction prepares its images by the same function.

Values are taken relative to the image itself: 0 and 1 are its darkest and brightest thousandth
inside the field of view, then each channel has mean 0 and standard deviation 1 there. So the bit
depth, the exposure and the colour of the light do not matter, and an image is judged alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from univg.errors import DataError, Problem
from univg.images import ImageArray, PictureError, read_image
from univg.masks import (
    BoolMask,
    MaskReading,
    find_fov,
    inspect_mask,
    judge_example,
    judge_view,
)
from univg.pairs import Pair
from univg.resize import resize_to
from univg.vesselness import find_field

Channels = Literal["rgb", "grey", "green"]
View = Literal["auto", "given", "found", "whole"]

DARKEST, BRIGHTEST = 0.1, 99.9
"""Percent: a hot pixel or two must not make the rest dark."""
MOST_MEASURED = 2**16
LEAST_SPREAD = 1e-3
MOST_PLACES = 4096


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How an image comes to the network."""

    channels: Channels
    longest_px: int
    """Longest side; 0: images stay as large as they are."""
    fov: View
    """auto: given where there is one, else the disc of a fundus camera, else everything."""

    @property
    def count(self) -> int:
        """Number of channels."""
        return 3 if self.channels == "rgb" else 1

    def plain(self) -> dict[str, Any]:
        """Return it as JSON says it."""
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """An image as the network will see it, but for the last arithmetic."""

    pixels: npt.NDArray[Any]
    """(H, W, C), uint8 or uint16."""
    fov: BoolMask
    low: float
    span: float
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    """Of each channel, after `low` and `span`."""
    stored_shape: tuple[int, int]
    """Height and width of the file's image."""

    def scale(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return pixels of this image as values from 0 to 1."""
        values = pixels.astype(np.float32)
        values -= np.float32(self.low)
        values *= np.float32(1.0 / self.span)
        return np.clip(values, 0.0, 1.0, out=values)

    def standardise(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return values (H, W, C) with mean 0 and deviation 1, as (C, H, W)."""
        even = (values - self.mean) / self.std
        return np.ascontiguousarray(np.moveaxis(even, 2, 0), np.float32)

    def whole(self) -> npt.NDArray[np.float32]:
        """Return the whole image as the network takes it, (C, H, W)."""
        return self.standardise(self.scale(self.pixels))


@dataclass(frozen=True)
class Example:
    """A prepared pair."""

    name: str
    image: Prepared
    labels: npt.NDArray[np.uint8]
    """(H, W, 2): 255 where there is vessel; 255 inside the field of view."""
    vessels: npt.NDArray[np.int32]
    """Some places (row, column) of vessel, at most `MOST_PLACES`."""
    inside: npt.NDArray[np.int32]
    """The same of the field of view."""

    @property
    def mask(self) -> BoolMask:
        """Where there is vessel."""
        return np.asarray(self.labels[:, :, 0] > 127)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.image.pixels.nbytes + self.labels.nbytes + self.image.fov.nbytes


def prepare_image(image: ImageArray, how: Preparation, fov: BoolMask | None = None) -> Prepared:
    """Prepare an image (H, W) or (H, W, 3); `fov` is the one given with it, if there is one."""
    shape = scaled_shape((image.shape[0], image.shape[1]), how.longest_px)
    view = choose_view(image, how.fov, fov)
    pixels = _scale_pixels(_take_channels(image, how.channels), shape)
    small = view if view.shape == shape else _scale_view(view, shape)
    inside = pixels[small] if small.any() else pixels.reshape(-1, pixels.shape[2])
    inside = inside[:: max(1, len(inside) // MOST_MEASURED)]
    low, high = (float(value) for value in np.percentile(inside, (DARKEST, BRIGHTEST)))
    span = high - low if high > low else 1.0
    values = np.clip((inside.astype(np.float32) - low) / span, 0.0, 1.0)
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = values.std(axis=0, dtype=np.float64).astype(np.float32)
    return Prepared(
        pixels, small, low, span, mean, np.maximum(std, np.float32(LEAST_SPREAD)),
        (image.shape[0], image.shape[1]),
    )  # fmt: skip


def choose_view(image: ImageArray, how: View, given: BoolMask | None) -> BoolMask:
    """Return where the image counts."""
    if how == "whole":
        return np.ones(image.shape[:2], np.bool_)
    if how == "found":
        return find_fov(image)
    if given is not None:
        return given
    if how == "given":
        raise DataError("no field of view is given for it; take --fov found or --fov whole")
    return find_field(image)


def prepare_pair(pair: Pair, how: Preparation) -> Example:
    """Read and prepare a pair of files; what is wrong with them was told before."""
    image, reading = read_image(pair.image), inspect_mask(pair.mask)
    fov = None if pair.fov is None else inspect_mask(pair.fov).mask
    try:
        prepared = prepare_image(image, how, fov)
    except DataError as error:
        raise DataError(f"{pair.image}: {error}") from error
    shape = prepared.pixels.shape[:2]
    mask = resize_to(reading.mask, (shape[0], shape[1]))
    labels = np.stack([mask, prepared.fov], axis=2).astype(np.uint8) * np.uint8(255)
    return Example(
        pair.stem, prepared, labels, _some_places(mask & prepared.fov), _some_places(prepared.fov)
    )


def judge_pair(pair: Pair, *, synthetic: bool = False) -> list[Problem]:
    """Return all that is wrong with a pair: unreadable, sizes that differ, no vessel, no mask."""
    problems: list[Problem] = []
    size: tuple[int, int] | None = None
    try:
        image = read_image(pair.image)
        size = image.shape[1], image.shape[0]
        if image.min() == image.max():
            detail = f"every pixel has the value {int(image.min())}"
            problems.append(
                Problem(path=pair.image, kind="blank", detail=detail, remedy="replace the image")
            )
    except PictureError as error:
        problems.append(error.problem)
    try:
        problems += _judge_mask(pair.mask, inspect_mask(pair.mask), size, synthetic)
        if pair.fov is not None:
            problems += judge_view(pair.fov, inspect_mask(pair.fov), size)
    except PictureError as error:
        problems.append(error.problem)
    return problems


def is_coloured(image: ImageArray) -> bool:
    """Whether the channels of an image differ."""
    return image.ndim == 3 and not bool((image == image[:, :, :1]).all())


def scaled_shape(shape: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return `shape` with its longest side scaled to `longest_px`, as it is for 0."""
    if not longest_px:
        return shape
    scale = longest_px / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _judge_mask(
    path: Path, reading: MaskReading, size: tuple[int, int] | None, synthetic: bool
) -> list[Problem]:
    problems = judge_example(path, reading, size)
    if synthetic:  # a tree may have missed the picture: nothing to learn, and nothing wrong
        problems = [problem for problem in problems if problem.kind != "empty"]
    return problems


def _take_channels(image: ImageArray, channels: Channels) -> npt.NDArray[Any]:
    """Return (H, W, C); grey images of a colour model are repeated."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2) if channels == "rgb" else image[:, :, None]
    if channels == "rgb":
        return image
    if channels == "green":
        return np.ascontiguousarray(image[:, :, 1:2])
    grey: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey[:, :, None]


def _scale_pixels(pixels: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    if pixels.shape[:2] == shape:
        return np.ascontiguousarray(pixels)
    shrinking = shape[0] * shape[1] < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    scaled: npt.NDArray[Any] = cv2.resize(pixels, shape[::-1], interpolation=how)
    return scaled if scaled.ndim == 3 else scaled[:, :, None]


def _scale_view(view: BoolMask, shape: tuple[int, int]) -> BoolMask:
    scaled = cv2.resize(view.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(scaled > 0)


def _some_places(mask: BoolMask) -> npt.NDArray[np.int32]:
    """Return at most `MOST_PLACES` places of `mask`, evenly spread over it."""
    flat = np.flatnonzero(mask)
    if len(flat) > MOST_PLACES:
        flat = flat[np.linspace(0, len(flat) - 1, MOST_PLACES).astype(np.int64)]
    return np.stack(np.divmod(flat, mask.shape[1]), axis=1).astype(np.int32)
