"""Which pairs an export takes, and whether each is sound.

In: folders of pairs, with a manifest or plain. Out: an index in which every pair is listed and
checked. A manifest is read row by row; of a plain folder the names are held in memory while they
are matched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg.errors import DataError, Problem, ProblemReport
from univg.manifest import MANIFEST_NAME, Row, iterate_rows
from univg.pairs import find_pairs
from univg.pool import Workers
from univg.progress import show_progress
from univg.run_folder import require_joined

from .export_index import Index, Item, Listed
from .export_pictures import Encoding, Facts, check_files

CHUNK = 64  # pairs a worker checks at a time
SHOWN = 50
ROLES = ("image", "mask", "fov")
_TOLD_APART = frozenset({"id", "sha256", "index", *ROLES})

Checked = list[tuple[int, Facts | None, list[Problem]]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder of pairs, and whether a camera made them."""

    folder: Path
    label: str
    real: bool


@dataclass(frozen=True, kw_only=True)
class Stray:
    """Files without a partner, and images without a mask."""

    problems: tuple[Problem, ...]
    unlabelled: int


def name_sources(synthetic: Sequence[Path], real: Sequence[Path]) -> list[Source]:
    """Return the folders with labels that tell them apart: `real`, or the folder's name."""
    folders = [*((path, False) for path in synthetic), *((path, True) for path in real)]
    seen: set[Path] = set()
    sources: list[Source] = []
    for number, (path, is_real) in enumerate(folders, start=1):
        if not path.is_dir():
            reason = "is a file" if path.exists() else "does not exist"
            raise DataError(f"{path}: {reason}; give a folder that holds images/ and masks/")
        require_joined(path)
        if path.resolve() in seen:
            raise DataError(f"{path}: is given twice; name each folder of pairs once")
        seen.add(path.resolve())
        taken = {source.label for source in sources}
        label = "real" if is_real else path.resolve().name or "pairs"
        label = f"{label}{number}" if label in taken else label
        sources.append(Source(folder=path, label=label, real=is_real))
    return sources


def list_sources(
    sources: Sequence[Source], strip: Sequence[str], strays: list[Problem]
) -> Iterator[Listed]:
    """Yield the pairs of all folders in order; what has no partner is added to `strays`."""
    for source in sources:
        if (source.folder / MANIFEST_NAME).exists():
            yield from _list_rows(source, strays)
        else:
            found, problems = find_pairs(source.folder, strip)
            strays += problems
            for pair in found.pairs:
                files = {"image": pair.image, "mask": pair.mask}
                files |= {} if pair.fov is None else {"fov": pair.fov}
                yield _list_one(source, pair.stem, files, {})


def check_listed(index: Index, encoding: Encoding, strict: bool, workers: int, total: int) -> None:
    """Check every pair that nothing is known of yet."""
    left = index.count_unchecked()
    count = min(workers, -(-left // CHUNK))
    context = (encoding, strict)
    with (
        Workers(count, _prepare_check, context) as pool,
        show_progress(total, "checking", "pairs", total - left) as progress,
    ):
        for checked in pool.map_in_order(_check_chunk, index.unchecked(CHUNK)):
            index.store(checked)
            progress.advance(len(checked))


def report_problems(index: Index, strays: Sequence[Problem], headline: str, skip_bad: bool) -> int:
    """Return how many pairs are left out; without `skip_bad`, tell all that is wrong instead."""
    bad = index.count_bad() + len(strays)
    if not bad or skip_bad:
        return bad
    shown: list[Problem] = list(strays[:SHOWN])
    for problem in index.problems():
        if len(shown) >= SHOWN:
            break
        shown.append(problem)
    more = f", the first {len(shown)} of them" if bad > len(shown) else ""
    raise ProblemReport(
        shown, f"{headline}: {bad} pairs that cannot be exported{more} (--skip-bad leaves them out)"
    )


def _list_rows(source: Source, strays: list[Problem]) -> Iterator[Listed]:
    """Yield the pairs that a manifest names; images without a mask are no pairs."""
    for number, row in enumerate(iterate_rows(source.folder), start=1):
        if not row.get("image") or not row.get("mask"):
            continue
        files: dict[str, Path] = {}
        for role in ROLES:
            if not row.get(role):
                continue
            path = Path(str(row[role]))
            if path.is_absolute() or ".." in path.parts:
                detail = f"line {number} names {row[role]!r}, which is not inside the folder"
                place = source.folder / MANIFEST_NAME
                strays.append(Problem(path=place, kind="path", detail=detail))
                break
            files[role] = source.folder / path
        else:
            name = str(row.get("id") or Path(files["image"]).stem)
            yield _list_one(source, name, files, row)


def _list_one(source: Source, name: str, files: dict[str, Path], row: Row) -> Listed:
    stamp, problems = [], []
    for role, path in files.items():
        try:
            status = path.stat()
        except OSError:
            detail = f"is named by {MANIFEST_NAME} and missing"
            remedy = "restore it, or run the command that made the folder again"
            problems.append(Problem(path=path, kind="missing", detail=detail, remedy=remedy))
            continue
        stamp.append(f"{role} {status.st_size} {status.st_mtime_ns}")
    sums = row.get("sha256")
    return Listed(
        id=name, label=source.label, real=source.real, stamp="; ".join(stamp),
        files={role: str(_absolute(path)) for role, path in files.items()},
        row={key: value for key, value in row.items() if key not in _TOLD_APART},
        sha256=sums if isinstance(sums, dict) else {}, problems=tuple(problems),
    )  # fmt: skip


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - as it is named, links not followed


_work: dict[str, Any] = {}  # what a worker process needs for every chunk


def _prepare_check(encoding: Encoding, strict: bool) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work["encoding"], _work["strict"] = encoding, strict


def _check_chunk(items: list[Item]) -> Checked:
    found: Checked = []
    for item in items:
        facts, problems = check_files(item.files, item.wanted, _work["encoding"], _work["strict"])
        found.append((item.number, facts, problems))
    return found
