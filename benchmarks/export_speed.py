"""How fast and how lean `univg export` is: `python benchmarks/export_speed.py` (Linux).

Pairs are rendered here (procedural, fundus), a few of them, and linked under as many names as asked
for. Each export runs as a process of its own, from start to end: listing, checking every file,
writing, flushing. Reported: pairs a second of the whole and peak memory (the largest process), for
speed at 512², for memory at 1,000 and 20,000 smaller pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from univg.generate.images import Images
from univg.generate.images import run as render
from univg.manifest import encode_row, read_rows
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize

COMMAND = """
import pathlib, resource, sys
from univg.cli import main
code = main(sys.argv[1:])
# Not ru_maxrss of the process itself: that begins with the memory of whoever started it.
status = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2]
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("PEAK_KIB", int(status.split()[0]), used)
sys.exit(code)
"""
RENDERED = 24
Figures = dict[str, Any]


def make_pairs(folder: Path, count: int, side_px: int) -> Path:
    """Return a folder of `count` pairs with a manifest: `RENDERED` real files, many names."""
    few = folder / f"few-{side_px}"
    if not few.exists():
        size = (side_px, side_px)
        synthesize(Synth(out=few / "synth", count=RENDERED, size=size, workers=1))
        render(Images(masks=few / "synth", out=few / "run", workers=1))
    rows = read_rows(few / "run")
    many = folder / f"pairs-{side_px}-{count}"
    for name in ("images", "masks"):
        (many / name).mkdir(parents=True)
    with (many / "manifest.jsonl").open("wb") as manifest:
        for index in range(count):
            row = dict(rows[index % len(rows)])
            row |= {"id": f"fundus-{index:07d}", "index": index}
            for role in ("image", "mask"):
                old = few / "run" / row[role]
                row[role] = f"{role}s/{row['id']}.png"
                link(old, many / row[role])
            manifest.write(encode_row(row))
    return many


def link(old: Path, new: Path) -> None:
    """Give a file another name; a copy where a disk allows no more links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def measure(pairs: Path, out: Path, to: str, count: int, workers: int) -> Figures:
    """Export once, as a process of its own; return rate and peak memory."""
    words = ["export", str(pairs), str(out), "--to", to, "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE)
    said = process.stdout.read().decode() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    peak_kib = max(int(word) for word in said.partition("PEAK_KIB")[2].split())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return {
        "to": to, "pairs": count, "workers": workers, "wall_s": round(wall_s, 2),
        "pairs_per_s": round(count / wall_s, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "written_mb": round(size / 1e6, 1), "peak_rss_mb": round(peak_kib / 1024, 1),
    }  # fmt: skip


def save(out: Path | None, rows: Sequence[Figures]) -> None:
    """Save what was measured so far; `load` tells what else the machine had to do."""
    if out is None:
        return
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def to_markdown(rows: Sequence[Figures]) -> str:
    """Return the table."""
    names = (
        "to",
        "side_px",
        "pairs",
        "workers",
        "pairs_per_s",
        "cpu_s",
        "written_mb",
        "peak_rss_mb",
    )
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows)])


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_it_is)
    add = parser.add_argument
    add("--to", nargs="+", default=["webdataset", "hf", "folder"], help="(webdataset hf folder)")
    add("--speed-pairs", type=int, default=1000, help="pairs of the speed runs, 0: none (1000)")
    add("--speed-px", type=int, default=512, help="their side (512)")
    add("--memory-pairs", nargs="*", type=int, default=[1000, 20_000], help="(1000 20000)")
    add("--memory-px", type=int, default=128, help="side of the pairs of the memory runs (128)")
    add("--workers", nargs="+", type=int, default=[1, 2], help="of the speed runs (1 2)")
    add("--rounds", type=int, default=2, help="speed runs of each kind; the best counts (2)")
    add("--out", type=Path, help="save the figures here as JSON")
    add("--work", type=Path, help="where to make the temporary folder")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and, if asked, save."""
    asked = read_words(words)
    rows: list[Figures] = []
    jobs = [("speed", asked.speed_px, asked.speed_pairs, n) for n in asked.workers]
    jobs += [("memory", asked.memory_px, count, 1) for count in asked.memory_pairs]
    with tempfile.TemporaryDirectory(prefix="univg-export-", dir=asked.work) as name:
        folder = Path(name)
        for what, side, count, workers in jobs:
            if not count:
                continue
            pairs = folder / f"pairs-{side}-{count}"
            if not pairs.exists():
                make_pairs(folder, count, side)
            for to in asked.to:
                rounds = asked.rounds if what == "speed" else 1
                found = [measure(pairs, folder / "out", to, count, workers) for _ in range(rounds)]
                best = max(found, key=lambda one: float(one["pairs_per_s"]))
                rows.append({"what": what, "side_px": side, "load": os.getloadavg()[0], **best})
                print(json.dumps(rows[-1]), file=sys.stderr)
                save(asked.out, rows)
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
