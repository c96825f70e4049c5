"""Charts for a page: bars with intervals, differences image by image, curves over steps.

In: figures with names. Out: SVG as text, drawn in the page's own colours, so that it follows dark
mode; narrow enough to be read on a phone as it is. Series differ by more than colour.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

WIDTH = 360
"""Units of all charts; on a phone a unit is a pixel."""
WIDEST_REM = 30
FONT = 12.5
INK, SOFT, RULE, ACCENT = (f"var(--{name})" for name in ("ink", "soft", "rule", "accent"))
STROKES = ((ACCENT, ""), (SOFT, "5 3"), (INK, "2 3"), (SOFT, "1 3"))
"""Colour and dashes of the first, second, … curve."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    strong: bool = False
    """The one to look at."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Many values with their mean and its interval."""

    label: str
    values: Sequence[float]
    mean: float
    low: float | None = None
    high: float | None = None


def draw_bars(groups: Sequence[tuple[str, Sequence[Bar]]], alt: str, *, most: float = 100) -> str:
    """Return bars from 0 to `most`, group under group; whiskers are the intervals."""
    left, right, pitch, head = 104.0, WIDTH - 44.0, 24.0, 24.0

    def place(value: float) -> float:
        return left + min(max(value / most, 0), 1) * (right - left)

    parts: list[str] = []
    y = 4.0
    for title, bars in groups:
        parts.append(_text(0, y + 14, title, bold=True))
        y += head
        for bar in bars:
            fill = ACCENT if bar.strong else SOFT
            parts.append(_text(left - 8, y + 14, bar.label, anchor="end"))
            width = place(bar.value) - left
            parts.append(
                f'<rect x="{left:g}" y="{y + 2:g}" width="{width:.1f}" height="16" '
                f'style="fill:{fill};opacity:{0.85 if bar.strong else 0.6}"/>'
            )
            if bar.low is not None and bar.high is not None:
                parts.append(_whisker(place(bar.low), place(bar.high), y + 10))
            parts.append(_text(WIDTH, y + 14, f"{bar.value:.1f}", anchor="end", bold=True))
            y += pitch
        y += 8
    parts.append(_line((left, 0), (left, y - 8), RULE))
    return _frame(y, alt, parts)


def draw_differences(spreads: Sequence[Spread], alt: str, *, worse: str, better: str) -> str:
    """Return a row of dots a spread around a line at 0, each with its mean and interval."""
    every = [abs(value) for each in spreads for value in each.values]
    reach = max([*every, 1e-9]) * 1.08
    middle, half, pitch = WIDTH / 2, WIDTH / 2 - 8, 62.0

    def place(value: float) -> float:
        return middle + value / reach * half

    height = 26 + pitch * len(spreads)
    parts = [
        _line((middle, 20), (middle, height), SOFT),
        _text(middle - 8, 13, f"← {worse}", anchor="end", soft=True),
        _text(middle + 8, 13, f"{better} →", soft=True),
    ]
    for number, each in enumerate(spreads):
        y = 26 + pitch * number
        parts.append(_text(0, y + 12, each.label, bold=True))
        parts.append(_text(WIDTH, y + 12, f"{each.mean:+z.1f}", anchor="end", bold=True))
        for value in each.values:
            parts.append(
                f'<circle cx="{place(value):.1f}" cy="{y + 30:g}" r="4" '
                f'style="fill:{SOFT};opacity:0.5"/>'
            )
        if each.low is not None and each.high is not None:
            parts.append(_whisker(place(each.low), place(each.high), y + 46, ACCENT))
        parts.append(
            f'<circle cx="{place(each.mean):.1f}" cy="{y + 46:g}" r="4.5" style="fill:{ACCENT}"/>'
        )
    return _frame(height, alt, parts)


def smooth(points: Points, parts: int = 20, most: int = 200) -> list[tuple[float, float]]:
    """Return running means over a `parts`th of `points`, at most `most` of them."""
    reach, found, total = max(1, len(points) // parts), [], 0.0
    for number, (step, value) in enumerate(points):
        total += value - (points[number - reach][1] if number >= reach else 0.0)
        found.append((float(step), total / min(number + 1, reach)))
    every = max(1, -(-len(found) // most))
    return found[reach - 1 :: every] if len(found) > reach else found


def draw_lines(
    series: Sequence[tuple[str, Points]], alt: str, *, unit: str = "step", digits: int = 3
) -> str:
    """Return curves with their least and largest value, first and last step, and a legend."""
    points = [point for _, each in series for point in each]
    steps, values = [point[0] for point in points], [point[1] for point in points]
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    named = len(series) > 1
    left, right, top = 46.0, WIDTH - 4.0, 14.0 + (18 * len(series) if named else 0)
    bottom = top + 120

    def place(point: tuple[float, float]) -> str:
        across = (point[0] - first) / max(last - first, 1e-9)
        up = (point[1] - low) / (high - low) if high > low else 0.5
        return f"{left + across * (right - left):.1f},{bottom - up * (bottom - top):.1f}"

    parts = [
        _line((left, top), (right, top), RULE),
        _line((left, bottom), (right, bottom), RULE),
        _text(left - 6, top + 4, f"{high:.{digits}f}", anchor="end", soft=True),
        _text(left - 6, bottom + 4, f"{low:.{digits}f}", anchor="end", soft=True),
        _text(left, bottom + 20, f"{unit} {first:g}", soft=True),
        _text(right, bottom + 20, f"{unit} {last:g}", anchor="end", soft=True),
    ]
    for number, (name, each) in enumerate(series):
        colour, dashes = STROKES[number % len(STROKES)]
        style = (
            f'style="fill:none;stroke:{colour};stroke-width:2;stroke-dasharray:{dashes or "none"}"'
        )
        line = " ".join(place(point) for point in each)
        parts.append(f'<polyline points="{line}" {style}/>')
        if named:
            y = 12 + 18 * number
            parts.append(f'<path d="M{left:g} {y - 4} h24" {style}/>')
            parts.append(_text(left + 32, y, name))
    return _frame(bottom + 26, alt, parts)


def _frame(height: float, alt: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html.escape(alt)}" '
        f'style="display:block;width:100%;height:auto;max-width:{WIDEST_REM}rem;'
        f'font:{FONT}px var(--plain)">{"".join(parts)}</svg>'
    )


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, soft: bool = False
) -> str:
    weight = ";font-weight:600" if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" '
        f'style="fill:{SOFT if soft else INK}{weight}">{html.escape(words)}</text>'
    )


def _line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" style="stroke:{colour};fill:none"/>'


def _whisker(low: float, high: float, y: float, colour: str = INK) -> str:
    return (
        f'<path d="M{low:.1f} {y:g} H{high:.1f} M{low:.1f} {y - 4:g} v8 M{high:.1f} {y - 4:g} v8" '
        f'style="stroke:{colour};stroke-width:1.6;fill:none"/>'
    )
