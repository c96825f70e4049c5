"""How near synthetic masks are to real ones: plain SCA, R-SCA, fitted R-SCA, and the floor.

    python benchmarks/sca_realism.py --data FOLDER --work FOLDER [--sets XCA] [--draws A B C]

For each set and each draw of five shots: masks are synthesized in six ways and measured against
the test half; the floor is the distance of the pool half from the test half at the same number of
masks. Fitted cards stay in --work, so an interrupted run goes on. Prints Markdown and writes
benchmarks/results/sca_realism.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from splits import SPLITS, Split

from univg.config import from_plain
from univg.masks import read_mask
from univg.modalities import find_modality
from univg.sca.compose import grow_mask
from univg.sca.fit import Fit
from univg.sca.fit import run as run_fit
from univg.sca.measure import Measured, measure_mask
from univg.sca.params import Growth, growth_of
from univg.sca.score import ScoreResult, score_measured
from univg.sca.template import trace_template
from univg.seeds import rng_for

RESULTS = Path(__file__).parent / "results"
SIZE_PX = 512
PAPER = {"attraction_px": 20, "kill_px": 10, "step_px": 15}
BARE = {"inertia": 0.0, "lean": 0.0, "wobble_deg": 0.0}
# Where the paper puts roots: optic disc, along the border of the foveal zone, coronary ostium.
ROOTS = {
    "fundus": [[0.68, 0.5]],
    "octa": [
        [0.5 + 0.11 * np.cos(k * np.pi / 3), 0.5 + 0.11 * np.sin(k * np.pi / 3)] for k in range(6)
    ],
    "coronary": [[0.45, 0.15]],
}
PAPER_CELL_PX = 12  # the paper does not say; on a coarser grid than Da allows, growth breaks off
WAYS = {
    "paper's SCA": "Da 20, Dk 10, Ls 15, the paper's roots, jittered grid; no guides, no smoothing",
    "plain SCA": "the modality's card, no real mask",
    "fitted SCA": "the card fitted to the shots, no real mask",
    "paper's R-SCA": "Da 20, Dk 10, Ls 15, attractors on the shots' vessels and a grid elsewhere",
    "R-SCA": "the modality's card, on the shots",
    "fitted R-SCA": "the card fitted to the shots, on the shots",
}


def paper_growth(modality: str, roots: str) -> Growth:
    """The algorithm as the paper describes it, with its parameters."""
    stage = {**PAPER, **BARE, "cell_px": PAPER_CELL_PX}
    roots_at = {f"root{k}": {"at": at} for k, at in enumerate(ROOTS[modality])}
    section = {
        "points": roots_at,
        "roots": list(roots_at),
        "trunk": {**PAPER, **BARE},
        "stages": [stage],
        "widths": {"tip_radius_px": 1.0, "exponent": 2.5, "taper_per_px": 0.0},
        "course": {"stub_px": 0, "smooth_rounds": 0},
        "real": {
            **PAPER, "roots": roots, "strength": 1.0, "graft": 0.0, "warp_px": 0.0, "zoom": 1.0,
            "rotate_deg": 0.0, "shift_px": 0.0, "mirror": False, "jitter_px": 0.5, "fill": 1.0,
            "near_px": 10, "far_px": 1000, "width_factor": 0.0,
        },
    }  # fmt: skip
    return from_plain(Growth, section)


def growths(split: Split, card: Path) -> dict[str, tuple[Growth, bool]]:
    """Each way's parameters, and whether it sees the shots' courses."""
    default = growth_of(find_modality(split.modality))
    default = dataclasses.replace(default, stages=tuple(s for s in default.stages if not s.layer))
    fitted = growth_of(find_modality(str(card)))
    fitted = dataclasses.replace(fitted, stages=tuple(s for s in fitted.stages if not s.layer))
    paper = paper_growth(split.modality, default.real.roots)
    return {
        "paper's SCA": (paper, False),
        "plain SCA": (default, False),
        "fitted SCA": (fitted, False),
        "paper's R-SCA": (paper, True),
        "R-SCA": (default, True),
        "fitted R-SCA": (fitted, True),
    }


def fit_card(split: Split, draw: str, args: argparse.Namespace) -> Path:
    """Fit a card to the draw's shots, unless an earlier run has."""
    card = args.work / f"{split.name}_{draw}.yaml"
    shots = args.work / "shots" / f"{split.name}_{draw}"
    shots.mkdir(parents=True, exist_ok=True)
    for path in split.shots(args.data, draw):
        (shots / path.name).write_bytes(path.read_bytes())
    if not card.exists():
        run_fit(Fit(real=shots, out=card, like=split.modality, workers=args.workers))
    return card


def synthesize(
    growth: Growth, on_real: bool, masks: list[Any], count: int, name: str
) -> list[Measured]:
    """Make and measure `count` masks at the shape of the real ones, the longest side 512."""
    height, width = masks[0].shape
    scale = SIZE_PX / max(height, width)
    shape = round(height * scale), round(width * scale)
    templates = [trace_template(m, str(k), growth.real.roots) for k, m in enumerate(masks)]
    made = []
    for index in range(count):
        rng = rng_for(1, f"benchmark.realism.{name}", index)
        grown = grow_mask(growth, *shape, rng, templates if on_real else ())
        made.append(measure_mask(grown.pixels > 0, size_px=SIZE_PX, name=str(index)))
    return made


def measure_files(paths: list[Path]) -> list[Measured]:
    """Measure real masks."""
    return [measure_mask(read_mask(path), size_px=SIZE_PX, name=path.stem) for path in paths]


def row_of(result: ScoreResult) -> dict[str, float]:
    """The figures of one row."""
    found = result.comparison
    return {
        "frechet": found.frechet.mean,
        "frechet_low": found.frechet.low,
        "frechet_high": found.frechet.high,
        "frechet_floor": found.frechet_floor.mean if found.frechet_floor else float("nan"),
        "energy": found.energy.mean,
        "energy_low": found.energy.low,
        "energy_high": found.energy.high,
        "energy_floor": found.energy_floor.mean if found.energy_floor else float("nan"),
        "overlap": result.copies.mean,
        "overlap_p95": result.copies.p95,
        "overlap_real": result.copies_baseline.mean,
        "overlap_real_p95": result.copies_baseline.p95,
        "murray": result.murray_synth.mean,
        "murray_real": result.murray_real.mean,
        "n": found.n,
    }


def score_set(split: Split, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """All ways and draws of one set: way -> draw -> figures."""
    halves = {name: measure_files(paths) for name, paths in split.masks(args.data).items()}
    rows: dict[str, dict[str, dict[str, float]]] = {way: {} for way in WAYS}
    for draw in args.draws:
        card = fit_card(split, draw, args)
        shots = [read_mask(path) for path in split.shots(args.data, draw)]
        measured_shots = measure_files(split.shots(args.data, draw))
        for way, (growth, on_real) in growths(split, card).items():
            made = synthesize(growth, on_real, shots, args.count, f"{split.name}.{draw}.{way}")
            result = score_measured(
                halves["test"], made, floor=halves["pool"], conditioned_on=measured_shots
            )
            rows[way][draw] = row_of(result)
            print(f"  {split.name} {draw} {way}: {rows[way][draw]['frechet']:.2f}", flush=True)
    return rows


def _mean_sd(rows: dict[str, dict[str, float]], key: str, digits: int = 2) -> str:
    values = [row[key] for row in rows.values()]
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def markdown(scores: dict[str, Any], head: str) -> str:
    """The tables, one a set."""
    lines = [head, ""]
    for name, rows in scores.items():
        first = next(iter(next(iter(rows.values())).values()))
        lines += [
            f"**{name}** (n = {first['n']} masks a draw; mean ± sd over the five-shot draws)",
            "",
            "| | Fréchet | energy | overlap with shots, mean (p95) | Murray [%] |",
            "|---|---|---|---|---|",
        ]
        for way, draws in rows.items():
            lines.append(
                f"| {way} | {_mean_sd(draws, 'frechet')} | {_mean_sd(draws, 'energy')} "
                f"| {_mean_sd(draws, 'overlap')} ({_mean_sd(draws, 'overlap_p95')}) "
                f"| {_mean_sd(draws, 'murray', 1)} |"
            )
        lines += [
            f"| real, other patients (floor) | {first['frechet_floor']:.2f} "
            f"| {first['energy_floor']:.2f} "
            f"| {first['overlap_real']:.2f} ({first['overlap_real_p95']:.2f}) "
            f"| {first['murray_real']:.1f} |",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with CHASEDB1/, HRF/, …")
    parser.add_argument("--work", type=Path, required=True, help="fitted cards; kept between runs")
    parser.add_argument("--sets", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--draws", nargs="+", default=["A", "B", "C"], choices=["A", "B", "C"])
    parser.add_argument("--count", type=int, default=100, help="masks a way and draw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    start = time.time()
    head = (
        f"`python benchmarks/sca_realism.py --data … --work …`, {date.today()}, "
        f"{platform.machine()}, Python {platform.python_version()}, {args.count} masks a way."
    )
    args.results.mkdir(exist_ok=True)
    scores: dict[str, Any] = {}
    for name in args.sets:
        scores[name] = score_set(SPLITS[name], args)
        text = markdown(scores, head)
        (args.results / "sca_realism.json").write_text(json.dumps(scores, indent=1) + "\n")
        (args.results / "sca_realism.md").write_text(text + "\n")
    print(text)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
