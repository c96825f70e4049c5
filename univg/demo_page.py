"""The page of `univg demo`: what is shown, in which words, in which order.

In: the `Facts` of a demo run. Out: a `Page`. Everything but its last section is the same whenever
the same masks and pictures are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from univg import __version__
from univg.demo_engine_page import (
    EngineFacts,
    add_answer_section,
    add_engine_commands,
    add_engine_times,
    add_engines,
)
from univg.demo_traits import TRAITS, show_spread
from univg.masks import read_mask
from univg.modalities import Modality
from univg.pairs import find_masks
from univg.report import GreyImage, Page, shrink_mask

FloatArray = npt.NDArray[np.float64]

TILES = 6
TILE_PX = 288


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What was found on the masks of one modality."""

    modality: Modality
    folder: Path
    descriptors: dict[str, FloatArray]
    """Of each name an array (N,), a value a mask."""
    compliance: str
    exponent: str
    bifurcations: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the page tells."""

    count: int
    """Masks of each modality."""
    seed: int
    size_px: int
    sets: tuple[SetFacts, ...]
    distances: FloatArray
    """(K, K), first halves of the K sets in rows, second halves in columns."""
    descriptor_count: int
    shots: Path
    conditioned: Path
    conditioned_count: int
    overlap: tuple[float, float, float]
    """Mean, 95th percentile, largest: of the conditioned masks with the shots."""
    overlap_unrelated: tuple[float, float, float]
    """Of masks of the same modality that never saw the shots: what overlap means nothing."""
    times: dict[str, dict[str, Any]]
    """What the runs took when they were made: masks, wall_s, workers, seconds by part."""
    engines: EngineFacts | str
    """What the adapted engines gave, or why they are left out."""

    @property
    def names(self) -> list[str]:
        """Short names of the modalities."""
        return [each.modality.name for each in self.sets]


def build_page(facts: Facts) -> Page:
    """Return the whole page."""
    page = Page(
        "From five annotated pictures to a segmenter",
        kicker=f"UniVG {__version__} demonstration",
        lead="The recipe on made-up pictures: five shots in, labelled synthetic pairs and a "
        "segmenter out, and whether the pairs helped. Then what it stands on: vessel trees grown "
        "by space colonization, with no training and no real image, and measured.",
        footer="Every picture here was made by this toolkit. The page is one file: it loads "
        "nothing, and can be mailed as it is.",
    )
    add_answer_section(page, facts.engines)
    add_engines(page, facts.engines)
    _add_masks(page, facts)
    _add_traits(page, facts)
    _add_distances(page, facts)
    _add_murray(page, facts)
    _add_conditioned(page, facts)
    _add_commands(page, facts)
    _add_times(page, facts)
    return page


def _add_masks(page: Page, facts: Facts) -> None:
    count = facts.count
    section = page.section(
        "The masks",
        "The first masks of each modality, as they came, none picked. Each has its own seed and "
        f"can be made again alone, byte for byte. On disk they are {facts.size_px} × "
        f"{facts.size_px} px of exactly 0 and 255; here they are shrunk.",
    )
    section.key_figures(
        [
            (f"{count * len(facts.sets)}", f"masks, {count} a modality"),
            (f"{len(facts.sets)}", "modalities, a YAML card each"),
            (f"{facts.conditioned_count}", "more, conditioned on five masks"),
            ("0", "real images used for them"),
        ]
    )
    for each in facts.sets:
        title = each.modality.title
        description = " ".join(each.modality.description.split())
        section.subheading(f"{title} ({each.modality.name})", description)
        tiles = _tiles(each.folder, min(TILES, count))
        alt = f"{len(tiles)} synthetic vessel masks, white on black: {title}"
        section.pictures(tiles, alt, f"{title}: the first {len(tiles)} of {count} masks.")


def _add_traits(page: Page, facts: Facts) -> None:
    section = page.section(
        "What a specialist would measure",
        "Mean and standard deviation over the masks of each modality. Calibre is the width along "
        "the centre line; a side is the side of the image.",
    )
    rows = [
        [trait.words, *(show_spread(trait, each.descriptors, facts.size_px) for each in facts.sets)]
        for trait in TRAITS
    ]
    section.table(
        f"Vessel traits, mean ± standard deviation over {facts.count} masks each.",
        ["Trait", *facts.names],
        rows,
        note="Whether these are right for your images is for your own masks to say: "
        "`univg sca score --real YOUR_MASKS --synth RUN` sets both beside each other, and "
        "`univg sca fit --real FIVE_MASKS` moves a card towards them.",
    )


def _add_distances(page: Page, facts: Facts) -> None:
    half = facts.count // 2
    section = page.section(
        "Same and different",
        "A distance is only worth something beside its floor. Each set is cut in two: the diagonal "
        "is the distance between the halves of one modality, the rest are distances between "
        "modalities, all from sets of the same size.",
    )
    rows = [
        [name, *(f"{value:.2f}" for value in line)]
        for name, line in zip(facts.names, facts.distances, strict=True)
    ]
    top = max(float(facts.distances.max()), 1e-9)
    shades = [
        [max(float(value), 0) ** 0.5 / top**0.5 for value in line] for line in facts.distances
    ]
    section.table(
        f"Fréchet distance over {facts.descriptor_count} vessel descriptors, {half} masks against "
        f"{half}; first halves in rows, second halves in columns.",
        ["Modality", *facts.names],
        rows,
        shades=shades,
        note=_tell_apart(facts.distances, facts.names),
    )


def _tell_apart(matrix: FloatArray, names: Sequence[str]) -> str:
    """Name the two modalities that are hardest to tell apart, beside their own floors."""
    pairs = [(a, b) for a in range(len(names)) for b in range(a)]
    if not pairs:
        return ""

    def floor(a: int, b: int) -> float:
        return max(float(matrix[a, a]), float(matrix[b, b]), 1e-9)

    def apart(a: int, b: int) -> float:
        return float(min(matrix[a, b], matrix[b, a]))

    a, b = min(pairs, key=lambda pair: apart(*pair) / floor(*pair))
    return (
        f"Hardest to tell apart: {names[a]} and {names[b]}, with {apart(a, b):.2f} between them "
        f"and at most {floor(a, b):.2f} between the halves of either, "
        f"{apart(a, b) / floor(a, b):.1f} times as much."
    )


def _add_murray(page: Page, facts: Facts) -> None:
    section = page.section(
        "Murray’s law",
        "Where a vessel of radius r0 splits into r1 and r2, r0² = r1² + r2² in the retina. "
        "Compliance is 100 / (1 + |MR − 1|) with MR = (r1² + r2²) / r0², the mean over the "
        "branchings of a mask; radii are measured on the pixels, as on any other mask.",
    )
    rows = [
        [each.modality.name, each.compliance, each.exponent, f"{each.bifurcations}"]
        for each in facts.sets
    ]
    section.table(
        "Compliance with Murray’s law, mean ± standard deviation over the masks.",
        ["Modality", "Compliance [0 to 100]", "Exponent fitted", "Branchings measured"],
        rows,
        note="To compare: 74.7 ± 2.0 is published for the 40 hand-drawn masks of the DRIVE data "
        "set. The exponent fitted is the one that the median branching keeps exactly.",
    )


def _add_conditioned(page: Page, facts: Facts) -> None:
    shots, made = len(find_masks(facts.shots)), facts.conditioned_count
    section = page.section(
        "Conditioned on five masks",
        "With a handful of real masks the trees follow real courses, bent, recombined and thinned "
        f"so that none is copied. Here {shots} of the synthetic fundus masks stand in for real "
        "ones.",
    )
    tiles = _tiles(facts.shots, shots)
    caption = "The five masks that were followed."
    section.pictures(tiles, f"{shots} vessel masks, the models to follow", caption, columns=TILES)
    tiles = _tiles(facts.conditioned, min(2 * TILES, made))
    section.pictures(
        tiles,
        f"{len(tiles)} vessel masks conditioned on those five",
        f"Conditioned on them: the first {len(tiles)} of {made} masks.",
    )
    words = ("Mean", "95th percentile", "Largest")
    rows = [
        [word, f"{conditioned:.2f}", f"{unrelated:.2f}"]
        for word, conditioned, unrelated in zip(
            words, facts.overlap, facts.overlap_unrelated, strict=True
        )
    ]
    section.table(
        "Overlap of each mask with the nearest of the five (Dice with a tolerance of one of 128 "
        "pixels, the best over flips, quarter turns and shifts); a copy has 1.",
        ["Overlap", "Conditioned on the five", "Never saw them"],
        rows,
        note="The right column is what overlap means nothing: masks of the same modality that were "
        "grown without the five.",
    )


def _add_commands(page: Page, facts: Facts) -> None:
    count, seed = facts.count, facts.seed
    section = page.section(
        "Made again",
        "The first two commands make these masks again, byte for byte; the others are what comes "
        "next, with masks of your own.",
    )
    section.commands(
        [
            f"univg demo --count {count} --seed {seed} --masks-only",
            f"univg sca synth --modality all --count {count} --seed {seed} --out masks",
            "univg sca synth --modality fundus --real FIVE_MASKS --count 2000 --out conditioned",
            "univg sca show --real FIVE_MASKS --synth conditioned --out sheet.png",
            "univg sca score --real REAL_MASKS --synth conditioned",
        ],
        "Commands that make these masks again",
    )
    add_engine_commands(section, facts.engines)


def _add_times(page: Page, facts: Facts) -> None:
    section = page.section(
        "Times",
        "They differ from machine to machine: measured when masks and engines were made, after the "
        "first compilation.",
    )
    names = {"masks": "All modalities", "conditioned": "Conditioned on five masks"}
    rows = [[names[key], *_time_cells(facts.times[key])] for key in names]
    section.table(
        "Masks a second, and where the workers’ time went.",
        [
            "Run",
            "Masks",
            "Seconds",
            "Masks/s",
            "Workers",
            "Work a mask [ms]",
            "Growth",
            "Drawing",
            "PNG and disk",
        ],
        rows,
    )
    add_engine_times(section, facts.engines)


def _time_cells(times: dict[str, Any]) -> list[str]:
    if not times:
        return ["not measured", *["–"] * 7]
    seconds = times["seconds"]
    total = max(sum(seconds.values()), 1e-9)
    shares = [seconds["growth"], seconds["drawing"], seconds["PNG"] + seconds["disk"]]
    return [
        f"{times['masks']}",
        f"{times['wall_s']:.1f}",
        f"{times['masks'] / max(times['wall_s'], 1e-9):.0f}",
        f"{times['workers']}",
        f"{1000 * total / max(times['masks'], 1):.1f}",
        *(f"{share / total:.0%}" for share in shares),
    ]


def _tiles(folder: Path, count: int) -> list[GreyImage]:
    return [shrink_mask(read_mask(path), TILE_PX) for path in find_masks(folder)[:count]]
