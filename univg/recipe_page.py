"""The page of `univg run`: did the synthetic pairs help?

In: a recipe and its results. Out: `OUT/report.html`, one file that loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from univg import __version__
from univg.images import ImageArray, read_image
from univg.masks import read_mask
from univg.pairs import Pair, open_pairs
from univg.recipe import Recipe, list_steps
from univg.recipe_steps import Result
from univg.report import Page, shrink_mask
from univg.vesselness import shrink_image

SHOWN = 6
TILE_PX = 256
METRICS = {"dsc": "DSC", "cldice": "clDice", "iou": "IoU", "nsd": "NSD", "hd95": "HD95 [px]"}


def write_page(asked: Recipe, results: Mapping[str, Result]) -> Path:
    """Write the page; return its path."""
    page = Page(
        f"Five shots of {asked.modality}" if asked.wanted == 5 else f"Shots of {asked.modality}",
        kicker="univg run",
        lead=_lead(asked, results),
        footer=f"UniVG {__version__}. Nothing was sent anywhere.",
    )
    if asked.test is not None:
        _add_answer(page, results["test"])
    _add_pictures(page, asked, results)
    _add_gate(page, results["gate"])
    _add_steps(page, asked, results)
    path = asked.out / "report.html"
    page.write(path)
    return path


def _lead(asked: Recipe, results: Mapping[str, Result]) -> str:
    kept = results["gate"].facts.get("kept", asked.pairs)
    text = f"{asked.wanted} annotated images, {kept} synthetic pairs ({asked.image_engine})"
    return text + ("." if asked.test else "; no test set was given, so nothing is claimed.")


def _add_answer(page: Page, test: Result) -> None:
    facts = test.facts
    both, alone = facts["shots and pairs"], facts["shots alone"]
    section = page.section(
        "Did the pairs help?",
        "The same segmenter, the same number of steps, the same strong augmentation; once on the "
        "shots alone, once with half of each batch synthetic. Measured on images that nothing was "
        "trained on.",
    )
    gain = 100 * (both["dsc"] - alone["dsc"])
    section.key_figures(
        [
            (f"{100 * alone['dsc']:.1f}", "DSC, shots alone"),
            (f"{100 * both['dsc']:.1f}", "DSC, with synthetic pairs"),
            (f"{gain:+.1f}", "difference"),
        ]
    )
    rows = [
        [words, _show(name, alone.get(name)), _show(name, both.get(name))]
        for name, words in METRICS.items()
    ]
    section.table("Means over the test images.", ["Metric", "Shots alone", "With pairs"], rows)
    section.text(
        f"Image by image, with intervals and tests: `{test.folder}/evaluation/report.html`."
    )


def _show(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if name == "hd95" else f"{100 * value:.2f}"


def _add_pictures(page: Page, asked: Recipe, results: Mapping[str, Result]) -> None:
    section = page.section("Shots and pairs")
    for words, folder in (
        ("The shots", asked.shots),
        ("Synthetic pairs, the first ones, none picked", results["pairs"].folder / "pairs"),
    ):
        pairs = open_pairs(folder).pairs[:SHOWN]
        section.comparison(["Mask", "Image"], [_tiles(pair) for pair in pairs], words, f"{words}.")


def _tiles(pair: Pair) -> tuple[ImageArray, ImageArray]:
    return shrink_mask(read_mask(pair.mask), TILE_PX), shrink_image(read_image(pair.image))


def _add_gate(page: Page, gate: Result) -> None:
    facts = gate.facts
    section = page.section("The gate")
    figures = [(str(facts["pairs"]), "pairs measured"), (str(facts["kept"]), "kept")]
    figures += [(str(count), f"dropped by {why}") for why, count in facts["dropped_by"].items()]
    section.key_figures(figures)
    section.text(f"Every pair's measures: `{gate.folder}/quality/report.html`.")


def _add_steps(page: Page, asked: Recipe, results: Mapping[str, Result]) -> None:
    words = dict(list_steps(asked))
    section = page.section("Steps")
    rows = [
        [
            name,
            words.get(name, "vessels found in the test images"),
            f"{result.seconds:.0f}",
            result.key,
        ]
        for name, result in results.items()
    ]
    section.table(
        "What was done; done once for the same inputs.", ["Step", "What", "s", "Key"], rows
    )
    plain: dict[str, Any] = {name: str(value) for name, value in vars(asked).items()}
    section.text("The recipe: `" + json.dumps(plain) + "`")
