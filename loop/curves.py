"""Figures of a run as curves over its steps, drawn as a picture for a page.

In: series of (step, value) with names. Out: uint8 (H, W, 3), with the least and largest value, the
first and last step, and a legend where there is more than one series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Points = Sequence[tuple[int, float]]

WIDTH_PX, HEIGHT_PX = 720, 260
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 64, 16, 28, 30
FINER = 3  # drawn larger and shrunk: PIL's lines have no smooth edges
INKS = ((30, 90, 160), (190, 80, 30), (40, 130, 70), (120, 120, 120))
"""Told apart also by those who do not see red and green alike: blue, orange, green, grey."""
FRAME, FAINT = (215, 218, 224), (176, 190, 210)
TEXT = (70, 74, 80)


def draw_curves(
    series: Sequence[tuple[str, Points]], *, faint: Sequence[Points] = ()
) -> npt.NDArray[np.uint8]:
    """Return the curves of `series` on white (H, W, 3), those of `faint` thin behind them."""
    every = [point for points in [*(p for _, p in series), *faint] for point in points]
    if not every:
        raise ValueError("no points to draw")
    frame = _Frame(every)
    sheet = Image.new("RGB", (WIDTH_PX * FINER, HEIGHT_PX * FINER), "white")
    draw = ImageDraw.Draw(sheet)
    for value in (frame.low, frame.high):
        draw.line([frame.place((frame.first, value)), frame.place((frame.last, value))], FRAME, 2)
    for points in faint:
        _draw_line(draw, [frame.place(point) for point in points], FAINT, 3)
    for number, (_, points) in enumerate(series):
        _draw_line(draw, [frame.place(p) for p in points], INKS[number % len(INKS)], 6)
    small = sheet.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)
    _label(ImageDraw.Draw(small), frame, [name for name, _ in series])
    return np.array(small)


def smooth(points: Points, parts: int = 20) -> list[tuple[int, float]]:
    """Return running means over a `parts`th of `points`: a single loss is mostly its timestep."""
    reach = max(1, len(points) // parts)
    sums = np.concatenate([[0.0], np.cumsum([value for _, value in points])])
    found = []
    for number, (step, _) in enumerate(points):
        first = max(0, number + 1 - reach)
        found.append((step, float(sums[number + 1] - sums[first]) / (number + 1 - first)))
    return found


class _Frame:
    """Where a value stands on the sheet."""

    def __init__(self, points: Points) -> None:
        steps, values = [step for step, _ in points], [value for _, value in points]
        self.first, self.last = min(steps), max(steps)
        self.low, self.high = min(values), max(values)

    def place(self, point: tuple[int, float]) -> tuple[float, float]:
        """Return x and y on the enlarged sheet."""
        across = (point[0] - self.first) / max(self.last - self.first, 1)
        spread = self.high - self.low
        up = (point[1] - self.low) / spread if spread > 0 else 0.5
        x = LEFT_PX + across * (WIDTH_PX - LEFT_PX - RIGHT_PX)
        y = HEIGHT_PX - BOTTOM_PX - up * (HEIGHT_PX - TOP_PX - BOTTOM_PX)
        return x * FINER, y * FINER


def _draw_line(
    draw: ImageDraw.ImageDraw,
    places: Sequence[tuple[float, float]],
    ink: tuple[int, int, int],
    width: int,
) -> None:
    if len(places) > 1:
        draw.line(places, ink, width, joint="curve")
    else:
        (x, y), r = places[0], 2 * width
        draw.ellipse((x - r, y - r, x + r, y + r), ink)


def _label(draw: ImageDraw.ImageDraw, frame: _Frame, names: Sequence[str]) -> None:
    font = ImageFont.load_default(13)
    for value in {frame.low, frame.high}:
        y = frame.place((frame.first, value))[1] / FINER
        draw.text((LEFT_PX - 8, y), f"{value:.4g}", TEXT, font, anchor="rm")
    bottom = HEIGHT_PX - 8
    draw.text((LEFT_PX, bottom), f"step {frame.first}", TEXT, font, anchor="ls")
    draw.text((WIDTH_PX - RIGHT_PX, bottom), f"step {frame.last}", TEXT, font, anchor="rs")
    left = float(LEFT_PX)
    for number, name in enumerate(names if len(names) > 1 else ()):
        draw.text((left, 14), name, INKS[number % len(INKS)], font, anchor="lm")
        left += font.getlength(name) + 24
