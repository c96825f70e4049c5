"""The pixels of an item: image, vessel mask and field of view, read after the card's rules.

In: an `Item`, which label classes are vessel, where the field of view comes from. Out: arrays of
one size, and what is doubtful about them, or one report of all that is wrong with the item.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from univg.errors import Problem, ProblemReport
from univg.images import ImageArray, PictureError, read_image
from univg.masks import BoolMask, describe_grey, find_fov, inspect_mask, read_labels

from .archives import SourceFile
from .card import Group
from .layouts import Item

FovSource = Literal["provider", "auto", "none"]


@dataclass
class ItemPixels:
    """What an item shows; `doubts` are worth telling, but no reason to refuse it."""

    image: ImageArray
    mask: BoolMask | None = None
    fov: BoolMask | None = None
    doubts: list[Problem] = field(default_factory=list)


def read_item(item: Item, classes: Sequence[str], fov: FovSource, strict: bool) -> ItemPixels:
    """Read an item's files; raise one report of all that is wrong with them."""
    problems: list[Problem] = []
    pixels: ItemPixels | None = None
    mask, view, doubts = None, None, []
    with _collect(problems, item.image.shown):
        pixels = ItemPixels(read_image(item.image.path))
    if item.mask is not None:
        with _collect(problems, item.mask.shown):
            mask, doubt = read_vessels(item.mask, item.group, classes, strict)
            doubts = [_show(d, item.mask.shown) for d in (doubt, _describe_plain(mask)) if d]
            problems += _compare_size(item.mask.shown, mask, pixels)
    if item.fov is not None and fov != "none":
        with _collect(problems, item.fov.shown):
            view = inspect_mask(item.fov.path).mask
            problems += _compare_size(item.fov.shown, view, pixels)
    if problems or pixels is None:
        raise ProblemReport(problems)
    if view is None and fov == "auto":
        view = find_fov(pixels.image)
    return dataclasses.replace(pixels, mask=mask, fov=view, doubts=doubts)


def read_vessels(
    file: SourceFile, group: Group, classes: Sequence[str], strict: bool
) -> tuple[BoolMask, Problem | None]:
    """Read the vessel mask of a file; also return what is doubtful about it.

    With `labels`, vessel is where the file holds a value of one of `classes`.
    """
    if group.labels is not None:
        return _read_classes(file, group.labels, classes or group.vessel), None
    reading = inspect_mask(file.path)
    doubt = describe_grey(file.path, reading)
    if doubt is not None and strict:
        raise PictureError(doubt)
    return (~reading.mask if group.invert else reading.mask), doubt


def _read_classes(
    file: SourceFile, labels: dict[str, tuple[int, ...]], classes: Sequence[str]
) -> BoolMask:
    values = read_labels(file.path)
    known = {value for members in labels.values() for value in members} | {0}
    strangers = sorted(set(np.unique(values).tolist()) - known)
    if strangers:
        shown = ", ".join(str(value) for value in strangers[:5])
        detail = f"holds label values {shown}; the card knows {sorted(known)}"
        remedy = "is this the file of labels, unchanged?"
        raise PictureError(Problem(path=file.path, kind="labels", detail=detail, remedy=remedy))
    chosen = classes or [name for name in labels if name.lower() != "background"]
    return np.isin(values, [value for name in chosen for value in labels.get(name, ())])


def _describe_plain(mask: BoolMask) -> Problem | None:
    """An empty or full mask may be what the provider means, but is worth telling."""
    if mask.any() and not mask.all():
        return None
    kind, detail = ("full", "every pixel") if mask.any() else ("empty", "no pixel")
    return Problem(path=Path(), kind=kind, detail=f"{detail} of the mask is vessel")


def _compare_size(shown: str, mask: BoolMask, pixels: ItemPixels | None) -> list[Problem]:
    if pixels is None or pixels.image.shape[:2] == mask.shape:
        return []
    height, width = pixels.image.shape[:2]
    detail = f"the mask is {mask.shape[1]}x{mask.shape[0]} px, its image {width}x{height} px"
    remedy = "is it the mask of this image?"
    return [Problem(path=Path(shown), kind="size", detail=detail, remedy=remedy)]


@contextlib.contextmanager
def _collect(problems: list[Problem], shown: str) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        problems.append(_show(error.problem, shown))


def _show(problem: Problem, shown: str) -> Problem:
    """Name the provider's file, not the copy that was unpacked from an archive."""
    return dataclasses.replace(problem, path=Path(shown))
