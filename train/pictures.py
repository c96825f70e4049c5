"""The items that training runs over: picture files with their prompts, and how they are turned.

In: folders of pairs, plain folders of pictures, or folders whose sub-folders are named by modality.
Out: `Picture`s in a fixed order, and their pixels as uint8 (S, S, 3). Listing looks at names, sizes
and checksums only, so that 50,000 files take seconds; a file whose pixels cannot be decoded shows
when it is encoded (`LatentCache.prepare`), and is told there with all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from univg.errors import DataError, Problem, ProblemReport
from univg.images import ImageArray, PictureError, list_pictures, read_image
from univg.manifest import MANIFEST_NAME, iterate_rows
from univg.masks import PHOTOGRAPH_SHARE, BoolMask, MaskReading, inspect_mask
from univg.modalities import Modality, find_modality, modality_names
from univg.pairs import find_masks, find_pairs
from univg.resize import Fit, fit_image, fit_mask

from .checksums import hash_files

Kind = Literal["mask", "image"]
Pixels = npt.NDArray[np.uint8]
Array = TypeVar("Array", bound=npt.NDArray[Any])

TURNS = 8
"""The quarter turns of a square, and those of its mirror image."""
DEPTH_CUT = 0.1
"""Percent of the darkest and of the brightest values that 16-bit images lose: a hot pixel or two
must not make the rest dark."""


class PictureWarning(UserWarning):
    """Pictures were left out."""


@dataclass(frozen=True)
class Picture:
    """One file that training uses, as a mask or as an image."""

    path: Path
    kind: Kind
    prompt: str
    sha256: str
    """Of the file's bytes."""
    modality: str = ""
    """Name of its card; empty where its folder is of no known modality."""
    mask_path: Path | None = None
    """The mask of an image, where there is one."""


@dataclass(frozen=True)
class _Found:
    """A file before it is hashed."""

    path: Path
    mask_path: Path | None
    prompt: str
    modality: str


def list_pictures_of(
    roots: Sequence[Path],
    kind: Kind,
    *,
    default: Modality | str | None = None,
    paired: bool = False,
    skip_bad: bool = False,
    hashes: Path | None = None,
) -> list[Picture]:
    """Return the pictures of `roots`, in their order; all that is wrong is told in one report.

    `default` is the card, or only the prompt, for folders of no known modality. `paired` asks for
    a mask with every image. `hashes` is a file that remembers checksums by path, size and time.
    """
    problems: list[Problem] = []
    found = [item for root in roots for item in _search(root, kind, default, paired, problems)]
    if problems and not skip_bad:
        raise ProblemReport(problems, _headline(problems))
    sums, unread = hash_files([item.path for item in found], hashes)
    problems += unread
    if problems and not skip_bad:
        raise ProblemReport(problems, _headline(problems))
    for problem in problems:
        warnings.warn(f"left out: {problem.line()}", PictureWarning, stacklevel=2)
    pictures = [
        Picture(item.path, kind, item.prompt, sums[item.path], item.modality, item.mask_path)
        for item in found
        if item.path in sums
    ]
    if not pictures:
        raise DataError(f"{', '.join(map(str, roots))}: no {kind} is left to train on")
    return pictures


def find_pictures(root: Path, kind: Kind) -> list[Path]:
    """Return the files of `root` that `list_pictures_of` would take, unread, of any modality."""
    return [item.path for item in _search(root, kind, "", False, [])]


def load_picture(picture: Picture, size_px: int, fit: Fit) -> Pixels:
    """Return the pixels of `picture` as uint8 (S, S, 3); a mask is black and white."""
    if picture.kind == "mask":
        mask = fit_mask(_read_judged(picture.path).mask, size_px, fit)
        return np.repeat((mask.astype(np.uint8) * 255)[:, :, None], 3, axis=2)
    image = read_image(picture.path)
    # Every eighth pixel first: of photographs that is enough. A blank one is no mask either.
    if _is_two_valued(image[::8, ::8]) and _is_two_valued(image) and image.min() != image.max():
        detail = f"holds the values {image.min()} and {image.max()} alone"
        raise PictureError(_mistaken(picture.path, detail, "a mask"))
    return fit_image(to_rgb8(image), size_px, fit)


def _is_two_valued(image: ImageArray) -> bool:
    low, high = image.min(), image.max()
    return bool(((image == low) | (image == high)).all())


def _read_judged(path: Path) -> MaskReading:
    """Read a mask that is learnt from; one that is a photograph is refused."""
    reading = inspect_mask(path)
    if reading.ambiguous_share > PHOTOGRAPH_SHARE:
        share = f"{reading.ambiguous_share:.0%}"
        detail = f"{share} of its pixels are neither vessel nor background"
        raise PictureError(_mistaken(path, detail, "an image"))
    return reading


def _mistaken(path: Path, detail: str, like: str) -> Problem:
    remedy = f"this looks like {like}; are images/ and masks/ exchanged?"
    return Problem(path=path, kind="exchanged", detail=detail, remedy=remedy)


def load_mask(path: Path, size_px: int, fit: Fit) -> BoolMask:
    """Return the mask at `path` as bool (S, S), in-between values cut at half."""
    return fit_mask(inspect_mask(path).mask, size_px, fit)


def to_rgb8(image: ImageArray) -> Pixels:
    """Return `image` (H, W) or (H, W, 3) as uint8 (H, W, 3); grey gives three equal channels.

    Of 16 bits the used range is stretched to 8, all channels alike: most such files use 12 bits
    or less, so that the upper byte alone would be nearly black.
    """
    pixels = image.astype(np.uint8, copy=False) if image.dtype == np.uint8 else _stretch(image)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def turn(array: Array, k: int) -> Array:
    """Return `array` (H, W) or (H, W, C) in position `k` of 8, exactly; 0 changes nothing.

    k % 4 quarter turns, after a flip from left to right where `k` is 4 or more.
    """
    _check_turn(k)
    flipped = array[:, ::-1] if k >= 4 else array
    return np.ascontiguousarray(np.rot90(flipped, k % 4))  # type: ignore[return-value]


def turn_back(array: Array, k: int) -> Array:
    """Undo `turn(array, k)`."""
    _check_turn(k)
    straight = np.rot90(array, -(k % 4))
    return np.ascontiguousarray(straight[:, ::-1] if k >= 4 else straight)  # type: ignore[return-value]


def _check_turn(k: int) -> None:
    if k not in range(TURNS):
        raise ValueError(f"a turn is a number from 0 to {TURNS - 1}, not {k}")


def _stretch(image: ImageArray) -> Pixels:
    low, high = np.percentile(image, [DEPTH_CUT, 100 - DEPTH_CUT])
    if high <= low:  # nearly all one value: keep what differs
        low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float32) - low) * (255.0 / max(1.0, high - low))
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)


def _headline(problems: Sequence[Problem]) -> str:
    count = f"{len(problems)} picture{'s' if len(problems) != 1 else ''}"
    return f"{count} cannot be used; mend or remove them, or leave them out with --skip-bad"


def _search(
    root: Path,
    kind: Kind,
    default: Modality | str | None,
    paired: bool,
    problems: list[Problem],
) -> Iterator[_Found]:
    """Yield the files of `root`, itself a folder of pictures or one sub-folder a modality."""
    if not root.is_dir():
        what = "is a file; give the folder it lies in" if root.exists() else "does not exist"
        raise DataError(f"{root}: {what}; check the path")
    folders = [root]
    if not _is_whole(root):
        inner = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        folders = [p for p in inner if p.name in modality_names() or _is_whole(p)]
    if not folders:
        raise DataError(
            f"{root}: holds no picture, no images/ or masks/ and no folder named by modality"
        )
    for folder in folders:
        modality, prompt = _name_prompt(folder, kind, default)
        for path, mask_path in _list_files(folder, kind, paired, problems):
            yield _Found(path, mask_path, prompt, modality)


def _is_whole(folder: Path) -> bool:
    """Whether `folder` holds pictures itself: listed, in images/ and masks/, or plainly."""
    if (folder / MANIFEST_NAME).exists():
        return True
    return any((folder / n).is_dir() for n in ("images", "masks")) or bool(list_pictures(folder))


def _list_files(
    folder: Path, kind: Kind, paired: bool, problems: list[Problem]
) -> list[tuple[Path, Path | None]]:
    """Return (file, its mask) for all of one folder."""
    if kind == "mask":
        return [(path, None) for path in find_masks(folder)]
    listed = (folder / MANIFEST_NAME).exists()
    if paired or listed or ((folder / "images").is_dir() and (folder / "masks").is_dir()):
        found, wrong = find_pairs(folder)
        files: list[tuple[Path, Path | None]] = [(pair.image, pair.mask) for pair in found.pairs]
        if paired:
            problems += wrong
        else:  # to learn images alone, one without a mask is as good
            names = list(found.unlabelled) if listed else list_pictures(folder / "images")
            problems += [p for p in wrong if p.kind not in {"unmatched", "duplicate"}]
            known = {path for path, _ in files}
            files = sorted([*files, *((path, None) for path in names if path not in known)])
    else:
        place = folder / "images" if (folder / "images").is_dir() else folder
        files = [(path, None) for path in list_pictures(place)]
    if not files and not problems:
        what = "pair of image and mask" if paired else "image"
        raise DataError(f"{folder}: holds no {what} to train on; check the path")
    return files


def _name_prompt(folder: Path, kind: Kind, default: Modality | str | None) -> tuple[str, str]:
    """Return the modality of `folder` and its prompt: by its name, its rows, else the default."""
    for name in (folder.name, _modality_of_rows(folder)):
        if name in modality_names():
            return name, _prompt_of(find_modality(name), kind)
    if isinstance(default, Modality):
        return default.name, _prompt_of(default, kind)
    if default is not None:
        return "", default
    raise DataError(
        f"{folder}: its modality is not known; name the folder {', '.join(modality_names())}, or "
        "say which it is with --modality"
    )


def _prompt_of(card: Modality, kind: Kind) -> str:
    return card.mask_prompt if kind == "mask" else card.image_prompt


def _modality_of_rows(folder: Path) -> str:
    """Return the one modality that the manifest of `folder` names, if it does."""
    names = {str(row.get("modality", "")) for row in iterate_rows(folder)}
    return names.pop() if len(names) == 1 else ""
