"""The list of all pairs of an export, on disk: any number of them in constant memory.

In: what folders hold, what checking showed. Out: items in order, by split and position. An SQLite
file beside the export while it runs; a run that was killed finds in it what was checked already.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg.errors import DataError, Problem
from univg.files import DiskFullError
from univg.seeds import seed_for

from .export_pictures import Facts, facts_from_plain

LONGEST_KEY_BYTES = 160
"""With endings such as `_0000.png` below the 255 bytes of most file systems."""

_COLUMNS = (
    "n INTEGER PRIMARY KEY, key TEXT NOT NULL, lowered TEXT NOT NULL UNIQUE, listed TEXT NOT NULL,"
    " real INTEGER NOT NULL, grp TEXT NOT NULL, facts TEXT, problems TEXT, bytes_out INTEGER,"
    " channels INTEGER, bits INTEGER, digest TEXT, split TEXT, place INTEGER"
)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A pair as a folder names it."""

    id: str
    label: str
    """Name of its folder, the prefix where ids collide."""
    real: bool
    files: dict[str, str]
    """Absolute paths by role: image, mask, fov."""
    stamp: str
    """Sizes and times of the files: changed files are checked again."""
    row: dict[str, Any]
    """What the manifest says of it, without file names and checksums."""
    sha256: dict[str, str]
    problems: tuple[Problem, ...] = ()

    @property
    def group(self) -> str:
        """Pairs of one mask have the same group: a split must not part them."""
        source = self.row.get("source_sha256") or self.row.get("source")
        return source if isinstance(source, str) else f"{self.label}/{self.id}"

    def to_text(self) -> str:
        """Return all that tells this pair from another, as JSON."""
        parts = [self.id, self.label, self.real, self.files, self.stamp, self.row, self.sha256]
        return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair on its way out."""

    number: int
    key: str
    """Its name in the export: of safe letters, unique without regard to letter case."""
    id: str
    real: bool
    files: dict[str, Path]
    wanted: dict[str, str]
    row: dict[str, Any]
    split: str
    facts: Facts | None

    @property
    def checked(self) -> Facts:
        """The facts of an item that was checked and found sound."""
        if self.facts is None:
            raise RuntimeError(f"item {self.number} was not checked")
        return self.facts


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the sound items of an index come to."""

    pairs: int
    bytes_out: int
    channels: int
    bits: int
    fovs: int
    grey: int
    empty: int
    deep_colour: int


class Index:
    """The SQLite file. Nobody else may have it open for writing: the folder's lock sees to that."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        # No locks of SQLite's own: cluster disks often have none that work.
        mode = "mode=ro&immutable=1" if read_only else "mode=rwc&nolock=1"
        uri = f"{path.resolve().as_uri()}?{mode}"
        self.path = path
        self._base = sqlite3.connect(uri, uri=True, isolation_level=None)
        if not read_only:
            # Safe against kill -9; after a power cut, at worst, all is checked again.
            self._base.execute("PRAGMA synchronous=OFF")
            with self._writing():
                self._base.execute(f"CREATE TABLE IF NOT EXISTS items ({_COLUMNS})")

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def list_pairs(self, found: Iterable[Listed]) -> int:
        """Take in all pairs, in order; keep what is known of those that have not changed."""
        with self._writing():
            self._base.execute("DROP TABLE IF EXISTS before")
            self._base.execute("ALTER TABLE items RENAME TO before")
            self._base.execute(f"CREATE TABLE items ({_COLUMNS})")
            count = 0
            for count, listed in enumerate(found, start=1):
                key, twice = self._free_key(listed)
                told = [_problem_to_plain(problem) for problem in listed.problems]
                told += [_problem_to_plain(_duplicate(listed))] if twice else []
                self._base.execute(
                    "INSERT INTO items (n, key, lowered, listed, real, grp, problems) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (count - 1, key, key.casefold(), listed.to_text(), listed.real, listed.group,
                     json.dumps(told) if told else None),
                )  # fmt: skip
            known = ("facts", "problems", "bytes_out", "channels", "bits", "digest")
            self._base.execute(
                f"UPDATE items SET ({', '.join(known)}) = (SELECT {', '.join(known)} FROM before "
                "WHERE before.n = items.n AND before.listed = items.listed) "
                "WHERE problems IS NULL"
            )
            self._base.execute("DROP TABLE before")
        return count

    def unchecked(self, chunk: int) -> Iterator[list[Item]]:
        """Yield the items nothing is known of, some at a time."""
        last = -1
        while True:
            rows = self._base.execute(
                f"{_SELECT} WHERE n > ? AND facts IS NULL AND problems IS NULL ORDER BY n LIMIT ?",
                (last, chunk),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [_item(row) for row in rows]

    def count_unchecked(self) -> int:
        """Return how many items nothing is known of."""
        return self._number("SELECT COUNT(*) FROM items WHERE facts IS NULL AND problems IS NULL")

    def store(self, checked: Sequence[tuple[int, Facts | None, list[Problem]]]) -> None:
        """Note what checking has shown."""
        with self._writing():
            for number, facts, problems in checked:
                told = [_problem_to_plain(problem) for problem in problems]
                plain = None if facts is None else json.dumps(facts.to_plain(), sort_keys=True)
                measures = (None,) * 4 if facts is None else _measures(facts)
                self._base.execute(
                    "UPDATE items SET facts = ?, problems = ?, bytes_out = ?, channels = ?, "
                    "bits = ?, digest = ? WHERE n = ?",
                    (plain, json.dumps(told) if told else None, *measures, number),
                )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with any item."""
        for (text,) in self._base.execute(
            "SELECT problems FROM items WHERE problems IS NOT NULL ORDER BY n"
        ):
            for plain in json.loads(text):
                yield Problem(**{**plain, "path": Path(plain["path"])})

    def count_bad(self) -> int:
        """Return how many items have something wrong."""
        return self._number("SELECT COUNT(*) FROM items WHERE problems IS NOT NULL")

    def totals(self) -> Totals:
        """Return what the sound items come to."""
        row = self._base.execute(
            "SELECT COUNT(*), TOTAL(bytes_out), MAX(channels), MAX(bits), "
            "TOTAL(json_extract(listed, '$[3].fov') IS NOT NULL), "
            "TOTAL(json_extract(facts, '$.grey') != '[]'), TOTAL(json_extract(facts, '$.empty')), "
            "TOTAL(channels = 3 AND bits = 16) FROM items WHERE facts IS NOT NULL"
        ).fetchone()
        names = ("pairs", "bytes_out", "channels", "bits", "fovs", "grey", "empty", "deep_colour")
        return Totals(**{name: int(value or 0) for name, value in zip(names, row, strict=True)})

    def tally(self, field: str, limit: int = 40) -> dict[str, int]:
        """Count the sound items by a field of their manifest rows; rows without it as ``""``."""
        rows = self._base.execute(
            "SELECT COALESCE(json_extract(listed, ?), ''), COUNT(*) FROM items WHERE facts IS NOT "
            "NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
            (f"$[5].{field}", limit),
        )
        return {str(value): count for value, count in rows}

    def split(self, validation: float, seed: int, real_split: str) -> dict[str, int]:
        """Give each sound item a split and a place in it; return the sizes, train first."""
        with self._writing():
            self._base.execute("CREATE TEMP TABLE IF NOT EXISTS held (grp TEXT PRIMARY KEY)")
            self._base.execute("DELETE FROM held")
            if validation:
                self._hold_out(validation, seed)
            self._base.execute(
                "UPDATE items SET split = CASE WHEN facts IS NULL THEN NULL WHEN real THEN ? "
                "WHEN grp IN (SELECT grp FROM held) THEN 'validation' ELSE 'train' END",
                (real_split,),
            )
            self._base.execute(
                "UPDATE items SET place = ranks.place FROM (SELECT n, ROW_NUMBER() OVER "
                "(PARTITION BY split ORDER BY n) - 1 AS place FROM items WHERE split NOT NULL) "
                "AS ranks WHERE items.n = ranks.n"
            )
            self._base.execute("CREATE INDEX IF NOT EXISTS by_place ON items (split, place)")
        rows = self._base.execute("SELECT split, COUNT(*) FROM items GROUP BY split")
        sizes = {name: count for name, count in rows if name is not None}
        return {name: sizes[name] for name in ("train", "validation", real_split) if name in sizes}

    def items(self, split: str, first: int = 0, count: int = -1) -> Iterator[Item]:
        """Yield items of a split by their places."""
        last = first + count if count >= 0 else 2**62
        for row in self._base.execute(
            f"{_SELECT} WHERE split = ? AND place >= ? AND place < ? ORDER BY place",
            (split, first, last),
        ):
            yield _item(row)

    def digest(self) -> str:
        """Return the hash of the whole set: names, contents, provenance and splits, in order."""
        total = hashlib.sha256()
        for key, digest, split, listed in self._base.execute(
            "SELECT key, digest, split, listed FROM items WHERE split IS NOT NULL ORDER BY n"
        ):
            row = json.dumps(json.loads(listed)[5], sort_keys=True)
            total.update(f"{key}\t{digest}\t{split}\t{row}\n".encode())
        return total.hexdigest()

    def _hold_out(self, validation: float, seed: int) -> None:
        """Hold out whole groups, in an order drawn from the seed, up to the share wanted."""
        self._base.create_function(
            "draw", 1, lambda group: seed_for(seed, f"export split {group}"), deterministic=True
        )
        sound = "FROM items WHERE facts IS NOT NULL AND NOT real"
        total = self._number(f"SELECT COUNT(*) {sound}")
        groups = self._number(f"SELECT COUNT(DISTINCT grp) {sound}")
        if groups < 2:
            raise DataError(
                f"validation is {validation:g}: the pairs come from {groups} mask, and images of "
                "one mask must not stand on both sides; leave --validation out"
            )
        taken = 0
        for chosen, (group, count) in enumerate(
            self._base.execute(f"SELECT grp, COUNT(*) {sound} GROUP BY grp ORDER BY draw(grp), grp")
        ):
            enough = taken > 0 and taken + count / 2 > validation * total
            if enough or chosen == groups - 1:
                break
            self._base.execute("INSERT INTO held VALUES (?)", (group,))
            taken += count

    def _free_key(self, listed: Listed) -> tuple[str, bool]:
        """Return a key that no item has, and whether the folder names this pair a second time.

        The key gets the folder's name in front where it is taken, then a number too.
        """
        key = safe_key(listed.id)
        tries = [key, safe_key(f"{listed.label}-{listed.id}")]
        number, twice = 0, False
        while taken := self._base.execute(
            "SELECT listed FROM items WHERE lowered = ?", (tries[0].casefold(),)
        ).fetchone():
            number += 1
            twice = twice or json.loads(taken[0])[:2] == [listed.id, listed.label]
            tries = tries[1:] or [safe_key(f"{listed.label}-{number}-{listed.id}")]
        return tries[0], twice

    def _number(self, query: str) -> int:
        return int(self._base.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All or nothing; a full disk ends with a line for the user."""
        try:
            self._base.execute("BEGIN")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise DiskFullError(
                    f"{self.path.parent}: no space left on the disk; free some and run the same "
                    "command again, it goes on where it stopped"
                ) from error
            raise


def safe_key(name: str) -> str:
    """Return `name` as every format and file system takes it: no dots, no spaces, not too long.

    A dot would end the key of a WebDataset sample. Letters of any script stay.
    """
    plain = unicodedata.normalize("NFC", name)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in plain).lstrip("-_") or "pair"
    data = kept.encode("utf-8", "replace")
    if len(data) <= LONGEST_KEY_BYTES:
        return kept
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return data[: LONGEST_KEY_BYTES - 9].decode("utf-8", "ignore") + "-" + mark


_SELECT = "SELECT n, key, listed, split, facts FROM items"


def _item(row: tuple[int, str, str, str | None, str | None]) -> Item:
    number, key, listed, split, facts = row
    name, _, real, files, _, given, sums = json.loads(listed)
    return Item(
        number=number, key=key, id=name, real=real, wanted=sums, row=given, split=split or "",
        files={role: Path(path) for role, path in files.items()},
        facts=None if facts is None else facts_from_plain(json.loads(facts)),
    )  # fmt: skip


def _measures(facts: Facts) -> tuple[int, int, int, str]:
    digest = json.dumps(facts.sha256, sort_keys=True)
    return facts.bytes_out, facts.channels, facts.bits, digest


def _duplicate(listed: Listed) -> Problem:
    detail = f"is one of two pairs called {listed.id!r} in its folder"
    remedy = "remove one of the rows, or make the folder again"
    path = Path(next(iter(listed.files.values())))
    return Problem(path=path, kind="duplicate", detail=detail, remedy=remedy)


def _problem_to_plain(problem: Problem) -> Mapping[str, str]:
    return {
        "path": str(problem.path), "kind": problem.kind, "detail": problem.detail,
        "remedy": problem.remedy,
    }  # fmt: skip
