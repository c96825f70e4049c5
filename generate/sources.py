"""Masks on disk that images are made for.

In: a folder of masks, plain, of pairs, or a run folder of ours. Out: a `MaskSource`, which knows
the mask of each pair by its number, and what its own manifest says of it.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_hex
from univg.manifest import MANIFEST_NAME, RUN_NAME, Row, encode_row, iterate_rows
from univg.masks import BoolMask, inspect_mask
from univg.run_folder import require_joined

ORIGIN = ("engine", "modality", "seed", "parameters", "version")
"""What a pair's row keeps of the row of its mask."""


class Packed(Sequence[str]):
    """Millions of short texts in a third of the memory of a tuple of them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._data, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text at the end."""
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        found = self._data[self._ends[place] : self._ends[place + 1]]
        return found.decode("utf-8", "surrogatepass")


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """The masks of a run, each to be used `variants` times."""

    folder: Path
    names: Sequence[str]
    """Paths inside `folder`."""
    hashes: Sequence[str]
    offsets: Sequence[int] = ()
    """Where the row of each mask stands in the manifest of its own run, if it has one."""
    variants: int = 1
    size: tuple[int, int] | None = None
    """Height and width to which masks are scaled; None: as they are."""

    @property
    def total(self) -> int:
        """Pairs that these masks can give."""
        return len(self.names) * self.variants

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first."""
        listing = hashlib.sha256()
        for place, (name, digest) in enumerate(zip(self.names, self.hashes, strict=True)):
            line = f"{digest} {name.rpartition('/')[2]}"
            listing.update(f"\n{line}".encode() if place else line.encode())
        return {"count": len(self.names), "sha256": listing.hexdigest()}

    def path_of(self, index: int) -> Path:
        """Return the mask of pair `index`."""
        return self.folder / self.names[index // self.variants]

    def id_of(self, index: int) -> str:
        """Return the name of pair `index`: its mask's, with a number where there are several."""
        stem = Path(self.names[index // self.variants]).stem
        return stem if self.variants == 1 else f"{stem}-v{index % self.variants:02d}"

    def read(self, index: int) -> BoolMask:
        """Return the mask of pair `index` at the size of the run."""
        path, digest = self.path_of(index), self.hashes[index // self.variants]
        mask = inspect_mask(path).mask
        if sha256_hex(path.read_bytes()) != digest:
            raise DataError(f"{path}: has changed since the run began; restore it")
        return fit_mask(mask, self.size)

    def row_of(self, index: int) -> Row:
        """Return what a pair's row says of its mask, its own parameters with it."""
        place = index // self.variants
        row = {"source": Path(self.names[place]).name, "source_sha256": self.hashes[place]}
        if not self.offsets:
            return row
        with (self.folder / MANIFEST_NAME).open("rb") as stream:
            stream.seek(self.offsets[place])
            line = stream.readline()
        try:
            origin = json.loads(line)
            known = _sum_of(origin) == self.hashes[place]
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise DataError(
                f"{self.folder / MANIFEST_NAME}: was changed while images were made of its masks; "
                "run the same command again"
            )
        return {**row, "source_made": {key: origin[key] for key in ORIGIN if key in origin}}


def fit_mask(mask: BoolMask, size: tuple[int, int] | None) -> BoolMask:
    """Return `mask` at `size`, its thin vessels unbroken."""
    if size is None or mask.shape == tuple(size):
        return mask
    from univg.resize import resize_to

    return resize_to(mask, size)


def open_source(
    folder: Path,
    *,
    variants: int = 1,
    size: tuple[int, int] | None = None,
    wanted: range | None = None,
    strict: bool = False,
) -> MaskSource:
    """Find the masks of `folder`; those of the pairs `wanted` are checked, all bad ones told.

    Masks of a run of ours are known by its manifest and not read before they are needed.
    """
    from univg.files import sha256_of_file
    from univg.pairs import find_masks

    require_joined(folder)
    found = _masks_of_run(folder)
    if found:
        names, hashes, offsets = found
        _refuse_doubles(folder, names)
        return MaskSource(
            folder=folder, names=names, hashes=hashes, offsets=offsets, variants=variants, size=size
        )
    paths = find_masks(folder)
    named = Packed(path.relative_to(folder).as_posix() for path in paths)
    _refuse_doubles(folder, named)
    used = sorted({paths[k // variants] for k in wanted or () if k < len(paths) * variants})
    check_masks(used if wanted is not None else paths, strict)
    return MaskSource(
        folder=folder,
        names=named,
        hashes=Packed(sha256_of_file(path) for path in paths),
        variants=variants,
        size=size,
    )


def _masks_of_run(folder: Path) -> tuple[Packed, Packed, Sequence[int]] | None:
    """Return path, checksum and row's place of each mask of a run folder of ours."""
    if not (folder / RUN_NAME).is_file():
        return None
    names, hashes, offsets, end = Packed(), Packed(), array("q"), 0
    for row in iterate_rows(folder):
        name, digest = row.get("mask"), _sum_of(row)
        if not isinstance(name, str) or not digest or ".." in Path(name).parts:
            return None
        names.append(name)
        hashes.append(digest)
        offsets.append(end)
        end += len(encode_row(row))
    return (names, hashes, offsets) if len(names) else None


def find_stated_modality(folder: Path) -> str:
    """Return the modality of the first mask of a run folder of ours, "" where nothing says it."""
    if not (folder / RUN_NAME).is_file():
        return ""
    return str(next(iterate_rows(folder), {}).get("modality", ""))


def _sum_of(row: Row) -> str:
    sums = row.get("sha256")
    found = sums.get("mask") if isinstance(sums, dict) else sums
    return found if isinstance(found, str) else ""


def _refuse_doubles(folder: Path, names: Sequence[str]) -> None:
    """Two masks of one stem would be written to the same file."""
    marks = np.fromiter((hash(_stem_of(name)) for name in names), np.int64, len(names))
    if len(np.unique(marks)) == len(names):
        return
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        other = seen.setdefault(_stem_of(name), name)
        if other is not name:
            path, detail = folder / name, f"has the same name as {PurePosixPath(other).name}"
            problems.append(
                Problem(path=path, kind="duplicate", detail=detail, remedy="rename one of them")
            )
    if problems:
        raise ProblemReport(problems, "masks whose pairs would have the same name")


def _stem_of(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def check_masks(paths: Sequence[Path], strict: bool) -> None:
    """Tell all masks that cannot be used in one report; those with grey levels in one line."""
    import warnings

    from univg.images import PictureError
    from univg.masks import MaskWarning, describe_grey, judge_example, judge_mask
    from univg.progress import show_progress

    problems: list[Problem] = []
    grey: list[Path] = []
    with show_progress(len(paths), "looking at the masks", "masks") as progress:
        for path in paths:
            progress.advance()
            try:
                reading = inspect_mask(path)
            except PictureError as error:
                problems.append(error.problem)
                continue
            found = judge_mask(path, reading, strict=strict)
            if not found:  # an image, where a mask should be
                found = [p for p in judge_example(path, reading) if p.kind == "grey"]
            problems += found
            if not found and describe_grey(path, reading) is not None:
                grey.append(path)
    if problems:
        raise ProblemReport(problems, f"{paths[0].parent}: masks that cannot be used")
    if grey:
        warnings.warn(
            f"{len(grey)} masks have grey levels and are cut at half, such as {grey[0]}; --strict "
            "refuses them",
            MaskWarning,
            stacklevel=2,
        )
