"""Small pictures for the page of the quality gate: histograms, and pairs with their outlines.

In: values; images and masks. Out: uint8 (H, W) or (H, W, 3), coarse in colour so that a page of
many stays small.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from univg.images import ImageArray
from univg.masks import BoolMask

Picture = npt.NDArray[np.uint8]

WIDTH_PX, HEIGHT_PX = 480, 250
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 14, 14, 44, 52
_BINS = 30
_WIDEST_PX = 36
_BAR, _SHOT, _RULE, _TEXT = (30, 90, 160), (206, 84, 0), (150, 154, 160), (40, 44, 50)
_OUTLINE = (0, 235, 255)
_STEP = 8  # grey levels: noise below is not seen at this size and doubles the bytes


def draw_histogram(name: str, values: Sequence[float], shots: Sequence[float] = ()) -> Picture:
    """Return bars of `values` under the title `name`, and a mark below for each of `shots`.

    The axis covers 98 % of the values and all shots; what lies beyond counts in the last bars.
    """
    low, high = _choose_range(values, shots)
    edges, bins = (low, high), _BINS
    whole = all(float(value).is_integer() for value in (*values, *shots))
    if whole and high - low < _BINS:  # a bar a number
        low, high = float(np.floor(low)), float(np.ceil(high))
        edges, bins = (low - 0.5, high + 0.5), round(high - low) + 1
    counts, _ = np.histogram(np.clip(values, low, high), bins, edges)
    sheet = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), "white")
    draw = ImageDraw.Draw(sheet)
    floor, inner = HEIGHT_PX - _BOTTOM_PX, WIDTH_PX - _LEFT_PX - _RIGHT_PX
    tallest = max(int(counts.max()), 1)
    half = min(inner / bins - 2, _WIDEST_PX) / 2
    for number, count in enumerate(counts):
        middle = _LEFT_PX + (number + 0.5) * inner / bins
        height = max(2, round(count / tallest * (floor - _TOP_PX)))
        if count:
            draw.rectangle((middle - half, floor - height, middle + half, floor), _BAR)
    draw.line((_LEFT_PX, floor, WIDTH_PX - _RIGHT_PX, floor), _RULE, 2)
    for shot in shots:
        x = _LEFT_PX + (shot - edges[0]) / (edges[1] - edges[0]) * inner
        draw.polygon([(x, floor + 3), (x - 6, floor + 15), (x + 6, floor + 15)], _SHOT)
    large, small = ImageFont.load_default(25), ImageFont.load_default(21)
    draw.text((_LEFT_PX, 20), name.replace("_", " "), _TEXT, large, anchor="lm")
    draw.text((WIDTH_PX - _RIGHT_PX, 20), f"{tallest}", _RULE, small, anchor="rm")
    bottom = HEIGHT_PX - 8
    digits = 3 if f"{low:.3g}" != f"{high:.3g}" else 5
    draw.text((_LEFT_PX, bottom), f"{low:.{digits}g}", _TEXT, small, anchor="ls")
    draw.text((WIDTH_PX - _RIGHT_PX, bottom), f"{high:.{digits}g}", _TEXT, small, anchor="rs")
    return np.array(sheet)


def show_image(image: ImageArray, longest_px: int) -> Picture:
    """Return `image` with its longest side at most `longest_px`, in 8 bits and few levels."""
    plain = image if image.dtype == np.uint8 else image // 257
    height, width = (max(1, round(s * longest_px / max(image.shape[:2]))) for s in image.shape[:2])
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_NEAREST
    small = cv2.resize(plain.astype(np.uint8), (width, height), interpolation=how)
    coarse = np.rint(small.astype(np.float32) / _STEP) * _STEP
    return np.asarray(np.minimum(coarse, 255), np.uint8)


def show_outline(image: ImageArray, mask: BoolMask, longest_px: int) -> Picture:
    """Return `image` (H, W, 3), shrunk, with the edge of `mask` in a colour that no image has."""
    small = show_image(image, longest_px)
    colour = np.repeat(small[:, :, None], 3, axis=2) if small.ndim == 2 else small.copy()
    height, width = small.shape[:2]
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    inside = (share > 0.35).astype(np.uint8)
    edge = cv2.dilate(inside, np.ones((3, 3), np.uint8)).astype(np.bool_) & (inside == 0)
    colour[edge] = (0.3 * colour[edge] + 0.7 * np.array(_OUTLINE)).astype(np.uint8)
    return colour


def _choose_range(values: Sequence[float], shots: Sequence[float]) -> tuple[float, float]:
    low, high = (float(edge) for edge in np.quantile(values, (0.01, 0.99)))
    low, high = min([low, *shots]), max([high, *shots])
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
