"""The pairs that were kept, as a folder of their own.

In: a folder of pairs and which of them to keep. Out: a folder with the same files (hard links
where the disk allows, else copies) and a manifest with their rows and scores. Files are never
changed in place by any command here, so a link is as good as a copy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
    RUN_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    iterate_rows,
    lock_folder,
)
from univg.pairs import Pair, PairFolder
from univg.progress import Progress, show_progress

from .gate_scores import Lookup
from .keep import STAGE

_BATCH = 256


def write_kept(
    found: PairFolder, kept: Mapping[str, Row], out: Path, identity: Mapping[str, Any]
) -> int:
    """Bring `out` to hold the pairs of `found` named in `kept` (with their rows of scores).

    Goes on where a killed run stopped; refuses a folder of another run. Return how many pairs.
    """
    refuse_inside(found.folder, out)
    wanted = [pair for pair in found.pairs if pair.stem in kept]

    def make_rows() -> Iterator[tuple[Row, Pair]]:
        given = Lookup(iterate_rows(found.folder))
        for pair in wanted:
            yield _make_row(pair, found.folder, given.take(pair.stem), kept[pair.stem]), pair

    with lock_folder(make_folder(out)):
        claim_folder(out, identity)
        folders = sorted({
            (out / name).parent for row, _ in make_rows() for name in _files(row).values()
        })  # fmt: skip
        for folder in folders:
            remove_temporaries(make_folder(folder))
        named = _count_named(out, (row for row, _ in make_rows()))
        with show_progress(len(wanted), "kept", "pairs") as progress:
            _write_pairs(out, folders, make_rows(), named, progress)
    return len(wanted)


def _count_named(out: Path, rows: Iterator[Row]) -> int:
    """Return how many rows the manifest of `out` has; of other scores, it is begun again."""
    count = 0
    for there in iterate_rows(out):
        if there != next(rows, None):
            write_atomic(out / MANIFEST_NAME, b"")
            return 0
        count += 1
    return count


def _write_pairs(
    out: Path,
    folders: Sequence[Path],
    rows: Iterator[tuple[Row, Pair]],
    named: int,
    progress: Progress,
) -> None:
    """Bring the pairs to `out`; the first `named` have their rows already."""
    numbered = enumerate(rows)
    with ManifestWriter(out) as manifest:
        while part := list(itertools.islice(numbered, _BATCH)):
            todo = [(row, pair) for k, (row, pair) in part if k >= named or not _is_whole(out, row)]
            for row, pair in todo:
                sources = {"image": pair.image, "mask": pair.mask, "fov": pair.fov}
                for role, name in _files(row).items():
                    source = sources[role]
                    if source is not None:
                        _link_or_copy(source, out / name)
            for folder in folders if todo else ():
                sync_folder(folder)
            manifest.append([row for k, (row, _) in part if k >= named])
            progress.advance(len(part))


def check_place(folder: Path, out: Path, keep: str) -> None:
    """Refuse an `out` that can be seen to be wrong before all pairs are measured."""
    refuse_inside(folder, out)
    if out.is_dir() and any(not path.name.startswith(".univg-") for path in out.iterdir()):
        known = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = dict(json.loads((out / RUN_NAME).read_bytes()))
        claim_folder(out, {**known, "stage": STAGE, "keep": keep})


def refuse_inside(folder: Path, out: Path) -> None:
    """Refuse to write what is kept into the folder it comes from."""
    inner, outer = out.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents:
        raise DataError(f"{out}: lies in the folder of the pairs; choose another --out")


def _make_row(pair: Pair, folder: Path, given: Row | None, scored: Row) -> Row:
    """Return the row of a kept pair: the one it had, or one made for a folder without manifest."""
    row = {"id": pair.stem, "source_folder": folder.name} if given is None else dict(given)
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
