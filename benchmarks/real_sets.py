"""How far real sets of masks are from each other, and how well they keep Murray's law.

    python benchmarks/real_sets.py --data FOLDER

Each set's pool half against its own test half and against the other sets' pool halves, at equal
numbers, longest side 512; Murray compliance of the pool halves at their own resolution; what Dice
their masks lose, made smaller and as large again. Prints Markdown and writes
benchmarks/results/real_sets.md.
"""

from __future__ import annotations

import argparse
import platform
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from splits import SPLITS

from univg.masks import read_mask
from univg.sca.descriptors import DESCRIPTOR_GROUPS, DESCRIPTORS
from univg.sca.distance import compare
from univg.sca.measure import measure_mask
from univg.sca.murray import format_exponent, format_murray, summarise_murray
from univg.segment.scale import AUTO_SIZES_PX, measure_loss

RESULTS = Path(__file__).parent / "results"
SIZE_PX = 512
N = 7  # half of the smallest half


def describe_files(paths: list[Path]) -> np.ndarray:
    """Descriptors (N, D) of mask files at the common size."""
    return np.array([measure_mask(read_mask(p), size_px=SIZE_PX).descriptors for p in paths])


def distance_table(data: Path) -> list[str]:
    """Rows: a set's pool half; columns: its own test half, then the other sets' pool halves."""
    halves = {name: split.masks(data) for name, split in SPLITS.items()}
    pools = {name: describe_files(half["pool"]) for name, half in halves.items()}
    tests = {name: describe_files(half["test"]) for name, half in halves.items()}
    lines = [
        "| | own other half | " + " | ".join(SPLITS) + " |",
        "|---" * (len(SPLITS) + 2) + "|",
    ]
    for name, pool in pools.items():
        cells = [_cell(pool, tests[name])]
        cells += ["" if other == name else _cell(pool, pools[other]) for other in pools]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(real: np.ndarray, other: np.ndarray) -> str:
    resolution = [d.resolution for d in DESCRIPTORS]
    found = compare(real, other, n=N, resolution=resolution, groups=DESCRIPTOR_GROUPS)
    return f"{found.frechet.mean:.1f}, {found.energy.mean:.1f}"


def murray_table(data: Path) -> list[str]:
    """Compliance at the masks' own resolution."""
    lines = ["| set | masks | compliance [%] | fitted exponent |", "|---|---|---|---|"]
    for name, split in SPLITS.items():
        paths = split.masks(data)["pool"]
        radii = [measure_mask(read_mask(path)).radii for path in paths]
        found = summarise_murray(radii)
        exponent = format_exponent(found)
        lines.append(f"| {name} | {len(paths)} | {format_murray(found)} | {exponent} |")
    return lines


def scale_table(data: Path) -> list[str]:
    """What no segmenter can do at a size, in percent of Dice."""
    sizes = AUTO_SIZES_PX[:3]
    lines = ["| set | longest side | " + " | ".join(f"at {px} px" for px in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    for name, split in SPLITS.items():
        masks = [read_mask(path) for path in split.masks(data)["pool"]]
        cells = [f"{100 * measure_loss(masks, px):.1f}" for px in sizes]
        lines.append(f"| {name} | {max(masks[0].shape)} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CHASEDB1/, HRF/, …")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    head = f"`python benchmarks/real_sets.py --data …`, {today}, {platform.machine()}."
    lines = [head, "", f"Fréchet, energy at n = {N}:", "", *distance_table(args.data)]
    lines += ["", "Murray's law, exponent 2:", "", *murray_table(args.data)]
    lines += ["", "Dice lost by scaling to and fro [%]:", "", *scale_table(args.data)]
    args.results.mkdir(exist_ok=True)
    (args.results / "real_sets.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
