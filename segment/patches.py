"""Which part of a pair a sample shows, and the sample itself.

In: a prepared pair, a generator, the side of the sample. Out: image (C, S, S), mask and weight
(1, S, S). Where it is cut and how it is augmented is drawn first; the same numbers then cut image,
mask and field of view alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .augment import Augmentation, Level, draw_augmentation
from .augment_apply import change_tones, make_map, warp_picture
from .data import Example

Sampled = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How samples are cut."""

    side_px: int
    whole: bool
    """Each sample shows the whole picture; smaller pictures are mirrored beyond their border."""
    vessel_share: float
    """Share of samples with a vessel near their middle."""
    level: Level


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Where one sample lies in its picture, and how it is augmented."""

    centre: tuple[float, float]
    """x and y [px]."""
    augmentation: Augmentation


def draw_sample(rng: np.random.Generator, example: Example, cut: Cut) -> Draw:
    """Draw one sample's numbers."""
    height, width = example.labels.shape[:2]
    middle = _inside(width // 2, width, cut.side_px), _inside(height // 2, height, cut.side_px)
    centre = middle if cut.whole else _draw_centre(rng, example, cut)
    channels = example.image.pixels.shape[2]
    return Draw(centre=centre, augmentation=draw_augmentation(rng, cut.level, channels))


def cut_sample(example: Example, draw: Draw, side_px: int) -> Sampled:
    """Return the sample that `draw` describes."""
    places = make_map(draw.augmentation.warp, side_px, draw.centre)
    image = example.image
    values = image.scale(warp_picture(image.pixels, places))
    values = change_tones(values, draw.augmentation.tone, image.mean)
    labels = warp_picture(example.labels, places) > 127
    return {
        "image": image.standardise(values),
        "mask": labels[None, :, :, 0].astype(np.float32),
        "weight": labels[None, :, :, 1].astype(np.float32),
    }


def _draw_centre(rng: np.random.Generator, example: Example, cut: Cut) -> tuple[float, float]:
    """Return the middle of a patch, which lies inside the picture where the picture is larger."""
    favoured = rng.random() < cut.vessel_share
    places = example.vessels if favoured and len(example.vessels) else example.inside
    height, width = example.labels.shape[:2]
    if len(places):
        row, column = (int(value) for value in places[int(rng.integers(len(places)))])
    else:
        row, column = int(rng.integers(height)), int(rng.integers(width))
    # Not always in the very middle: the network must find vessels anywhere in its patch.
    row += int(rng.integers(-cut.side_px // 4, cut.side_px // 4 + 1))
    column += int(rng.integers(-cut.side_px // 4, cut.side_px // 4 + 1))
    return _inside(column, width, cut.side_px), _inside(row, height, cut.side_px)


def _inside(place: int, length: int, side_px: int) -> float:
    """Return the middle nearest to `place` of a side that fits into `length`.

    It falls so that an unturned sample takes pixels as they are, not the means of two.
    """
    half = (side_px - 1) / 2
    if length <= side_px:
        return (length - 1) // 2 + half % 1.0
    return float(np.clip(place + half % 1.0, half, length - 1 - half))
