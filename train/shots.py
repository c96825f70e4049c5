"""The few annotated examples that an adaptation learns from, checked before anything is loaded.

In: a folder of pairs (`images/` + `masks/`, or a manifest); where only masks are needed, a plain
folder of masks too. Out: `Shot`s of one square size, in the order of the folder; or one report of
all that is wrong with them. No model and no torch is needed to refuse a bad folder.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from univg.errors import Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import PictureError, list_pictures, read_image
from univg.manifest import MANIFEST_NAME
from univg.masks import BoolMask, MaskReading, describe_grey, inspect_mask, judge_example
from univg.pairs import Pair, find_masks, find_pairs
from univg.resize import Fit, fit_image, fit_mask, stretch_factor

from .pictures import Picture, to_rgb8

Need = Literal["masks", "pairs"]

WARN_STRETCH = 1.25


class ShotWarning(UserWarning):
    """Shots can be used, but something about them is worth knowing."""


@dataclass(frozen=True)
class Shot:
    """One annotated example at the size of training."""

    name: str
    image: npt.NDArray[np.uint8] | None
    """(S, S, 3); None where only masks are needed."""
    mask: BoolMask
    """(S, S)"""
    files: dict[str, Path]
    """"mask" and, where it was read, "image"."""
    sha256: str
    """Of its files' checksums."""


@dataclass(frozen=True)
class _Candidate:
    name: str
    files: dict[str, Path]


@dataclass(frozen=True)
class _Read:
    """A shot with what is only needed to judge it among the others."""

    shot: Shot
    shape: tuple[int, ...]
    prints: dict[str, str]
    """Hashes of the decoded pixels."""
    grey: Problem | None


def read_shots(
    folder: Path,
    *,
    need: Need,
    size_px: int,
    fit: Fit = "stretch",
    wanted: int | None = None,
    skip_bad: bool = False,
) -> list[Shot]:
    """Return the shots of `folder`, or tell all that is wrong with them in one report.

    Of more than `wanted`, the first ones are taken (with `skip_bad`, the first good ones); fewer
    are refused.
    """
    candidates, problems = _list_candidates(folder, need)
    reads: list[_Read] = []
    seen: dict[str, Path] = {}
    for number, candidate in enumerate(candidates):
        if wanted is not None and (len(reads) if skip_bad else number) >= wanted:
            break
        wrong, read = _read_candidate(candidate, size_px, fit)
        wrong += _find_copies(read, seen)
        problems += wrong
        if read is not None and not wrong:
            reads.append(read)
    asked = 1 if wanted is None else wanted
    if (len(reads) if skip_bad else len(candidates)) < asked:
        problems.append(_too_few(folder, need, len(reads), len(candidates), asked))
        raise ProblemReport(problems, f"{folder}: cannot be used as shots")
    if problems and not skip_bad:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise ProblemReport(problems, f"{folder}: {count} with its shots")
    _warn(folder, reads, problems, fit)
    if need == "pairs":
        _doubt([read.shot for read in reads])
    return [read.shot for read in reads]


def list_shot_pictures(
    shots: Sequence[Shot], kind: Literal["mask", "image"], prompt: str, modality: str = ""
) -> list[Picture]:
    """Return the shots' files as the pictures that training runs over."""
    return [
        Picture(
            shot.files[kind],
            kind,
            prompt,
            sha256_of_file(shot.files[kind]),
            modality,
            shot.files["mask"] if kind == "image" else None,
        )
        for shot in shots
    ]


def _list_candidates(folder: Path, need: Need) -> tuple[list[_Candidate], list[Problem]]:
    if need == "masks":
        paired = (folder / "masks").is_dir() or (folder / MANIFEST_NAME).exists()
        if folder.is_dir() and not paired and not list_pictures(folder):
            return [], []  # an empty folder is a folder of too few
        return [_Candidate(path.stem, {"mask": path}) for path in find_masks(folder)], []
    found, problems = find_pairs(folder)
    return [_Candidate(p.stem, {"image": p.image, "mask": p.mask}) for p in found.pairs], problems


def _read_candidate(
    candidate: _Candidate, size_px: int, fit: Fit
) -> tuple[list[Problem], _Read | None]:
    """Return what is wrong with one candidate and, where all of it can be read, its shot."""
    problems: list[Problem] = []
    pixels: npt.NDArray[Any] | None = None
    reading: MaskReading | None = None
    image_path, mask_path = candidate.files.get("image"), candidate.files["mask"]
    if image_path is not None:
        try:
            pixels = read_image(image_path)
            problems += _judge_image(image_path, pixels)
        except PictureError as error:
            problems.append(error.problem)
    try:
        reading = inspect_mask(mask_path)
        size = None if pixels is None else (pixels.shape[1], pixels.shape[0])
        problems += judge_example(mask_path, reading, size)
    except PictureError as error:
        problems.append(error.problem)
    if reading is None or (image_path is not None and pixels is None):
        return problems, None
    mask = fit_mask(reading.mask, size_px, fit)
    if not mask.any() and not reading.empty:
        detail = f"has no vessel inside the part that fit={fit} keeps"
        remedy = "use --fit pad or --fit stretch"
        problems.append(Problem(path=mask_path, kind="empty", detail=detail, remedy=remedy))
    image = None if pixels is None else fit_image(to_rgb8(pixels), size_px, fit)
    prints = {"mask": _print_of(reading.mask)}
    if pixels is not None:
        prints["image"] = _print_of(pixels)
    shot = Shot(candidate.name, image, mask, candidate.files, _hash_of(candidate.files))
    grey = describe_grey(mask_path, reading)
    return problems, _Read(shot, reading.mask.shape, prints, grey)


def _judge_image(path: Path, pixels: npt.NDArray[Any]) -> list[Problem]:
    if pixels.min() != pixels.max():
        return []
    detail = f"every pixel has the value {int(pixels.min())}"
    return [Problem(path=path, kind="blank", detail=detail, remedy="replace the image")]


def _find_copies(read: _Read | None, seen: dict[str, Path]) -> list[Problem]:
    """Return what a shot repeats of earlier ones; `seen` maps prints to files, and grows."""
    if read is None:
        return []
    problems = []
    for role, print_ in read.prints.items():
        path = read.shot.files[role]
        first = seen.setdefault(f"{role} {print_}", path)
        empty = role == "mask" and not read.shot.mask.any()  # that is said already
        if first != path and not empty:
            detail = f"has the same pixels as {first.name}"
            remedy = "remove one of them; shots must differ"
            problems.append(Problem(path=path, kind="duplicate", detail=detail, remedy=remedy))
    return problems


def _print_of(pixels: npt.NDArray[Any]) -> str:
    head = f"{pixels.shape} {pixels.dtype}\0".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _hash_of(files: dict[str, Path]) -> str:
    text = "\n".join(f"{role} {sha256_of_file(path)}" for role, path in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _too_few(folder: Path, need: Need, good: int, found: int, asked: int) -> Problem:
    what = "masks" if need == "masks" else "pairs of image and mask"
    usable = f", {good} of them usable" if good < found else ""
    needed = "one at least is needed" if asked == 1 else f"{asked} are asked for"
    where = (
        "masks, or one with masks/ in it" if need == "masks" else "pairs, with images/ and masks/"
    )
    return Problem(
        path=folder,
        kind="too few",
        detail=f"holds {found} {what}{usable}; {needed}",
        remedy="add more, or ask for fewer" if found else f"give a folder of {where}",
    )


def _doubt(shots: Sequence[Shot]) -> None:
    """Say which masks seem to be those of other shots."""
    from univg.pairing import doubt_pairing

    pairs = [Pair(shot.name, shot.files["image"], shot.files["mask"]) for shot in shots]
    for doubt in doubt_pairing(pairs):
        warnings.warn(doubt, ShotWarning, stacklevel=3)


def _warn(folder: Path, reads: Sequence[_Read], skipped: Sequence[Problem], fit: Fit) -> None:
    """Say in a line each what was left out, what was guessed and what is out of proportion."""
    lines = [f"left out: {problem.line()}" for problem in skipped]
    lines += [read.grey.line() for read in reads if read.grey is not None]
    stretched = [stretch_factor(read.shape) for read in reads]
    strong = [factor for factor in stretched if factor > WARN_STRETCH]
    if fit == "stretch" and strong:
        lines.append(
            f"{folder}: {len(strong)} of {len(reads)} shots change their proportions by up to "
            f"{max(strong):.2f} when stretched to a square; --fit crop or --fit pad keeps them"
        )
    for line in lines:
        warnings.warn(line, ShotWarning, stacklevel=3)
