"""How fast masks are grown, drawn and written: `python benchmarks/sca_speed.py`.

Three parts. Masks: `univg sca synth --modality all` into a fresh folder, with the share of time in
each part and the peak memory of all its processes. Growth: the time of one tree from 1,000 to
100,000 attractors. Baseline: the same growth in plain NumPy, every attractor against every node.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLE_EVERY_S = 0.05
ATTRACTORS = (1_000, 3_000, 10_000, 30_000, 100_000)
CELL_PX = 20.0
"""Side of the square that each attractor has for itself at constant density."""
DOMAIN_PX = round(CELL_PX * ATTRACTORS[0] ** 0.5)
"""Side of the constant domain: the two series start from the same tree."""
DISTANCES = {"attraction_px": 50.0, "kill_px": 10.0, "step_px": 8.0}
"""Da is wide enough that a tree finds every attractor at this density."""
SYNTH = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from univg.sca.synth import Synth, run
out, count, workers, side = sys.argv[1], *map(int, sys.argv[2:5])
result = run(Synth(out=Path(out), modality=("all",), count=count, workers=workers,
                   size=(side, side), seed=7))
print(json.dumps({"masks": result.masks, "nodes": result.nodes, "wall_s": result.wall_s,
                  "seconds": result.seconds}))
"""


def machine() -> dict[str, Any]:
    """Say where and when this was measured."""
    import numba

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def measure_masks(masks: int, workers: int, side: int, out: Path) -> dict[str, Any]:
    """Make `masks` masks of each modality into `out`; time, shares and peak memory."""
    synthesize(out / "warm-up", 1, 1, side)  # compiles, and fills the cache on disk
    start = time.perf_counter()
    made, peak = synthesize(out / "run", masks, workers, side)
    whole = time.perf_counter() - start
    files = list((out / "run").rglob("*.png"))
    spent = sum(made["seconds"].values())
    return {
        "masks": made["masks"],
        "workers": workers,
        "side_px": side,
        "wall_s": made["wall_s"],
        "with_start_s": whole,
        "masks_per_s": made["masks"] / made["wall_s"],
        "nodes_per_s": made["nodes"] / made["wall_s"],
        "shares": {part: seconds / spent for part, seconds in made["seconds"].items()},
        "busy": spent / (made["wall_s"] * workers),
        "peak_rss_mib": peak / 2**20,
        "png_kib": sum(path.stat().st_size for path in files) / len(files) / 2**10,
        "s_per_10000": 10_000 * made["wall_s"] / made["masks"],
    }


def synthesize(out: Path, count: int, workers: int, side: int) -> tuple[dict[str, Any], int]:
    """Run the synthesizer in a process of its own; its result, and the peak memory in bytes."""
    words = [sys.executable, "-c", SYNTH, str(out), str(count), str(workers), str(side)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        peak = PeakMemory(process.pid)
        shown, _ = process.communicate()
        most = peak.stop()
    if process.returncode:
        raise SystemExit(f"univg sca synth ended with exit code {process.returncode}")
    return json.loads(shown.splitlines()[-1]), most


class PeakMemory:
    """Samples the resident memory of a process and its descendants, added up.

    Pages that processes share count once for each, so the true figure is lower.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.most = pid, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the highest sum seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self.most

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self.most = max(self.most, resident_bytes(self.pid))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of `pid` and all below it; 0 where there is no /proc."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    family = {pid}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(pages.get(p, 0) for p in family) * os.sysconf("SC_PAGE_SIZE")


def measure_growth(counts: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Time growth alone: where the domain grows with the attractors, and where it stays."""
    grow_once(1_000, DOMAIN_PX, 1)
    rows = []
    for count in counts:
        row: dict[str, Any] = {"attractors": count}
        for name, side in (("density", round(CELL_PX * count**0.5)), ("domain", DOMAIN_PX)):
            row[f"{name}_s"], row[f"{name}_nodes"] = grow_once(count, side, repeats)
        rows.append(row)
    for name in ("density", "domain"):
        for row in rows:
            linear = rows[0][f"{name}_s"] * row["attractors"] / rows[0]["attractors"]
            row[f"{name}_ratio"] = row[f"{name}_s"] / linear
    return rows


def grow_once(count: int, side: int, repeats: int) -> tuple[float, int]:
    """Grow one tree; the fastest of `repeats` times [s], and its nodes."""
    from univg.sca.growth import grow_tree
    from univg.sca.tree import Pace, plant

    attractors, root = scatter(count, side)
    blocked = np.zeros((side, side), np.uint8)
    pace = Pace(**DISTANCES, max_nodes=10_000_000, max_iterations=1_000_000)
    best, nodes = float("inf"), 0
    for _ in range(repeats):
        start = time.perf_counter()
        nodes = grow_tree(plant(root), attractors, blocked, pace, seed=1).size
        best = min(best, time.perf_counter() - start)
    return best, nodes


def scatter(count: int, side: int) -> tuple[Floats, Floats]:
    """Return `count` attractors anywhere in the domain, and a root in its middle."""
    rng = np.random.Generator(np.random.PCG64(count))
    return rng.random((count, 2)) * (side - 1), np.array([[side / 2, side / 2]])


def grow_plainly(
    roots: Floats, attractors: Floats, attraction_px: float, kill_px: float, step_px: float,
    until_held: bool = False,
) -> tuple[Floats, int]:  # fmt: skip
    """The paper's steps 1 to 6 in plain NumPy; returns the nodes (n, 2) and the rounds taken.

    A node is held when its attractors pull it to opposite sides, or to where its last child
    stands: it would sprout at one spot for ever. Here it lets go of them, for later nodes to claim;
    `until_held` stops before the first such round, up to which the steps are the paper's.
    """
    nodes, alive = roots.astype(np.float64), attractors
    since = np.zeros(len(alive), np.int64)  # an attractor is let go of by all nodes before this
    last = np.full((len(nodes), 2), np.inf)
    rounds = 0
    while True:
        offset = alive[:, None] - nodes[None]
        distance = np.sqrt((offset**2).sum(axis=2))  # every attractor, every node
        killed = (distance <= kill_px).any(axis=1)  # eq. (5), (6)
        alive, since = alive[~killed], since[~killed]
        offset, distance = offset[~killed], distance[~killed]
        distance[np.arange(len(nodes)) < since[:, None]] = np.inf
        nearest = distance.argmin(axis=1)  # step 1
        rows = np.arange(len(alive))
        near = distance[rows, nearest] < attraction_px
        grown, held = [], []
        for node in np.unique(nearest[near]):  # steps 2 to 5, eq. (2) to (4)
            mine = rows[near & (nearest == node)]
            course = (offset[mine, node] / distance[mine, node][:, None]).mean(axis=0)
            size = np.hypot(*course)
            place = nodes[node] + step_px * course / max(size, 1e-9)
            if size < 0.1 or np.hypot(*(place - last[node])) < 0.3 * step_px:
                held.append(node)
                continue
            last[node] = place
            grown.append(place)
        if not (grown or held) or (held and until_held):
            return nodes, rounds
        since[near & np.isin(nearest, held)] = len(nodes)
        nodes = np.vstack([nodes, *grown])
        last = np.vstack([last, np.full((len(grown), 2), np.inf)])
        rounds += 1


def measure_baseline(count: int) -> dict[str, Any]:
    """Grow the same tree with univg and in plain NumPy."""
    from univg.sca.growth import grow_tree
    from univg.sca.tree import Pace, plant

    side = round(CELL_PX * count**0.5)
    attractors, root = scatter(count, side)
    blocked = np.zeros((side, side), np.uint8)
    pace = Pace(**DISTANCES, max_nodes=10_000_000, max_iterations=1_000_000, margin_px=1e6)
    grow_tree(plant(root), attractors, blocked, pace, seed=1)
    start = time.perf_counter()
    tree = grow_tree(plant(root), attractors, blocked, pace, seed=1)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    nodes, _ = grow_plainly(root, attractors, **DISTANCES)
    plain = time.perf_counter() - start
    return {
        "attractors": count,
        "nodes": tree.size,
        "baseline_nodes": len(nodes),
        "univg_s": ours,
        "baseline_s": plain,
        "ratio": plain / ours,
    }


def print_masks(found: dict[str, Any]) -> None:
    """Print the first part."""
    print(f"Masks: {found['masks']} of {found['side_px']}², {found['workers']} workers")
    print(f"  {found['masks_per_s']:.0f} masks/s, {found['nodes_per_s']:,.0f} nodes/s")
    print(f"  {found['wall_s']:.1f} s; with the start of Python {found['with_start_s']:.1f} s")
    print(f"  10,000 masks: {found['s_per_10000']:.1f} s")
    shares = ", ".join(f"{part} {share:.0%}" for part, share in found["shares"].items())
    print(f"  worker time: {shares}; workers busy {found['busy']:.0%}")
    print(
        f"  peak memory, resident pages of all processes added up: {found['peak_rss_mib']:.0f} MiB"
    )
    print(f"  {found['png_kib']:.1f} KiB a PNG")


def print_growth(rows: list[dict[str, Any]]) -> None:
    """Print the second part."""
    print("Growth of one tree; ratio: time over that of linear growth from the first row")
    print("              constant density             constant domain")
    print("  attractors   nodes      ms  ratio     nodes      ms  ratio")
    for row in rows:
        cells = "".join(
            f"{row[f'{name}_nodes']:9,} {1000 * row[f'{name}_s']:8.1f} {row[f'{name}_ratio']:5.2f}"
            for name in ("density", "domain")
        )
        print(f"  {row['attractors']:10,}{cells}")


def print_baseline(found: dict[str, Any]) -> None:
    """Print the third part."""
    print(f"Baseline: {found['attractors']:,} attractors, {found['nodes']:,} nodes")
    print(f"  univg {1000 * found['univg_s']:.1f} ms, plain NumPy {found['baseline_s']:.2f} s")
    print(f"  ratio {found['ratio']:,.0f}")


def main() -> None:
    """Measure, print and, if asked, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=2000, help="of each modality (2000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--size", type=int, default=512, help="side [px] (512)")
    parser.add_argument("--out", type=Path, help="where to make the temporary folder")
    parser.add_argument("--json", type=Path, help="save the figures here, too")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds")
    asked = parser.parse_args()
    masks = 8 if asked.quick else asked.masks
    counts = ATTRACTORS[:3] if asked.quick else ATTRACTORS
    figures: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    with tempfile.TemporaryDirectory(prefix="univg-speed-", dir=asked.out) as folder:
        figures["masks"] = measure_masks(masks, asked.workers, asked.size, Path(folder))
    print_masks(figures["masks"])
    figures["growth"] = measure_growth(counts, 3 if asked.quick else 5)
    print_growth(figures["growth"])
    figures["baseline"] = measure_baseline(300 if asked.quick else 2_000)
    print_baseline(figures["baseline"])
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
