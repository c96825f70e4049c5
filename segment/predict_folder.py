"""The images of a folder, and the run folder of what is found in them.

In: a folder of images, a `Predictor`. Out: those that can be read, with their fields of view, or
one report of all that cannot; and a `Maker` of masks, probabilities and overlays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import ImageArray, PictureError, encode_image, list_pictures, read_image
from univg.manifest import MANIFEST_NAME
from univg.masks import BoolMask, encode_mask, inspect_mask
from univg.pairs import DEFAULT_SUFFIXES, find_pairs, match_stems, strip_stem
from univg.run_folder import Made, Maker

from .data import Preparation, Prepared, View, is_coloured
from .data_store import THREADS
from .fit_pictures import tint_mask, to_display
from .predictor import Predictor

DEEP = 65_535
FAR_SCALED = 2.0
"""Images this many times larger or smaller than the shots are told."""


@dataclass(frozen=True)
class Item:
    """An image that can be read."""

    path: Path
    fov: Path | None
    sha256: str
    """Of its file, and of that of its field of view."""
    grey: bool
    longest_px: int


@dataclass(frozen=True)
class Listed:
    """What a folder holds."""

    items: list[Item]
    problems: list[Problem]

    @property
    def bad(self) -> int:
        """How many images cannot be used; one may have several problems."""
        return len({problem.path for problem in self.problems})

    def notes(self, how: Preparation) -> list[str]:
        """Return a line where images are not of the kind that the model was trained on."""
        grey = sum(item.grey for item in self.items)
        coloured = len(self.items) - grey
        if how.channels == "rgb" and grey:
            return [
                f"{grey} of {len(self.items)} images are grey, the model takes colour: repeated"
            ]
        if how.channels != "rgb" and coloured:
            taken = "the green channel" if how.channels == "green" else "grey"
            return [
                f"{coloured} of {len(self.items)} images have colour; {taken} is taken, as in "
                "training"
            ]
        return []

    def note_sizes(self, how: Preparation, shots_px: int) -> list[str]:
        """Return a line where images are scaled far otherwise than those of training were."""
        if not how.longest_px or not shots_px:
            return []
        odd = [item for item in self.items
               if not 1 / FAR_SCALED < item.longest_px / shots_px < FAR_SCALED]  # fmt: skip
        if not odd:
            return []
        first = odd[0]
        return [
            f"{len(odd)} of {len(self.items)} images are far from the size of the shots, "
            f"{shots_px} px (first: {first.path.name}, {first.longest_px} px); each is scaled to "
            f"{how.longest_px} px. If their vessels are as wide in pixels as those of the shots, "
            "cut or pad them to that size"
        ]

    def checksum(self) -> str:
        """Return one checksum of all images and their names."""
        text = "\n".join(f"{item.path.stem}\0{item.sha256}" for item in self.items)
        return hashlib.sha256(text.encode()).hexdigest()


def list_images(folder: Path, skip_bad: bool = False, fov: View = "auto") -> Listed:
    """Return the images of `folder`, each read once; all that cannot be used is in one report.

    Fields of view beside them are looked at where `fov` makes use of them.
    """
    if not folder.is_dir():
        what = "is a file; give the folder it lies in" if folder.exists() else "does not exist"
        raise DataError(f"{folder}: {what}")
    paths, views, problems = _list_sources(folder, fov in {"auto", "given"})
    if not paths:
        raise DataError(f"{folder}: holds no picture (png, tif, gif, bmp, ppm or jpg); check it")
    problems += _find_doubles(paths)
    doubled = {problem.path for problem in problems}
    items: list[Item] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda path: _look_at(path, views.get(path)), paths):
            if isinstance(found, Problem):
                problems.append(found)
            elif found.path not in doubled:
                items.append(found)
    if problems and not skip_bad:
        count = f"{Listed(items, problems).bad} of {len(paths)} images cannot be used"
        raise ProblemReport(problems, f"{folder}: {count}; --skip-bad leaves them out")
    if not items:
        raise ProblemReport(problems, f"{folder}: none of its images can be used")
    return Listed(items, problems)


def require_views(listed: Listed, how: Preparation, skip_bad: bool = False) -> Listed:
    """Return `listed` without images that lack a field of view, where the model needs theirs."""
    if how.fov != "given":
        return listed
    lacking = [
        Problem(
            path=item.path,
            kind="unmatched",
            detail="has no field of view of its name in fov/",
            remedy="add it, or take --fov auto",
        )
        for item in listed.items
        if item.fov is None
    ]
    items = [item for item in listed.items if item.fov is not None]
    if lacking and not (skip_bad and items):
        count = f"{len(lacking)} of {len(listed.items)} images lack a field of view"
        raise ProblemReport(lacking, f"{count}; --skip-bad leaves them out")
    return Listed(items, [*listed.problems, *lacking])


class PredictMaker(Maker):
    """Masks, probabilities and overlays of images."""

    unit: ClassVar[str] = "images"
    folders: ClassVar[Mapping[str, str]] = {
        "mask": "masks",
        "probability": "probabilities",
        "overlay": "overlays",
    }
    label = "segment"
    block = 4  # a killed run loses no more images than that

    def __init__(
        self, predictor: Predictor, items: Sequence[Item], identity: Mapping[str, Any]
    ) -> None:
        self.predictor, self.items, self._identity = predictor, list(items), dict(identity)

    def identity(self) -> dict[str, Any]:
        return self._identity

    def id_of(self, index: int) -> str:
        return self.items[index].path.stem

    def load(self, indices: Sequence[int]) -> list[tuple[int, ImageArray, Any, Prepared]]:
        loaded = []
        for index in indices:
            item = self.items[index]
            image = read_image(item.path)
            fov = None if item.fov is None else inspect_mask(item.fov).mask
            try:
                loaded.append((index, image, fov, self.predictor.prepare(image, fov)))
            except DataError as error:
                raise DataError(f"{item.path}: {error}") from error
        return loaded

    def draw(self, loaded: Any) -> Any:
        return [
            (index, image, fov, self.predictor.run(prepared))
            for index, image, fov, prepared in loaded
        ]

    def finish(self, drawn: Any) -> list[Made]:
        return [self._finish(*one) for one in drawn]

    def _finish(
        self, index: int, image: ImageArray, fov: BoolMask | None, probability: Any
    ) -> Made:
        found = self.predictor.finish(image, probability, fov)
        deep = np.round(found.probability * DEEP).astype(np.uint16)
        shown = image if image.ndim == 3 else image[:, :, None]
        low, high = float(image.min()), float(image.max())
        light = to_display((shown.astype(np.float32) - low) / max(high - low, 1.0))
        files = {
            "mask": encode_mask(found.mask),
            "probability": encode_image(deep),
            "overlay": encode_image(tint_mask(light, found.mask)),
        }
        item = self.items[index]
        row = {
            "source": item.path.name,
            "source_sha256": item.sha256,
            "height": image.shape[0],
            "width": image.shape[1],
            "threshold": self.predictor.threshold,
            "vessel_share": round(float(found.mask[found.fov].mean()), 6) if found.fov.any() else 0,
            "fov_share": round(float(found.fov.mean()), 6),
        }
        return Made(index, files, row)


def _list_sources(
    folder: Path, views_count: bool
) -> tuple[list[Path], dict[Path, Path], list[Problem]]:
    """Return images, their fields of view, and what is wrong with names.

    Those that a manifest names, as everywhere; where there is none, or it names none, `images/`.
    """
    if (folder / MANIFEST_NAME).exists():
        found, problems = find_pairs(folder)
        named = sorted([*(pair.image for pair in found.pairs), *found.unlabelled])
        if named:
            views = {pair.image: pair.fov for pair in found.pairs if pair.fov and views_count}
            return named, views, problems
    inner = folder / "images"
    paths = list_pictures(inner if inner.is_dir() else folder)
    return (paths, *(_find_views(folder, paths) if views_count else ({}, [])))


def _find_views(folder: Path, paths: Sequence[Path]) -> tuple[dict[Path, Path], list[Problem]]:
    """Return the field of view of each image that has one, and images with two of them.

    `folder` holds the images, or `images/` and `fov/`, or is such `images/` itself.
    """
    inside = folder.resolve().name == "images" and not (folder / "images").is_dir()
    place = (folder.parent if inside else folder) / "fov"
    if not place.is_dir():
        return {}, []
    matching = match_stems(paths, list_pictures(place))
    found = {image: view for _, image, view in matching.pairs}
    doubled = {strip_stem(each[0].stem, DEFAULT_SUFFIXES).casefold(): each
               for each in matching.duplicates if each[0].parent == place}  # fmt: skip
    problems = []
    for path in paths:
        if views := doubled.get(strip_stem(path.stem, DEFAULT_SUFFIXES).casefold()):
            detail = f"has {len(views)} fields of view: {', '.join(view.name for view in views)}"
            problems.append(
                Problem(path=path, kind="duplicate", detail=detail, remedy="keep one of them")
            )
    return found, problems


def _find_doubles(paths: Sequence[Path]) -> list[Problem]:
    """Return files that would be written under one name."""
    first: dict[str, Path] = {}
    problems = []
    for path in paths:
        # Letter case: some disks know no difference.
        other = first.setdefault(path.stem.casefold(), path)
        if other != path:
            detail = f"has the same name as {other.name}, but for its ending"
            problems.append(
                Problem(path=path, kind="duplicate", detail=detail, remedy="rename one of them")
            )
    return problems


def _look_at(path: Path, fov: Path | None) -> Item | Problem:
    try:
        image = read_image(path)
        digest = sha256_of_file(path)
        if fov is not None:
            view = inspect_mask(fov)
            if view.size != (image.shape[1], image.shape[0]):
                wide, high = view.size
                detail = f"its field of view is {wide}x{high} px, the image "
                detail += f"{image.shape[1]}x{image.shape[0]} px"
                return Problem(path=path, kind="size", detail=detail, remedy="give one that fits")
            if not view.mask.any():
                detail = f"its field of view {fov.name} is empty"
                return Problem(path=path, kind="empty", detail=detail, remedy="give another")
            digest = hashlib.sha256((digest + sha256_of_file(fov)).encode()).hexdigest()
    except PictureError as error:
        return error.problem
    except OSError as error:
        return Problem(path=path, kind="unreadable", detail=f"cannot be read ({error.strerror})")
    return Item(path, fov, digest, not is_coloured(image), max(image.shape[:2]))
