"""How an image looks, in numbers, and how far two sets of images are apart in them.

In: images (H, W) or (H, W, 3), 8 or 16 bits. Out: `LOOK_FEATURES`, one finite float each, read at
256 px of the longest side inside the field of view; and the distance of two sets over them. The
Fréchet distance over these features is called FD-looks. It is no FID: no network is in it, and
the two are not to be set beside each other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from univg.distance import Comparison, Difference, FloatArray, compare, rank_differences
from univg.images import ImageArray
from univg.masks import BoolMask
from univg.vesselness import (
    Float32,
    filter_ridges,
    find_field,
    flatten_background,
    resize_field,
    shrink_image,
    take_grey,
)


@dataclass(frozen=True)
class LookFeature:
    """One number: its name, its group, its meaning, and the least difference that matters."""

    name: str
    group: str
    meaning: str
    resolution: float


_LEVELS = (2, 10, 25, 50, 75, 90, 98)
_GRADIENTS = (50, 75, 90, 98)
_CONTRAST_PX = (2, 6, 16)
_OCTAVES_PX = (1, 2, 4, 8)
_BANDS = (2, 4, 8, 16, 32, 64, 128)  # borders in cycles an image
_RIDGES = (50, 90, 99)
_LAGS_PX = (1, 2, 4)
_RIDGE_SCALES = ((1.1, 1), (1.8, 2))
_RIDGE_ORIENTATIONS = 6
_FRAME_SHARE = 1 / 20
_FAINT = 1e-3  # added before a logarithm: a quarter of a grey level


def _list_features() -> tuple[LookFeature, ...]:
    groups: list[tuple[str, list[str], str, float]] = [
        ("level", [f"level_q{q:02d}" for q in _LEVELS], "grey quantile, 0 to 1", 0.01),
        ("colour", ["red", "green", "blue"], "mean of a channel", 0.01),
        ("colour", ["red_sd", "green_sd", "blue_sd"], "spread of a channel", 0.005),
        ("colour", ["red_green", "green_blue"], "correlation of two channels", 0.02),
        ("colour", ["saturation", "saturation_sd"], "(largest - least) / largest channel", 0.01),
        (
            "spectrum",
            [f"power_{low}_{high}" for low, high in itertools.pairwise(_BANDS)],
            "log10 share of the power between two frequencies, cycles an image",
            0.03,
        ),
        ("gradient", [f"gradient_q{q}" for q in _GRADIENTS], "log10 gradient quantile", 0.02),
        ("contrast", [f"contrast_{s}px" for s in _CONTRAST_PX], "log10 local sd, mean", 0.02),
        ("contrast", [f"contrast_{s}px_q90" for s in _CONTRAST_PX], "log10 local sd, q90", 0.02),
        ("octaves", [f"energy_{s}px" for s in _OCTAVES_PX], "log10 sd of an octave", 0.02),
        ("octaves", [f"skewness_{s}px" for s in _OCTAVES_PX], "skewness of an octave", 0.1),
        ("octaves", [f"kurtosis_{s}px" for s in _OCTAVES_PX], "log10 kurtosis of one", 0.05),
        ("frame", ["frame_level"], "mean of the outer twentieth", 0.01),
        ("frame", ["centre_less_rim"], "mean of the centre less that around it", 0.01),
        ("frame", ["black_share", "white_share"], "share below 6 %, above 94 %", 0.01),
        ("frame", ["field_share"], "share of the image inside the camera's disc", 0.01),
        ("ridges", [f"dark_ridge_q{q}" for q in _RIDGES], "answer to dark lines, quantile", 0.05),
        (
            "ridges",
            [f"bright_ridge_q{q}" for q in _RIDGES],
            "answer to bright lines, quantile",
            0.05,
        ),
        ("grain", [f"across_{lag}px" for lag in _LAGS_PX], "autocorrelation across", 0.02),
        ("grain", [f"down_{lag}px" for lag in _LAGS_PX], "autocorrelation down", 0.02),
        ("grain", ["noise"], "log10 median of the Laplacian's size", 0.03),
    ]
    return tuple(
        LookFeature(name, group, meaning, least)
        for group, names, meaning, least in groups
        for name in names
    )


LOOK_FEATURES: tuple[LookFeature, ...] = _list_features()
LOOK_NAMES: tuple[str, ...] = tuple(feature.name for feature in LOOK_FEATURES)
LOOK_GROUPS: tuple[str, ...] = tuple(feature.group for feature in LOOK_FEATURES)
_RESOLUTION = tuple(feature.resolution for feature in LOOK_FEATURES)


def describe_look(image: ImageArray, fov: BoolMask | None = None) -> FloatArray:
    """Return the features (D,) of `image`, in the order of `LOOK_FEATURES`.

    `fov` (H, W) is found where not given; what lies outside counts in the group `frame` alone.
    """
    small = shrink_image(image)
    if fov is None or not fov.any():
        field = find_field(small)
    else:
        field = resize_field(fov, (small.shape[0], small.shape[1]))
    colours = np.stack([take_grey(channel) for channel in _split(small)])
    grey = colours[1]
    filled = np.where(field, grey, float(grey[field].mean())).astype(np.float32)
    found = {
        **_measure_levels(grey, field),
        **_measure_colour(colours[:, field]),
        **_measure_spectrum(filled),
        **_measure_gradient(grey, field),
        **_measure_contrast(filled, field),
        **_measure_octaves(filled, field),
        **_measure_frame(grey, field),
        **_measure_ridges(grey, field),
        **_measure_grain(filled, field),
    }
    return np.array([found[name] for name in LOOK_NAMES], dtype=np.float64)


def describe_looks(
    images: Sequence[ImageArray], fovs: Sequence[BoolMask | None] | None = None
) -> FloatArray:
    """Return the features of N images as an array (N, D)."""
    fovs = [None] * len(images) if fovs is None else fovs
    rows = [describe_look(image, fov) for image, fov in zip(images, fovs, strict=True)]
    return np.asarray(rows, np.float64).reshape(len(rows), len(LOOK_FEATURES))


def look_distance(
    reference: Sequence[ImageArray] | FloatArray,
    other: Sequence[ImageArray] | FloatArray,
    *,
    floor: Sequence[ImageArray] | FloatArray | None = None,
    n: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Comparison:
    """Return FD-looks and the energy distance of `other` from `reference`, and their floor.

    Sets are images, or features already measured (N, D). Features are brought to the robust
    spread of `reference`, each group weighs the same, and both sides give the same number `n`.
    The floor is the distance of two halves of `reference`, or of `reference` and `floor`.
    """
    return compare(
        _as_features(reference),
        _as_features(other),
        floor=None if floor is None else _as_features(floor),
        n=n,
        draws=draws,
        seed=seed,
        resolution=_RESOLUTION,
        groups=LOOK_GROUPS,
        what="images",
    )


def rank_look_differences(
    reference: Sequence[ImageArray] | FloatArray, other: Sequence[ImageArray] | FloatArray
) -> list[Difference]:
    """Return how each feature of `other` differs from `reference`, the worst first."""
    return rank_differences(
        _as_features(reference), _as_features(other), LOOK_NAMES, list(_RESOLUTION)
    )


def describe_look_distance(comparison: Comparison) -> str:
    """Return a distance of looks as one line."""
    text = f"FD-looks {comparison.frechet.mean:.2f}, energy {comparison.energy.mean:.2f}"
    if comparison.frechet_floor is not None and comparison.energy_floor is not None:
        text += (
            f"; real to real {comparison.frechet_floor.mean:.2f}, "
            f"{comparison.energy_floor.mean:.2f}"
        )
    return f"{text} ({comparison.draws} draws of {comparison.n} images a side)"


def _as_features(images: Sequence[ImageArray] | FloatArray) -> FloatArray:
    if isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f":
        return images
    return describe_looks(list(images))


def _split(image: ImageArray) -> list[ImageArray]:
    if image.ndim == 2 or image.shape[2] < 3:
        return [image if image.ndim == 2 else image[:, :, 0]] * 3
    return [image[:, :, k] for k in range(3)]


def _log(value: Any) -> float:
    return float(np.log10(max(float(value), 0.0) + _FAINT))


def _quantiles(values: npt.NDArray[Any], at: tuple[int, ...]) -> list[float]:
    return [float(q) for q in np.quantile(values, np.array(at) / 100)]


def _measure_levels(grey: Float32, field: BoolMask) -> dict[str, float]:
    found = _quantiles(grey[field], _LEVELS)
    return {f"level_q{q:02d}": value for q, value in zip(_LEVELS, found, strict=True)}


def _measure_colour(pixels: Float32) -> dict[str, float]:
    """`pixels` is (3, P)."""
    names = ("red", "green", "blue")
    means, spreads = pixels.mean(axis=1), pixels.std(axis=1)
    rest = pixels - means[:, None]
    products = np.outer(spreads, spreads)
    # A channel without spread follows any other: a grey image has correlation 1.
    shares = rest @ rest.T / pixels.shape[1]
    correlation = np.where(products > 1e-6, shares / np.maximum(products, 1e-6), 1.0)
    largest = np.maximum(np.maximum(*pixels[:2]), pixels[2])
    least = np.minimum(np.minimum(*pixels[:2]), pixels[2])
    saturation = (largest - least) / np.maximum(largest, 0.02)
    return {
        **{name: float(value) for name, value in zip(names, means, strict=True)},
        **{f"{name}_sd": float(value) for name, value in zip(names, spreads, strict=True)},
        "red_green": float(correlation[0, 1]),
        "green_blue": float(correlation[1, 2]),
        "saturation": float(saturation.mean()),
        "saturation_sd": float(saturation.std()),
    }


def _measure_spectrum(filled: Float32) -> dict[str, float]:
    """Shares of the power: how strong the contrast is, other groups say."""
    window, bands = _make_bands((filled.shape[0], filled.shape[1]))
    power = np.abs(fft.rfft2((filled - filled.mean()) * window)) ** 2
    sums = np.bincount(bands.ravel(), power.ravel(), len(_BANDS) + 1)[1:-1]
    shares = np.log10((sums + 1e-9) / (sums.sum() + 1e-9) + 1e-6)
    return {
        f"power_{low}_{high}": float(share)
        for (low, high), share in zip(itertools.pairwise(_BANDS), shares, strict=True)
    }


@functools.lru_cache(maxsize=8)
def _make_bands(shape: tuple[int, int]) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Return a window (H, W), and for each frequency of a real transform the band it is in."""
    height, width = shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    side = max(shape)
    down, across = np.fft.fftfreq(height) * side, np.fft.rfftfreq(width) * side
    return window, np.digitize(np.hypot(down[:, None], across[None, :]), _BANDS)


def _measure_gradient(grey: Float32, field: BoolMask) -> dict[str, float]:
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axes, scale=1 / 8) for axes in ((1, 0), (0, 1)))
    inner = _shrink_field(field, 2)
    found = _quantiles(cv2.magnitude(across, down)[inner], _GRADIENTS)
    return {f"gradient_q{q}": _log(value) for q, value in zip(_GRADIENTS, found, strict=True)}


def _measure_contrast(filled: Float32, field: BoolMask) -> dict[str, float]:
    found = {}
    for sigma_px in _CONTRAST_PX:
        mean = _blur(filled, sigma_px)
        spread = np.sqrt(np.maximum(_blur(filled * filled, sigma_px) - mean * mean, 0))[field]
        found[f"contrast_{sigma_px}px"] = _log(spread.mean())
        found[f"contrast_{sigma_px}px_q90"] = _log(np.quantile(spread, 0.9))
    return found


def _measure_octaves(filled: Float32, field: BoolMask) -> dict[str, float]:
    """Differences of Gaussians: what each octave holds, whatever its direction."""
    found = {}
    for sigma_px in _OCTAVES_PX:
        octave = (_blur(filled, sigma_px / 2) - _blur(filled, sigma_px))[
            _shrink_field(field, 2 * sigma_px)
        ]
        octave = octave - octave.mean()
        spread = float(octave.std())
        scaled = octave / max(spread, 1e-4)
        squared = scaled * scaled
        found[f"energy_{sigma_px}px"] = _log(spread)
        found[f"skewness_{sigma_px}px"] = float(np.clip((squared * scaled).mean(), -5, 5))
        found[f"kurtosis_{sigma_px}px"] = float(np.log10((squared * squared).mean() + 1))
    return found


def _measure_frame(grey: Float32, field: BoolMask) -> dict[str, float]:
    height, width = grey.shape
    edge = max(1, round(max(grey.shape) * _FRAME_SHARE))
    total = float(grey.sum())
    inside = grey[edge : height - edge, edge : width - edge]
    outer = (total - float(inside.sum())) / max(grey.size - inside.size, 1)
    middle = grey[height // 4 : height - height // 4, width // 4 : width - width // 4]
    around = (total - float(middle.sum())) / max(grey.size - middle.size, 1)
    return {
        "frame_level": outer,
        "centre_less_rim": float(middle.mean()) - around,
        "black_share": float((grey < 0.06).mean()),
        "white_share": float((grey > 0.94).mean()),
        "field_share": float(field.mean()),
    }


def _measure_ridges(grey: Float32, field: BoolMask) -> dict[str, float]:
    flat = flatten_background(grey, field)
    dark, bright = filter_ridges(flat, scales=_RIDGE_SCALES, orientations=_RIDGE_ORIENTATIONS)
    inner = _shrink_field(field, 3)
    return {
        f"{name}_ridge_q{q}": value
        for name, response in (("dark", dark), ("bright", bright))
        for q, value in zip(_RIDGES, _quantiles(response[inner], _RIDGES), strict=True)
    }


def _measure_grain(filled: Float32, field: BoolMask) -> dict[str, float]:
    """How far the finest structure reaches: white noise not at all, speckle a few pixels."""
    fine = (filled - _blur(filled, 2.0)) * field
    power = max(float((fine * fine).mean()), 1e-8)
    found = {"noise": _log(np.median(np.abs(cv2.Laplacian(filled, cv2.CV_32F))[field]))}
    for lag in _LAGS_PX:
        found[f"across_{lag}px"] = float((fine[:, lag:] * fine[:, :-lag]).mean()) / power
        found[f"down_{lag}px"] = float((fine[lag:] * fine[:-lag]).mean()) / power
    return found


def _blur(values: Float32, sigma_px: float) -> Float32:
    blurred = cv2.GaussianBlur(values, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def _shrink_field(field: BoolMask, rim_px: int) -> BoolMask:
    """Return `field` without its rim, whose step is no structure of the image."""
    if field.all():
        return field
    kernel = np.ones((2 * rim_px + 1,) * 2, np.uint8)
    inner = cv2.erode(field.astype(np.uint8), kernel, borderValue=1).astype(np.bool_)
    return inner if inner.any() else field
