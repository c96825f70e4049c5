"""Runs shared between machines: shards, decided by arithmetic, and what joins them.

In: a run folder that all see, `--shard 3/64`. Out: the shard's files in the folder's own places
and its rows in `parts/00003-of-00064/manifest.jsonl`; when all are there, `merge_parts` makes of
them the manifest that one process would have written, and says what is missing or doubled.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from univg.errors import ConfigError, DataError, ResumeError
from univg.files import (
    TEMPORARY_PREFIX,
    make_folder,
    open_atomic,
    sha256_of_file,
    write_atomic,
)
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    encode_row,
    iterate_rows,
    lock_folder,
    sort_rows,
)
from univg.progress import show_progress
from univg.run_folder import PARTS, PLAN_NAME, Executor, Filled, Maker, append_all, begin

CLAIM = ".univg-claim"
CLAIM_TRIES, CLAIM_WAIT_S = 100, 0.1
SHOWN = 5


@dataclass(frozen=True)
class Shard:
    """One of `of` equal portions of a run, counted from 0."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.number:05d}-of-{self.of:05d}"

    def share(self, wanted: range, block: int = 1) -> range:
        """Return its items of `wanted`; blocks that are drawn together stay together."""
        return range(
            self._edge(wanted, block, self.number), self._edge(wanted, block, self.number + 1)
        )

    def _edge(self, wanted: range, block: int, number: int) -> int:
        if number in (0, self.of):
            return wanted.start if number == 0 else wanted.stop
        edge = wanted.start + len(wanted) * number // self.of
        return min(max(edge - edge % block, wanted.start), wanted.stop)


def parse_shard(word: str) -> Shard:
    """Read `3/64`."""
    found = re.fullmatch(r"(\d+)/(\d+)", word.strip())
    if found is None or int(found[2]) < 1 or int(found[1]) >= int(found[2]):
        raise ConfigError(
            f"shard is {word!r}: give NUMBER/OF, NUMBER from 0, such as 0/64 to 63/64"
        )
    return Shard(int(found[1]), int(found[2]))


def fill_shard(
    maker: Maker,
    folder: Path,
    wanted: range,
    executor: Executor,
    shard: Shard,
    *,
    config: bytes = b"",
) -> Filled:
    """Bring `folder` to hold the shard's items; other shards may be at work in it."""
    filled, start = Filled(), time.perf_counter()
    identity = maker.identity()  # may load an engine, and others would wait for the lock
    plan = {"first": wanted.start, "count": len(wanted), "shards": shard.of, "block": maker.block}
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_folder(folder, shared=True))
        part = claim_part(folder, identity, plan, shard, config, stack)
        items = shard.share(wanted, maker.block)
        for name in maker.folders.values():
            make_folder(folder / name)
        todo, in_order = begin(maker, folder, items, filled, rows_in=part)
        with ManifestWriter(part) as manifest:
            append_all(maker, folder, todo, len(items), executor, manifest, filled)
        if not in_order:
            sort_rows(part, "index")
        write_atomic(part / "done", b"")
    filled.wall_s = time.perf_counter() - start
    return filled


def claim_part(
    folder: Path,
    identity: Mapping[str, Any],
    plan: dict[str, int],
    shard: Shard,
    config: bytes,
    stack: contextlib.ExitStack,
) -> Path:
    """Claim the folder for the run, cut as in `plan`, and the part of it for this process."""
    with lock_patiently(make_folder(folder / CLAIM)):
        if is_begun_whole(folder):
            raise ResumeError(
                f"{folder}: holds a whole run already; go on with it without --shard, or choose "
                "another --out"
            )
        claim_folder(folder, identity)
        place = make_folder(folder / PARTS)
        _claim_plan(place / PLAN_NAME, plan)
        if config:
            write_atomic(folder / "config.yaml", config)
    part = make_folder(place / shard.name)
    stack.enter_context(lock_folder(part))
    return part


def is_begun_whole(folder: Path) -> bool:
    """Whether the run in `folder` is that of one process, or of shards that were joined."""
    return (folder / MANIFEST_NAME).exists()


def _claim_plan(path: Path, plan: dict[str, int]) -> None:
    if not path.exists():
        write_atomic(path, (json.dumps(plan) + "\n").encode())
        return
    found = read_plan(path.parent.parent)
    if found != plan:
        raise ResumeError(
            f"{path}: shards of another run are here ({_describe(found)}) than asked for "
            f"({_describe(plan)}); choose another --out"
        )


def _describe(plan: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items())


def read_plan(folder: Path) -> dict[str, int]:
    """Return how the run in `folder` was cut."""
    path = folder / PARTS / PLAN_NAME
    if not path.is_file():
        if not folder.is_dir():
            raise DataError(f"{folder}: does not exist; give the run folder of the shards")
        joined = "it is joined already" if (folder / MANIFEST_NAME).exists() else "check the path"
        raise DataError(f"{folder}: holds no shards ({PARTS}/{PLAN_NAME} is missing); {joined}")
    try:
        found = json.loads(path.read_bytes())
        return {name: int(found[name]) for name in ("first", "count", "shards", "block")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error})") from error


@contextlib.contextmanager
def lock_patiently(folder: Path) -> Iterator[None]:
    """Lock `folder`, waiting for others who hold it for a moment."""
    with contextlib.ExitStack() as stack:
        for number in range(CLAIM_TRIES):
            try:
                stack.enter_context(lock_folder(folder))
                break
            except ResumeError:
                if number == CLAIM_TRIES - 1:
                    raise
                time.sleep(CLAIM_WAIT_S)
        yield


@dataclass
class Merged:
    """What was found when the parts were joined."""

    folder: Path
    items: int = 0
    doubles: int = 0
    holes: list[range] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    """Shards in which something is missing."""
    damaged: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return one line for the terminal."""
        doubles = f", {self.doubles} named twice and kept once" if self.doubles else ""
        return f"{self.items} items{doubles}, no holes: {self.folder / MANIFEST_NAME}"


def merge_parts(folder: Path, *, verify: bool = False) -> Merged:
    """Make one manifest of all parts; with holes, nothing is changed and all are told."""
    plan = read_plan(folder)
    merged = Merged(folder)
    with lock_folder(folder):
        with (
            open_atomic(folder / MANIFEST_NAME) as stream,
            show_progress(plan["count"], "joining", "items") as progress,
        ):
            for row in _join(folder, plan, merged):
                stream.write(encode_row(row))
                if verify:
                    merged.damaged += _find_damage(folder, row)
                progress.advance()
            _refuse_holes(folder, plan, merged)
        # Away at once: parts of which some are deleted would look like a run with holes.
        spent = folder / f"{TEMPORARY_PREFIX}{PARTS}"
        shutil.rmtree(spent, ignore_errors=True)  # of a merge that was killed
        (folder / PARTS).replace(spent)
        shutil.rmtree(spent)
        shutil.rmtree(folder / CLAIM, ignore_errors=True)
    return merged


def _join(folder: Path, plan: dict[str, int], merged: Merged) -> Iterator[Row]:
    """Yield the rows of all parts in order; what is missing or doubled goes to `merged`."""
    wanted = range(plan["first"], plan["first"] + plan["count"])
    strays = list(_find_strays(folder, plan, wanted))
    last: Row | None = None
    expected = wanted.start
    for number in range(plan["shards"]):
        shard = Shard(number, plan["shards"])
        share = shard.share(wanted, plan["block"])
        rows = [*_read_part(folder / PARTS / shard.name), *strays]
        for row in sorted((r for r in rows if r["index"] in share), key=lambda r: int(r["index"])):
            if last is not None and row["index"] == last["index"]:
                _refuse_difference(folder, row, last)
                merged.doubles += 1
                continue
            if row["index"] > expected:
                merged.holes.append(range(expected, row["index"]))
            expected, last = row["index"] + 1, row
            merged.items += 1
            yield row
    if expected < wanted.stop:
        merged.holes.append(range(expected, wanted.stop))


def _read_part(part: Path) -> Iterator[Row]:
    for row in iterate_rows(part):
        if not isinstance(row.get("index"), int) or not isinstance(row.get("sha256"), str | dict):
            raise DataError(
                f"{part / MANIFEST_NAME}: a row is without index or checksums; the file was "
                f"edited: delete {part} and run its shard again"
            )
        yield row


def _find_strays(folder: Path, plan: dict[str, int], wanted: range) -> Iterator[Row]:
    """Yield rows that stand in the part of another shard, as after a change by hand."""
    for number in range(plan["shards"]):
        shard = Shard(number, plan["shards"])
        share = shard.share(wanted, plan["block"])
        for row in _read_part(folder / PARTS / shard.name):
            if row["index"] not in wanted:
                raise DataError(f"{folder / PARTS / shard.name}: item {row['index']} is of no run")
            if row["index"] not in share:
                yield row


def _refuse_difference(folder: Path, row: Row, other: Row) -> None:
    if row != other:
        raise DataError(
            f"{folder / PARTS}: item {row['index']} stands there twice and differs; shards of "
            "different versions or machines were mixed: delete one and run it again"
        )


def _find_damage(folder: Path, row: Row) -> list[str]:
    sums = row["sha256"] if isinstance(row["sha256"], dict) else {"mask": row["sha256"]}
    return [
        str(row[role])
        for role, digest in sums.items()
        if not (folder / row[role]).is_file() or sha256_of_file(folder / row[role]) != digest
    ]


def _refuse_holes(folder: Path, plan: dict[str, int], merged: Merged) -> None:
    wanted = range(plan["first"], plan["first"] + plan["count"])
    for number in range(plan["shards"]):
        share = Shard(number, plan["shards"]).share(wanted, plan["block"])
        if any(hole.start < share.stop and share.start < hole.stop for hole in merged.holes):
            merged.unfinished.append(number)
    if merged.holes:
        missing = sum(len(hole) for hole in merged.holes)
        shown = ", ".join(f"{number}/{plan['shards']}" for number in merged.unfinished[:SHOWN])
        more = f" and {len(merged.unfinished) - SHOWN} more" if merged.unfinished[SHOWN:] else ""
        raise DataError(
            f"{folder}: {missing} of {plan['count']} items are missing; run these shards again: "
            f"{shown}{more}"
        )
    if merged.damaged:
        raise DataError(
            f"{folder}: {len(merged.damaged)} files are missing or damaged, such as "
            f"{merged.damaged[0]}; run their shards again"
        )


def merge_if_last(folder: Path) -> Merged | None:
    """Merge where every part is done and nobody else is at work; the last to finish does it."""
    try:
        plan = read_plan(folder)
        parts: Sequence[Any] = list((folder / PARTS).glob("*-of-*/done"))
        if len(parts) < plan["shards"]:
            return None
        return merge_parts(folder)
    except (ResumeError, FileNotFoundError):
        return None  # another process is merging
    except DataError:
        if (folder / MANIFEST_NAME).exists() and not (folder / PARTS).exists():
            return None  # another process has merged
        raise
