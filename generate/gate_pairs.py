"""The work on pairs that the quality gate gives to its worker processes.

In: chunks of pairs; later, pairs that may repeat an earlier one. Out: a row a pair with its
measures and signatures, or with what is wrong with its files; which earlier pair is repeated.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from univg.errors import UserError
from univg.files import sha256_of_file
from univg.manifest import Row
from univg.masks import BoolMask, inspect_mask
from univg.memorisation import correlation_table, sign_images
from univg.overlap import make_thumbnail, overlap_table
from univg.pairs import Pair, PairFacts, read_pair
from univg.vesselness import Polarity

from .gate import Segmenter, measure_pair
from .gate_near import LENGTH, Signature, sign_ground, sign_mask
from .gate_segmenter import load_segmenter
from .gate_shots import PairPrints, Shots, measure_nearness, print_pair

CHUNK = 16
MASK_TWIN = 0.85
"""Overlap of two masks from which one repeats the other; see `univg.overlap`."""
IMAGE_TWIN = 0.85
"""Correlation of the fine structure of two images from which one repeats the other."""
_HARMLESS = ("empty", "full", "grey")  # such masks can be measured all the same


@dataclass(frozen=True)
class Item:
    """A pair to measure, and the hashes of its files when it was measured last."""

    pair: Pair
    known: dict[str, str] | None = None


@dataclass(frozen=True)
class Suspicion:
    """A pair and the earlier ones that it may repeat, the likeliest first."""

    later: Pair
    masks: tuple[Pair, ...]
    images: tuple[tuple[Pair, bool], ...]
    """With each, whether both are images of one mask."""


@dataclass(frozen=True)
class Twins:
    """Which earlier pairs are repeated: their places in the suspicion, and how much alike."""

    mask: tuple[int, float] | None
    image: tuple[int, float] | None


_work: dict[str, Any] = {}  # what a worker process needs for every chunk


def prepare_worker(shots: Shots | None, polarity: Polarity, segmenter: str | None) -> None:
    """Keep what every chunk needs."""
    import cv2

    cv2.setNumThreads(1)
    _work["shots"], _work["polarity"] = shots, polarity
    _work["segmenter"] = None if segmenter is None else load_segmenter(segmenter)


def measure_chunk(items: Sequence[Item]) -> list[Row | None]:
    """Return a row for each of `items`, None where its files are those that were measured last."""
    rows: list[Row | None] = []
    prints: list[PairPrints] = []
    waiting: list[Row] = []
    for item in items:
        row, printed = _measure_item(item, _work["shots"], _work["polarity"], _work["segmenter"])
        rows.append(row)
        if row is not None and printed is not None:
            waiting.append(row)
            prints.append(printed)
    if _work["shots"] is not None:
        for row, near in zip(waiting, measure_nearness(prints, _work["shots"]), strict=True):
            row["scores"].update(near.scores)
            row["nearest"] = {kind: list(found) for kind, found in near.nearest.items()}
    return rows


def _measure_item(
    item: Item, shots: Shots | None, polarity: Polarity, segmenter: Segmenter | None
) -> tuple[Row | None, PairPrints | None]:
    pair = item.pair
    row: Row = {"id": pair.stem}
    try:
        row["sha256"] = hash_pair(pair)
    except OSError as error:
        row["sha256"] = {}
        row["problem"] = f"{error.filename}: cannot be read ({error.strerror})"
        return row, None
    if row["sha256"] == item.known:
        return None, None
    facts, fov, problem = open_pair(pair)
    if facts is None:
        row["problem"] = problem
        return row, None
    image, mask = facts.image, facts.reading.mask
    try:
        row["scores"] = measure_pair(image, mask, fov, polarity=polarity, segmenter=segmenter)
    except UserError as error:  # the segmenter's: it must not fall silent
        raise type(error)(f"{pair.image}: {error}") from error
    printed = None if shots is None else print_pair(image, mask)
    ground = sign_images([image], [mask])[0][0] if printed is None else printed.ground[0]
    row["signature"] = {
        "mask": pack_signature(sign_mask(mask)),
        "image": pack_signature(sign_ground(ground)),
    }
    return row, printed


def hash_pair(pair: Pair) -> dict[str, str]:
    """Return the SHA-256 of a pair's files by role."""
    files = {"image": pair.image, "mask": pair.mask, "fov": pair.fov}
    return {role: sha256_of_file(path) for role, path in files.items() if path is not None}


def open_pair(pair: Pair) -> tuple[PairFacts | None, BoolMask | None, str]:
    """Return a pair's content and field of view, or None and what is wrong with it."""
    problems, facts = read_pair(pair)
    fatal = [problem for problem in problems if problem.kind not in _HARMLESS]
    if facts is None or fatal:
        return None, None, "; ".join(problem.line() for problem in fatal)
    return facts, None if pair.fov is None else inspect_mask(pair.fov).mask, ""


def pack_signature(signature: Signature) -> str:
    """Return a signature as text for a row."""
    return base64.b64encode(signature.tobytes()).decode()


def unpack_signature(text: str) -> Signature:
    """Return a signature (256,) from its text."""
    found = np.frombuffer(base64.b64decode(text), np.int8)
    return found if len(found) == LENGTH else np.zeros(LENGTH, np.int8)


def find_twins(suspicion: Suspicion) -> Twins:
    """Return which of the earlier pairs are really repeated; unreadable ones are not."""
    mine, _, _ = open_pair(suspicion.later)
    if mine is None:
        return Twins(None, None)
    mask = image = None
    for place, earlier in enumerate(suspicion.masks):
        likeness = _compare(mine, earlier, "mask")
        if likeness >= MASK_TWIN:
            mask = (place, round(likeness, 4))
            break
    for place, (earlier, same_mask) in enumerate(suspicion.images):
        likeness = _compare(mine, earlier, "ground" if same_mask else "image")
        if likeness >= IMAGE_TWIN:
            image = (place, round(likeness, 4))
            break
    return Twins(mask, image)


def _compare(mine: PairFacts, earlier: Pair, kind: Literal["mask", "image", "ground"]) -> float:
    """Return how much alike two pairs are, seen through turns and shifts."""
    other, _, _ = open_pair(earlier)
    if other is None:
        return 0.0
    masks = [mine.reading.mask, other.reading.mask]
    if kind == "mask":
        table, _ = overlap_table(*(make_thumbnail(mask)[None] for mask in masks))
    else:
        # Images of one mask share their vessels by design; only the rest tells.
        vessels = masks if kind == "ground" else ()
        values, weights = sign_images([mine.image, other.image], vessels)
        table, _ = correlation_table((values[:1], weights[:1]), (values[1:], weights[1:]))
    return float(table[0, 0])
