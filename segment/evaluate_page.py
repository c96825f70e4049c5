"""The page of an evaluation: key figures, tables, the best and the worst images.

In: an `Evaluation` and its files. Out: `univg.report.Page`. Overlays have one colour for what was
found, one for what is false and one for what was missed, told apart without red and green.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from univg import __version__
from univg.errors import UserError
from univg.images import ImageArray, list_pictures, read_image
from univg.masks import inspect_mask
from univg.overlays import TILE_PX, draw_overlay
from univg.pairs import match_stems
from univg.report import Page, Section

from .evaluate_files import Measured
from .evaluate_folders import Evaluation, count_things
from .tables import comparison_rows, describe, summary_rows

_SHOWN_ROWS = 60
Picture = npt.NDArray[np.uint8]


def make_page(found: Evaluation, truth: Path, *, show: int = 4) -> Page:
    """Return the page of `found`, with up to `show` of the worst and of the best images."""
    images = count_things(found.measured, "image")
    lead = f"{' against '.join(found.methods)}: {images} with known vessels."
    page = Page(
        f"Segmentation of {images}",
        kicker="univg segment evaluate",
        lead=lead,
        footer=f"Made by univg {__version__}.",
    )
    _add_figures(page.section("In short"), found)
    section = page.section("Figures")
    head, rows = summary_rows(found)
    note = describe(found)
    section.table("Mean ± standard deviation over images.", head, _keep_arrows(rows), note=note)
    if found.tests:
        _add_tests(page.section("Is it a difference?"), found)
    _add_cases(page, found, truth, show)
    _add_images(page.section("Every image"), found)
    _add_rules(page.section("How it is measured"), found)
    if found.problems:
        section = page.section("Left out")
        section.text(f"For all methods: {count_things(range(found.left_out), 'image')}.")
        section.commands([p.line() for p in found.problems[:_SHOWN_ROWS]], "Problems")
    return page


def _add_figures(section: Section, found: Evaluation) -> None:
    figures = []
    for key, metric in list(found.metrics.items())[: 6 // len(found.methods)]:
        for name in found.methods:
            of = f", {name}" if len(found.methods) > 1 else ""
            value = found.summaries[name][key].mean
            unit = " %" if metric.percent else f" {metric.unit}" if metric.unit else ""
            figures.append((f"{metric.show(value)}{unit}", f"{metric.title}{of}"))
    section.key_figures(figures)


def _add_tests(section: Section, found: Evaluation) -> None:
    first, second = found.methods
    section.text(
        f"{first} minus {second} on the same images, in the units of the table above. A p value "
        "is the chance of a difference this large if the methods were alike."
    )
    head, rows = comparison_rows(found)
    section.table(
        f"{first} minus {second}.",
        head,
        _keep_arrows(rows),
        note="Wilcoxon: signed ranks. Permutation: signs of the differences exchanged. Corrected: "
        "the permutation test's p for the number of metrics (Holm). Effect d: mean difference "
        "over the standard deviation of the differences. Few images give little power: no "
        "difference shown is not no difference.",
    )


def _keep_arrows(rows: list[list[str]]) -> list[list[str]]:
    """Bind the arrow of a metric to its unit, so that it does not stand on a line alone."""
    return [[row[0].replace(" ↑", "\u00a0↑").replace(" ↓", "\u00a0↓"), *row[1:]] for row in rows]


def _add_cases(page: Page, found: Evaluation, truth: Path, show: int) -> None:
    key, metric = next(iter(found.metrics.items()))
    ranked = sorted(
        (one for one in found.measured if not math.isnan(one.values[0].get(key, math.nan))),
        key=lambda one: one.values[0][key] * (1 if metric.higher_is_better else -1),
    )
    if not ranked:
        return
    count = min(show, max(1, len(ranked) // 2))
    kinds = {"worst": ranked[:count], "best": ranked[::-1][:count] if len(ranked) > 1 else []}
    section = page.section(
        "Worst and best",
        f"By {metric.title} of {found.methods[0]}. Near white: vessel that was found. Orange: "
        "predicted, but no vessel. Blue: vessel that was missed."
        + (" Grey: outside the field of view." if ranked[0].item.fov else ""),
    )
    pictures = _find_pictures(truth, [one for cases in kinds.values() for one in cases])
    for kind, cases in kinds.items():
        if not cases:
            continue
        labels = [*(["image"] if pictures else []), *found.methods]
        tiles = [_draw_case(one, pictures) for one in cases]
        told = ", ".join(f"{one.item.stem} ({_told(found, one, key)})" for one in cases)
        section.subheading(kind.capitalize())
        section.comparison(
            labels,
            tiles,
            f"The {kind} {len(cases)} by {metric.title}, found, false and missed vessels: {told}",
            f"The {kind} by {metric.heading}, in this order: {told}.",
        )


def _told(found: Evaluation, one: Measured, key: str) -> str:
    metric = found.metrics[key]
    return " / ".join(metric.show(values.get(key)) for values in one.values)


def _draw_case(one: Measured, pictures: dict[Path, Path]) -> list[ImageArray]:
    truth = inspect_mask(one.item.truth).mask
    fov = None if one.item.fov is None else inspect_mask(one.item.fov).mask
    tiles: list[ImageArray] = []
    if pictures:
        tiles.append(_shrink_picture(pictures.get(one.item.truth), truth.shape))
    tiles += [draw_overlay(inspect_mask(path).mask, truth, fov) for path in one.item.predicted]
    return tiles


def _find_pictures(truth: Path, cases: Sequence[Measured]) -> dict[Path, Path]:
    """Return the images that belong to the cases' masks, where the truth has images/ beside."""
    for place in (truth / "images", truth.parent / "images"):
        if place.is_dir() and (place.parent == truth or truth.name == "masks"):
            masks = [one.item.truth for one in cases]
            return {
                mask: image for _, image, mask in match_stems(list_pictures(place), masks).pairs
            }
    return {}


def _shrink_picture(path: Path | None, shape: tuple[int, ...]) -> Picture:
    """Return the image at `path` in 8 bits and small; black where it cannot be shown."""
    scale = TILE_PX / max(shape)
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    try:
        image = None if path is None else read_image(path)
    except UserError:
        image = None
    if image is None or image.shape[:2] != shape[:2]:
        return np.zeros((size[1], size[0]), np.uint8)
    if image.dtype == np.uint16:
        image = (image * (255 / max(int(image.max()), 1))).astype(np.uint8)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def _add_images(section: Section, found: Evaluation) -> None:
    shown = found.measured[:_SHOWN_ROWS]
    for number, name in enumerate(found.methods):
        rows = [
            [
                one.item.stem,
                *(
                    metric.show(one.values[number].get(key))
                    for key, metric in found.metrics.items()
                ),
            ]
            for one in shown
        ]
        more = len(found.measured) - len(shown)
        note = f"{more} more in `per_image.csv`." if more else ""
        head = ["Image", *(metric.heading for metric in found.metrics.values())]
        section.table(f"{name}.", head, rows, note=note)


def _add_rules(section: Section, found: Evaluation) -> None:
    section.text(
        "Masks are cut to the field of view first, if there is one. Vessels hang together over "
        "eight neighbours, background over four. Distances run from pixel centre to pixel centre.",
        "NSD: share of both boundaries within the tolerance of the other boundary. NSD to mask: as "
        "the UniVG paper's code has it, the distance is to the other mask, filled; it flatters "
        "masks that are too thick or too thin.",
    )
    rows = [[m.title, m.both_empty, m.one_empty] for m in found.metrics.values()]
    section.table("What empty masks give.", ["Metric", "both empty", "one empty"], rows)
