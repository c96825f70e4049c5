"""The recipe and its engines on the page of `univg demo`: what is shown, in which words.

In: `EngineFacts`, or why there are none. Out: sections, commands and times on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from univg.demo_pair_page import add_pairs
from univg.demo_traits import TRAITS, show_spread
from univg.images import ImageArray, list_pictures, read_image
from univg.masks import read_mask
from univg.modalities import Modality, find_modality
from univg.recipe import list_steps
from univg.recipe_page_answer import Answer, add_answer, judge_gain, read_answers
from univg.report import GreyImage, Page, Section, shrink_mask

if TYPE_CHECKING:
    from univg.demo_figures import ImageFigures, MaskFigures
    from univg.demo_pairs import PairFacts
    from univg.distance import Comparison, Estimate
    from univg.memorisation import Copying
    from univg.recipe import Recipe
    from univg.recipe_steps import Result

CASES = 5
TILE_PX = 256
SHOWN_TRAITS = (
    "vessel_density", "width_q50", "segment_q50", "tip_density", "tortuosity_mean", "holes_log",
    "components_log",
)  # fmt: skip
PARTS = {
    "pairs": "Shots, test set, targets and reference: grown, rendered",
    "before": "Drawn without adaptation, to compare",
    "measuring": "Measuring",
    "export": "Composed pairs, gate, two exports",
}


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """All that the page tells of the engines."""

    base: str
    lean: bool
    """Whether less was done than usual."""
    place: Path
    size_px: int
    drawn: int
    masks: MaskFigures
    images: ImageFigures
    asked: Recipe
    """The recipe."""
    results: Mapping[str, Result]
    """Of its steps."""
    times: Mapping[str, Any]
    """Seconds, by part."""
    commands: tuple[str, ...]
    pairs: PairFacts

    @property
    def card(self) -> Modality:
        """What the shots are of."""
        return find_modality(str(self.place / "card.yaml"))

    @property
    def answer(self) -> Answer:
        """What the test set said."""
        (found,) = read_answers(self.asked, self.results)
        return found

    @property
    def verdict(self) -> str:
        """Whether the pairs helped, in words."""
        return f"Did the pairs help? {'. '.join(judge_gain(self.answer))}"


def add_answer_section(page: Page, engines: EngineFacts | str) -> None:
    """Add whether five shots are worth more with synthetic pairs, the first thing on the page."""
    if isinstance(engines, str):
        page.section("Five shots alone, and with synthetic pairs", engines)
        return
    asked = engines.asked
    answer = engines.answer
    section = page.section(
        "Five shots alone, and with synthetic pairs",
        "Five annotated pictures of a look that no modality has went through the recipe "
        f"(`univg run`): both engines of base `{engines.base}` were adapted to them and drew "
        f"{engines.pairs.count} labelled pairs. Then the same segmenter ({answer.network}, "
        f"{asked.segment_steps} steps) was trained twice, on the five alone and with the pairs in "
        "half of each batch, with the same strong augmentation.",
        f"Both are measured on {len(answer.evaluation['per_image'])} test images that nothing was "
        f"trained on: trees of the same kind grown and rendered with seed {asked.seed + 1}, where "
        f"those of the shots have seed {asked.seed}.",
    )
    if engines.lean:
        section.text(
            "This processor does not compute bf16, and all of the demo would take long: it did a "
            "quarter of its steps and a third of the pairs. `univg demo --pace whole` does all of "
            "them."
        )
    add_answer(section, answer)
    section.text(
        "The course of all trainings, settings, checksums and the data card are on the recipe’s "
        f"own page: `{asked.out}/report.html`. All of this is made up: on your own images the "
        "answer may be another, and `univg run --shots FOLDER --test FOLDER` finds it."
    )


def add_engines(page: Page, engines: EngineFacts | str) -> None:
    """Add shots, masks and images, or the line that says why there are none."""
    if isinstance(engines, str):
        return
    _add_shots(page, engines)
    _add_masks(page, engines)
    _add_images(page, engines)
    add_pairs(page, engines.pairs)


def add_engine_commands(section: Section, engines: EngineFacts | str) -> None:
    """Add the commands that made shots, pairs and segmenters."""
    if isinstance(engines, str):
        return
    section.subheading(
        "The recipe",
        "These make the five shots and the test set and do the recipe, to the same weights on the "
        "same machine. Where all is there already they say so; elsewhere they make it anew. After "
        "`univg run` come the distance of the masks, composed pairs, and exports.",
    )
    section.commands(engines.commands, "Commands that do the recipe")


def add_engine_times(section: Section, engines: EngineFacts | str) -> None:
    """Add what each part took."""
    if isinstance(engines, str):
        return
    words, asked = dict(list_steps(engines.asked)), engines.asked
    steps = {"mask-engine": asked.mask_steps, "image-engine": asked.image_steps}
    steps |= dict.fromkeys(("alone", "both"), asked.segment_steps)
    told: list[tuple[str, float, int | None]] = [(PARTS["pairs"], _seconds(engines, "pairs"), None)]
    told += [
        (f"Recipe, {name}: {words.get(name, '')}", result.seconds, steps.get(name))
        for name, result in engines.results.items()
    ]
    told += [(PARTS[part], _seconds(engines, part), None) for part in list(PARTS)[1:]]
    rows = [
        [what, "–" if count is None else str(count), f"{seconds:.0f}"]
        for what, seconds, count in told
    ]
    rows.append(["Together", "–", f"{sum(seconds for _, seconds, _ in told):.0f}"])
    section.table(
        f"The recipe on five shots, base {engines.base}.", ["Part", "Steps", "Seconds"], rows
    )


def _seconds(engines: EngineFacts, part: str) -> float:
    return float(engines.times.get(part, {}).get("seconds", 0.0))


def _add_shots(page: Page, engines: EngineFacts) -> None:
    section = page.section(
        "Five shots of an unseen look",
        f"The diffusion engines of base `{engines.base}` get five annotated pictures of something "
        "that no modality below resembles, in course and in colour: "
        + " ".join(engines.card.description.split()),
        "The pictures are rendered from grown masks, so the masks are exact and there can be any "
        f"number more: what is drawn is measured against {_count_reference(engines)} others, "
        "which no engine was trained on.",
    )
    shots = engines.place / "shots"
    cases = list(zip(_masks(shots, CASES), _pictures(shots / "images", CASES), strict=True))
    section.comparison(
        ["Mask", "Image"],
        cases,
        f"{len(cases)} vessel masks, and the same vessels in amber on violet tissue",
        "The five shots: all that the engines learn from.",
    )


def _add_masks(page: Page, engines: EngineFacts) -> None:
    found, place = engines.masks, engines.place
    section = page.section(
        "Masks before and after adaptation",
        f"The mask engine: a LoHa on the base’s UNet, {engines.asked.mask_steps} steps on the "
        f"five masks; the prompt is “{engines.card.mask_prompt}”. Before, it is the base alone; "
        f"both start from the same noise. The first of {engines.drawn} masks, none picked.",
    )
    section.key_figures(_key_distances(found.before, found.after))
    columns = [
        _masks(place / "shots", CASES),
        _masks(place / "drawn" / "masks-before", CASES),
        _masks(engines.results["masks"].folder / "masks", CASES),
        _masks(place / "reference", CASES),
    ]
    section.comparison(
        ["Shots", "Before", "After", "Never seen"],
        list(zip(*columns, strict=True)),
        "Vessel masks: the five shots, masks drawn before and after adaptation, masks never seen",
        "Side by side: a shot, a mask drawn before adaptation, the mask drawn from the same noise "
        "after it, and one of the masks that both are measured against.",
    )
    section.table(
        f"Distance from {_count_reference(engines)} masks that were never seen, over the vessel "
        f"descriptors below: {found.after.draws} draws of {found.after.n} masks a side; in "
        "brackets what 95 % of the draws lie between.",
        ["Masks", "Fréchet distance", "Energy distance"],
        _distance_rows(found.before, found.after, "Others of the same kind (floor)"),
        note=" ".join(
            [
                judge(found.before, found.after),
                _say_empty(found.empty_before, found.empty_after, engines.drawn),
                describe_copies(found.copying),
            ]
        ),
    )
    traits = [trait for trait in TRAITS if trait.name in SHOWN_TRAITS]
    order = ("before", "after", "reference")
    section.table(
        "Vessel traits, mean ± standard deviation.",
        ["Trait", "Before", "After", "Never seen"],
        [
            [
                trait.words,
                *(show_spread(trait, found.descriptors[name], engines.size_px) for name in order),
            ]
            for trait in traits
        ],
    )


def _add_images(page: Page, engines: EngineFacts) -> None:
    found, place = engines.images, engines.place
    start = "as it is embedded" if engines.base == "nano" else "as it is"
    section = page.section(
        "Images before and after adaptation",
        f"The image engine: a ControlNet, {engines.asked.image_steps} steps on the five pairs, and "
        f"a refiner, {engines.asked.refine_steps} steps, for what the autoencoder loses. "
        f"Before, it is the ControlNet {start}; the prompt is “{engines.card.image_prompt}”. Both "
        "draw for the masks of the adapted mask engine, from the same noise.",
    )
    section.key_figures(
        [
            *_key_distances(found.before, found.after),
            (
                f"{found.follows['after']:.2f}",
                "clDice: drawn vessels with their mask",
            ),
        ]
    )
    columns: list[Sequence[ImageArray]] = [
        _masks(engines.results["masks"].folder / "masks", CASES),
        _pictures(place / "drawn" / "images-before", CASES),
        _pictures(engines.results["pairs"].folder / "pairs" / "images", CASES),
        _pictures(place / "rendered" / "images", CASES),
    ]
    section.comparison(
        ["Mask", "Before", "After", "Rendered"],
        list(zip(*columns, strict=True)),
        "Vessel masks, the images drawn for them before and after adaptation, and rendered ones",
        "Side by side: a mask, the image drawn for it before adaptation and after, and the image "
        "that the renderer makes of it, which no engine has seen.",
    )
    section.table(
        f"Distance of looks (FD-looks and energy, over {_count_looks()} features of grey, colour, "
        "texture and grain; no network, no FID) from images that were never seen: "
        f"{found.after.draws} draws of {found.after.n} images a side.",
        ["Images", "FD-looks", "Energy distance"],
        _distance_rows(found.before, found.after, "Rendered for the same masks (floor)"),
        note=judge(found.before, found.after),
    )
    follows = found.follows
    section.table(
        "Do the vessels lie where the mask says? clDice of a fixed ridge detector’s vessels with "
        "the mask.",
        ["Images", "clDice"],
        [
            ["Before", f"{follows['before']:.3f}"],
            ["After", f"{follows['after']:.3f}"],
            ["Rendered for the same masks (what the detector can reach)",
             f"{follows['rendered']:.3f}"],
            ["After, with the mask of another (chance)", f"{follows['chance']:.3f}"],
        ],
        note=describe_copies(found.copying),
    )  # fmt: skip


def judge(before: Comparison, after: Comparison) -> str:
    """Say in a sentence whether the adaptation brought the drawn ones nearer."""
    first, second = before.frechet.mean, after.frechet.mean
    floor = "" if after.frechet_floor is None else f"; the floor is {after.frechet_floor.mean:.2f}"
    if after.frechet.high < before.frechet.low:
        verdict = "Nearer after adaptation, beyond the spread of the draws"
    elif f"{second:.2f}" == f"{first:.2f}":
        verdict = "No nearer and no farther after adaptation"
    elif second < first:
        verdict = "Nearer after adaptation, but within the spread of the draws"
    else:
        verdict = "Not nearer after adaptation"
    return f"{verdict}: {second:.2f} instead of {first:.2f}{floor}."


def describe_copies(copying: Copying) -> str:
    """Say how many drawn ones are copies of shots, beside what chance would give."""
    nearer, count = sum(each.nearer for each in copying.nearest), len(copying.nearest)
    text = (
        f"Copies of shots: {nearer} of {count} are nearer to a shot than others of the kind come "
        f"to one another ({copying.expected or 0:.0%} of new ones would be), {copying.copies} of "
        "them so near that they are copies."
    )
    if copying.background is not None:
        text += f" Vessels left out: {sum(each.nearer for each in copying.background.nearest)}"
        text += f" nearer, {copying.background.copies} copies."
    return text


def _count_reference(engines: EngineFacts) -> int:
    return len(engines.masks.descriptors["reference"]["vessel_density"])


def _key_distances(before: Comparison, after: Comparison) -> list[tuple[str, str]]:
    figures = [
        (f"{before.frechet.mean:.2f}", "distance before adaptation"),
        (f"{after.frechet.mean:.2f}", "distance after five shots"),
    ]
    if after.frechet_floor is not None:
        figures.append(
            (f"{after.frechet_floor.mean:.2f}", "floor: between two sets that are alike")
        )
    return figures


def _distance_rows(before: Comparison, after: Comparison, floor: str) -> list[list[str]]:
    rows = [
        ["Drawn before", _show(before.frechet), _show(before.energy)],
        ["Drawn after", _show(after.frechet), _show(after.energy)],
    ]
    if after.frechet_floor is not None and after.energy_floor is not None:
        rows.append([floor, _show(after.frechet_floor), _show(after.energy_floor)])
    return rows


def _show(estimate: Estimate) -> str:
    shown = f"{estimate.mean:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
    return shown.replace("-", "−")


def _say_empty(before: int, after: int, count: int) -> str:
    if not before and not after:
        return ""
    return f"Of {count} masks {before} were empty before, {after} after."


def _count_looks() -> int:
    from univg.looks import LOOK_NAMES

    return len(LOOK_NAMES)


def _masks(folder: Path, count: int) -> list[GreyImage]:
    from univg.pairs import find_masks

    return [shrink_mask(read_mask(path), TILE_PX) for path in find_masks(folder)[:count]]


def _pictures(folder: Path, count: int) -> list[ImageArray]:
    """Return the first pictures of `folder`, no larger than a tile."""
    import cv2

    shown = []
    for path in list_pictures(folder)[:count]:
        image = read_image(path)
        scale = TILE_PX / max(image.shape[:2])
        if scale < 1:
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        shown.append(image)
    return shown
