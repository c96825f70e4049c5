"""Prepared pairs in memory, as many as fit; the others are read each time.

In: lists of pairs, a `Preparation`, a limit. Out: examples by number, and one report of all pairs
that cannot be used. Which pairs are kept changes speed alone.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import read_image
from univg.pairs import Pair, find_pairs

from .data import Channels, Example, Preparation, View, is_coloured, judge_pair, prepare_pair

MIB = 2**20
THREADS = max(1, min(8, os.cpu_count() or 1))


class ShotWarning(UserWarning):
    """Pairs can be used, but something about them is worth knowing."""


class Store:
    """Examples of some pairs by number."""

    def __init__(self, pairs: Sequence[Pair], how: Preparation, limit_mb: float) -> None:
        self.pairs, self.how = list(pairs), how
        self.left_bytes = limit_mb * MIB
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def get(self, number: int) -> Example:
        """Return example `number`."""
        found = self._kept.get(number)
        if found is None:
            found = prepare_pair(self.pairs[number], self.how)
            if number not in self._kept and found.bytes <= self.left_bytes:
                self.left_bytes -= found.bytes
                self._kept[number] = found
        return found


@dataclass(frozen=True)
class Shape:
    """What is known of a pair without its pixels."""

    size: tuple[int, int]
    """Height and width."""
    coloured: bool


def open_folder(
    folder: Path,
    *,
    synthetic: bool = False,
    wanted: int | None = None,
    skip_bad: bool = False,
    fov: View = "auto",
) -> list[Pair]:
    """Return the pairs of `folder` that can be used, or tell all that is wrong in one report.

    Of more than `wanted`, the first ones are taken; fewer are refused. Fields of view that `fov`
    makes no use of are not looked at.
    """
    found, problems = find_pairs(folder)
    good: list[Pair] = []
    candidates = list(found.pairs)
    if fov in {"whole", "found"}:
        candidates = [replace(pair, fov=None) for pair in candidates]
    if wanted is not None and not skip_bad:
        candidates = candidates[:wanted]
    with ThreadPoolExecutor(THREADS) as pool:
        for pair, wrong in zip(
            candidates,
            pool.map(lambda pair: judge_pair(pair, synthetic=synthetic), candidates),
            strict=True,
        ):
            problems += wrong
            if not wrong:
                good.append(pair)
    what = "synthetic pairs" if synthetic else "shots"
    if not synthetic:
        problems += _find_copies(good, problems)
    if problems and not skip_bad:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise ProblemReport(problems, f"{folder}: {count} with its {what}")
    for problem in problems:
        warnings.warn(f"left out: {problem.line()}", ShotWarning, stacklevel=2)
    good = good[:wanted]
    if len(good) < (wanted or 1):
        raise DataError(
            f"{folder}: holds {len(good)} {what} that can be used; {wanted or 1} are asked for: "
            "add more, or ask for fewer"
        )
    return good


def look_at(pair: Pair) -> Shape:
    """Return size and colour of a pair's image."""
    image = read_image(pair.image)
    return Shape((image.shape[0], image.shape[1]), is_coloured(image))


def choose_channels(asked: Channels | str, shapes: Sequence[Shape]) -> Channels:
    """Return what the network sees: rgb where any shot has colour, else grey; or as asked."""
    if asked == "rgb":
        return "rgb"
    if asked == "grey":
        return "grey"
    if asked == "green":
        return "green"
    return "rgb" if any(shape.coloured for shape in shapes) else "grey"


def hash_pairs(pairs: Sequence[Pair]) -> str:
    """Return one checksum of all files of `pairs`, in order."""
    files = [path for p in pairs for path in (p.image, p.mask, p.fov) if path is not None]
    with ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(sha256_of_file, files))
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def _find_copies(good: list[Pair], told: Sequence[Problem]) -> list[Problem]:
    """Return shots whose file repeats that of another one; they leave `good`."""
    seen: dict[tuple[str, str], Path] = {}
    problems: list[Problem] = []
    known = {problem.path for problem in told}
    for pair in list(good):
        for role, path in (("image", pair.image), ("mask", pair.mask)):
            first = seen.setdefault((role, sha256_of_file(path)), path)
            if first == path or path in known:
                continue
            detail = f"is the same file as {first.name}"
            remedy = "remove one of them; shots must differ"
            problems.append(Problem(path=path, kind="duplicate", detail=detail, remedy=remedy))
            if pair in good:
                good.remove(pair)
    return problems
