"""SHA-256 of many files, each read once as long as it does not change.

In: paths, and a file that remembers. Out: a checksum a path. An entry counts only while the file
has the size and the modification time that it had, as git holds it; a file written in the last
seconds is not remembered, since it could change again within the same tick of the clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from univg.errors import Problem
from univg.files import make_folder, sha256_of_file, write_atomic

THREADS = 4
SETTLED_S = 2.0

_Entry = tuple[int, int, str]  # bytes, modification time [ns], sha256


def hash_files(
    paths: Sequence[Path], memory: Path | None = None
) -> tuple[dict[Path, str], list[Problem]]:
    """Return the checksum of each of `paths` that can be read, and what is wrong with the rest.

    `memory` is read before and written after; damaged or missing, all files are read again.
    """
    known = _recall(memory) if memory is not None else {}
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda path: _hash_one(path, known), unique))
    sums: dict[Path, str] = {}
    problems: list[Problem] = []
    fresh: dict[str, _Entry] = {}
    newest_ns = time.time_ns() - int(SETTLED_S * 1e9)
    for path, result in zip(unique, results, strict=True):
        if isinstance(result, Problem):
            problems.append(result)
            continue
        sums[path] = result[2]
        if result[1] < newest_ns:
            fresh[str(path.resolve())] = result
    if memory is not None and any(known.get(name) != entry for name, entry in fresh.items()):
        make_folder(memory.parent)
        write_atomic(memory, json.dumps({**known, **fresh}, indent=0).encode())
    return sums, problems


def _hash_one(path: Path, known: dict[str, _Entry]) -> _Entry | Problem:
    try:
        status = path.stat()
        entry = known.get(str(path.resolve()))
        if entry is not None and entry[:2] == (status.st_size, status.st_mtime_ns):
            return entry
        if status.st_size == 0:
            detail, remedy = "is an empty file of 0 bytes", "copy it again"
            return Problem(path=path, kind="truncated", detail=detail, remedy=remedy)
        return status.st_size, status.st_mtime_ns, sha256_of_file(path)
    except OSError as error:
        detail = f"cannot be read ({error.strerror})"
        return Problem(path=path, kind="unreadable", detail=detail, remedy="check its rights")


def _recall(memory: Path) -> dict[str, _Entry]:
    try:
        stored: Any = json.loads(memory.read_text(encoding="utf-8"))
        return {str(name): (int(e[0]), int(e[1]), str(e[2])) for name, e in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return {}
