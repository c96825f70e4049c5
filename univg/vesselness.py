"""A vessel detector that learns nothing: the same yardstick for every image, real or generated.

In: an image (H, W) or (H, W, 3), 8 or 16 bits. Out: how much each pixel looks like the middle of a
dark or of a bright line, and from that a bool mask. It works at 256 px of the longest side, the
illumination taken out first, with oriented filters that compare a line with both of its sides: a
step (the rim of the optic disc, a rib) has one side only and does not answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from univg.errors import DataError
from univg.images import ImageArray
from univg.masks import BoolMask, find_fov

Float32 = npt.NDArray[np.float32]
Polarity = Literal["dark", "bright"]

WORK_PX = 256
SCALES = ((0.7, 1), (1.1, 1), (1.8, 2))
"""Standard deviation of the line [px at 256], and the step at which it is looked for."""
ORIENTATIONS = 12

_LENGTH = 3.0  # half length of a filter and offset of its sides, in standard deviations of the line
_OFFSET = 3.0
_BACKGROUND_PX = 8.0
_CONTRAST_PX = 24.0
_RIM_PX = 3
_PAD_PX = 16
_SEED_RATIO = 1.6  # hysteresis: a vessel answers that much more strongly somewhere along it
_LEAST_EXTENT_PX = 20.0
_LEVEL = 3.0  # of the fixed threshold, in medians of the response: fits fundus and OCTA
_BISECTIONS = 12


@dataclass(frozen=True, kw_only=True)
class Ridges:
    """How much each pixel is the middle of a line, at working size; 0 outside the field of view."""

    dark: Float32  # (h, w)
    bright: Float32  # (h, w)
    field: BoolMask  # (h, w)

    def of(self, polarity: Polarity) -> Float32:
        """Return the response to lines of one polarity."""
        return self.dark if polarity == "dark" else self.bright


def take_grey(image: ImageArray) -> Float32:
    """Return the channel in which vessels show best, 0 to 1: green of colour, else the only one."""
    grey = image if image.ndim == 2 else image[:, :, min(1, image.shape[2] - 1)]
    return grey.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def find_field(image: ImageArray) -> BoolMask:
    """Return the disc of a fundus camera, or everything where the image shows no such disc.

    A disc fills 30 to 99 % of the image, is convex, and has next to no light around it: neither a
    bright tree on black is one, nor a grainy image with a dark border.
    """
    everything = np.ones(image.shape[:2], np.bool_)
    strongest = image if image.ndim == 2 else functools.reduce(np.maximum, np.moveaxis(image, 2, 0))
    disc = find_fov(strongest)
    if not 0.3 <= float(disc.mean()) <= 0.99:
        return everything
    points = np.argwhere(disc)[:, ::-1].astype(np.int32)
    if float(disc.sum()) < 0.95 * float(cv2.contourArea(cv2.convexHull(points))):
        return everything
    around = float(np.quantile(strongest[~disc], 0.8))
    return disc if around < 0.25 * float(np.median(strongest[disc])) else everything


def flatten_background(grey: Float32, field: BoolMask) -> Float32:
    """Return `grey` (H, W) less its local mean, over its local contrast; 0 outside `field`."""
    inside = field.astype(np.float32)
    if not field.any():
        return np.zeros_like(grey)
    side = max(grey.shape) / WORK_PX
    share = np.maximum(_blur(inside, _BACKGROUND_PX * side), 1e-3)
    rest = (grey - _blur(grey * inside, _BACKGROUND_PX * side) / share) * inside
    share = np.maximum(_blur(inside, _CONTRAST_PX * side), 1e-3)
    local = np.sqrt(_blur(rest * rest, _CONTRAST_PX * side) / share)
    overall = float(np.sqrt((rest * rest).sum() / inside.sum()))
    # Half the overall contrast at least: flat corners shall not have their noise blown up.
    flat: Float32 = (rest / np.maximum(local, 0.5 * overall + 1e-6)).astype(np.float32)
    return flat


def filter_ridges(
    flat: Float32,
    *,
    scales: Sequence[tuple[float, int]] = SCALES,
    orientations: int = ORIENTATIONS,
) -> tuple[Float32, Float32]:
    """Return the responses (H, W) of `flat` to dark and to bright lines, not below 0."""
    dark, bright = np.zeros_like(flat), np.zeros_like(flat)
    for sigma_px, step in scales:
        for best, found in zip(
            (dark, bright), _answer(flat, sigma_px, step, orientations), strict=True
        ):
            np.maximum(best, found, out=best)
    return dark, bright


def measure_ridges(image: ImageArray, fov: BoolMask | None = None) -> Ridges:
    """Return the responses of `image` at working size; `fov` (H, W) is found where not given."""
    if fov is not None and fov.shape != image.shape[:2]:
        raise DataError(f"the field of view is {fov.shape}, its image {image.shape[:2]}")
    small = shrink_image(image)
    grey = take_grey(small)
    field = find_field(small) if fov is None else resize_field(fov, (grey.shape[0], grey.shape[1]))
    dark, bright = filter_ridges(flatten_background(grey, field))
    # The rim itself is a line; but the border of the image is no rim.
    kernel = np.ones((2 * _RIM_PX + 1,) * 2, np.uint8)
    inner = cv2.erode(field.astype(np.uint8), kernel, borderValue=1).astype(np.bool_)
    return Ridges(dark=dark * inner, bright=bright * inner, field=inner)


def choose_polarity(ridges: Sequence[Ridges]) -> Polarity:
    """Return whether vessels are dark or bright in these images: lines that stand out are vessels.

    From the images alone, so that no mask can lend its polarity to an image that has none.
    """
    votes = [np.quantile(each.dark, 0.97) - np.quantile(each.bright, 0.97) for each in ridges]
    return "dark" if float(np.sum(votes)) >= 0 else "bright"


def threshold_ridges(response: Float32, area_px: int | None = None) -> BoolMask:
    """Return the vessels in `response` (H, W) by hysteresis, specks left out.

    With `area_px` the threshold is the one that keeps at most that many pixels and nearly as many:
    then two images are compared by where their lines are, not by how bold.
    """
    if area_px is None:
        answering = response[response > 0]
        level = _LEVEL * float(np.median(answering)) if len(answering) else 0.0
        return _keep_strong(response, level)
    low, high = 0.0, float(response.max(initial=0.0))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if np.count_nonzero(_keep_strong(response, middle)) > area_px:
            low = middle
        else:
            high = middle
    return _keep_strong(response, high)


def detect_vessels(
    image: ImageArray,
    *,
    fov: BoolMask | None = None,
    polarity: Polarity | Literal["auto"] = "auto",
    area: int | None = None,
) -> BoolMask:
    """Return the vessels of `image` as a mask (H, W).

    `area` is the number of vessel pixels [px of the image] to keep; without it the threshold is
    fixed. `polarity` "auto" is chosen from the image alone.
    """
    ridges = measure_ridges(image, fov)
    response = ridges.of(choose_polarity([ridges]) if polarity == "auto" else polarity)
    height, width = image.shape[:2]
    if area is not None:
        area = round(area * response.size / (height * width))
    found = threshold_ridges(response, area)
    if found.shape == (height, width):
        return found
    large = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0.5)


def working_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the size at which an image of `shape` (H, W) is looked at: 256 px the longest side."""
    scale = WORK_PX / max(shape[:2])
    return max(8, round(shape[0] * scale)), max(8, round(shape[1] * scale))


def shrink_image(image: ImageArray) -> ImageArray:
    """Return `image` at working size."""
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind != "u":
        raise DataError(
            f"an image is uint8 or uint16 of H x W or H x W x 3, not {image.dtype} of {image.shape}"
        )
    shape = working_shape(image.shape)
    if image.shape[:2] == shape:
        return image
    how = cv2.INTER_AREA if image.shape[0] > shape[0] else cv2.INTER_LINEAR
    small = cv2.resize(image, shape[::-1], interpolation=how)
    return small.astype(np.uint8) if image.dtype == np.uint8 else small.astype(np.uint16)


def resize_field(field: BoolMask, shape: tuple[int, int]) -> BoolMask:
    """Return `field` scaled to `shape` (H, W)."""
    plain = field.astype(np.uint8)
    return cv2.resize(plain, shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _blur(values: npt.NDArray[np.floating[Any]], sigma_px: float) -> Float32:
    blurred = cv2.GaussianBlur(values, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def _answer(flat: Float32, sigma_px: float, step: int, count: int) -> tuple[Float32, Float32]:
    """Return the strongest answers to dark and bright lines of one width over all orientations."""
    height, width = flat.shape
    small = flat
    if step > 1:
        size = (max(4, width // step), max(4, height // step))
        small = np.asarray(cv2.resize(flat, size, interpolation=cv2.INTER_AREA), np.float32)
    pad = min(_PAD_PX, min(small.shape) - 1)
    padded = np.pad(small, pad, mode="reflect")
    shape = tuple(int(fft.next_fast_len(side)) for side in padded.shape)
    spectrum = fft.fft2(padded, shape)
    dark: Float32 = np.full(small.shape, -np.inf, np.float32)
    bright: Float32 = dark.copy()
    inside = tuple(slice(pad, pad + side) for side in small.shape)
    for kernel in _make_filters((shape[0], shape[1]), sigma_px / step, count):
        # One complex product for both sides: real part against the right, imaginary the left.
        both = fft.ifft2(spectrum * kernel)[inside]
        np.maximum(bright, np.minimum(both.real, both.imag), out=bright)
        np.maximum(dark, -np.maximum(both.real, both.imag), out=dark)
    if step > 1:
        dark, bright = (
            np.asarray(
                cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
            )
            for each in (dark, bright)
        )
    return dark, bright


@functools.lru_cache(maxsize=16)
def _make_filters(shape: tuple[int, int], sigma_px: float, count: int) -> npt.NDArray[Any]:
    """Return spectra (count, H, W) of line minus right side + i (line minus left side), norm 1."""
    y, x = np.meshgrid(*(np.fft.fftfreq(side) * side for side in shape), indexing="ij")
    filters = np.empty((count, *shape), np.complex64)
    for k in range(count):
        angle = np.pi * k / count
        across = y * np.cos(angle) - x * np.sin(angle)
        along = x * np.cos(angle) + y * np.sin(angle)
        window = np.exp(-(along**2) / (2 * (_LENGTH * sigma_px) ** 2))
        line, right, left = (
            _unit_sum(window * np.exp(-((across - shift) ** 2) / (2 * sigma_px**2)))
            for shift in (0.0, _OFFSET * sigma_px, -_OFFSET * sigma_px)
        )
        norm = np.sqrt(((line - right) ** 2).sum())
        filters[k] = fft.fft2(((line - right) + 1j * (line - left)) / norm)
    filters.setflags(write=False)
    return filters


def _unit_sum(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(values / values.sum())


def _keep_strong(response: Float32, level: float) -> BoolMask:
    """Return what answers above `level`, in pieces that are long and somewhere much above it."""
    weak = response > level
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        weak.astype(np.uint8), connectivity=8
    )
    keep = np.zeros(count, np.bool_)
    keep[labels[response > level * _SEED_RATIO]] = True
    extent = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    keep &= extent >= _LEAST_EXTENT_PX * max(response.shape) / WORK_PX
    keep[0] = False
    return np.asarray(keep[labels])
