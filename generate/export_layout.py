"""What every exporter has in common: shards, the record of a pair, files written whole.

In: items of an index. Out: the contract `Exporter`, and `FileExporter` for layouts of single files.
A shard is the unit of work: it is written whole or again, its bytes depend on nothing but its
items, and it is done once all of its files stand under their final names.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from univg.errors import DataError
from univg.files import (
    TEMPORARY_PREFIX,
    make_folder,
    open_atomic,
    sha256_hex,
    sync_folder,
    write_all_atomic,
    write_atomic,
)
from univg.manifest import encode_row

from .export_index import Item, Totals
from .export_pictures import Encoding, image_bytes, mask_bytes

STATE = ".univg-export"
"""Folder of the export's own notes, which readers do not see: finished shards, records."""
BATCH = 16  # pairs whose files are flushed to disk together
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Items `first` to `first + pairs` of a split."""

    number: int
    split: str
    part: int
    parts: int
    first: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Exporter(abc.ABC):
    """What all exporters share; a subclass says which files a shard has and writes them."""

    encoding: Encoding
    modality: str = ""
    """Of pairs whose manifest names none."""
    licence: str = ""

    formats: ClassVar[tuple[str, ...]] = ("png", "webp", "jpeg")
    keeps_fov: ClassVar[bool] = True
    real_split: ClassVar[str] = "real"
    real_validates: ClassVar[bool] = False
    """Real pairs are what this layout validates on."""
    overhead_bytes: ClassVar[int] = 0
    """Of each pair, beyond its files and its record."""

    def place(self, out: Path) -> Path:
        """Return the folder that is written, in or under `out`."""
        return out

    def fit(self, totals: Totals) -> Exporter:
        """Return this exporter as the set as a whole asks for it."""
        del totals
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides bytes, beyond the items and the encoding of images."""
        return {"modality": self.modality, "licence": self.licence}

    def begin(self, place: Path) -> None:  # noqa: B027 - most layouts have nothing to do here
        """Do what comes before the first shard."""

    @abc.abstractmethod
    def names(self, shard: Shard, items: Iterable[Item]) -> Iterator[str]:
        """Yield the files of a shard, relative to the place."""

    @abc.abstractmethod
    def write(self, place: Path, shard: Shard, items: Iterable[Item]) -> int:
        """Write a shard; return the bytes of its files."""

    def finish(self, whole: Whole) -> None:  # noqa: B027
        """Write what a reader opens first, once all shards are there."""

    def advice(self, whole: Whole) -> str:
        """Return how to open the result, for the terminal."""
        return str(whole.place)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The set as a whole, for indices and cards."""

    totals: Totals
    splits: Mapping[str, int]
    modalities: Mapping[str, int]
    engines: Mapping[str, int]
    licences: Mapping[str, int]
    version: str


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An export whose shards are all there."""

    place: Path
    shards: Sequence[Shard]
    summary: Summary

    def records(self, splits: Container[str]) -> Iterator[dict[str, Any]]:
        """Yield the records of all pairs of some splits, in order, one at a time."""
        for shard in self.shards:
            if shard.split in splits:
                with (self.place / records_name(shard)).open("rb") as stream:
                    yield from map(json.loads, stream)


def describe(item: Item, modality: str) -> dict[str, Any]:
    """Return what is told of a pair: all its manifest says, its key, whether a camera made it."""
    facts = item.checked
    made = bool(item.row.get("engine"))
    record: dict[str, Any] = {
        **item.row,
        "id": item.key,
        "origin": "real" if item.real else "synthetic" if made else "unknown",
        "split": item.split,
        "width_px": facts.width,
        "height_px": facts.height,
    }
    if item.id != item.key:
        record["original_id"] = item.id
    if not item.row.get("modality") and modality:
        record["modality"] = modality
    return record


def read_source(item: Item, role: str) -> bytes:
    """Return a file of a pair as it is, if it still is what was checked."""
    path = item.files[role]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read any more ({error.strerror})") from error
    if sha256_hex(data) != item.checked.sha256[role]:
        raise DataError(f"{path}: has changed since it was checked; run the same command again")
    return data


def write_form(item: Item, role: str, encoding: Encoding) -> tuple[bytes, str]:
    """Return a file of a pair as it is to be written, and its checksum."""
    data, path = read_source(item, role), item.files[role]
    if role == "image":
        written = image_bytes(path, data, encoding)
    else:
        written = mask_bytes(path, data, role in item.checked.exact)
    return written, item.checked.sha256[role] if written is data else sha256_hex(written)


def roles_of(item: Item, with_fov: bool) -> list[str]:
    """Return the roles that are written: masks first, so that no image is without its mask."""
    wanted = ("mask", "fov", "image") if with_fov else ("mask", "image")
    return [role for role in wanted if role in item.files]


class FileExporter(Exporter):
    """A layout of single files: a shard is a number of them, and their records for the index."""

    @abc.abstractmethod
    def paths(self, item: Item) -> dict[str, str]:
        """Return where the files of a pair go, by role, masks first."""

    def links(self, item: Item) -> dict[str, str]:
        """Return second names of files: new name -> first name."""
        del item
        return {}

    def contents(self, item: Item) -> Iterator[tuple[str, bytes, str]]:
        """Yield role, content and checksum of each file of a pair, in the order of `paths`."""
        for role in self.paths(item):
            yield (role, *write_form(item, role, self.encoding))

    def names(self, shard: Shard, items: Iterable[Item]) -> Iterator[str]:
        """Yield the files of a shard: those of its pairs, and the records."""
        for item in items:
            yield from self.paths(item).values()
            yield from self.links(item)
        yield records_name(shard)

    def write(self, place: Path, shard: Shard, items: Iterable[Item]) -> int:
        """Write the files of the pairs, then the records."""
        total, folders = 0, set[Path]()
        records: list[bytes] = []
        stream = iter(items)
        while batch := list(itertools.islice(stream, BATCH)):
            files: dict[Path, bytes] = {}
            links: dict[Path, Path] = {}
            for item in batch:
                paths, sums = self.paths(item), {}
                for role, data, digest in self.contents(item):
                    files[place / paths[role]] = data
                    sums[role] = digest
                twins = {place / new: place / old for new, old in self.links(item).items()}
                total += sum(len(files[old]) for old in twins.values())
                links |= twins
                record = describe(item, self.modality)
                records.append(encode_row({**record, **paths, "sha256": sums}))
            total += sum(len(data) for data in files.values())
            for folder in {path.parent for path in [*files, *links]} - folders:
                folders.add(make_folder(folder))
            write_all_atomic(files)
            for new, old in links.items():
                _link(new, old, files[old])
        for folder in sorted(folders):
            sync_folder(folder)
        make_folder((place / records_name(shard)).parent)
        write_atomic(place / records_name(shard), b"".join(records))
        return total + sum(map(len, records))


def records_name(shard: Shard) -> str:
    """Return the file in which the records of a shard wait for the index."""
    return f"{STATE}/records/{shard.number:06d}.jsonl"


def _link(new: Path, old: Path, data: bytes) -> None:
    """Give a file a second name; where the disk knows no hard links, write it twice."""
    temporary = new.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-link-{next(_numbers)}")
    try:
        os.link(old, temporary)
        temporary.replace(new)
        # Renaming over the same file does nothing, and leaves the temporary name.
        temporary.unlink(missing_ok=True)
    except OSError:
        temporary.unlink(missing_ok=True)
        write_atomic(new, data)


@contextlib.contextmanager
def write_stream(path: Path) -> Iterator[BinaryIO]:
    """Write a file of any length that is at every moment absent, old or complete."""
    with open_atomic(path) as stream:
        yield stream
    sync_folder(path.parent)


def write_json_list(stream: BinaryIO, values: Iterable[Any]) -> None:
    """Write a JSON list of any length, a line a value."""
    stream.write(b"[")
    for number, value in enumerate(values):
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        stream.write((",\n" if number else "\n").encode() + text.encode())
    stream.write(b"\n]")
