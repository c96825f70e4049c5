"""The page of `univg run`: did the synthetic pairs help, and what stands behind the answer?

In: a recipe and its results. Out: `OUT/report.html`, one file that loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from univg import __version__
from univg.images import ImageArray, read_image
from univg.masks import read_mask
from univg.modalities import find_modality
from univg.pairs import Pair, open_pairs
from univg.recipe import Recipe
from univg.recipe_page_answer import add_answers, read_answers
from univg.recipe_page_course import add_course, add_gate
from univg.recipe_page_sources import (
    add_card,
    add_provenance,
    describe_images,
    list_versions,
)
from univg.recipe_steps import Result
from univg.report import Page, shrink_mask
from univg.vesselness import shrink_image

SHOWN = 6
TILE_PX = 256
PAGE_NAME = "report.html"


def write_page(asked: Recipe, results: Mapping[str, Result]) -> Path:
    """Write the page; return its path."""
    title = find_modality(asked.modality).title
    page = Page(
        f"{'Five' if asked.wanted == 5 else asked.wanted} {_name('shot', asked.wanted)}: {title}",
        kicker="univg run",
        lead=_lead(asked, results),
        footer=f"UniVG {__version__}. One file: it loads nothing, and can be mailed as it is.",
    )
    add_answer_of(page, asked, results)
    _add_pictures(page, asked, results)
    add_gate(page, results["gate"])
    add_course(page, results)
    add_card(page, asked, results)
    add_provenance(page, asked, results, list_versions(results))
    path = asked.out / PAGE_NAME
    page.write(path)
    return path


def add_answer_of(page: Page, asked: Recipe, results: Mapping[str, Result]) -> None:
    """Add whether the pairs helped; without a test set, that this is not known."""
    if asked.test is None:
        page.section(
            "Did the pairs help?",
            "Not known: no test set was given (`--test FOLDER`, labelled images that nothing is "
            "trained on). Both segmenters are there; the shots themselves prove nothing, since "
            "both were trained on them.",
        )
        return
    tests = len(open_pairs(asked.test).pairs)
    add_answers(
        page,
        read_answers(asked, results),
        f"The same segmenter twice, with the same number of steps and the same augmentation: on "
        f"the {asked.wanted} {_name('shot', asked.wanted)} alone, and with synthetic pairs in part "
        f"of each batch. Both are measured on {tests} {_name('test image', tests)} that nothing "
        "was trained on.",
    )


def _name(thing: str, count: int) -> str:
    return thing if count == 1 else f"{thing}s"


def _lead(asked: Recipe, results: Mapping[str, Result]) -> str:
    facts = results["gate"].facts
    kept = facts.get("kept", asked.pairs)
    text = f"{asked.wanted} annotated images in; {kept} synthetic pairs and a segmenter out."
    return text if asked.test else f"{text} No test set was given, so nothing is claimed."


def _add_pictures(page: Page, asked: Recipe, results: Mapping[str, Result]) -> None:
    section = page.section(
        "Shots and pairs", f"Images are {describe_images(asked, results)}, one for each mask."
    )
    for words, folder in (
        ("The shots", asked.shots),
        ("Synthetic pairs, the first ones, none picked", results["pairs"].folder / "pairs"),
    ):
        pairs = open_pairs(folder).pairs[:SHOWN]
        tiles = [_tiles(pair) for pair in pairs]
        alt = f"{words}: {len(pairs)} vessel masks, each with its image"
        section.comparison(["Mask", "Image"], tiles, alt, f"{words}.")


def _tiles(pair: Pair) -> tuple[ImageArray, ImageArray]:
    return shrink_mask(read_mask(pair.mask), TILE_PX), shrink_image(read_image(pair.image))
