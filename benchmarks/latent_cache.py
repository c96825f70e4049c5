"""What the latent cache saves: `python benchmarks/latent_cache.py --base nano`.

The same adaptation in the same loop, once on cached latents and prompts, once with pictures and
prompts encoded in every step. Reported: time a step of both, the share that the cache saves, what
filling it took, and after how many steps that is earned back. `small` has the layers of SD 1.5 and
about a tenth of its channels, random weights; `sd15` its full size. No network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine_speed import (
    ENGINES,
    OURS,
    describe_machine,
    describe_run,
    make_setup,
    measure,
    save_figures,
    shown_command,
)
from engine_steps import Figures, Variant

CACHED, ENCODED = Variant(OURS), Variant("no cache", cache=False)


def compare(runs: Sequence[Figures]) -> list[Figures]:
    """Return a row for each engine and batch."""
    # Filled once, by the first run on a kind of picture; a rate is all that is needed of it.
    fills = [run["fill_s"] / run["filled"] for run in runs if "fill_s" in run]
    rows = []
    for engine, batch in dict.fromkeys((run["engine"], run["batch"]) for run in runs):
        times: dict[str, list[float]] = {CACHED.name: [], ENCODED.name: []}
        row: Figures = {"engine": engine, "batch": batch}
        for run in runs:
            if (run["engine"], run["batch"]) == (engine, batch):
                times[run["variant"]] += run["step_s"]
                row |= {name: run[name] for name in ("error",) if name in run}
        rows.append(row)
        if not all(times.values()):
            continue
        cached, encoded = (statistics.median(times[v.name]) for v in (CACHED, ENCODED))
        row |= {"cached_s": cached, "encoded_s": encoded, "saved": 1 - cached / encoded}
        row |= {"windows": min(len(found) for found in times.values())}
        if fills:
            row["fill_s_a_picture"] = statistics.median(fills)
            if encoded > cached:
                earned = 5 * row["fill_s_a_picture"] / (encoded - cached)
                row["five_shots_earned_after_steps"] = earned
    return rows


def to_markdown(rows: Sequence[Figures]) -> str:
    """Return the table."""
    lines = [
        "| engine | batch | cached, ms a step | encoded in each step, ms | saved "
        "| filling, ms a picture | five shots earned back after |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row['engine']} | {row['batch']} "
        if "saved" not in row:
            lines.append(f"{start}| {row.get('error', 'nothing measured')[:80]} |||||")
            continue
        cells = [f"{1e3 * row['cached_s']:.1f}", f"{1e3 * row['encoded_s']:.1f}"]
        cells.append(f"{row['saved']:.0%}")
        if "fill_s_a_picture" in row:
            cells.append(f"{1e3 * row['fill_s_a_picture']:.1f}")
            earned = row.get("five_shots_earned_after_steps")
            cells.append("never" if earned is None else f"{earned:.0f} steps")
        lines.append(f"{start}| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_it_is)
    add = parser.add_argument
    add("--base", choices=["sd15", "small", "tiny", "nano"], help="(nano, where it is embedded)")
    add("--device", choices=["cuda", "cpu"], default="cpu", help="(cpu)")
    add("--engines", nargs="+", choices=ENGINES, default=["loha", "control"], help="(loha control)")
    add("--batches", nargs="+", type=int, default=[1, 4], help="samples a step (1 4)")
    add("--steps", type=int, help="timed in each round (50 on a GPU, 5 on a CPU)")
    add("--rounds", type=int, default=3, help="times that all is measured (3)")
    add("--size-px", type=int, help="side of the pictures (the base's own)")
    add("--precision", choices=["auto", "no", "bf16", "fp16"], default="auto", help="(auto)")
    add("--seed", type=int, default=0, help="(0)")
    add("--out", type=Path, help="save the figures here as JSON, the table beside them as .md")
    add("--work", type=Path, help="where to make the temporary folder")
    asked = parser.parse_args(words)
    if min(asked.rounds, asked.steps or 1, *asked.batches) < 1:
        parser.error("--rounds, --steps and --batches are at least 1")
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and, if asked, save."""
    asked = read_words(words)
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    from univg.sd_source import EMBEDDED

    if asked.base is None:
        asked.base = "nano" if EMBEDDED["nano"].is_dir() else "small"
    figures: Figures = {"command": shown_command("latent_cache", words)}
    figures["machine"] = describe_machine(asked.device)
    runs: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="univg-cache-", dir=asked.work) as folder:
        setup = make_setup(asked, Path(folder))
        figures["setup"] = {name: v for name, v in vars(setup).items() if name != "folder"}
        print(json.dumps(figures, indent=1))
        for number in range(asked.rounds):
            for engine, batch in itertools.product(asked.engines, asked.batches):
                for variant in (CACHED, ENCODED)[:: -1 if number % 2 else 1]:
                    runs.append(measure(setup, engine, variant, batch))
                    print(f"{number + 1}/{asked.rounds} {describe_run(runs[-1])}", file=sys.stderr)
                    figures |= {"rows": compare(runs), "runs": runs}
                    save_figures(asked.out, figures, to_markdown(figures["rows"]))
    print(to_markdown(figures["rows"]))


if __name__ == "__main__":
    main()
