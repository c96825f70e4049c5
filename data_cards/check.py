"""`univg data check`: what is wrong with a folder of pairs, before an hour is spent on it.

In: a folder with `images/` and `masks/`. Out: a table of every bad file and what to do, a summary
of what is there, and warnings about what is merely strange. Reads only.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import tyro
from annotated_types import Ge

from univg.config import settings
from univg.errors import DataError, Problem
from univg.images import bit_depth
from univg.masks import describe_grey
from univg.pairs import DEFAULT_SUFFIXES, PairFacts, find_pairs, read_pair

DENSE_SHARE = 0.5
"""More vessel than this and the mask is probably inverted."""

ALIKE_LEVELS = 1.0
"""Two images whose thumbnails differ by less than this many grey levels are probably one."""

_THUMBNAIL_PX = 32
_SHOWN = 8


@settings
class Check:
    """Find what is wrong with a folder of pairs; exit code 2 if there is anything."""

    folder: tyro.conf.Positional[Path]
    """Folder that holds images/ and masks/."""
    strict: bool = False
    """Count masks with in-between values (JPEG-damaged, smoothed) as wrong."""
    strip: tuple[str, ...] = DEFAULT_SUFFIXES
    """Endings of file names to ignore when images and masks are matched."""
    shots: Annotated[int, Ge(1)] = 5
    """Warn if there are fewer good pairs than this."""


@dataclass(frozen=True)
class PairSummary:
    """What stays of a pair once it was read."""

    stem: str
    size: tuple[int, int]
    channels: int
    bits: int
    density: float
    stored: str
    doubt: str
    image_levels_few: bool
    mask_levels: int
    thumbnail: npt.NDArray[np.float32]


@dataclass
class Diagnosis:
    """The doctor's findings."""

    folder: Path
    pairs: int = 0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    good: list[PairSummary] = field(default_factory=list)


def run(settings: Check) -> Diagnosis:
    """Print what is wrong with a folder; raise `DataError` after that if anything is."""
    found = diagnose(settings.folder, settings.strip, settings.strict, settings.shots)
    _print_problems(found.problems)
    for line in [*summarize(found), *(f"warning: {text}" for text in found.warnings)]:
        print(line)  # noqa: T201
    if found.problems:
        count = _count(len(found.problems), "problem")
        raise DataError(f"{settings.folder}: {count} found, listed above; {_good(found)}")
    return found


def diagnose(
    folder: Path,
    strip: Sequence[str] = DEFAULT_SUFFIXES,
    strict: bool = False,
    shots: int = 5,
) -> Diagnosis:
    """Read every file of `folder` and collect all that is wrong or strange."""
    listed, problems = find_pairs(folder, strip, verify=True)
    found = Diagnosis(folder, len(listed.pairs), problems)
    for pair in listed.pairs:
        bad, facts = read_pair(pair, strict)
        found.problems += bad
        if facts is not None and not bad:
            found.good.append(_summarize_pair(facts, strict))
    found.warnings = list(_suspicions(found, shots))
    if not found.problems:
        from univg.pairing import doubt_pairing

        found.warnings += doubt_pairing(listed.pairs)
    return found


def summarize(found: Diagnosis) -> list[str]:
    """Tell in a few lines what the good pairs of a folder are."""
    lines = [f"{found.folder}: {_good(found)}"]
    if not found.good:
        return lines
    sizes = Counter("{}x{}".format(*one.size) for one in found.good)
    kinds = Counter(f"{one.channels} x {one.bits} bit" for one in found.good)
    stored = Counter(one.stored for one in found.good)
    densities = [one.density for one in found.good]
    lines += [
        f"  size [px]: {_tally(sizes)}",
        f"  channels: {_tally(kinds)}",
        f"  masks stored as: {_tally(stored)}",
        f"  vessel share: {min(densities):.2%} to {max(densities):.2%}, "
        f"median {float(np.median(densities)):.2%}",
    ]
    return lines


def _summarize_pair(facts: PairFacts, strict: bool) -> PairSummary:
    image, reading = facts.image, facts.reading
    grey = image if image.ndim == 2 else image.mean(axis=2)
    scaled = np.asarray(grey, np.float32) / np.float32(257 if bit_depth(image) == 16 else 1)
    side = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    doubt = None if strict else describe_grey(facts.pair.mask, reading)
    return PairSummary(
        stem=facts.pair.stem,
        size=(image.shape[1], image.shape[0]),
        channels=1 if image.ndim == 2 else image.shape[2],
        bits=bit_depth(image),
        density=reading.density,
        stored=reading.stored,
        doubt=doubt.line() if doubt else "",
        image_levels_few=len(np.unique(image[::2, ::2])) <= 2,
        mask_levels=reading.levels,
        thumbnail=np.asarray(cv2.resize(scaled, side, interpolation=cv2.INTER_AREA), np.float32),
    )


def _suspicions(found: Diagnosis, shots: int) -> Iterable[str]:
    """Yield what is no error by itself, but is seldom meant."""
    good = found.good
    yield from (one.doubt for one in good if one.doubt)
    if good and all(one.image_levels_few and one.mask_levels > 2 for one in good):
        yield "images/ holds two-valued files and masks/ many-valued ones: are they swapped?"
    flat = [one.stem for one in good if one.image_levels_few and one.mask_levels <= 2]
    if flat:
        yield f"images with at most two values, masks by mistake? {_some(flat)}"
    dense = [one.stem for one in good if one.density > DENSE_SHARE]
    if dense:
        yield f"more than {DENSE_SHARE:.0%} vessel, inverted? {_some(dense)}"
    for what, values in (
        ("sizes", {one.size for one in good}),
        ("numbers of channels", {one.channels for one in good}),
        ("bit depths", {one.bits for one in good}),
    ):
        if len(values) > 1:
            yield f"{len(values)} different {what} in one folder"
    alike = find_alike(good)
    if alike:
        yield f"nearly identical images: {_some([' = '.join(pair) for pair in alike])}"
    if len(good) < shots:
        yield f"{_count(len(good), 'good pair')}, fewer than the {shots} shots asked for"


def find_alike(summaries: Sequence[PairSummary]) -> list[tuple[str, str]]:
    """Return the stems of images that look the same, as after a copy or another JPEG.

    Sorted by mean brightness, only neighbours within the tolerance can be alike, so a large
    folder takes far less than all comparisons.
    """
    by_mean = sorted(summaries, key=lambda one: float(one.thumbnail.mean()))
    means = [float(one.thumbnail.mean()) for one in by_mean]
    alike = []
    for first, one in enumerate(by_mean):
        for second in range(first + 1, len(by_mean)):
            if means[second] - means[first] > ALIKE_LEVELS:
                break
            other = by_mean[second]
            apart = float(np.abs(one.thumbnail - other.thumbnail).mean())
            # Two plain images of like brightness say nothing about each other.
            textured = float(one.thumbnail.std()) > 2 * ALIKE_LEVELS
            if one.size == other.size and textured and apart < ALIKE_LEVELS:
                alike.append((min(one.stem, other.stem), max(one.stem, other.stem)))
    return sorted(alike)


def _print_problems(problems: Sequence[Problem]) -> None:
    """Print a table for a person, plain lines for a pipe."""
    if not problems:
        return
    if not sys.stdout.isatty():
        for problem in problems:
            print(f"{problem.kind}: {problem.line()}")  # noqa: T201
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("file", "problem", "what is wrong", "what to do")
    for problem in problems:
        cells = (str(problem.path), problem.kind, problem.detail, problem.remedy)
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)


def _good(found: Diagnosis) -> str:
    return f"{len(found.good)} of {_count(found.pairs, 'pair')} good"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number != 1 else ''}"


def _tally(counts: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(_SHOWN))
    return shown if len(counts) <= _SHOWN else f"{shown} and {len(counts) - _SHOWN} more"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
