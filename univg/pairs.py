"""A folder of pairs: `images/`, `masks/` and, where there is one, `fov/`, matched by name.

In: a folder, with or without a `manifest.jsonl`; where there is one, only what it names counts.
Out: the pairs, never matched by position, or one report of every file that has no partner, is
named twice, is missing, or cannot be used.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import ImageArray, PictureError, list_pictures, read_image
from univg.manifest import MANIFEST_NAME, iterate_rows
from univg.masks import MaskReading, inspect_mask, judge_mask, judge_view
from univg.run_folder import require_joined

DEFAULT_SUFFIXES: tuple[str, ...] = (
    *("_training_mask", "_test_mask", "_manual1", "_training", "_test", "_1stHO", "_1st_manual"),
    *("_mask", "-mask", "_segmentation", "_vessel", "_vessels", "_label", "_labels", "_gt"),
    *("_fov", "_image", "_img", ".ah", ".vk"),
)
"""Endings of file stems that providers add, dropped before two names are compared."""


@dataclass(frozen=True)
class Pair:
    """An image, its mask and, where there is one, its field of view, all of one stem."""

    stem: str
    image: Path
    mask: Path
    fov: Path | None = None


@dataclass(frozen=True)
class PairFolder:
    """The pairs of a folder in the order of its manifest, else of their stems."""

    folder: Path
    pairs: tuple[Pair, ...]
    unlabelled: tuple[Path, ...] = ()
    """Images that the manifest names without a mask."""


@dataclass(frozen=True)
class Matching:
    """What two lists of files have in common by name, and what has no partner."""

    pairs: tuple[tuple[str, Path, Path], ...]
    """(stem, image, mask), sorted by stem."""
    unmatched_images: tuple[Path, ...] = ()
    unmatched_masks: tuple[Path, ...] = ()
    duplicates: tuple[tuple[Path, ...], ...] = ()
    """Files of one list that come to the same stem; none of them is paired."""

    def problems(self) -> list[Problem]:
        """Every file without a partner or with a double, by name."""
        lone = [(path, "image", "mask") for path in self.unmatched_images]
        lone += [(path, "mask", "image") for path in self.unmatched_masks]
        found = [
            Problem(
                path=path,
                kind="unmatched",
                detail=f"this {what} has no {other} of the same name",
                remedy="rename or remove it (where there is --strip, it can name an ending)",
            )
            for path, what, other in lone
        ]
        for doubles in self.duplicates:
            alike = len({path.name for path in doubles}) < len(doubles)
            names = ", ".join(str(path) if alike else path.name for path in doubles)
            detail = f"{len(doubles)} files stand for one item: {names}"
            found.append(
                Problem(path=doubles[0], kind="duplicate", detail=detail, remedy="keep one of them")
            )
        return found


@dataclass(frozen=True)
class PairFacts:
    """What reading a pair has shown."""

    pair: Pair
    image: ImageArray
    reading: MaskReading


def strip_stem(stem: str, strip: Sequence[str]) -> str:
    """Drop from `stem` the endings in `strip` (beginnings, where one ends in `*`), longest first.

    Letter case does not matter, and nothing is dropped that would leave no name.
    """
    for affix in sorted(strip, key=len, reverse=True):
        low, part = stem.lower(), affix.lower().rstrip("*")
        if not part or len(part) >= len(stem):
            continue
        if affix.endswith("*") and low.startswith(part):
            stem = stem[len(part) :]
        elif not affix.endswith("*") and low.endswith(part):
            stem = stem[: -len(part)]
    return stem


def match_stems(
    images: Iterable[Path], masks: Iterable[Path], strip: Sequence[str] = DEFAULT_SUFFIXES
) -> Matching:
    """Match two lists of files by stem, first exactly, then with the endings in `strip` dropped."""
    image_groups, mask_groups = _group(images, ()), _group(masks, ())
    exact = [stem for stem in image_groups if stem in mask_groups]
    pairs = [(stem, image_groups.pop(stem), mask_groups.pop(stem)) for stem in exact]
    image_rest = _group((p for group in image_groups.values() for p in group), strip)
    mask_rest = _group((p for group in mask_groups.values() for p in group), strip)
    for key in [key for key in image_rest if key in mask_rest]:
        group = image_rest.pop(key)
        pairs.append((strip_stem(group[0].stem, strip), group, mask_rest.pop(key)))
    taken: dict[str, list[Path]] = {}
    for stem, group, _ in pairs:
        taken.setdefault(stem.casefold(), []).extend(group)
    clean = [
        (stem, i[0], m[0])
        for stem, i, m in pairs
        if len(m) == 1 and len(taken[stem.casefold()]) == 1
    ]
    groups = [*taken.values(), *(m for _, _, m in pairs)]
    return Matching(
        pairs=tuple(sorted(clean)),
        unmatched_images=tuple(p for group in image_rest.values() for p in group),
        unmatched_masks=tuple(p for group in mask_rest.values() for p in group),
        duplicates=tuple(tuple(group) for group in groups if len(group) > 1),
    )


def open_pairs(
    folder: Path, strip: Sequence[str] = DEFAULT_SUFFIXES, *, verify: bool = False
) -> PairFolder:
    """Return the pairs of `folder`; whatever has no partner is told by name in one report.

    `verify` also compares the files with the manifest's checksums.
    """
    found, problems = find_pairs(folder, strip, verify=verify)
    if problems:
        raise ProblemReport(problems, f"{folder}: {_count(problems, 'problem')} with its pairs")
    if not found.pairs:
        raise DataError(f"{folder}: holds no pair of image and mask; check the path")
    return found


def check_pairs(
    folder: Path, strip: Sequence[str] = DEFAULT_SUFFIXES, strict: bool = False
) -> list[Problem]:
    """Read every file of `folder` and return all that is wrong with any of them."""
    found, problems = find_pairs(folder, strip, verify=True)
    for pair in found.pairs:
        problems += read_pair(pair, strict)[0]
    return problems


def read_pair(pair: Pair, strict: bool = False) -> tuple[list[Problem], PairFacts | None]:
    """Return what is wrong with a pair and, where both files can be read, their content."""
    problems: list[Problem] = []
    image: ImageArray | None = None
    reading: MaskReading | None = None
    try:
        image = read_image(pair.image)
    except PictureError as error:
        problems.append(error.problem)
    size = None if image is None else (image.shape[1], image.shape[0])
    try:
        reading = inspect_mask(pair.mask)
        problems += judge_mask(pair.mask, reading, size, strict)
    except PictureError as error:
        problems.append(error.problem)
    if pair.fov is not None:
        try:
            problems += judge_view(pair.fov, inspect_mask(pair.fov), size, strict)
        except PictureError as error:
            problems.append(error.problem)
    if image is None or reading is None:
        return problems, None
    return problems, PairFacts(pair, image, reading)


def find_pairs(
    folder: Path, strip: Sequence[str] = DEFAULT_SUFFIXES, *, verify: bool = False
) -> tuple[PairFolder, list[Problem]]:
    """Return the pairs of `folder` and what is wrong with names, presence and checksums."""
    _require_folder(folder)
    require_joined(folder)
    if (folder / MANIFEST_NAME).exists():
        return _pairs_of_manifest(folder, verify)
    images, masks = _list_both(folder)
    matching = match_stems(images, masks, strip)
    views: dict[Path, Path] = {}
    problems = matching.problems()
    if (folder / "fov").is_dir():
        of_view = match_stems(images, list_pictures(folder / "fov"), strip)
        views = {image: view for _, image, view in of_view.pairs}
        # Images without a field of view are usual; a field of view without an image is not.
        doubles = tuple(each for each in of_view.duplicates if each[0].parent.name == "fov")
        lone = of_view.unmatched_masks
        problems += Matching(pairs=(), unmatched_masks=lone, duplicates=doubles).problems()
    pairs = tuple(Pair(stem, i, m, views.get(i)) for stem, i, m in matching.pairs)
    return PairFolder(folder, pairs), problems


def find_masks(folder: Path) -> list[Path]:
    """Return the masks of `folder`, sorted: those its manifest names, in `masks/`, or in itself."""
    _require_folder(folder)
    require_joined(folder)
    if (folder / MANIFEST_NAME).exists():
        named = [row["mask"] for row in iterate_rows(folder) if row.get("mask")]
        problems: list[Problem] = []
        paths = [p for p in (_named_file(folder, n, problems) for n in named) if p is not None]
        if problems:
            raise ProblemReport(problems)
        if paths:
            return sorted(paths)
        raise DataError(f"{folder / MANIFEST_NAME}: names no mask; is the run finished?")
    inner = folder / "masks"
    if (folder / "images").is_dir() and not inner.is_dir():
        raise DataError(f"{folder}: has images/ but no masks/; add masks/ or name a mask folder")
    place = inner if inner.is_dir() else folder
    masks = list_pictures(place)
    if not masks:
        raise DataError(f"{place}: holds no picture (png, tif, gif, bmp, ppm or jpg); check it")
    return masks


def _group(paths: Iterable[Path], strip: Sequence[str]) -> dict[str, list[Path]]:
    """Group by stem: exact where nothing is stripped, else without regard to letter case."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(paths):
        stem = unicodedata.normalize("NFC", path.stem)  # Macs take letters and accents apart
        key = strip_stem(stem, strip).casefold() if strip else stem
        groups.setdefault(key, []).append(path)
    return groups


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{folder}: does not exist; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds images/ and masks/")


def _list_both(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of `images/` and `masks/`; both must be there and not both be empty."""
    places = {name: folder / name for name in ("images", "masks")}
    absent = [name for name, place in places.items() if not place.is_dir()]
    if absent:
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise DataError(
            f"{folder}: has no {' and no '.join(f'{n}/' for n in absent)} (it holds {inside}); "
            "a folder of pairs has images/ and masks/ with files of the same names"
        )
    images, masks = list_pictures(places["images"]), list_pictures(places["masks"])
    if not images and not masks:
        raise DataError(f"{folder}: images/ and masks/ hold no picture; check the path")
    return images, masks


def _pairs_of_manifest(folder: Path, verify: bool) -> tuple[PairFolder, list[Problem]]:
    problems: list[Problem] = []
    pairs, unlabelled = [], []
    ids: set[str] = set()
    for number, row in enumerate(iterate_rows(folder), start=1):
        name = _name_row(row, number)
        if name in ids:
            detail = f"names {name} twice, again in line {number}"
            remedy = "remove that line, or delete the folder and make it again"
            problems.append(
                Problem(path=folder / MANIFEST_NAME, kind="duplicate", detail=detail, remedy=remedy)
            )
            continue
        ids.add(name)
        files = {
            role: _named_file(folder, row[role], problems)
            for role in ("image", "mask", "fov")
            if row.get(role)
        }
        if verify:
            problems += _compare_checksums(files, row)
        image, mask = files.get("image"), files.get("mask")
        if image is not None and mask is not None:
            pairs.append(Pair(name, image, mask, files.get("fov")))
        elif image is not None and "mask" not in files:
            unlabelled.append(image)
    return PairFolder(folder, tuple(pairs), tuple(unlabelled)), problems


def _name_row(row: Mapping[str, Any], number: int) -> str:
    """Return what a row's item is called: its id, else the stem of its image or mask."""
    if "id" in row:
        return str(row["id"])
    file = row.get("image") or row.get("mask")
    return Path(file).stem if isinstance(file, str) else f"line {number}"


def _named_file(folder: Path, name: Any, problems: list[Problem]) -> Path | None:
    """Return the file that a row names, or add what is wrong with it to `problems`."""
    manifest = folder / MANIFEST_NAME
    inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
    if not inside:
        detail = f"names {name!r}, which is not a path inside the folder"
        problems.append(Problem(path=manifest, kind="path", detail=detail))
        return None
    path = folder / str(name)
    try:
        there = path.is_file()
    except OSError:  # a name that this system cannot have, such as one that is too long
        there = False
    if not there:
        remedy = "restore it, or run the command that made the folder again"
        detail = f"is named by {MANIFEST_NAME} and missing"
        problems.append(Problem(path=path, kind="missing", detail=detail, remedy=remedy))
        return None
    return path


def _compare_checksums(files: Mapping[str, Path | None], row: Mapping[str, Any]) -> list[Problem]:
    """Compare files with the row's `sha256`: one for each role, or one for its only file."""
    given = row.get("sha256")
    if isinstance(given, str):
        given = {role: given for role in list(files) if len(files) == 1 or role == "mask"}
    problems = []
    for role, path in files.items():
        wanted = given.get(role) if isinstance(given, dict) else None
        if path is not None and wanted and sha256_of_file(path) != wanted:
            remedy = "restore it, or run the command that made the folder again"
            detail = f"differs from what {MANIFEST_NAME} says was written"
            problems.append(Problem(path=path, kind="changed", detail=detail, remedy=remedy))
    return problems
