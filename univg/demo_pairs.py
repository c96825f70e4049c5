"""The last part of `univg demo`: pairs drawn by the adapted engines, gated, exported.

In: the folder of the adapted engines. Out: below it, `masks-for-pairs/` and `pairs/` as `univg
generate` writes them, the same masks as the composite engine paints them, and the pairs exported in
two layouts; `PairFacts` for the page. Each step goes on where an earlier call stopped.
"""

from __future__ import annotations

import importlib.util
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAIRS = 60
COMPOSITES = 12
LAYOUTS = ("webdataset", "hf")
NEEDS = {"hf": "pyarrow"}


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


def make_demo_pairs(place: Path, modality: str, seed: int, workers: int) -> PairFacts:
    """Draw, gate and export the pairs."""
    from univg.generate.images import Images
    from univg.generate.images import run as run_images
    from univg.generate.masks import Masks
    from univg.generate.masks import run as run_masks

    masks, pairs, composites = (place / name for name in ("masks-for-pairs", "pairs", "composites"))
    run_masks(
        Masks(
            out=masks, engine_dir=place / "mask-engine", modality=modality, count=PAIRS, seed=seed
        )
    )
    shared: dict[str, Any] = {"masks": masks, "modality": modality, "seed": seed}
    run_images(Images(out=pairs, engine_dir=place / "image-engine", **shared))
    run_images(Images(out=composites, shots=place / "shots", count=COMPOSITES, workers=1, **shared))
    drawn = _gate(pairs, place / "shots", workers)
    composed = _gate(composites, place / "shots", 1)
    exports, left_out = export_pairs(place, pairs)
    assert drawn.shots is not None
    return PairFacts(
        count=PAIRS,
        pairs=pairs,
        composites=composites,
        exports=exports,
        left_out=left_out,
        agreement=statistics.fmean(drawn.values("agreement")),
        agreement_composite=statistics.fmean(composed.values("agreement")),
        agreement_shots=statistics.fmean(s["agreement"] for s in drawn.shots.scores),
        copies=int(sum(drawn.values("copied"))),
        duplicates=int(sum(drawn.values("duplicate"))),
    )


def _gate(pairs: Path, shots: Path, workers: int) -> Any:
    from univg.generate.gate_command import Check, run

    return run(Check(pairs=pairs, shots=shots, workers=workers))


def export_pairs(place: Path, pairs: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Export `pairs` in each layout; return where they are, and what could not be written."""
    from univg.generate.export import Export, run

    exports: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for layout in LAYOUTS:
        missing = NEEDS.get(layout, "json")
        if importlib.util.find_spec(missing) is None:
            left_out[layout] = missing
            continue
        exports[layout] = place / f"export-{layout}"
        run(Export(pairs=pairs, out=exports[layout], to=layout, shard_size=PAIRS, workers=1))
    return exports, left_out
