"""The page of a comparison: tables, clouds of points, examples of each set, the nearest copies.

In: `Compared`, its tables. Out: `report.html`, one self-contained file, and the two pictures of
clouds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from univg import __version__
from univg.overlap import turn_over
from univg.report import Page, shrink_mask
from univg.seeds import rng_for

from .compare_chart import Picture, draw_clouds
from .compare_scores import Compared, Scores, scale_looks, scale_masks
from .compare_sets import MeasuredPair, MeasuredSet
from .compare_tables import Table, floors_of
from .compare_tsne import MOST_POINTS, embed_points
from .gate_charts import show_image

FloatArray = npt.NDArray[np.float64]

TITLE = "Generated pairs beside real ones"
TILE_PX = 144
_STREAM = "generate.compare.page"


def build_page(
    found: Compared, tables: Sequence[Table], clouds: Sequence[Picture], *, show: int, seed: int
) -> Page:
    """Return the page; `clouds` are the pictures of looks and of masks."""
    page = Page(
        TITLE,
        kicker="univg generate compare, "
        + " and ".join(f"{len(one.measured):,} pairs of {one.measured.name}" for one in found.rows),
        lead=describe(found),
        footer=f"univg {__version__}. The numbers: `compare.json`, `compare.md` beside this page.",
    )
    page.section("At a glance").key_figures(_key_figures(found))
    section = page.section("Tables")
    for table in tables:
        section.table(table.caption, table.columns, table.rows, note=table.note)
    _add_clouds(page, clouds)
    _add_examples(page, found, show, seed)
    if found.shots is not None:
        _add_copies(page, found, show)
    _add_method(page, found)
    return page


def describe(found: Compared) -> str:
    """Return in a sentence how near the first set is."""
    first = found.sets[0]
    masks, images = first.masks, first.images
    name = first.measured.name
    if masks is None or images is None or masks.ratio is None or images.ratio is None:
        return f"{name}: too few real pairs for a floor; give at least twice {found.n}."
    text = f"{name}: masks lie {masks.ratio:.1f} times and looks {images.ratio:.1f} times as far "
    text += "from the real set as its halves from each other"
    if first.mask_copies is not None and first.image_copies is not None:
        text += f"; {first.mask_copies.copies} masks and {first.image_copies.copies} images are "
        text += "copies of a shot"
    return text + "."


def draw_both_clouds(found: Compared, seed: int) -> tuple[Picture, Picture]:
    """Return t-SNE pictures of looks and of mask descriptors, equal numbers of each set."""
    sets = [one.measured for one in found.rows]
    count = min(min(map(len, sets)), MOST_POINTS // len(sets))
    taken = [_take(one, count, seed) for one in sets]
    names = [
        "real" if sets[0].name == "real" else f"{sets[0].name}, real",
        *(one.name for one in sets[1:]),
    ]
    if found.shots is not None:
        taken.append(list(found.shots.pairs)[:count])
        names.append("shots")
    looks = [np.array([each.look for each in pairs]) for pairs in taken]
    masks = [np.array([each.mask.descriptors for each in pairs]) for pairs in taken]
    by_looks, by_masks = scale_looks(sets[0]), scale_masks(sets[0])
    return (
        _draw(names, [by_looks.apply(values) for values in looks]),
        _draw(names, [by_masks.apply(values) for values in masks]),
    )


def _draw(names: Sequence[str], values: Sequence[FloatArray]) -> Picture:
    places = embed_points(np.concatenate(values))
    ends = np.cumsum([len(each) for each in values])[:-1]
    return draw_clouds(list(zip(names, np.split(places, ends), strict=True)))


def _take(one: MeasuredSet, count: int, seed: int) -> list[MeasuredPair]:
    order = rng_for(seed, _STREAM).permutation(len(one))[:count]
    return [one.pairs[k] for k in order]


def _key_figures(found: Compared) -> list[tuple[str, str]]:
    first = found.sets[0]
    figures = []
    for each, what in ((first.masks, "masks"), (first.images, "looks")):
        if each is not None and each.ratio is not None:
            figures.append((f"{each.ratio:.1f} ×", f"floor, Fréchet distance of {what}"))
    real, spread = found.real.spread, first.spread
    if spread.coverage is not None:
        figures.append((f"{spread.coverage.mean:.0%}", "of the real looks covered"))
    if real.coverage is not None:
        figures.append((f"{real.coverage.mean:.0%}", "covered by other real ones"))
    if first.image_copies is not None and first.mask_copies is not None:
        figures.append((f"{first.mask_copies.copies:,}", "masks copied from a shot"))
        figures.append((f"{first.image_copies.copies:,}", "images copied from a shot"))
    return figures


def _add_clouds(page: Page, clouds: Sequence[Picture]) -> None:
    section = page.section(
        "Where the sets lie",
        "Each point is a pair; neighbours look alike (t-SNE). Sets that cannot be told apart mix. "
        "Distances between far clouds and the size of a cloud mean nothing.",
    )
    for picture, what in zip(clouds, ("looks of the images", "shapes of the masks"), strict=True):
        alt = f"Clouds of points of each set by the {what}"
        section.pictures([picture], alt, f"By the {what}.", columns=1)


def _add_examples(page: Page, found: Compared, show: int, seed: int) -> None:
    section = page.section("Examples", "Drawn at random.")
    for one in found.rows:
        chosen = _take(one.measured, show, seed)
        cases = [[show_image(p.image, TILE_PX), shrink_mask(p.vessels, TILE_PX)] for p in chosen]
        name = one.measured.name
        section.comparison(("image", "mask"), cases, f"Pairs of {name}", f"`{name}`.")


def _add_copies(page: Page, found: Compared, show: int) -> None:
    section = page.section(
        "Nearest to a shot",
        "The images of each set that are nearest to one of the shots, which is laid as they lie.",
    )
    for one in found.sets:
        if one.image_copies is None or found.shots is None:
            continue
        worst = one.image_copies.worst(show)
        cases = [
            [
                show_image(one.measured.pairs[each.index].image, TILE_PX),
                show_image(
                    np.ascontiguousarray(turn_over(found.shots.pairs[each.shot].image, each.turn)),
                    TILE_PX,
                ),
            ]
            for each in worst
        ]
        distances = ", ".join(f"{each.distance:.2f}" for each in worst)
        section.comparison(
            ("generated", "shot"),
            cases,
            f"Images of {one.measured.name} beside the nearest shot",
            f"`{one.measured.name}`; {_judge(one)}distances {distances}.",
        )


def _judge(one: Scores) -> str:
    copying = one.image_copies
    if copying is None or copying.threshold is None:
        return ""
    return f"real ones come as near as {copying.threshold:.2f} to each other; "


def _add_method(page: Page, found: Compared) -> None:
    masks, _ = floors_of(found)
    paragraphs = [
        "All sets give the same number to each draw, half of the smallest set, because a Fréchet "
        "distance grows as samples shrink. Features are brought to the spread of the real set, "
        "and each group of them weighs the same. The same seed gives the same figures.",
        "The field of view is found in every image, not read from files. Mutual background "
        "similarity is our definition: correlation of fine structure with the nearest background "
        "of the other set, light and contrast taken out, in eight positions, vessels left out.",
    ]
    if found.inception_label:
        paragraphs.append(
            "The network behind the Inception figures was trained on photographs of things: its "
            "distance ranks sets of one kind, its score says little about vessels."
        )
    if masks is not None and masks.frechet_floor is None:
        paragraphs.append("The real set is too small for a floor: four pairs or more are needed.")
    page.section("How it is measured", *paragraphs)
