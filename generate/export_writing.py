"""The run of `univg export`: list, check, reserve, write shard by shard, finish.

In: an `Exporter`, folders of pairs, a place. Out: the data set. A shard is written by a worker and
noted in the ledger after its files stand; a run that was killed goes on with the first shard that
is not noted, and the result is that of a run that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg import __version__
from univg.errors import DataError, Problem, UserError
from univg.files import TEMPORARY_PREFIX, make_folder, sync_folder
from univg.manifest import (
    RUN_NAME,
    ManifestWriter,
    claim_folder,
    iterate_rows,
    lock_folder,
)
from univg.pool import Workers
from univg.progress import show_progress

from .export_index import Index
from .export_layout import STATE, Exporter, Shard, Summary, Whole
from .export_listing import Source, check_listed, list_sources, report_problems

ALGORITHM = 1  # raise with every change of what is written: older exports are then not resumed
RECORD_BYTES = 1200  # of a pair's provenance, and of its line in the index
SPARE_SHARE = 1.02


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that an export is asked for, resolved."""

    name: str
    exporter: Exporter
    sources: tuple[Source, ...]
    out: Path
    strip: tuple[str, ...]
    strict: bool
    skip_bad: bool
    validation: float
    seed: int
    shard_pairs: int
    workers: int

    @property
    def request(self) -> str:
        """A short name of what is asked of which folders: whose notes are these?"""
        folders = [str(source.folder.resolve()) for source in self.sources]
        parts = [folders, list(self.strip), self.strict, repr(self.exporter.encoding)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass
class Prepared:
    """An export whose pairs are listed, checked and split."""

    exporter: Exporter
    summary: Summary
    shards: list[Shard]
    left_out: int
    identity: dict[str, Any]
    warnings: list[str]


@dataclass
class Written:
    """What an export did."""

    place: Path
    pairs: int = 0
    skipped: int = 0
    bytes: int = 0
    left_out: int = 0
    splits: Mapping[str, int] | None = None
    advice: str = ""


def prepare(job: Job, index: Index) -> Prepared:
    """List, check and split the pairs; whatever is wrong with any is told in one report."""
    strays: list[Problem] = []
    total = index.list_pairs(list_sources(job.sources, job.strip, strays))
    folders = ", ".join(str(source.folder) for source in job.sources)
    check_listed(index, job.exporter.encoding, job.strict, job.workers, total)
    left_out = report_problems(index, strays, folders, job.skip_bad)
    totals = index.totals()
    if not totals.pairs:
        raise DataError(f"{folders}: holds no pair that can be exported; check the path")
    exporter = job.exporter.fit(totals)
    splits = index.split(job.validation, job.seed, exporter.real_split)
    summary = Summary(
        totals=totals, splits=splits, modalities=_stated(index.tally("modality"), job),
        engines=index.tally("engine"), licences=_named(index.tally("licence")), version=__version__,
    )  # fmt: skip
    identity = {
        "stage": "export",
        "version": __version__,
        "algorithm": ALGORITHM,
        "to": job.name,
        "image_format": exporter.encoding.image_format,
        "quality": exporter.encoding.quality if exporter.encoding.image_format == "jpeg" else None,
        "shard_size": job.shard_pairs,
        "options": exporter.identity(),
        "pairs": {"count": totals.pairs, "sha256": index.digest()},
    }
    warnings = _warnings(summary, exporter)
    shards = cut_shards(splits, job.shard_pairs)
    return Prepared(exporter, summary, shards, left_out, identity, warnings)


def cut_shards(splits: Mapping[str, int], shard_pairs: int) -> list[Shard]:
    """Cut each split into shards of `shard_pairs`, the last one shorter."""
    shards: list[Shard] = []
    for split, pairs in splits.items():
        parts = -(-pairs // shard_pairs)
        for part in range(parts):
            first = part * shard_pairs
            count = min(shard_pairs, pairs - first)
            shards.append(
                Shard(
                    number=len(shards), split=split, part=part, parts=parts, first=first,
                    pairs=count,
                )
            )  # fmt: skip
    return shards


def export(job: Job) -> Written:
    """Write the export, or go on with it."""
    place = job.exporter.place(job.out)
    new = [path for path in (place, *place.parents) if not path.exists()]
    make_folder(place)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_folder(place))
        fresh = not (place / RUN_NAME).exists()
        if fresh and any(not path.name.startswith(".univg-") for path in place.iterdir()):
            claim_folder(place, {})  # refuses files of unknown origin
        notes = place / STATE / f"index-{job.request}.db"
        known = notes.exists()
        index = open_index(notes)
        stack.callback(index.close)
        try:
            ready = prepare(job, index)
            _reserve(place, ready)
            claim_folder(place, ready.identity)
        except UserError:
            index.close()
            _take_back(place, notes, fresh, known, new)
            raise
        except sqlite3.DatabaseError as error:
            index.close()
            notes.unlink()
            raise DataError(
                f"{notes}: was damaged ({error}) and is removed; run the same command again"
            ) from error
        for line in ready.warnings:
            print(f"univg: warning: {line}", file=sys.stderr)  # noqa: T201
        whole = Whole(place=place, shards=ready.shards, summary=ready.summary)
        written = _write_shards(job, place, ready, index)
        ready.exporter.finish(whole)
        written.advice = ready.exporter.advice(whole)
        index.close()
        for leftover in (place / STATE).glob("index-*"):
            leftover.unlink()
        sync_folder(place)
    return written


def open_index(path: Path) -> Index:
    """Open the index at `path`, anew where it is damaged."""
    make_folder(path.parent)
    try:
        return Index(path)
    except sqlite3.DatabaseError:
        path.unlink(missing_ok=True)
    try:
        return Index(path)
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: cannot be written ({error}); is the disk full? free some, choose another OUT"
        ) from error


def needed_bytes(ready: Prepared) -> int:
    """Return about how many bytes the whole export takes."""
    totals = ready.summary.totals
    each = RECORD_BYTES + ready.exporter.overhead_bytes
    return int((totals.bytes_out + totals.pairs * each) * SPARE_SHARE)


def _named(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name}


def _stated(counts: dict[str, int], job: Job) -> dict[str, int]:
    """Count pairs without a modality under the one that was given for them."""
    lone = counts.pop("", 0)
    if lone:
        counts[job.exporter.modality] = counts.get(job.exporter.modality, 0) + lone
    return counts


def _warnings(summary: Summary, exporter: Exporter) -> list[str]:
    totals, lines = summary.totals, []
    if totals.grey:
        lines.append(
            f"{totals.grey} masks have grey levels and are cut at half; --strict refuses them"
        )
    if totals.empty:
        lines.append(f"{totals.empty} masks show no vessel")
    if totals.fovs and not exporter.keeps_fov:
        lines.append(f"this layout has no place for the {totals.fovs} fields of view: left out")
    return lines


def _take_back(place: Path, notes: Path, fresh: bool, known: bool, new: list[Path]) -> None:
    """Leave the disk as it was: an export that did not begin leaves nothing behind."""
    if not known:
        notes.unlink(missing_ok=True)
        notes.with_name(f"{notes.name}-journal").unlink(missing_ok=True)
    if fresh and not any((place / STATE).iterdir()):
        (place / STATE).rmdir()
        for folder in new:
            with contextlib.suppress(OSError):  # somebody put something there
                folder.rmdir()


def _reserve(place: Path, ready: Prepared) -> None:
    """Refuse an export for which the disk has no room."""
    pairs = ready.summary.totals.pairs
    left = pairs - sum(row["pairs"] for row in iterate_rows(place / STATE))
    need, free = needed_bytes(ready) * max(0, left) // pairs, shutil.disk_usage(place).free
    if need > free:
        raise UserError(
            f"{place}: {left} pairs need about {need / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are "
            "free; free some, choose another disk, or --image-format webp"
        )


def _write_shards(job: Job, place: Path, ready: Prepared, index: Index) -> Written:
    exporter, summary = ready.exporter, ready.summary
    _tidy(place)
    exporter.begin(place)
    done = {row["shard"]: row for row in iterate_rows(place / STATE)}
    todo = [s for s in ready.shards if not _is_whole(exporter, place, s, index, done)]
    total, left = summary.totals.pairs, sum(shard.pairs for shard in todo)
    result = Written(
        place=place, pairs=left, skipped=total - left, left_out=ready.left_out,
        splits=summary.splits,
    )  # fmt: skip
    count = min(job.workers, len(todo))
    with (
        ManifestWriter(place / STATE) as ledger,
        Workers(count, _prepare_writer, (exporter, place, index.path)) as pool,
        show_progress(total, f"export to {job.name}", "pairs", total - left) as progress,
    ):
        for shard, size in zip(todo, pool.map_in_order(_write_shard, todo), strict=True):
            row = {"shard": shard.number, "split": shard.split, "pairs": shard.pairs, "bytes": size}
            if shard.number not in done:
                ledger.append([row])
            result.bytes += size
            progress.advance(shard.pairs)
    _tidy(place)  # a worker of a killed run may have outlived it for a moment
    return result


def _tidy(folder: Path) -> None:
    """Clear what killed runs left, in every folder of the export, names one at a time."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX):
                Path(entry.path).unlink(missing_ok=True)
            elif entry.is_dir(follow_symlinks=False):
                _tidy(Path(entry.path))


def _is_whole(
    exporter: Exporter, place: Path, shard: Shard, index: Index, done: Mapping[int, Any]
) -> bool:
    """Whether all files of a shard that is noted as done are there, at their lengths."""
    if shard.number not in done:
        return False
    items = index.items(shard.split, shard.first, shard.pairs)
    return _sum_sizes(place, exporter.names(shard, items)) == int(done[shard.number]["bytes"])


def _sum_sizes(place: Path, names: Iterable[str]) -> int:
    total = 0
    for name in names:
        try:
            total += (place / name).stat().st_size
        except OSError:
            return -1
    return total


_work: dict[str, Any] = {}  # what a worker process needs for every shard


def _prepare_writer(exporter: Exporter, place: Path, index: Path) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work.update(exporter=exporter, place=place, index=index)


def _write_shard(shard: Shard) -> int:
    """Write a shard; return the bytes of its files."""
    with _open_items(shard) as items:
        size: int = _work["exporter"].write(_work["place"], shard, items)
        return size


@contextlib.contextmanager
def _open_items(shard: Shard) -> Iterator[Iterable[Any]]:
    with contextlib.closing(Index(_work["index"], read_only=True)) as index:
        yield index.items(shard.split, shard.first, shard.pairs)
