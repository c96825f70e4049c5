"""Whether a killed recipe comes to the same table: `python benchmarks/recipe_kills.py`.

`univg run` on five procedural shots with a procedural test set, once in peace; then again, killed
(kill -9, with its workers) at random moments and started by the same command as often as asked, and
left to end. Table, pairs and segmenter of both are compared byte for byte. After each kill, every
pair that the manifest names must be whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from generate_kills import COMMAND, count_torn, hashes, univg

MODALITY = "octa"
COMPARED = (
    *("table.md", "table.csv", "segmenter.safetensors"),
    *("pairs/images", "pairs/masks", "pairs/manifest.jsonl"),
)


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--side-px", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60, help="of each segmenter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        words = prepare(place, asked)
        began = time.monotonic()
        univg(*words, "--out", place / "peace")
        whole_s = time.monotonic() - began
        landed, torn = kill_often(words, place / "killed", asked, whole_s)
        univg(*words, "--out", place / "killed")
        found = {
            "command": "python benchmarks/recipe_kills.py " + " ".join(sys.argv[1:]),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "seconds_in_peace": round(whole_s, 1),
            "kills": len(landed),
            "hit": landed,
            "torn": torn,
            "equal": contents(place / "peace") == contents(place / "killed"),
            "table": (place / "killed" / "table.md").read_text(),
        }
    print(json.dumps(found, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    if not found["equal"] or torn:
        sys.exit("a recipe that was killed came to something else")


def prepare(place: Path, asked: argparse.Namespace) -> list[Any]:
    """Make shots and test set; return the words of the recipe, but for --out."""
    side = asked.side_px
    univg("generate", "masks", "--out", place / "masks", "--modality", MODALITY, "--count", 11,
          "--size", side, side, "--seed", asked.seed)  # fmt: skip
    for name, first, count in (("shots", 0, 5), ("test", 5, 6)):
        univg("generate", "images", "--masks", place / "masks", "--modality", MODALITY,
              "--first", first, "--count", count, "--out", place / name)  # fmt: skip
    return [
        "run", "--shots", place / "shots", "--test", place / "test", "--modality", MODALITY,
        "--no-fit-card", "--pairs", asked.pairs, "--segment-steps", asked.steps,
        "--seed", asked.seed, "--workers", asked.workers,
    ]  # fmt: skip


def kill_often(
    words: list[Any], out: Path, asked: argparse.Namespace, whole_s: float
) -> tuple[list[str], int]:
    """Return the step that each kill hit, and how many finished items were not whole."""
    rng = random.Random(asked.seed)
    landed: list[str] = []
    torn = 0
    while len(landed) < asked.kills:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, words), "--out", str(out)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        # Each try begins with seconds of imports, in which nothing is written.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.05, 0.5) * whole_s)
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if ended and process.returncode != 0:
            sys.exit(f"the recipe ended by itself with {process.returncode}")
        torn += sum(
            count_torn(note.parent) for note in out.glob("steps/pairs-*/pairs/manifest.jsonl")
        )
        if ended:  # begin anew elsewhere, under the same name
            out.rename(out.with_name(f"{out.name}-{len(landed)}-{time.monotonic_ns()}"))
            continue
        landed.append(hit_step(out))
    return landed, torn


def hit_step(out: Path) -> str:
    """Return the step that was under way, by the folder that is not done."""
    open_steps = [p.name for p in out.glob("steps/*") if not (p / "done.json").exists()]
    return open_steps[0].rsplit("-", 1)[0] if open_steps else "between steps"


def contents(out: Path) -> dict[str, Any]:
    """Return what is compared of a finished run."""
    return {
        name: hashes(out / name) if (out / name).is_dir() else (out / name).read_bytes()
        for name in COMPARED
    }


if __name__ == "__main__":
    main()
