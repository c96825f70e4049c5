"""Files that are either whole or absent.

In: bytes and a path. Out: the file, written under a temporary name, flushed to disk and renamed.
A reader never sees half a file; what a killed run leaves behind are temporary names, which
`remove_temporaries` clears.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from univg.errors import UserError

TEMPORARY_PREFIX = ".univg-tmp-"
_numbers = itertools.count()
_machine = secrets.token_hex(3)
"""Process numbers repeat on other machines that write to the same disk."""


class DiskFullError(UserError):
    """No space left. What is named in the manifest is safe; the same command goes on."""


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of the file at `path` in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that `path` is at every moment absent, old or complete."""
    write_all_atomic({path: data})


def write_all_atomic(files: Mapping[Path, bytes]) -> None:
    """Write several files, each at every moment absent, old or complete.

    All are written before the first is flushed: the disk then takes them together, which is much
    faster than one by one. If one fails, none of those not yet in place appears.
    """
    temporaries = {path: _temporary(path) for path in files}
    current = next(iter(files), Path())
    try:
        for current, data in files.items():
            temporaries[current].write_bytes(data)
        for current, temporary in temporaries.items():  # noqa: B007 - named in the error
            _flush(temporary)
        for current, temporary in temporaries.items():
            temporary.replace(current)
    except OSError as error:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise explain_os_error(error, current) from error


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open `path` to be written piece by piece; it appears whole at the end, or not at all."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Return a name beside `path`, a short one: the final may be as long as the system allows."""
    return path.with_name(f"{TEMPORARY_PREFIX}{_machine}-{os.getpid()}-{next(_numbers)}")


def _flush(path: Path) -> None:
    """Bring the file's content to the disk; a full disk may show only here."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def explain_os_error(error: OSError, path: Path) -> Exception:
    """Turn a full disk, a read-only folder or a missing one into a line a user can act on."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return DiskFullError(
            f"{path.parent}: no space left on the disk; free some and run the same command again, "
            "it goes on where it stopped"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return UserError(f"{path}: cannot be written ({error.strerror}); choose another folder")
    if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
        return UserError(f"{path}: {error.strerror}; choose another output path")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(
            f"{path}: the name is longer than this system allows; choose a shorter one"
        )
    return error


def make_folder(path: Path) -> Path:
    """Create the folder `path` with its parents; a user's mistake gives one clear line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error
    return path


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries (renames) to disk where the system knows how."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed runs left in `folder` (not below it); return how many."""
    count = 0
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
        count += 1
    return count
