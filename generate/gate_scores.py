"""Scores on disk: what was measured before, `scores.jsonl`, and the manifest.

In: rows of scores. Out: `measured/manifest.jsonl`, to which finished chunks are appended, so that
a run that was killed goes on; `scores.jsonl`, a row a pair, whole or absent; and, by
`attach_scores`, the manifest of the pairs with `scores` in its rows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from univg.errors import DataError
from univg.files import make_folder, open_atomic
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    Row,
    encode_row,
    iterate_rows,
    lock_folder,
    read_rows,
)

SCORES_FOLDER = "quality"
SCORES_NAME = "scores.jsonl"
MEASURED_FOLDER = "measured"


class Measured:
    """The rows that were measured so far, of one way of measuring; use as a context manager."""

    def __init__(self, place: Path, key: str) -> None:
        self.folder = make_folder(place / MEASURED_FOLDER)
        self.key = key
        self.rows = {
            str(row["id"]): row
            for row in _forgiving_rows(self.folder)
            if row.get("key") == key and "id" in row
        }
        self._writer: ManifestWriter | None = None

    def append(self, rows: Sequence[Row]) -> None:
        """Keep `rows`, on disk before they count."""
        if self._writer is None:
            self._writer = ManifestWriter(self.folder)
        keyed = [{**row, "key": self.key} for row in rows]
        self._writer.append(keyed)
        self.rows.update({str(row["id"]): row for row in keyed})

    def tidy(self, names: Sequence[str]) -> None:
        """Bring the file into the order of the pairs `names`, without what is out of date."""
        self._close()
        wanted = [self.rows[name] for name in names if name in self.rows]
        if not _holds(self.folder, wanted):
            _write_rows(self.folder / MANIFEST_NAME, wanted)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _forgiving_rows(folder: Path) -> list[Row]:
    """Return the rows of `folder`; of a damaged file none, since all can be measured again."""
    try:
        return read_rows(folder)
    except DataError:
        (folder / MANIFEST_NAME).unlink()
        return []


def _holds(folder: Path, wanted: Sequence[Row]) -> bool:
    """Whether the file in `folder` has these rows, in this order, and no other."""
    try:
        return all(a == b for a, b in itertools.zip_longest(iterate_rows(folder), wanted))
    except DataError:
        return False


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with open_atomic(path) as stream:
        for row in rows:
            stream.write(encode_row(row))


def write_scores(place: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `scores.jsonl`; return its path."""
    path = place / SCORES_NAME
    _write_rows(path, rows)
    return path


def read_scores(place: Path) -> Iterator[Row]:
    """Yield the rows of `scores.jsonl` in `place`."""
    path = place / SCORES_NAME
    if not path.is_file():
        raise DataError(f"{path}: is missing; run `univg generate check` first")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}: line {number} is not JSON; run the check again"
                ) from error
            yield row


def attach_scores(folder: Path, place: Path | None = None, *, lock: bool = True) -> int:
    """Put the scores of `place` (default: FOLDER/quality) into the manifest of `folder`.

    A row whose files are no longer those that were measured loses its scores; all else stays as
    it is. Return how many rows have scores. `lock` false: the caller has locked `folder`.
    """
    manifest = folder / MANIFEST_NAME
    if not manifest.is_file():
        raise DataError(f"{manifest}: is missing; scores of a plain folder stay in {SCORES_NAME}")
    known = Lookup(read_scores(place or folder / SCORES_FOLDER))
    count = 0
    with lock_folder(folder) if lock else contextlib.nullcontext(), open_atomic(manifest) as stream:
        # Bytes after the last whole line are of a killed run; the writer of the run cuts them.
        for row in iterate_rows(folder):
            scored = _attach(row, known.take(name_of_row(row)))
            stream.write(encode_row(scored))
            count += "scores" in scored
    return count


class Lookup:
    """Rows by name, asked for about in their own order: few are held at a time."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows, self._passed = rows, dict[str, Row]()

    def take(self, name: str) -> Row | None:
        """Return the row called `name`, once."""
        if name in self._passed:
            return self._passed.pop(name)
        for row in self._rows:
            found = name_of_row(row)
            if found == name:
                return row
            self._passed[found] = row
        return None


def name_of_row(row: Mapping[str, Any]) -> str:
    """Return what a manifest row's pair is called, as `univg.pairs` does."""
    if "id" in row:
        return str(row["id"])
    file = row.get("image") or row.get("mask")
    return Path(file).stem if isinstance(file, str) else ""


def _attach(row: Row, found: Mapping[str, Any] | None) -> Row:
    plain = {key: value for key, value in row.items() if key != "scores"}
    if found is None or "scores" not in found or not _same_files(row, found["sha256"]):
        return plain
    return {**plain, "scores": found["scores"]}


def _same_files(row: Mapping[str, Any], measured: Mapping[str, str]) -> bool:
    given = row.get("sha256")
    if not isinstance(given, dict):
        return True  # the manifest does not say what its files are
    return all(given[role] == digest for role, digest in measured.items() if role in given)
