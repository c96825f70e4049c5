"""Pairs and exports on the page of `univg demo`.

In: `PairFacts`. Out: a section with pictures, figures and how to open what was exported.
"""

from __future__ import annotations

from pathlib import Path

from univg.demo_pairs import PairFacts
from univg.images import ImageArray, list_pictures, read_image
from univg.masks import read_mask
from univg.report import Page, shrink_mask

TILE_PX = 256
CASES = 6
OPEN = {
    "webdataset": 'webdataset.WebDataset("{}/pairs-000000.tar").decode("pil")',
    "hf": 'datasets.load_dataset("{}", split="train")',
}


def add_pairs(page: Page, facts: PairFacts) -> None:
    """Add what the engines made and where it went."""
    section = page.section(
        f"{facts.count} pairs, checked and exported",
        "Masks from the adapted mask engine, an image for each from the adapted image engine: "
        "what all of this is for. Beside it the same mask painted by the composite engine, which "
        "knows no diffusion: it recombines the grounds of the five shots and draws the new "
        "vessels in. It is the baseline that a learnt engine has to beat.",
    )
    section.comparison(
        ["Mask", "Diffusion", "Composite"],
        list(
            zip(
                _masks(facts.pairs / "masks"),
                _pictures(facts.pairs / "images"),
                _pictures(facts.composites / "images"),
                strict=True,
            )
        ),
        f"{CASES} masks, each with an image by diffusion and one by composition",
        "The first pairs, none picked.",
    )
    section.key_figures(
        [
            (f"{facts.agreement:.2f}", "clDice of a line detector with the mask, diffusion"),
            (f"{facts.agreement_composite:.2f}", "the same, composite"),
            (f"{facts.agreement_shots:.2f}", "the same on the shots: what can be reached"),
            (str(facts.copies), f"near-copies of a shot among {facts.count}"),
            (str(facts.duplicates), "near-duplicates inside the set"),
        ]
    )
    if facts.exports:
        section.text(f"The {facts.count} pairs were exported too, and open with:")
        section.commands(
            [OPEN[layout].format(path) for layout, path in facts.exports.items()],
            "Lines of Python that open the exports",
        )
    for layout, package in facts.left_out.items():
        section.text(f"{layout} is left out: `pip install {package}` and run this again.")


def _masks(folder: Path) -> list[ImageArray]:
    return [shrink_mask(read_mask(path), TILE_PX) for path in list_pictures(folder)[:CASES]]


def _pictures(folder: Path) -> list[ImageArray]:
    return [read_image(path) for path in list_pictures(folder)[:CASES]]
