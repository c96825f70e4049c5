"""The manifest of a run folder: which items are finished, and how each can be made again.

In: rows (one JSON object an item). Out: `manifest.jsonl`, one line an item, in the order of the
items, appended after the item's files are on disk. A reader trusts only what it names. A run that
was killed leaves at most one torn last line, which the next run cuts off.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from univg.errors import DataError, ResumeError
from univg.files import explain_os_error, write_atomic

MANIFEST_NAME = "manifest.jsonl"
RUN_NAME = "run.json"
LOCK_NAME = ".univg-lock"
TAIL_BYTES = 65_536
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}

Row = dict[str, Any]


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Return the one spelling of `row`: sorted keys, no spaces, a newline."""
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def read_rows(folder: Path) -> list[Row]:
    """Read the finished items of `folder`; a torn last line does not count."""
    return list(iterate_rows(folder))


def iterate_rows(folder: Path) -> Iterator[Row]:
    """Yield the finished items of `folder` one by one, in constant memory."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            yield _decode(line, path, number)


def _decode(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{path}: line {number} is not JSON; the file was edited or damaged: restore it, or "
            "delete the folder and run again"
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object")
    return row


class ManifestWriter:
    """Appends rows, whole lines only, each batch flushed to disk before it counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST_NAME
        try:
            _cut_torn_line(self.path)
            self._stream = self.path.open("ab", buffering=0)
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append `rows`, whose files must be on disk already."""
        if not rows:
            return
        data = b"".join(encode_row(row) for row in rows)
        start = self._stream.tell()
        try:
            written = self._stream.write(data)
            if written != len(data):  # a full disk may take a part and say so only by the count
                self._stream.write(data[written:])
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stream.truncate(start)
            raise explain_os_error(error, self.path) from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_torn_line(path: Path) -> None:
    """Cut what a killed run left of its last line; rows are short, so its end is enough."""
    if not path.exists():
        return
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        whole = size
        while whole > 0:
            start = max(0, whole - TAIL_BYTES)
            stream.seek(start)
            found = stream.read(whole - start).rfind(b"\n")
            if found >= 0:
                whole = start + found + 1
                break
            whole = start
        if whole != size:
            stream.truncate(whole)


def sort_rows(folder: Path, key: str) -> None:
    """Bring the manifest into the order of `key`, if it is not: as if made in one go."""
    rows = read_rows(folder)
    ordered = sorted(rows, key=lambda row: row[key])
    if rows != ordered:
        write_atomic(folder / MANIFEST_NAME, b"".join(encode_row(row) for row in ordered))


def refuse_strangers(folder: Path) -> None:
    """Refuse a folder that holds files of unknown origin."""
    strangers = [p for p in folder.iterdir() if not p.name.startswith(".univg-")]
    if strangers:
        raise ResumeError(
            f"{folder}: holds {len(strangers)} entries that no univg run has made "
            f"(for example {strangers[0].name}); choose an empty or new folder"
        )


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Mark `folder` as belonging to the run `identity`, or refuse it.

    `identity` holds everything that decides the items' bytes (not their number, nor the number of
    workers). An empty or new folder is claimed; one with the same identity is resumed; one with
    another identity, or with files of unknown origin, is refused and left as it is.
    """
    path = folder / RUN_NAME
    wanted = json.loads(json.dumps(identity))
    if not path.exists():
        refuse_strangers(folder)
        write_atomic(path, (json.dumps(wanted, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (ValueError, TypeError) as error:
        raise ResumeError(f"{path}: is no JSON object; choose another folder") from error
    if found != wanted:
        raise ResumeError(f"{folder}: holds another run; {describe_difference(found, wanted)}")


@contextlib.contextmanager
def lock_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep a second run out of `folder`; the lock goes with the process, however it ends.

    A `shared` one only keeps out those that want it for themselves.

    To be taken before `claim_folder` and before anything is tidied up. Where folders cannot be
    locked (Windows), a file in it is; disks without locks get none.
    """
    with contextlib.ExitStack() as stack:
        try:
            _lock(folder, stack, shared)
        except BlockingIOError as error:
            raise ResumeError(
                f"{folder}: another run is writing here; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise explain_os_error(error, folder) from error
        yield


def _lock(folder: Path, stack: contextlib.ExitStack, shared: bool) -> None:
    """Lock until `stack` closes; BlockingIOError if another process has the lock."""
    if sys.platform == "win32":
        import msvcrt

        if shared:  # there are none; each part of a run has a lock of its own
            return
        stream = stack.enter_context((folder / LOCK_NAME).open("ab"))
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)


def describe_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the settings in which two runs differ: `seed is 7 there and 8 here, …`."""
    flat_found, flat_wanted = _flatten(found), _flatten(wanted)
    keys = [k for k in flat_wanted | flat_found if flat_found.get(k) != flat_wanted.get(k)]
    shown = [f"{k} is {flat_found.get(k)!r} there and {flat_wanted.get(k)!r} here" for k in keys]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return "; ".join(shown[:4]) + more + ": choose another --out, or repeat that run's settings"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            flat.update(_flatten({str(k): item for k, item in enumerate(value)}, f"{prefix}{key}."))
        elif isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
