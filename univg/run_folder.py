"""The run folder of every stage that makes items by number: masks, images, pairs.

In: a `Maker`, a folder, the indices that are wanted. Out: their files and `manifest.jsonl`. Files
come first, each whole or absent, then the rows that name them, in the order of the indices,
whatever makes them: this process, workers, other machines. What an earlier run left is tidied up,
what the disk has lost is made again and must come out the same.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from univg.errors import DataError
from univg.files import (
    make_folder,
    remove_temporaries,
    sha256_hex,
    sha256_of_file,
    sync_folder,
    write_all_atomic,
)
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    iterate_rows,
    lock_folder,
    sort_rows,
)
from univg.progress import show_progress

PARTS, PLAN_NAME = "parts", "plan.json"
"""Where shards keep their rows until they are joined, and how the run was cut."""


@dataclass(frozen=True)
class Made:
    """One item: its files by role, and its row but for their names and checksums."""

    index: int
    files: Mapping[str, bytes]
    row: Row
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What drawing it took, by part, where the maker knows."""


@dataclass(frozen=True)
class Written:
    """What is on disk and may be named: rows in order, and seconds of work by part."""

    rows: list[Row]
    seconds: dict[str, float] = field(default_factory=dict)


class Maker(abc.ABC):
    """Makes items, each by its index alone; it travels to worker processes.

    `load`, `draw` and `finish` are run one after the other. Where `draw` keeps a GPU busy, the
    other two overlap with it. A maker that works in blocks gets indices of one block at a time.
    """

    unit: ClassVar[str] = "pairs"
    folders: ClassVar[Mapping[str, str]] = {"image": "images", "mask": "masks"}
    label: str = "pairs"
    chunk: int = 16
    """Items between two looks at the manifest; more would lose more to a kill."""
    block: int = 1
    """Indices `k * block` to `(k + 1) * block` are drawn together; 1: each alone."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first."""

    @abc.abstractmethod
    def id_of(self, index: int) -> str:
        """Return the name of an item."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Load what is needed once in each process."""

    @abc.abstractmethod
    def load(self, indices: Sequence[int]) -> Any:
        """Read what the items are made from."""

    @abc.abstractmethod
    def draw(self, loaded: Any) -> Any:
        """Do the heavy part."""

    @abc.abstractmethod
    def finish(self, drawn: Any) -> list[Made]:
        """Encode, and write down how each was made."""

    def count_rows(self, rows: Sequence[Row]) -> dict[str, float]:  # noqa: ARG002 - most count nothing
        """Return what is to be summed up over a run, by name."""
        return {}

    def make(self, indices: Sequence[int]) -> list[Made]:
        """Make the items, alone; the same whatever else is made."""
        return self.finish(self.draw(self.load(indices)))

    def names_of(self, index: int) -> dict[str, str]:
        """Return the paths of an item in its run folder, by role."""
        name = f"{self.id_of(index)}.png"
        return {role: f"{folder}/{name}" for role, folder in self.folders.items()}

    def row_of(self, made: Made) -> Row:
        """Return the whole row of an item."""
        sums: Any = {role: sha256_hex(data) for role, data in made.files.items()}
        if set(sums) == {"mask"}:
            sums = sums["mask"]
        head = {"index": made.index, "id": self.id_of(made.index), "sha256": sums}
        return {**head, **self.names_of(made.index), **made.row}


class Tasks(Sequence[list[int]]):
    """The portions in which indices are made: a block, or a few single ones. Cut when asked for."""

    def __init__(self, indices: Sequence[int] | npt.NDArray[np.int64], maker: Maker) -> None:
        self.indices = indices
        self.edges: Sequence[int] | npt.NDArray[np.int64]
        """Where tasks begin, and where the last one ends."""
        if maker.block <= 1 or not len(indices):
            self.edges = range(0, len(indices) + maker.chunk, maker.chunk)
        else:
            blocks = np.asarray(indices, np.int64) // maker.block
            changes = np.flatnonzero(np.diff(blocks)) + 1
            self.edges = np.concatenate([[0], changes, [len(indices)]])

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[k] for k in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return [int(k) for k in self.indices[self.edges[number] : self.edges[number + 1]]]


class Executor(Protocol):
    """Makes and writes tasks (lists of indices) somewhere; yields what is written, in order."""

    def run(self, maker: Maker, folder: Path, tasks: Sequence[list[int]]) -> Iterator[Written]:
        """Bring the files of `tasks` to disk."""


@dataclass
class Filled:
    """What a run did to a folder."""

    made: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)

    def add(self, written: Written, counted: Mapping[str, float] = {}) -> None:
        """Count one task."""
        self.made += len(written.rows)
        for mine, theirs in ((self.seconds, written.seconds), (self.counted, counted)):
            for part, value in theirs.items():
                mine[part] = mine.get(part, 0.0) + value

    def line(self, unit: str) -> str:
        """Return one line for the terminal."""
        kept = f", {self.skipped} were there already" if self.skipped else ""
        rate = f" ({self.made / self.wall_s:.1f} {unit}/s)" if self.made and self.wall_s else ""
        parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.seconds.items())
        work = f"; work: {parts}" if parts else ""
        return f"{self.made} {unit} written in {self.wall_s:.1f} s{rate}{kept}{work}"


def fill_folder(
    maker: Maker, folder: Path, wanted: Sequence[int], executor: Executor, *, config: bytes = b""
) -> Filled:
    """Bring `folder` to hold the items `wanted`, ascending; go on where an earlier run stopped."""
    from univg.files import write_atomic

    filled, start = Filled(), time.perf_counter()
    identity = maker.identity()  # may load an engine: before anything is made or locked
    make_folder(folder)
    with lock_folder(folder):
        claim_folder(folder, identity)
        require_joined(folder)
        if config:
            write_atomic(folder / "config.yaml", config)
        tidy(maker, folder)
        todo, in_order = begin(maker, folder, wanted, filled)
        with ManifestWriter(folder) as manifest:
            append_all(maker, folder, todo, len(wanted), executor, manifest, filled)
        if not in_order:
            sort_rows(folder, "index")  # earlier runs may have made later items
        tidy(maker, folder)
    filled.wall_s = time.perf_counter() - start
    return filled


def require_joined(folder: Path) -> None:
    """Refuse a folder of shards that nobody has joined: its files are not a set yet."""
    if (folder / PARTS / PLAN_NAME).is_file():
        raise DataError(f"{folder}: holds shards; join them by `univg generate merge` first")


def append_all(
    maker: Maker,
    folder: Path,
    todo: Sequence[int] | npt.NDArray[np.int64],
    total: int,
    executor: Executor,
    manifest: ManifestWriter,
    filled: Filled,
) -> None:
    """Have `todo` of `total` items made and written; append their rows in order."""
    tasks = Tasks(todo, maker)
    with show_progress(total, maker.label, maker.unit, total - len(todo)) as progress:
        for written in executor.run(maker, folder, tasks):
            manifest.append(written.rows)
            filled.add(written, maker.count_rows(written.rows))
            progress.advance(len(written.rows))


def begin(
    maker: Maker,
    folder: Path,
    wanted: Sequence[int],
    filled: Filled,
    rows_in: Path | None = None,
) -> tuple[Sequence[int] | npt.NDArray[np.int64], bool]:
    """Restore what an earlier run lost; return the indices still to make, ascending.

    The finished ones stand in the manifest of `rows_in`, default `folder`. Also returned: whether
    its rows will be in order once those of the indices are appended.
    """
    rows, in_order = read_finished(maker, rows_in or folder)
    if not rows:
        return wanted, True
    todo = np.fromiter((index for index in wanted if index not in rows), np.int64)
    there = len(wanted) - len(todo)
    lost = []
    with show_progress(there, f"{maker.label}: looking at what is there", maker.unit) as progress:
        for index in wanted:
            if index in rows:
                if not is_whole(maker, folder, index, rows[index]):
                    lost.append(index)
                progress.advance()
    filled.skipped += there - len(lost)
    restore(maker, folder, lost, rows, filled)
    return todo, in_order and (not len(todo) or max(rows) < int(todo[0]))


def tidy(maker: Maker, folder: Path) -> None:
    """Clear temporary files; a worker of a killed run may have outlived it for a moment."""
    remove_temporaries(folder)
    for name in maker.folders.values():
        remove_temporaries(make_folder(folder / name))


def read_finished(maker: Maker, folder: Path) -> tuple[dict[int, bytes], bool]:
    """Return checksums by index of what the manifest names, and whether its rows are in order.

    The checksums of an item are its files' in the order of `maker.folders`, as bytes: a run may
    have millions. A row of another run is refused.
    """
    rows: dict[int, bytes] = {}
    last, in_order = -1, True
    for row in iterate_rows(folder):
        index, sums = row.get("index"), _pack_sums(maker, row.get("sha256"))
        sound = (
            isinstance(index, int)
            and index >= 0
            and index not in rows
            and sums
            and all(row.get(role) == name for role, name in _names(maker, index).items())
        )
        if not sound:
            raise DataError(
                f"{folder / MANIFEST_NAME}: the row of index {index!r} is incomplete, wrong or "
                "stands twice; the file was edited: restore it, or choose another --out"
            )
        rows[row["index"]] = sums
        last, in_order = row["index"], in_order and row["index"] > last
    return rows, in_order


def _pack_sums(maker: Maker, sums: Any) -> bytes:
    """Return the checksums of a row, nothing where they are not those of the maker's files."""
    given = {"mask": sums} if isinstance(sums, str) else sums
    if not isinstance(given, dict) or set(given) != set(maker.folders):
        return b""
    try:
        return b"".join(bytes.fromhex(given[role]) for role in maker.folders)
    except (TypeError, ValueError):
        return b""


def _names(maker: Maker, index: int) -> dict[str, str]:
    try:
        return maker.names_of(index)
    except IndexError:  # beyond what this maker has
        return {"": "of no item"}


def is_whole(maker: Maker, folder: Path, index: int, sums: bytes) -> bool:
    """Whether the files of an item are on disk, and are those of its row."""
    found = {
        role: sha256_of_file(folder / name)
        for role, name in maker.names_of(index).items()
        if (folder / name).is_file()
    }
    return _pack_sums(maker, found) == sums


def restore(
    maker: Maker, folder: Path, lost: Sequence[int], rows: Mapping[int, bytes], filled: Filled
) -> None:
    """Make again what the manifest names and the disk has lost; it must come out the same."""
    if not lost:
        return
    maker.prepare()
    for task in Tasks(lost, maker):
        for made in maker.make(task):
            names = maker.names_of(made.index)
            if _pack_sums(maker, maker.row_of(made)["sha256"]) != rows[made.index]:
                raise DataError(
                    f"{folder / next(iter(names.values()))}: is damaged or missing, and made again "
                    "it differs from the one in the manifest (other library versions or number of "
                    "threads?); nothing was replaced: choose another --out"
                )
            write_all_atomic({folder / names[role]: data for role, data in made.files.items()})
            filled.made += 1


def write_made(maker: Maker, folder: Path, made: Sequence[Made]) -> Written:
    """Bring the files of `made` to disk; return the rows that may now be appended."""
    start = time.perf_counter()
    files = {
        folder / name: each.files[role]
        for each in made
        for role, name in maker.names_of(each.index).items()
    }
    write_all_atomic(files)
    for name in maker.folders.values():
        sync_folder(folder / name)
    rows = [maker.row_of(each) for each in made]
    return Written(rows, {"disk": time.perf_counter() - start})


def make_and_write(maker: Maker, folder: Path, indices: Sequence[int]) -> Written:
    """Make and write one task in this process; return its rows and where the time went."""
    times = [time.perf_counter()]
    loaded = maker.load(indices)
    times.append(time.perf_counter())
    drawn = maker.draw(loaded)
    times.append(time.perf_counter())
    made = maker.finish(drawn)
    times.append(time.perf_counter())
    written = write_made(maker, folder, made)
    spans = dict(zip(("reading", "drawing", "encoding"), _differences(times), strict=True))
    known = [each.seconds for each in made if each.seconds]
    if known:
        del spans["reading"], spans["drawing"]
        spans = {part: sum(each[part] for each in known) for part in known[0]} | spans
    return dataclasses.replace(written, seconds={**spans, **written.seconds})


def _differences(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]
