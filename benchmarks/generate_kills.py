"""Whether killed runs come to the same bytes: `python benchmarks/generate_kills.py`.

For each engine of `univg generate` a run is killed (kill -9, with its workers) at random moments,
started again by the same command, killed again, as often as asked; then the folder is compared by
hash with that of an uninterrupted run. After each kill a reader opens the folder: what its manifest
names must be whole.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine_speed import describe_machine, shown_command

COMMAND = "import sys; from univg.cli import main; sys.exit(main(sys.argv[1:]))"
SIDE = "96"


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--engines", nargs="+", default=["procedural", "composite", "diffusion"])
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    facts = {
        "command": shown_command(Path(__file__).stem, None),
        "machine": describe_machine("cpu"),
    }
    with tempfile.TemporaryDirectory() as place:
        masks, shots = Path(place) / "masks", Path(place) / "shots"
        univg("generate", "masks", "--out", masks, "--count", asked.count, "--size", SIDE, SIDE)
        univg("generate", "images", "--masks", masks, "--out", shots, "--count", 5)
        for engine in asked.engines:
            words = words_of(engine, masks, shots, asked.count)
            found[engine] = kill_often(words, Path(place) / engine, asked)
            print(engine, json.dumps(found[engine]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps({**facts, "engines": found}, indent=1) + "\n")
    if not all(row["equal"] and not row["torn"] for row in found.values()):
        sys.exit("a run that was killed came to other bytes")


def words_of(engine: str, masks: Path, shots: Path, count: int) -> list[Any]:
    """Return the command of an engine, but for --out."""
    words: list[Any] = ["generate", "images", "--masks", masks, "--image-engine", engine]
    words += ["--count", count, "--workers", 2]
    if engine == "composite":
        words += ["--shots", shots]
    if engine == "diffusion":
        words += ["--steps", 2, "--size", SIDE, SIDE]
    return words


def univg(*words: object) -> None:
    """Run a command to its end."""
    subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


def kill_often(words: list[Any], place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Return how a run fares that is killed again and again, beside one left in peace."""
    began = time.monotonic()
    univg(*words, "--out", place / "peace")
    whole_s = time.monotonic() - began
    rng = random.Random(asked.seed)
    tries = landed = torn = 0
    out = place / "killed"
    while landed < asked.kills:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, words), "--out", str(out)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 1.1 * whole_s))
        if process.poll() is None:
            landed += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        tries += 1
        torn += count_torn(out)
        if process.returncode == 0:  # done before it was killed: begin anew
            torn += hashes(out) != hashes(place / "peace")
            out = place / f"killed-{tries}"
    univg(*words, "--out", out)
    return {
        "kills": landed,
        "ended_before": tries - landed,
        "torn": torn,
        "equal": hashes(out) == hashes(place / "peace"),
    }


def count_torn(folder: Path) -> int:
    """Return how many items the manifest names that are not whole on disk."""
    path = folder / "manifest.jsonl"
    if not path.exists():
        return 0
    torn = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            row = json.loads(line)
            for role, digest in row["sha256"].items():
                file = folder / row[role]
                whole = file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == digest
                torn += not whole
    return torn


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
