"""Sets as clouds of points, drawn as a picture for a page.

In: places (N, 2) of each set. Out: uint8 (H, W, 3): points told apart by colour and by form, with
a legend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

WIDTH_PX, HEIGHT_PX = 640, 500
LEGEND_PX, EDGE_PX = 36, 18  # a line of the legend; the rim kept free
_FINER = 3  # drawn larger and shrunk: PIL's shapes have no smooth edges
_INKS = ((30, 90, 160), (206, 84, 0), (40, 130, 70), (150, 60, 140), (120, 120, 120), (20, 20, 20))
_FORMS = ("circle", "square", "triangle", "diamond")
_LARGE, _SMALL = 6.0, 4.0  # half a point's width, px: of few points and of many
_MANY = 150
_FRAME, _TEXT = (215, 218, 224), (40, 44, 50)


def draw_clouds(clouds: Sequence[tuple[str, FloatArray]]) -> Picture:
    """Return the places (N, 2) of each of `clouds` on white; later ones lie on top."""
    every = np.concatenate([places for _, places in clouds])
    legend = len(clouds) * LEGEND_PX + EDGE_PX
    low, high = every.min(axis=0), every.max(axis=0)
    room = np.array([WIDTH_PX, HEIGHT_PX], np.float64) - 2 * EDGE_PX
    scale = float((room / np.maximum(high - low, 1e-9)).min())  # one scale: no axis is stretched
    middle = (low + high) / 2
    sheet = Image.new("RGB", (WIDTH_PX * _FINER, (HEIGHT_PX + legend) * _FINER), "white")
    draw = ImageDraw.Draw(sheet)
    frame = (_FINER, _FINER, WIDTH_PX * _FINER - _FINER, HEIGHT_PX * _FINER - _FINER)
    draw.rectangle(frame, outline=_FRAME, width=_FINER)
    for number, (_, places) in enumerate(clouds):
        half = _SMALL if len(places) > _MANY else _LARGE
        for x, y in (places - middle) * scale * (1, -1) + (WIDTH_PX / 2, HEIGHT_PX / 2):
            _draw_point(draw, number, float(x) * _FINER, float(y) * _FINER, half * _FINER)
    for number in range(len(clouds)):
        y = HEIGHT_PX + EDGE_PX / 2 + (number + 0.5) * LEGEND_PX
        _draw_point(draw, number, EDGE_PX * _FINER, y * _FINER, _LARGE * _FINER)
    small = sheet.resize((WIDTH_PX, HEIGHT_PX + legend), Image.Resampling.LANCZOS)
    writing = ImageDraw.Draw(small)
    font = ImageFont.load_default(26)
    for number, (name, places) in enumerate(clouds):
        y = HEIGHT_PX + EDGE_PX / 2 + (number + 0.5) * LEGEND_PX
        text = f"{name} ({len(places):,})"
        writing.text((2 * EDGE_PX, y), text, _TEXT, font, anchor="lm")
    return np.array(small)


def _draw_point(draw: ImageDraw.ImageDraw, number: int, x: float, y: float, half: float) -> None:
    ink, form = _INKS[number % len(_INKS)], _FORMS[number % len(_FORMS)]
    line = max(1, round(half / 5))
    if form == "circle":
        draw.ellipse((x - half, y - half, x + half, y + half), ink, "white", line)
    elif form == "square":
        draw.rectangle((x - half, y - half, x + half, y + half), ink, "white", line)
    elif form == "triangle":
        corners = [(x, y - 1.2 * half), (x - 1.1 * half, y + half), (x + 1.1 * half, y + half)]
        draw.polygon(corners, ink, "white")
    else:
        reach = 1.3 * half
        corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        draw.polygon(corners, ink, "white")
