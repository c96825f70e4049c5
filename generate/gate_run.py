"""The quality gate over a whole folder of pairs: measure, find repetitions, keep or drop.

In: a folder of pairs, the shots if there are any, an expression of what to keep. Out: a
`GateResult`, with a row a pair as `scores.jsonl` has it. Pairs whose files are as they were when
they were measured last are not measured again; the number of workers changes no byte.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from univg.errors import DataError
from univg.manifest import Row, iterate_rows
from univg.pairs import Pair, PairFolder, find_pairs
from univg.pool import Workers
from univg.progress import show_progress
from univg.vesselness import Polarity, choose_polarity, measure_ridges

from .gate import MEASURES, Scores
from .gate_near import find_candidates, number_groups
from .gate_pairs import (
    CHUNK,
    Item,
    Suspicion,
    find_twins,
    measure_chunk,
    open_pair,
    prepare_worker,
    unpack_signature,
)
from .gate_scores import Measured, name_of_row
from .gate_shots import Shots
from .keep import Keep

ALGORITHM = 1  # raise with every change of a measure: older measurements are then made again
_POLARITY_IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate found."""

    found: PairFolder
    rows: tuple[Row, ...]
    """As in `scores.jsonl`, in the order of the pairs."""
    problems: tuple[str, ...]
    """Files that cannot be used and names without partner, a line each."""
    fresh: int
    """How many pairs were measured now; the others had been."""
    shots: Shots | None
    polarity: Polarity
    keep: Keep

    @property
    def kept(self) -> dict[str, Row]:
        """Rows of the pairs that are kept, by name."""
        return {row["id"]: row for row in self.rows if row["kept"]}

    def scores(self) -> list[Scores]:
        """Return the measures of all pairs that could be measured."""
        return [row["scores"] for row in self.rows if "scores" in row]

    def values(self, name: str) -> list[float]:
        """Return one measure of all pairs that have it."""
        found = (scores.get(name) for scores in self.scores())
        return [float(value) for value in found if value is not None]

    def dropped_by(self) -> dict[str, int]:
        """Return how many pairs fail each condition; a pair may fail several."""
        counts = collections.Counter(dict.fromkeys(self.keep.conditions, 0))
        for row in self.rows:
            counts.update(row.get("dropped_by", ()))
        return dict(counts)

    def line(self) -> str:
        """One line for the terminal."""
        total, usable = len(self.rows), len(self.scores())
        text = f"{total} pairs, {self.fresh} measured now"
        agreement = self.values("agreement")
        if agreement:
            text += f"; agreement {np.median(agreement):.2f} (median)"
        for name, what in (("copied", "copying a shot"), ("duplicate", "repeating another pair")):
            flags = self.values(name)
            text += f"; {int(sum(flags))} {what}" if flags else ""
        if usable < total:
            text += f"; {total - usable} cannot be read"
        if self.keep.text:
            text += f"; kept {len(self.kept)}, dropped {total - len(self.kept)}"
            by = [f"{n} by {condition}" for condition, n in self.dropped_by().items() if n]
            by += [f"{total - usable} unreadable"] if usable < total else []
            text += f" ({', '.join(by)})" if by else ""
        return text


def run_gate(
    folder: Path,
    place: Path,
    *,
    shots: Shots | None = None,
    polarity: Polarity | Literal["auto"] = "auto",
    segmenter: str | None = None,
    keep: Keep,
    near: bool = True,
    workers: int = 1,
) -> GateResult:
    """Measure the pairs of `folder`, keeping what was measured in `place`."""
    found, wrong = find_pairs(folder)
    if not found.pairs:
        raise DataError(f"{folder}: holds no pair of image and mask; check the path")
    problems = [problem.line() for problem in wrong]
    chosen = polarity if polarity != "auto" else _choose_polarity(found.pairs, shots)
    key = _make_key(shots, chosen, segmenter)
    with Measured(place, key) as measured, _open_workers(workers, shots, chosen, segmenter) as pool:
        fresh = _measure_all(found, measured, pool)
        measured.tidy([pair.stem for pair in found.pairs])
        rows = [_begin_row(pair, folder, measured.rows[pair.stem], shots) for pair in found.pairs]
        problems += [row["problem"] for row in rows if "problem" in row]
        if near:
            _mark_twins(found, rows, measured, pool)
    for row in rows:
        _judge(row, keep)
    return GateResult(
        found=found,
        rows=tuple(rows),
        problems=tuple(problems),
        fresh=fresh,
        shots=shots,
        polarity=chosen,
        keep=keep,
    )


def _open_workers(
    count: int, shots: Shots | None, polarity: Polarity, segmenter: str | None
) -> Workers:
    return Workers(count, prepare_worker, (shots, polarity, segmenter))


def _choose_polarity(pairs: Sequence[Pair], shots: Shots | None) -> Polarity:
    """Return whether vessels are dark or bright: by the shots, else by some of the images."""
    if shots is not None:
        return shots.polarity
    step = max(1, len(pairs) // _POLARITY_IMAGES)
    ridges = []
    for pair in pairs[::step][:_POLARITY_IMAGES]:
        facts, fov, _ = open_pair(pair)
        if facts is not None:
            ridges.append(measure_ridges(facts.image, fov))
    return choose_polarity(ridges)


def _make_key(shots: Shots | None, polarity: Polarity, segmenter: str | None) -> str:
    """Return the hash of all that decides a pair's measures, beside its files."""
    decisive = {
        "algorithm": ALGORITHM,
        "shots": None if shots is None else shots.identity,
        "polarity": polarity,
        "segmenter": segmenter,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _measure_all(found: PairFolder, measured: Measured, pool: Workers) -> int:
    """Bring `measured` to hold a row for each pair; return how many were measured now."""
    chunks = (
        [Item(p, measured.rows.get(p.stem, {}).get("sha256")) for p in found.pairs[k : k + CHUNK]]
        for k in range(0, len(found.pairs), CHUNK)
    )
    fresh = 0
    with show_progress(len(found.pairs), "quality", "pairs") as progress:
        for rows in pool.map_in_order(measure_chunk, chunks):
            new = [row for row in rows if row is not None]
            if new:
                measured.append(new)
            fresh += len(new)
            progress.advance(len(rows))
    return fresh


def _begin_row(pair: Pair, folder: Path, measured: Row, shots: Shots | None) -> Row:
    """Return a pair's row as far as it can be told without the others."""
    row: Row = {"id": pair.stem, "sha256": measured["sha256"]}
    for role, path in (("image", pair.image), ("mask", pair.mask)):
        row[role] = path.relative_to(folder).as_posix()
    if "problem" in measured:
        return {**row, "problem": measured["problem"]}
    row["scores"] = dict(measured["scores"])
    if shots is not None and "nearest" in measured:
        row["nearest_shot"] = {
            kind: {"id": shots.pairs[shot].stem, "turn": turn}
            for kind, (shot, turn) in measured["nearest"].items()
        }
    return row


def _mark_twins(found: PairFolder, rows: Sequence[Row], measured: Measured, pool: Workers) -> None:
    """Tell in `rows` which pairs repeat an earlier one, and which."""
    usable = [k for k, row in enumerate(rows) if "scores" in row]
    if not usable:
        return
    sources = _read_sources(found)
    groups = number_groups([sources.get(rows[k]["id"]) for k in usable])
    signatures = [measured.rows[rows[k]["id"]]["signature"] for k in usable]
    suspects: dict[int, tuple[list[int], list[int]]] = {}
    for number, role in enumerate(("mask", "image")):
        vectors = np.array([unpack_signature(each[role]) for each in signatures])
        for earlier, later in find_candidates(vectors, groups if role == "mask" else None):
            suspects.setdefault(int(later), ([], []))[number].append(int(earlier))
    order = sorted(suspects)
    tasks = [
        Suspicion(
            found.pairs[usable[later]],
            tuple(found.pairs[usable[k]] for k in suspects[later][0]),
            tuple(
                (found.pairs[usable[k]], bool(groups[k] == groups[later]))
                for k in suspects[later][1]
            ),
        )
        for later in order
    ]
    for k in usable:
        rows[k]["scores"] |= dict.fromkeys(("mask_duplicate", "image_duplicate"), False)
    with show_progress(len(tasks), "near-duplicates", "pairs") as progress:
        for later, twins in zip(order, pool.map_in_order(find_twins, tasks), strict=True):
            row = rows[usable[later]]
            for role, twin, earlier in zip(
                ("mask", "image"), (twins.mask, twins.image), suspects[later], strict=True
            ):
                if twin is not None:
                    name = rows[usable[earlier[twin[0]]]]["id"]
                    row["scores"][f"{role}_duplicate"] = True
                    row.setdefault("repeats", {})[role] = {"id": name, "likeness": twin[1]}
            progress.advance()
    for k in usable:
        scores = rows[k]["scores"]
        scores["duplicate"] = scores["mask_duplicate"] or scores["image_duplicate"]


def _read_sources(found: PairFolder) -> dict[str, str | None]:
    """Return the mask that each pair was made from, as far as a manifest says so."""
    return {
        name_of_row(row): row.get("source_sha256") or row.get("source")
        for row in iterate_rows(found.folder)
    }


def _judge(row: Row, keep: Keep) -> None:
    """Say in `row` whether the pair is kept; one that cannot be read is not."""
    if "scores" not in row:
        row["kept"] = False
        return
    row["scores"] = {name: row["scores"][name] for name in MEASURES if name in row["scores"]}
    row["kept"] = keep.accepts(row["scores"])
    if not row["kept"]:
        row["dropped_by"] = keep.failed(row["scores"])
