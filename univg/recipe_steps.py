"""A chain of steps, each done once for its inputs: what `univg run` is made of.

In: steps with settings, inputs and what they need of each other. Out: a folder a step, named by a
hash of all that decides it. A step whose folder is done is skipped; a change redoes what depends
on it and nothing else; an interrupted step goes on in its folder. Nothing is deleted but what a
damaged step has left: it is done anew.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from univg import __version__
from univg.config import to_plain
from univg.errors import DataError, Problem, ProblemReport
from univg.files import make_folder, sha256_hex, sha256_of_file, write_atomic
from univg.images import is_picture_name
from univg.manifest import LOCK_NAME, MANIFEST_NAME

DONE = "done.json"
SPARE = ("checkpoints",)
"""Folders in a step's that may be deleted once it is done."""
KEY_DIGITS = 12

HashFiles = Callable[[Sequence[Path]], tuple[Mapping[Path, str], Sequence[Problem]]]
"""Gives the checksums of files, and what is wrong with those that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a recipe."""

    name: str
    words: str = ""
    """What it does, for people."""
    kind: str = ""
    """Begins the name of its folder; default: `name`. Steps of one kind differ by settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All values that decide what comes out, plain."""
    inputs: Sequence[Path] = ()
    """Files and folders of the user's, by whose content it is known."""
    after: Sequence[str] = ()
    """Steps whose results it reads."""
    work: Callable[[Path, Mapping[str, Path]], Mapping[str, Any] | None]
    """Does it: takes its folder and those of the steps in `after`; may return facts to keep."""
    algorithm: int = 1
    """Raise with every change that changes what comes out."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A step that is done."""

    name: str
    folder: Path
    key: str
    seconds: float
    skipped: bool
    facts: Mapping[str, Any]


def hash_each(paths: Sequence[Path]) -> tuple[dict[Path, str], list[Problem]]:
    """Read all of `paths`; one that remembers is faster where there are thousands."""
    return {path: sha256_of_file(path) for path in paths}, []


class Chain:
    """Steps, done in the order in which they are given."""

    def __init__(
        self,
        out: Path,
        say: Callable[[str], None] = print,
        total: int = 0,
        hash_files: HashFiles = hash_each,
    ) -> None:
        self.out, self.say, self.total, self.hash_files = out, say, total, hash_files
        self.results: dict[str, Result] = {}
        self._contents: dict[Path, str] = {}

    def do(self, step: Step) -> Result:
        """Do `step`, unless it is done; return where its result is."""
        missing = [name for name in step.after if name not in self.results]
        if missing or step.name in self.results:
            raise AssertionError(f"step {step.name}: not after {missing}, and only once")
        key = self.key_of(step)
        folder = self.out / "steps" / f"{step.kind or step.name}-{key}"
        number = len(self.results) + 1
        lead = f"Step {number} of {max(self.total, number)}, {step.name}"
        found, hurt = read_done(folder)
        if hurt:
            self.say(f"{lead}: {hurt}; it is done anew")
            clear_step(folder)
        skipped = found is not None
        if found is None:
            self.say(f"{lead}: {step.words or 'begins'}, in {folder}")
            found = self._work(step, folder, key)
            self.say(f"{lead}: done in {found['seconds']:.0f} s")
        else:
            self.say(f"{lead}: done before, in {folder}")
        result = Result(
            name=step.name,
            folder=folder,
            key=key,
            seconds=float(found["seconds"]),
            skipped=skipped,
            facts=found["facts"],
        )
        self.results[step.name] = result
        return result

    def key_of(self, step: Step) -> str:
        """Return the hash of all that decides the result of `step`."""
        decides = {
            "version": __version__,
            "algorithm": step.algorithm,
            "name": step.kind or step.name,
            "settings": to_plain(dict(step.settings)),
            "inputs": self._contents_of(step.inputs),
            # Not by name: with a second network, a step of the same kind goes by another one.
            "after": [self.results[name].key for name in step.after],
        }
        text = json.dumps(decides, sort_keys=True, default=str)
        return sha256_hex(text.encode())[:KEY_DIGITS]

    def _contents_of(self, paths: Sequence[Path]) -> list[str]:
        """Return the checksums of inputs, as they were when the chain first came to them."""
        new = [path for path in dict.fromkeys(paths) if path not in self._contents]
        files = [path for path in new if path.is_file()]
        self._contents |= _hash_all(files, self.hash_files)
        for path in new:
            if path not in self._contents:
                self._contents[path] = hash_content(path, self.hash_files)
        return [self._contents[path] for path in paths]

    def _work(self, step: Step, folder: Path, key: str) -> dict[str, Any]:
        make_folder(folder)
        earlier = read_seconds(folder)
        start = time.monotonic()
        try:
            facts = step.work(folder, {name: self.results[name].folder for name in step.after})
        finally:
            seconds = earlier + time.monotonic() - start
            write_atomic(folder / ".univg-seconds", f"{seconds:.2f}".encode())
        done = {"key": key, "seconds": round(seconds, 2), "facts": dict(facts or {})}
        done["bytes"] = list_files(folder)
        write_atomic(folder / DONE, (json.dumps(done, indent=1) + "\n").encode())
        return done


def read_done(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return what a finished step has left, None where it is not finished; and what is damaged."""
    path = folder / DONE
    if not path.is_file():
        return None, ""
    try:
        found = json.loads(path.read_bytes())
        told = {"seconds": float(found["seconds"]), "facts": dict(found["facts"])}
        wanted = dict(found.get("bytes", {}))  # not there: done before sizes were noted
    except (ValueError, KeyError, TypeError) as error:
        return None, f"{path} is damaged ({error})"
    there = list_files(folder)
    for name, size in wanted.items():
        if name not in there:
            return None, f"{folder / name} is missing"
        if there[name] != size:
            return None, f"{folder / name} has {there[name]} bytes, not {size}"
    return told, ""


def list_files(folder: Path) -> dict[str, int]:
    """Return the sizes of the files of a step, by their names in its folder."""
    found = {}
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(each for each in inner if each not in SPARE and each[0] != ".")
        for name in sorted(names):
            path = Path(place, name)
            if name[0] != "." and not (name == DONE and path.parent == folder):
                found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    return found


def clear_step(folder: Path) -> None:
    """Delete what a damaged step has left, its note last: broken off, it is done again."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (DONE, LOCK_NAME):
            path.unlink()
    (folder / DONE).unlink()


def read_seconds(folder: Path) -> float:
    """Return the seconds that broken tries at a step have taken."""
    try:
        return float((folder / ".univg-seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def hash_content(path: Path, hash_files: HashFiles = hash_each) -> str:
    """Return a checksum of a file, or of the pictures and manifests below a folder, with names.

    Hidden ones and other files do not count (Thumbs.db, notes); where the folder lies does not.
    """
    if path.is_file():
        return _hash_all([path], hash_files)[path]
    if not path.is_dir():
        raise DataError(f"{path}: does not exist; check the path")
    files = sorted(p for p in path.rglob("*") if _counts(p, path))
    sums = _hash_all(files, hash_files)
    lines = [f"{sums[p]} {p.relative_to(path).as_posix()}" for p in files]
    return sha256_hex("\n".join(lines).encode())


def _counts(path: Path, root: Path) -> bool:
    inner = path.relative_to(root).as_posix()
    known = path.name == MANIFEST_NAME or is_picture_name(inner)
    return known and path.is_file() and not is_hidden(path, root)


def _hash_all(files: Sequence[Path], hash_files: HashFiles) -> dict[Path, str]:
    # An empty manifest is one; pictures of no bytes are refused by whoever reads them.
    sums = {path: sha256_hex(b"") for path in files if not path.stat().st_size}
    wanted = [path for path in files if path not in sums]
    found, problems = hash_files(wanted) if wanted else ({}, [])
    if problems:
        raise ProblemReport(problems, "files that cannot be read")
    return {**sums, **found}


def is_hidden(path: Path, root: Path) -> bool:
    """Whether `path`, which lies below `root`, is hidden or in a hidden folder."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)
