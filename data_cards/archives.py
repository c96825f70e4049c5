"""What a provider hands out, as a flat table of files: a folder, a zip, a tar, archives inside it.

In: a folder or an archive, and which names are wanted. Out: `SourceFile`s, whose bytes lie on disk
where they were, or in a scratch folder. Nothing in an archive decides where a byte is written:
members go to numbered files, and links, devices, absolute paths, paths that lead outside, more
members or more bytes than the limit are refused.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from univg.errors import DataError
from univg.files import explain_os_error

MAX_LISTED = 2_000_000
MAX_UNPACKED = 200_000
BLOCK_BYTES = 1 << 20
_MAX_DEPTH = 2  # archives in archives; not deeper

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_FOREIGN = {b"Rar!": "RAR", b"7z\xbc\xaf": "7z"}
_STREAM_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError)


@dataclass(frozen=True)
class SourceFile:
    """A file of the provider: its name below the root, where its bytes are, how to call it."""

    name: str
    path: Path
    shown: str


@dataclass
class Source:
    """All files of a source: those that were wanted, and the names of all that were seen."""

    root: Path
    files: list[SourceFile] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@dataclass
class _Unpacker:
    """Where members go, and how much has gone there."""

    scratch: Path
    wanted: Callable[[str], bool]
    limit_bytes: int
    list_only: bool
    source: Source
    declared: int = 0
    written: int = 0
    count: int = 0

    def next_path(self, name: str) -> Path:
        self.count += 1
        if self.count > MAX_UNPACKED:
            raise DataError(f"{self.source.root}: unpacks to more than {MAX_UNPACKED} files")
        suffixes = "".join(PurePosixPath(name).suffixes[-2:]) if is_archive_name(name) else ""
        return self.scratch / f"{self.count:06d}{suffixes or PurePosixPath(name).suffix}"

    def enter(self, name: str, path: Path, shown: str) -> None:
        self.source.files.append(SourceFile(name, path, shown))

    def note(self, name: str) -> None:
        self.source.names.append(name)
        if len(self.source.names) > MAX_LISTED:
            raise DataError(f"{self.source.root}: lists more than {MAX_LISTED} files")

    def declare(self, size: int, shown: str) -> None:
        self.declared += size
        if self.declared > self.limit_bytes:
            raise DataError(self.too_big(shown))

    def too_big(self, shown: str) -> str:
        return (
            f"{shown}: unpacks to more than {self.limit_bytes / 2**30:.3g} GiB; "
            "if that is right, raise --limit-gib"
        )

    def copy(self, stream: IO[bytes] | gzip.GzipFile, name: str, shown: str) -> Path:
        """Copy `stream` to a numbered file, never more than the limit whatever was declared."""
        path = self.next_path(name)
        try:
            with path.open("wb") as out:
                while block := _read_block(stream, shown):
                    self.written += len(block)
                    if self.written > self.limit_bytes:
                        raise DataError(self.too_big(shown))
                    out.write(block)
        except OSError as error:
            raise explain_os_error(error, path) from error
        return path


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]
    streamed: bool
    """Passing over it costs as much as unpacking it."""


def is_archive_name(name: str) -> bool:
    """Whether `name` ends like a zip or a tar, compressed or not."""
    return _ARCHIVE.search(name) is not None


def open_source(
    path: Path,
    scratch: Path,
    wanted: Callable[[str], bool],
    limit_gib: float,
    list_only: bool = False,
) -> Source:
    """List the files of `path`, unpacking wanted members of archives into `scratch`.

    `wanted` is asked with names below the root, `/` between their parts; an archive inside the
    root stands for a folder of its name without the ending. With `list_only` nothing but archives
    in archives is unpacked, and the paths of the files cannot be read from.
    """
    if not path.exists():
        raise DataError(f"{path}: does not exist; check --from")
    unpacker = _Unpacker(scratch, wanted, int(limit_gib * 2**30), list_only, Source(path))
    if path.is_dir():
        for relative in sorted(walk_files(path)):
            name, inner = relative.as_posix(), path / relative
            _take(unpacker, name, inner, str(inner), _MAX_DEPTH if _unpacked_beside(inner) else 0)
    else:
        _refuse_foreign(path)
        if not _unpack(unpacker, path, "", str(path), depth=1):
            _take(unpacker, path.name, path, str(path), _MAX_DEPTH)
    unpacker.source.files.sort(key=lambda file: file.name)
    return unpacker.source


def walk_files(root: Path) -> Iterator[PurePosixPath]:
    """Yield the files below `root`, relative to it, without what macOS leaves behind."""
    seen: set[str] = set()  # links are followed (data often lie on another disk), circles are not
    for folder, names, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        names[:] = [
            name
            for name in sorted(names)
            if not name.startswith((".", "__MACOSX"))
            and os.path.realpath(Path(folder, name)) not in seen
        ]
        inside = Path(folder).relative_to(root).as_posix()
        yield from (PurePosixPath(inside, name) for name in files if not name.startswith("."))


def _unpacked_beside(archive: Path) -> bool:
    """Whether the folder that the archive unpacks to is there too: then that one counts."""
    return archive.with_name(_ARCHIVE.sub("", archive.name)).is_dir()


def _take(unpacker: _Unpacker, name: str, path: Path, shown: str, depth: int) -> None:
    """Enter one file that lies on disk, `depth` archives deep.

    An archive is opened, a .gz unpacked, any other file listed.
    """
    if is_archive_name(name) and depth < _MAX_DEPTH:
        _unpack(unpacker, path, _ARCHIVE.sub("", name) + "/", shown, depth + 1)
        return
    unpacker.note(name)
    plain = name[:-3] if name.lower().endswith(".gz") else name
    if not (unpacker.wanted(plain) or unpacker.wanted(name)):
        return
    if plain != name and not unpacker.list_only:
        with gzip.open(path) as stream:
            path = unpacker.copy(stream, plain, shown)
    unpacker.enter(plain, path, shown)


def _unpack(unpacker: _Unpacker, path: Path, prefix: str, shown: str, depth: int) -> bool:
    """Unpack `path` if it is an archive; return whether it is one. Members lie `depth` deep."""
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"PK"):
        members = _zip_members(path, shown)
    elif start[:2] == b"\x1f\x8b" and not is_archive_name(path.name):
        return False  # one compressed file, such as im0001.ppm.gz
    elif is_archive_name(path.name) or tarfile.is_tarfile(path):
        members = _tar_members(path, shown)
    else:
        return False
    for member in members:
        _take_member(unpacker, member, prefix + member.name, shown, depth)
    return True


def _take_member(unpacker: _Unpacker, member: _Member, name: str, shown: str, depth: int) -> None:
    nested = is_archive_name(name) and depth < _MAX_DEPTH
    plain = name[:-3] if name.lower().endswith(".gz") else name
    take = nested or unpacker.wanted(plain) or unpacker.wanted(name)
    if take or member.streamed:
        unpacker.declare(member.size, shown)
    display = f"{shown}!{member.name}"
    if unpacker.list_only and take and not nested:
        unpacker.note(name)
        unpacker.enter(plain, Path(display), display)
        return
    stream = member.open() if take else None
    if stream is None:
        unpacker.note(name)
        return
    with stream:
        copy = unpacker.copy(stream, name, display)
    _take(unpacker, name, copy, display, depth)


def _zip_members(path: Path, shown: str) -> Iterator[_Member]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{shown}: is a truncated or damaged zip; download it again") from error
    with archive:
        for info in archive.infolist():
            name = _safe_name(info.filename.replace("\\", "/"), shown)
            if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise DataError(f"{shown}: holds a link or device ({name}); unpack it yourself")
            if info.flag_bits & 1:
                raise DataError(
                    f"{shown}: is encrypted; unpack it with its password and give the folder"
                )
            if not info.is_dir():
                opener = partial(_open_zipped, archive, info, shown)
                yield _Member(name, info.file_size, opener, streamed=False)


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shown: str) -> IO[bytes]:
    try:
        return archive.open(info)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"{shown}: {info.filename} cannot be unpacked ({error})") from error


def _tar_members(path: Path, shown: str) -> Iterator[_Member]:
    try:
        with tarfile.open(path, "r:*") as archive:
            for info in archive:
                name = _safe_name(info.name, shown)
                if not (info.isreg() or info.isdir()):
                    raise DataError(f"{shown}: holds a link or device ({name}); unpack it yourself")
                if info.isreg():
                    yield _Member(name, info.size, partial(archive.extractfile, info), True)
    except (*_STREAM_ERRORS, OSError) as error:
        raise DataError(f"{shown}: is a truncated or damaged tar; download it again") from error


def _read_block(stream: IO[bytes] | gzip.GzipFile, shown: str) -> bytes:
    try:
        return stream.read(BLOCK_BYTES)
    except (*_STREAM_ERRORS, zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{shown}: is truncated or damaged; download it again") from error


def _safe_name(name: str, shown: str) -> str:
    """Return a member's name in plain form, or refuse one that leads out of the archive."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name)
    if outside or "\0" in name:
        raise DataError(
            f"{shown}: holds {name!r}, which leads outside the archive; do not trust it"
        )
    return path.as_posix()


def _refuse_foreign(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start in _FOREIGN:
        raise DataError(
            f"{path}: is a {_FOREIGN[start]} archive, which cannot be read here; "
            "unpack it and give the folder"
        )
    if not start:
        raise DataError(f"{path}: is an empty file of 0 bytes; download it again")
