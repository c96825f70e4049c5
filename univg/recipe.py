"""`univg run`: five annotated images to pairs and a segmenter, with the answer whether it helped.

In: shots, where there are any unlabelled images and a labelled test set, a modality, a preset; as
options or as a YAML recipe. Out: `OUT/steps`, a folder a step, and `OUT/report.html`. A step is
skipped while its inputs are unchanged; stopped anywhere, the same command goes on; a change redoes
only what depends on it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from univg.config import check, settings
from univg.errors import ConfigError, DataError
from univg.recipe_steps import Chain, Result

MASKS = {"grown": "grown by space colonization", "diffusion": "drawn by an adapted engine"}


@settings
class Recipe:
    """From a few annotated images to pairs, to a segmenter, to a page that says whether it helped.

    Writes OUT/report.html and OUT/steps. The same command goes on after an interruption.
    """

    shots: Path
    """Folder of the annotated images: images/, masks/ and, where there is one, fov/."""
    out: Path
    """Folder to write."""
    modality: str = "fundus"
    """Name (fundus, octa, oct, coronary, brain) or the path of a card."""
    unlabelled: Path | None = None
    """Folder of images without masks, on which the image engine is trained first."""
    test: Path | None = None
    """Folder of labelled images that nothing is trained on, to measure the segmenters."""
    wanted: Annotated[int, Ge(1), Le(1000)] = 5
    """How many shots are expected; another number is refused."""
    preset: Literal["laptop", "gpu", "paper"] = "laptop"
    """How much is done: laptop, one GPU, or what the paper did."""
    base: str = "nano"
    """Base of the engines, as for `univg train adapt-masks`."""
    mask_engine: Literal["grown", "diffusion"] = "grown"
    """How new masks are made."""
    image_engine: Literal["composite", "diffusion", "procedural"] = "composite"
    """How images are made for them."""
    fit_card: bool = True
    """Fit the growth of masks to the shots first; minutes."""
    pairs: Annotated[int, Ge(1), Le(10_000_000)] = 200
    """Synthetic pairs."""
    keep: str = ""
    """Which pairs to keep, as for `univg generate check`; default: all."""
    network: str | None = None
    """Segmenter, as for `univg segment fit`; default: the preset's."""
    mask_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the mask engine; default: the preset's."""
    image_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the image engine; default: the preset's."""
    segment_steps: Annotated[int, Ge(1)] | None = None
    """Steps of each segmenter; default: the preset's."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of everything."""
    workers: Annotated[int, Ge(1), Le(256)] = max(1, min(8, os.cpu_count() or 1))
    """Processes; changes no byte."""


ENGINE_PRESETS = {"laptop": "laptop", "gpu": "gpu-24gb", "paper": "paper"}
SEGMENT_PRESETS = {"laptop": "laptop", "gpu": "strong", "paper": "paper"}


def plan(asked: Recipe) -> str:
    """Say what would be done."""
    check_inputs(asked)
    lines = [f"Would write {asked.out}, steps:"]
    lines += [f"  {name}: {words}" for name, words in list_steps(asked)]
    return "\n".join(lines)


def list_steps(asked: Recipe) -> list[tuple[str, str]]:
    """Return the steps by name, each in a few words."""
    steps: list[tuple[str, str]] = []
    if asked.fit_card:
        steps.append(("card", "growth of masks fitted to the shots"))
    steps.append(("grown", f"{asked.pairs} masks led by the shots"))
    if asked.mask_engine == "diffusion":
        steps += [("mask-engine", f"LoHa on {asked.base}"), ("masks", f"{asked.pairs} masks drawn")]
    if asked.image_engine == "diffusion":
        if asked.unlabelled is not None:
            steps.append(("look", f"UNet of {asked.base} on unlabelled images"))
        steps.append(("image-engine", "ControlNet on the shots"))
    steps.append(("pairs", f"{asked.pairs} pairs, {asked.image_engine}"))
    steps.append(("gate", "every pair measured"))
    steps += [("alone", "segmenter on the shots alone"), ("both", "segmenter on shots and pairs")]
    if asked.test is not None:
        steps.append(("test", "both measured on the test set"))
    return steps


def check_inputs(asked: Recipe) -> None:
    """Refuse bad shots and settings that contradict each other, before work starts."""
    from univg.recipe_inputs import check_shots

    if asked.mask_engine == "grown" and asked.image_engine != "diffusion" and asked.unlabelled:
        raise ConfigError(
            "unlabelled images teach the diffusion engine; ask for one, or leave them"
        )
    if asked.test is not None and asked.test.resolve() == asked.shots.resolve():
        raise DataError(f"{asked.test}: is the folder of the shots; a test set must be another")
    check_shots(asked.shots, asked.wanted, asked.modality, asked.test)


def run(asked: Recipe) -> Path:
    """Do what is not done yet; return the page."""
    from univg.files import make_folder
    from univg.manifest import lock_folder
    from univg.recipe_chain import do_steps
    from univg.recipe_page import write_page

    asked = check(asked)
    check_inputs(asked)
    make_folder(asked.out)
    with lock_folder(asked.out):
        chain = Chain(asked.out, say=lambda text: print(text, flush=True))  # noqa: T201
        do_steps(chain, asked)
        page = write_page(asked, chain.results)
    print(f"The page: {page.resolve()}")  # noqa: T201
    return page


def facts_of(results: dict[str, Result], name: str) -> dict[str, Any]:
    """Return what a step has found out, nothing where it was not asked for."""
    return dict(results[name].facts) if name in results else {}
