"""The pairs that were kept, as a folder of their own.

In: a folder of pairs and which of them to keep. Out: a folder with the same files (hard links
where the disk allows, else copies) and a manifest with their rows and scores. Files are never
changed in place by any command here, so a link is as good as a copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from univg.errors import DataError
from univg.files import (
    TEMPORARY_PREFIX,
    explain_os_error,
    make_folder,
    remove_temporaries,
    sha256_of_file,
    sync_folder,
    write_atomic,
)
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    iterate_rows,
    lock_folder,
    read_rows,
)
from univg.pairs import Pair, PairFolder

from .gate_scores import name_of_row

_BATCH = 256


def write_kept(
    found: PairFolder, kept: Mapping[str, Row], out: Path, identity: Mapping[str, Any]
) -> int:
    """Bring `out` to hold the pairs of `found` named in `kept` (with their rows of scores).

    Goes on where a killed run stopped; refuses a folder of another run. Return how many pairs.
    """
    _refuse_inside(found.folder, out)
    wanted = [pair for pair in found.pairs if pair.stem in kept]
    given = {name_of_row(row): row for row in iterate_rows(found.folder)}
    with lock_folder(make_folder(out)):
        claim_folder(out, identity)
        rows = [_make_row(pair, found.folder, given, kept[pair.stem]) for pair in wanted]
        folders = sorted({(out / name).parent for row in rows for name in _files(row).values()})
        for folder in folders:
            remove_temporaries(make_folder(folder))
        there = read_rows(out)
        if there != rows[: len(there)]:  # of other scores: begin the manifest again
            write_atomic(out / MANIFEST_NAME, b"")
            there = []
        named = {row["id"] for row in there}
        todo = [
            k for k, row in enumerate(rows) if row["id"] not in named or not _is_whole(out, row)
        ]
        _write_pairs(out, folders, [(rows[k], wanted[k]) for k in todo], named)
    return len(rows)


def _write_pairs(
    out: Path, folders: Sequence[Path], todo: Sequence[tuple[Row, Pair]], named: set[str]
) -> None:
    with ManifestWriter(out) as manifest:
        for start in range(0, len(todo), _BATCH):
            part = todo[start : start + _BATCH]
            for row, pair in part:
                sources = {"image": pair.image, "mask": pair.mask, "fov": pair.fov}
                for role, name in _files(row).items():
                    source = sources[role]
                    if source is not None:
                        _link_or_copy(source, out / name)
            for folder in folders:
                sync_folder(folder)
            manifest.append([row for row, _ in part if row["id"] not in named])


def _refuse_inside(folder: Path, out: Path) -> None:
    inner, outer = out.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents:
        raise DataError(f"{out}: lies in the folder of the pairs; choose another --out")


def _make_row(pair: Pair, folder: Path, given: Mapping[str, Row], scored: Row) -> Row:
    """Return the row of a kept pair: the one it had, or one made for a folder without manifest."""
    row = dict(given.get(pair.stem, {"id": pair.stem, "source_folder": folder.name}))
    files = {"image": pair.image, "mask": pair.mask, "fov": pair.fov}
    paths = {role: path.relative_to(folder) for role, path in files.items() if path is not None}
    return {
        **row,
        **{role: path.as_posix() for role, path in paths.items()},
        "id": pair.stem,
        "sha256": scored["sha256"],
        "scores": scored["scores"],
    }


def _files(row: Mapping[str, Any]) -> dict[str, str]:
    return {role: row[role] for role in ("image", "mask", "fov") if row.get(role)}


def _is_whole(out: Path, row: Row) -> bool:
    return all(
        (out / name).is_file() and sha256_of_file(out / name) == row["sha256"][role]
        for role, name in _files(row).items()
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it; whole or absent."""
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-link")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source.resolve(), temporary)
    except OSError:  # another disk, or one without links
        write_atomic(target, source.read_bytes())
        return
    try:
        temporary.replace(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # renaming onto itself leaves both names
