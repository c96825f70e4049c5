"""The grain of pictures that an autoencoder cannot bring back, learned on the shots and put back.

In: the shots and what the autoencoder gives back of them. Out: how strong the lost grain is by
brightness, and its spectrum (`learn_grain`); a drawn picture with grain of its own (`add_grain`).
Speckle, film and sensor noise carry no vessel, yet whoever learns to see vessels meets them in
every real picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

AXES = np.array([[0.299, 0.587, 0.114], [0.5, 0.0, -0.5], [-0.25, 0.5, -0.25]], np.float32)
"""Brightness and two axes of colour; the rows of the last two add to nothing."""
BACK = np.linalg.inv(AXES.astype(np.float64)).astype(np.float32)
LEVELS, BANDS = 8, 24
LEAST_PIXELS = 200
"""Of a level of brightness, for its grain to be measured there."""
FINE_SIGMA_PX, LEVEL_SIGMA_PX = 3.0, 2.0
TO_SIGMA = 1.4826
"""Of the median of |x|: the spread of what is most common, not of its edges."""
LARGEST_FREQUENCY = float(np.hypot(0.5, 0.5))

Planes = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Grain:
    """Grain on the three axes."""

    amplitude: tuple[tuple[float, ...], ...]
    """Standard deviation [grey levels] at LEVELS brightnesses."""
    spectrum: tuple[tuple[float, ...], ...]
    """Power in BANDS bands from the mean to the finest."""

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Grain:
        """Return the grain that a card holds; a shape of another kind is an error."""
        rows = {name: np.array(plain[name], np.float64) for name in ("amplitude", "spectrum")}
        shapes = {name: each.shape for name, each in rows.items()}
        if shapes != {"amplitude": (3, LEVELS), "spectrum": (3, BANDS)}:
            raise ValueError(f"grain has {shapes}")
        if not all(bool((each >= 0).all()) for each in rows.values()):
            raise ValueError("grain has negative values")
        return cls(*(_rounded(list(each)) for each in rows.values()))

    @property
    def is_grey(self) -> bool:
        """Whether there is none in the colours."""
        return not any(any(row) for row in self.spectrum[1:])


def learn_grain(real: Sequence[Pixels], given_back: Sequence[Pixels]) -> Grain:
    """Return what the pictures `given_back` lack of the grain of `real`, both (H, W, 3)."""
    whole = [_to_planes(picture) for picture in real]
    smooth = [_to_planes(picture) for picture in given_back]
    levels = np.concatenate([_level(planes).ravel() for planes in smooth])
    levels = np.clip(levels / 256 * LEVELS, 0, LEVELS - 1).astype(int)
    amplitude, spectrum = [], []
    for axis in range(3):
        fine = [_fine(planes[..., axis]) for planes in whole]
        left = [_fine(planes[..., axis]) for planes in smooth]
        missing = _variances(fine, levels) - _variances(left, levels)
        amplitude.append(_fill_in(np.sqrt(np.maximum(missing, 0))))
        power = np.maximum(_powers(fine) - _powers(left), 0)
        spectrum.append(power / power.sum() if power.sum() > 0 else power)
    return Grain(_rounded(amplitude), _rounded(spectrum))


def add_grain(
    picture: Pixels, grain: Grain, rng: np.random.Generator, strength: float = 1.0
) -> Pixels:
    """Return `picture` (H, W) or (H, W, 3) with grain that `rng` draws."""
    if strength <= 0 or not any(any(row) for row in grain.amplitude):
        return picture
    is_grey = picture.ndim == 2
    planes = picture.astype(np.float32)[..., None] if is_grey else _to_planes(picture)
    level = cv2.GaussianBlur(planes[..., 0], (0, 0), LEVEL_SIGMA_PX)
    middles = (np.arange(LEVELS) + 0.5) * 256 / LEVELS
    for axis in range(planes.shape[2]):
        # Drawn for each axis whether there is grain or not: a shot more must not turn the others.
        noise = rng.standard_normal(planes.shape[:2], np.float32)
        if any(grain.spectrum[axis]):
            share = np.interp(level, middles, grain.amplitude[axis])
            planes[..., axis] += strength * share * _colour(noise, grain.spectrum[axis])
    found = np.repeat(planes, 3, axis=2) if is_grey else planes @ BACK.T
    pixels: Pixels = np.clip(np.rint(found), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels


def drop_colour(picture: Pixels) -> Pixels:
    """Return (H, W, 3) as its mean grey (H, W)."""
    return np.asarray(np.rint(picture.astype(np.float32).mean(axis=2)), np.uint8)


def has_any_colour(picture: Pixels) -> bool:
    """Whether the channels of `picture` (H, W, 3) differ anywhere."""
    return bool((picture != picture[..., :1]).any())


def _to_planes(picture: Pixels) -> Planes:
    planes: Planes = picture.astype(np.float32) @ AXES.T
    return planes


def _level(planes: Planes) -> Planes:
    level: Planes = cv2.GaussianBlur(planes[..., 0], (0, 0), LEVEL_SIGMA_PX).astype(np.float32)
    return level


def _fine(plane: Planes) -> Planes:
    fine: Planes = plane - cv2.GaussianBlur(plane, (0, 0), FINE_SIGMA_PX)
    return fine


def _variances(planes: Sequence[Planes], levels: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Return the variance at each level of brightness, nan where there are too few pixels."""
    values = np.abs(np.concatenate([plane.ravel() for plane in planes]))
    parts = [values[levels == level] for level in range(LEVELS)]
    spreads = [TO_SIGMA * np.median(p) if len(p) >= LEAST_PIXELS else np.nan for p in parts]
    return np.square(np.array(spreads, np.float64))


def _fill_in(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `values` with those that are not known taken from their neighbours."""
    known = ~np.isnan(values)
    if not known.any():
        return np.zeros_like(values)
    places = np.arange(len(values))
    return np.interp(places, places[known], values[known])


def _powers(planes: Sequence[Planes]) -> npt.NDArray[np.float64]:
    """Return the mean power of each band, the median over the pictures."""
    found = []
    for plane in planes:
        shape = plane.shape
        window = np.sqrt(np.outer(np.hanning(shape[0] + 2)[1:-1], np.hanning(shape[1] + 2)[1:-1]))
        bands = np.minimum(_places(*shape).astype(int), BANDS - 1).ravel()
        power = np.abs(np.fft.rfft2(plane * window)).ravel() ** 2
        counts = np.maximum(np.bincount(bands, minlength=BANDS), 1)
        found.append(np.bincount(bands, power, BANDS) / counts / plane.size)
    return np.asarray(np.median(found, axis=0), np.float64)


def _places(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return in which band each frequency of a real transform lies, not rounded."""
    across = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    return np.asarray(across / LARGEST_FREQUENCY * BANDS, np.float64)


def _colour(noise: Planes, spectrum: Sequence[float]) -> Planes:
    """Return white `noise` with the spectrum asked for, of unit spread."""
    gains = np.sqrt(np.interp(_places(*noise.shape) - 0.5, np.arange(BANDS), spectrum))
    coloured = np.fft.irfft2(np.fft.rfft2(noise) * gains, s=noise.shape)
    spread = float(coloured.std())
    found: Planes = (coloured / spread if spread > 0 else coloured).astype(np.float32)
    return found


def _rounded(rows: Sequence[npt.NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    """Return plain numbers; six digits, so that a card reads well."""
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in rows)
