"""The last part of `univg demo`: what the recipe's pairs are worth beside composed ones; exports.

In: the folder of the demo, the recipe's results. Out: the same masks as the composite engine paints
them, the pairs exported in two layouts; `PairFacts` for the page. Each step goes on where an
earlier call stopped.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from univg.recipe_steps import Result

COMPOSITES = 12
LAYOUTS = ("webdataset", "hf")
NEEDS = {"hf": "pyarrow"}
SHARD = 1000


@dataclass(frozen=True, kw_only=True)
class PairFacts:
    """What the page tells of the pairs."""

    count: int
    pairs: Path
    composites: Path
    exports: dict[str, Path]
    left_out: dict[str, str]
    """Layouts that could not be written, and the package that is missing."""
    agreement: float
    agreement_composite: float
    agreement_shots: float
    copies: int
    duplicates: int


def make_demo_pairs(
    place: Path, results: Mapping[str, Result], seed: int, workers: int
) -> PairFacts:
    """Compose, gate and export pairs."""
    from univg.generate.gate_command import Check
    from univg.generate.gate_command import run as check
    from univg.generate.images import Images
    from univg.generate.images import run as run_images

    pairs, composites = results["pairs"].folder / "pairs", place / "composites"
    count = int(results["gate"].facts["pairs"])
    run_images(
        Images(
            masks=results["masks"].folder / "masks", out=composites, shots=place / "shots",
            modality=str(place / "card.yaml"), count=min(COMPOSITES, count), seed=seed, workers=1,
        )
    )  # fmt: skip
    composed = check(Check(pairs=composites, shots=place / "shots", workers=workers))
    assert composed.shots is not None
    scores = read_scores(results["gate"].folder / "quality" / "scores.jsonl")
    exports, left_out = export_pairs(place, pairs)
    return PairFacts(
        count=count,
        pairs=pairs,
        composites=composites,
        exports=exports,
        left_out=left_out,
        agreement=statistics.fmean(float(row["agreement"]) for row in scores),
        agreement_composite=statistics.fmean(composed.values("agreement")),
        agreement_shots=statistics.fmean(
            float(each["agreement"] or 0.0) for each in composed.shots.scores
        ),
        copies=sum(bool(row["copied"]) for row in scores),
        duplicates=sum(bool(row["duplicate"]) for row in scores),
    )


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Return the measures of the pairs that could be measured."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["scores"] for row in rows if "scores" in row]


def export_pairs(place: Path, pairs: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Export `pairs` in each layout; return where they are, and what could not be written."""
    from univg.generate.export import Export, run

    exports: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for layout in LAYOUTS:
        needed = NEEDS.get(layout)
        if needed is not None and importlib.util.find_spec(needed) is None:
            left_out[layout] = needed
            continue
        exports[layout] = place / f"export-{layout}"
        run(Export(pairs=pairs, out=exports[layout], to=layout, shard_size=SHARD, workers=1))
    return exports, left_out


def list_pair_commands(place: Path, results: Mapping[str, Result], seed: int) -> list[str]:
    """Return the commands that composed, checked and exported the pairs."""
    masks = (results["masks"].folder / "masks").relative_to(place).as_posix()
    pairs = (results["pairs"].folder / "pairs").relative_to(place).as_posix()
    count = min(COMPOSITES, int(results["gate"].facts["pairs"]))
    return [
        f"univg generate images --masks {masks} --modality card.yaml --shots shots "
        f"--count {count} --seed {seed} --out composites",
        "univg generate check --pairs composites --shots shots",
        *(
            f"univg export {pairs} export-{layout} --to {layout} --shard-size {SHARD}"
            for layout in LAYOUTS
        ),
    ]
