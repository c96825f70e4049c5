"""The files of an evaluation: found, matched by name, read, measured.

In: folders of truth, predictions, fields of view, probabilities, perhaps of a second method. Out:
`Item`s and what has no partner; `Measured`, or what is wrong with the files of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from univg.errors import ConfigError, DataError, Problem
from univg.images import PictureError, list_pictures, read_image
from univg.manifest import MANIFEST_NAME, iterate_rows
from univg.masks import INVERTED_DENSITY, BoolMask, inspect_mask
from univg.pairs import Matching, find_masks, match_stems

from .metrics import Metric, choose_metrics, measure_pair
from .metrics_masks import Probability, cut_to

MOST_GREY = 0.05
"""A mask with more in-between pixels than this is no mask: a probability map, most likely."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Where a method's predictions lie."""

    name: str
    masks: Path
    probabilities: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """The files of one image."""

    stem: str
    truth: Path
    predicted: tuple[Path, ...]
    """One a method."""
    probabilities: tuple[Path | None, ...]
    fov: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the folders hold."""

    items: list[Item]
    problems: list[Problem]
    """Truths that lack something, and files of which there are two."""
    truths: int
    strays: int
    """Predictions that stand for no truth."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured, so that a worker can do it from files alone."""

    metrics: tuple[str, ...]
    tolerance_px: float
    patch_px: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one image."""

    item: Item
    width_px: int
    height_px: int
    area_px: int
    """Pixels that were judged."""
    grey: tuple[Path, ...]
    """Masks with a few in-between values, which were cut at half."""
    dense: tuple[Path, ...]
    """Masks that are more vessel than ground."""
    values: tuple[dict[str, float], ...]
    """One a method; NaN where a metric is not defined."""


def find_items(
    truth: Path, methods: Sequence[Method], fov: Path | None, strip: Sequence[str]
) -> Listing:
    """Match all files by name: a truth needs one prediction a method, and what else is asked."""
    masks = find_masks(truth)
    problems: list[Problem] = []
    stems: dict[Path, str] = {}
    strays = 0

    def match(files: Sequence[Path], what: str) -> dict[Path, Path]:
        nonlocal strays
        matching = match_stems(masks, files, strip)
        problems.extend(_missing(matching, f"no {what}"))
        stems.update({mask: stem for stem, mask, _ in matching.pairs if mask not in stems})
        strays += len(matching.unmatched_masks) if what.startswith("prediction") else 0
        return {mask: file for _, mask, file in matching.pairs}

    predicted = [match(find_masks(m.masks), f"prediction in {m.masks}") for m in methods]
    probable = [
        match(list_pictures(m.probabilities), f"probabilities in {m.probabilities}")
        if m.probabilities
        else None
        for m in methods
    ]
    views = None if fov is None else match(_list_views(fov), f"field of view in {fov}")
    asked = [found for found in (*predicted, *probable, views) if found is not None]
    items = [
        Item(
            stem=stems[mask],
            truth=mask,
            predicted=tuple(found[mask] for found in predicted),
            probabilities=tuple(None if found is None else found[mask] for found in probable),
            fov=None if views is None else views[mask],
        )
        for mask in masks
        if all(mask in found for found in asked)
    ]
    return Listing(items=items, problems=problems, truths=len(masks), strays=strays)


def measure_item(item: Item, measures: Measures) -> Measured | list[Problem]:
    """Read and measure the files of one image."""
    problems: list[Problem] = []
    grey: list[Path] = []
    truth = _read_mask(item.truth, None, problems, grey)
    shape = None if truth is None else truth.shape
    fov = None if item.fov is None else _read_mask(item.fov, shape, problems, grey)
    if fov is not None and not fov.any():
        detail = "is an empty field of view"
        problems.append(Problem(path=item.fov or item.truth, kind="empty", detail=detail))
    predicted = [_read_mask(path, shape, problems, grey) for path in item.predicted]
    levels = [
        None if path is None else _read_probability(path, shape, problems)
        for path in item.probabilities
    ]
    if problems or truth is None:
        return problems
    facts = cut_to(truth, fov)
    values = []
    for mask, probability in zip(predicted, levels, strict=True):
        assert mask is not None  # or there would be a problem
        chosen = _choose(measures.metrics, probability is not None)
        try:
            values.append(
                measure_pair(
                    mask,
                    facts,
                    fov=fov,
                    probability=probability,
                    metrics=chosen,
                    tolerance_px=measures.tolerance_px,
                    patch_px=measures.patch_px,
                )
            )
        except ConfigError as error:
            raise ConfigError(f"{item.truth}: {error}") from error
    return Measured(
        item=item,
        width_px=truth.shape[1],
        height_px=truth.shape[0],
        area_px=int(truth.size if fov is None else fov.sum()),
        grey=tuple(grey),
        dense=_list_dense(item, [truth, *predicted]),
        values=tuple(values),
    )


def use_one_thread() -> None:
    """Prepare a worker: the processes share the cores already."""
    cv2.setNumThreads(1)


def find_views(truth: Path) -> Path:
    """Return where the fields of view of `truth` are named: itself with a manifest, or `fov/`."""
    if (truth / MANIFEST_NAME).exists() and any(row.get("fov") for row in iterate_rows(truth)):
        return truth
    for place in (truth / "fov", truth.parent / "fov"):
        if place.is_dir() and (place.parent == truth or truth.name == "masks"):
            return place
    raise DataError(
        f"{truth}: has no fov/ to judge inside; give the folder with --fov, or --fov whole"
    )


def _list_views(place: Path) -> list[Path]:
    if (place / MANIFEST_NAME).exists():
        return [place / row["fov"] for row in iterate_rows(place) if row.get("fov")]
    inner = place / "fov"
    return list_pictures(inner if inner.is_dir() else place)


def _choose(names: tuple[str, ...], probability: bool) -> dict[str, Metric]:
    """A method without probabilities has no AUC, and all the rest."""
    chosen = choose_metrics(names, probability=True)
    return {k: m for k, m in chosen.items() if probability or not m.needs_probability}


def _missing(matching: Matching, what: str) -> list[Problem]:
    """Every truth without a partner, or with two of them."""
    remedy = "rename it, or name its ending with --strip"
    found = [
        Problem(path=path, kind="unmatched", detail=f"has {what} of the same name", remedy=remedy)
        for path in matching.unmatched_images
    ]
    for group in matching.duplicates:
        names = ", ".join(str(path) for path in group)
        detail = f"{len(group)} files stand for one image: {names}"
        found += [
            Problem(path=p, kind="duplicate", detail=detail, remedy="keep one") for p in group
        ]
    return found


def _list_dense(item: Item, masks: Sequence[BoolMask | None]) -> tuple[Path, ...]:
    paths = (item.truth, *item.predicted)
    return tuple(path for path, mask in zip(paths, masks, strict=True)
                 if mask is not None and mask.mean() > INVERTED_DENSITY)  # fmt: skip


def _read_mask(
    path: Path, shape: tuple[int, ...] | None, problems: list[Problem], grey: list[Path]
) -> BoolMask | None:
    """Return the mask at `path`; add to `problems` what is wrong, to `grey` what is doubtful."""
    try:
        reading = inspect_mask(path)
    except PictureError as error:
        problems.append(error.problem)
        return None
    if reading.ambiguous_share > MOST_GREY:
        detail = f"{reading.ambiguous_share:.0%} of its pixels are neither vessel nor background"
        remedy = "give masks of two values; probabilities go to --probabilities"
        problems.append(Problem(path=path, kind="grey", detail=detail, remedy=remedy))
    elif reading.levels > 2:
        grey.append(path)
    _check_size(path, reading.mask.shape, shape, problems)
    return reading.mask


def _read_probability(
    path: Path, shape: tuple[int, ...] | None, problems: list[Problem]
) -> Probability | None:
    try:
        levels = read_image(path)
    except PictureError as error:
        problems.append(error.problem)
        return None
    if levels.ndim == 3:
        if (levels == levels[:, :, :1]).all():
            levels = levels[:, :, 0]
        else:
            detail = "is a coloured picture, not a map of probabilities"
            problems.append(Problem(path=path, kind="colour", detail=detail))
    _check_size(path, levels.shape[:2], shape, problems)
    return levels


def _check_size(
    path: Path, found: tuple[int, ...], wanted: tuple[int, ...] | None, problems: list[Problem]
) -> None:
    if wanted is None or found == wanted:
        return
    detail = f"is {found[1]}x{found[0]} px, its truth {wanted[1]}x{wanted[0]} px"
    remedy = "predict at the size of the truth; nothing is scaled here"
    problems.append(Problem(path=path, kind="size", detail=detail, remedy=remedy))
