"""What the quality gate knows of the few real pairs: their own measures, and who copies them.

In: a folder of shots. Out: `Shots`: their measures, beside which those of synthetic pairs are
read; the polarity of their vessels; prints, by which a chunk of pairs is compared with them.
Distances and verdicts are those of `univg.memorisation`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from univg.agreement import measure_agreement
from univg.errors import Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import ImageArray
from univg.masks import BoolMask, inspect_mask
from univg.memorisation import Copying, correlation_table, measure_copying, sign_images
from univg.overlap import make_thumbnail, overlap_table
from univg.pairs import Pair, PairFacts, open_pairs, read_pair
from univg.vesselness import Float32, Polarity

from .gate import Scores, Segmenter, measure_pair, round_score

Kind = Literal["mask", "image", "background"]
KINDS: tuple[Kind, ...] = ("mask", "image", "background")
Prints = tuple[Float32, Float32]

COPY_SHARE = 0.5
"""Of the distance of real ones from each other: what lies nearer is a copy, as in memorisation."""


@dataclass(frozen=True, kw_only=True)
class PairPrints:
    """What of one pair is compared with the shots."""

    thumbnail: BoolMask  # (128, 128)
    image: Prints  # (64, 64) twice
    ground: Prints  # likewise, vessels left out


@dataclass(frozen=True, kw_only=True)
class Shots:
    """The real pairs."""

    pairs: tuple[Pair, ...]
    identity: str
    """Hash of their files."""
    scores: tuple[Scores, ...]
    """Their own measures; distances are those to the nearest other shot."""
    polarity: Polarity
    thresholds: dict[Kind, float | None]
    """The least distance of a shot from the nearest other; None of one shot alone."""
    prints: tuple[PairPrints, ...]


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """How near a pair comes to the shots."""

    scores: Scores
    nearest: dict[Kind, tuple[int, int]]
    """The nearest shot and how to turn it so that it lies as the pair does."""


def print_pair(image: ImageArray, mask: BoolMask) -> PairPrints:
    """Return what of a pair is compared with the shots."""
    whole, ground = sign_images([image]), sign_images([image], [mask])
    return PairPrints(
        thumbnail=make_thumbnail(mask),
        image=(whole[0][0], whole[1][0]),
        ground=(ground[0][0], ground[1][0]),
    )


def read_shots(
    folder: Path,
    *,
    polarity: Polarity | Literal["auto"] = "auto",
    segmenter: Segmenter | None = None,
) -> Shots:
    """Return the shots of `folder`; a damaged one is refused: it is a yardstick."""
    pairs = open_pairs(folder).pairs
    facts = _read_all(pairs)
    images, masks = [one.image for one in facts], [one.reading.mask for one in facts]
    fovs = [None if pair.fov is None else inspect_mask(pair.fov).mask for pair in pairs]
    chosen = _choose_polarity(images, masks, fovs) if polarity == "auto" else polarity
    of_masks = measure_copying(masks, masks, kind="mask")
    of_images = measure_copying(
        images, images, kind="image", generated_masks=masks, shot_masks=masks
    )
    found: dict[Kind, Copying | None] = {
        "mask": of_masks, "image": of_images, "background": of_images.background,
    }  # fmt: skip
    scores = []
    for k, (image, mask, fov) in enumerate(zip(images, masks, fovs, strict=True)):
        own = measure_pair(image, mask, fov, polarity=chosen, segmenter=segmenter)
        for kind, copying in found.items():
            alone = copying is None or not copying.real
            own[f"{kind}_distance"] = None if alone else round_score(copying.real[k])  # type: ignore[union-attr]
        scores.append(own)
    digests = [sha256_of_file(path) for pair in pairs for path in (pair.image, pair.mask)]
    return Shots(
        pairs=pairs,
        identity=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        scores=tuple(scores),
        polarity=chosen,
        thresholds={
            kind: copying.threshold if copying else None for kind, copying in found.items()
        },
        prints=tuple(print_pair(*each) for each in zip(images, masks, strict=True)),
    )


def measure_nearness(prints: Sequence[PairPrints], shots: Shots) -> list[Nearness]:
    """Return for each of `prints` how near it comes to the shots."""
    if not prints:
        return []
    tables = {
        "mask": overlap_table(
            np.array([each.thumbnail for each in prints]),
            np.array([each.thumbnail for each in shots.prints]),
        ),
        "image": correlation_table(
            _stack([each.image for each in prints]), _stack([each.image for each in shots.prints])
        ),
        "background": correlation_table(
            _stack([each.ground for each in prints]), _stack([each.ground for each in shots.prints])
        ),
    }
    found = []
    for k in range(len(prints)):
        scores: Scores = {}
        nearest: dict[Kind, tuple[int, int]] = {}
        for kind in KINDS:
            likeness, turns = (table[k] for table in tables[kind])
            shot = int(likeness.argmax())
            distance = float(np.clip(1 - likeness[shot], 0, 1))
            nearest[kind] = (shot, int(turns[shot]))
            scores[f"{kind}_distance"] = round_score(distance)
            threshold = shots.thresholds[kind]
            copied = None if threshold is None else distance < COPY_SHARE * threshold
            scores[f"{kind}_copied"] = copied
        either = (scores["mask_copied"], scores["image_copied"])
        scores["copied"] = None if None in either else any(either)
        found.append(Nearness(scores=scores, nearest=nearest))
    return found


def _read_all(pairs: Sequence[Pair]) -> list[PairFacts]:
    problems: list[Problem] = []
    facts = []
    for pair in pairs:
        wrong, read = read_pair(pair)
        problems += [each for each in wrong if each.kind != "full"]
        if read is not None:
            facts.append(read)
    if problems:
        raise ProblemReport(problems, "shots that cannot be used")
    return facts


def _choose_polarity(
    images: Sequence[ImageArray], masks: Sequence[BoolMask], fovs: Sequence[BoolMask | None]
) -> Polarity:
    """Return with which polarity the vessels found agree better with the shots' own masks."""
    dark, bright = (
        measure_agreement(images, masks, fovs=fovs, polarity=polarity).cldice
        for polarity in ("dark", "bright")
    )
    return "dark" if dark >= bright else "bright"


def _stack(prints: Sequence[Prints]) -> Prints:
    values, weights = (np.array([each[k] for each in prints], np.float32) for k in (0, 1))
    return values, weights
