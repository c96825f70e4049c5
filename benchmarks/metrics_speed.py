"""How fast masks are measured: `python benchmarks/metrics_speed.py`.

Vessel masks are grown here (a few, used under as many names as asked for), each with a prediction
that is shifted and spoilt. Timed from the first file read to the last figure, processes started
and stopped included, for DSC and clDice, and for all usual metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from univg.masks import read_mask, write_mask
from univg.pairs import find_masks
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize
from univg.segment.evaluate_files import Method
from univg.segment.evaluate_folders import evaluate_folders

GROWN = 4  # of each modality
MODALITIES = ("fundus", "octa", "coronary", "brain")
BAR_S = 20.0


def make_masks(folder: Path, count: int, side_px: int) -> tuple[Path, Path, float]:
    """Write `count` truths and predictions; return their folders and the mean share of vessel."""
    truth, predicted = folder / "truth", folder / "predicted"
    truth.mkdir()
    predicted.mkdir()
    synthesize(
        Synth(
            modality=MODALITIES,
            out=folder / "grown",
            count=GROWN,
            size=(side_px, side_px),
            workers=1,
        )
    )
    places = [folder / "grown" / modality for modality in MODALITIES]
    grown = [read_mask(path) for place in places for path in find_masks(place)]
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = grown[number % len(grown)]
        write_mask(truth / f"{number:05d}.png", mask)
        shifted = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
        write_mask(predicted / f"{number:05d}.png", shifted & (rng.random(mask.shape) > 0.01))
    return truth, predicted, float(np.mean([mask.mean() for mask in grown]))


def measure(truth: Path, predicted: Path, metrics: tuple[str, ...], workers: int) -> dict[str, Any]:
    """Evaluate once; return seconds and the mean DSC."""
    start = time.perf_counter()
    found = evaluate_folders(
        truth, [Method(name="shifted", masks=predicted)], metrics=metrics, workers=workers
    )
    seconds = time.perf_counter() - start
    return {
        "metrics": list(found.metrics),
        "workers": workers,
        "seconds": round(seconds, 2),
        "images_per_s": round(len(found.measured) / seconds, 1),
        "mean_dsc": found.summaries["shifted"]["dsc"].mean,
    }


def main() -> None:
    """Measure, print, write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="all usual metrics, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        truth, predicted, density = make_masks(Path(name), args.count, args.side)
        runs = [measure(truth, predicted, ("dsc", "cldice"), args.workers)]
        if args.all:
            runs.append(measure(truth, predicted, (), args.workers))
    figures = {
        "command": f"python benchmarks/metrics_speed.py --count {args.count} --side {args.side}"
        + " --all" * args.all,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_end": [round(load, 1) for load in os.getloadavg()],
        "vessel_share": round(density, 3),
        "bar_s": BAR_S,
        "runs": runs,
    }
    print(json.dumps(figures, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
