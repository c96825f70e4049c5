"""How long adapting nano takes, whole commands: `python benchmarks/adaptation_times.py`.

`univg train adapt-masks` and `univg train adapt-images` on five procedural shots at the base's own
size, laptop preset, each in a process and a folder of its own: from the shell's prompt to the
report. Run it on an idle machine. `--shots FOLDER` takes shots of your own instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engine_speed import describe_machine, save_figures, shown_command

COMMANDS = ("adapt-masks", "adapt-images")
SIDE = "256"


def main(words: Sequence[str] | None = None) -> None:
    """Time, print and, if asked, save."""
    asked = read_words(words)
    figures: dict[str, Any] = {"command": shown_command(Path(__file__).stem, words)}
    figures["machine"] = describe_machine("cpu")
    times: dict[str, list[float]] = {command: [] for command in asked.commands}
    with tempfile.TemporaryDirectory(prefix="univg-times-", dir=asked.work) as place:
        shots = asked.shots or make_shots(Path(place) / "shots")
        for number in range(asked.runs):
            for command, found in times.items():
                load = os.getloadavg()[0]
                found.append(time_command(command, shots, Path(place) / f"{command}-{number}"))
                print(f"{command} {found[-1]:.0f} s (load before: {load:.2f})", file=sys.stderr)
                figures["seconds"] = times
                save_figures(asked.out, figures, to_markdown(times))
    print(json.dumps(figures, indent=1))
    print(to_markdown(times))


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--runs", type=int, default=1, help="of each, taking turns (1)")
    parser.add_argument("--shots", type=Path, help="images/ and masks/ (five procedural ones)")
    parser.add_argument("--work", type=Path, help="where to make the temporary folder")
    parser.add_argument("--out", type=Path, help="save the figures here as JSON, .md beside it")
    asked = parser.parse_args(words)
    if asked.runs < 1:
        parser.error("--runs is at least 1")
    return asked


def make_shots(folder: Path) -> Path:
    """Write five procedural fundus pairs."""
    masks = folder.with_name("grown")
    univg("sca", "synth", "--out", masks, "--count", 5, "--size", SIDE, SIDE, "--seed", 5)
    univg("generate", "images", "--masks", masks, "--out", folder, "--seed", 5)
    return folder


def time_command(command: str, shots: Path, out: Path) -> float:
    """Return how many seconds `command` takes."""
    began = time.monotonic()
    univg("train", command, "--shots", shots, "--modality", "fundus", "--out", out)
    return time.monotonic() - began


def univg(*words: object) -> None:
    """Run a command to its end, its words kept for an error."""
    done = subprocess.run(
        [sys.executable, "-m", "univg", *map(str, words)],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"univg {words[0]} {words[1]} failed:\n{done.stdout[-2000:]}")


def to_markdown(times: dict[str, list[float]]) -> str:
    """Return the table."""
    lines = ["| univg train | runs | median, s | least | most |", "|---|---|---|---|---|"]
    for command, found in times.items():
        if found:
            cells = f"{median(found):.0f} | {min(found):.0f} | {max(found):.0f}"
            lines.append(f"| {command} | {len(found)} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
