"""How fast an engine takes a step: `python benchmarks/engine_speed.py --base sd15 --device cuda`.

For LoRA, LoHa and ControlNet at several batches: optimizer steps a second and peak memory of
`univg train` (its loop, its latent cache), of its options one by one, and of the same step written
plainly as diffusers' example scripts write it: pictures and prompts encoded in every step, the
loss read back in every step. The plain step's pictures lie decoded in memory, in its favour.
Frozen weights lie in the computing precision on a GPU, as `univg train` and those scripts keep
them there; `fp32 weights` leaves that to autocast. `sd15` is the architecture of SD 1.5 with random
weights, made on the device; no network. Time is taken over windows (10 steps on a GPU, 1 on a CPU)
after a warm-up; the figure is their median. A round measures all variants one after the other, the
next in reverse.
Measured on CPUs only so far. On a GPU each compiled variant takes a minute or more to start:
choose with --engines, --batches and --variants.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine_steps import Figures, Setup, Variant, run_ours
from plain_steps import run_plain

NATIVE_PX = {"sd15": 512, "small": 256, "tiny": 64}
ENGINES = ("lora", "loha", "control")
LIBRARIES = (
    "torch", "diffusers", "transformers", "accelerate", "peft", "lycoris-lora", "bitsandbytes",
)  # fmt: skip
PLAIN, OURS = "plain", "univg"
VARIANTS = (
    Variant(PLAIN, ours=False, half_base=True),
    Variant("plain, fp32 weights", ours=False),
    Variant(OURS, half_base=True),
    Variant("univg, fp32 weights"),
    Variant("no cache", cache=False, half_base=True),
    Variant("channels_last on", half_base=True, settings={"channels_last": True}),
    Variant("channels_last off", half_base=True, settings={"channels_last": False}),
    Variant("compile", half_base=True, settings={"compile": True}),
    Variant("8-bit Adam", half_base=True, settings={"optimizer": "adamw8bit"}),
    Variant("checkpointing", half_base=True, settings={"gradient_checkpointing": True}),
)


def measure(setup: Setup, engine: str, variant: Variant, batch: int) -> Figures:
    """Measure one variant; what goes wrong is part of the result."""
    import torch

    from univg.sd import quiet

    run = run_ours if variant.ours else run_plain
    found: Figures = {"engine": engine, "batch": batch, "variant": variant.name}
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # of the libraries; they would cut up the table
            found |= run(setup, engine, variant, batch)
    except Exception as error:
        found |= {"step_s": [], "error": f"{type(error).__name__}: {str(error).split(chr(10))[0]}"}
    found["whole_s"] = time.perf_counter() - start
    torch._dynamo.reset()
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.empty_cache()
    return found


def summarize(runs: Sequence[Figures]) -> list[Figures]:
    """Return a row for each engine, batch and variant, its rounds taken together."""
    rows: dict[tuple[Any, ...], Figures] = {}
    for run in runs:
        key = (run["engine"], run["batch"], run["variant"])
        row = rows.setdefault(key, {name: run[name] for name in ("engine", "batch", "variant")})
        row.setdefault("step_s", []).extend(run["step_s"])
        row |= {name: run[name] for name in ("error", "trained") if name in run}
        row |= {k: max(v, row.get(k) or 0) for k, v in run.items() if k.endswith("_mib") and v}
    for row in rows.values():
        times = row.pop("step_s")
        row["windows"] = len(times)
        if times:
            row["median_s"] = statistics.median(times)
            row["fastest_s"], row["slowest_s"] = min(times), max(times)
    for key, row in rows.items():
        for name in (PLAIN, "plain, fp32 weights"):
            beside = rows.get((*key[:2], name), {}).get("median_s")
            if beside and "median_s" in row:
                row[f"times {name}"] = beside / row["median_s"]
    return sorted(rows.values(), key=_place)


def _place(row: Figures) -> tuple[int, int, int]:
    names = [variant.name for variant in VARIANTS]
    return ENGINES.index(row["engine"]), row["batch"], names.index(row["variant"])


def to_markdown(rows: Sequence[Figures]) -> str:
    """Return the table."""
    lines = [
        "| engine | batch | variant | ms a step (fastest, slowest) | steps/s | x plain "
        "| x plain, fp32 | peak MiB | cache fill peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row['engine']} | {row['batch']} | {row['variant']} "
        if "median_s" not in row:
            lines.append(f"{start}| {row.get('error', 'nothing measured')[:80]} |||||||")
            continue
        spread = f"{1e3 * row['fastest_s']:.1f}, {1e3 * row['slowest_s']:.1f}"
        cells = [f"{1e3 * row['median_s']:.1f} ({spread})", f"{1 / row['median_s']:.2f}"]
        for name in (f"times {PLAIN}", "times plain, fp32 weights"):
            cells.append(f"{row[name]:.2f}" if name in row else "")
        for name in ("peak_mib", "fill_peak_mib"):
            cells.append(f"{row[name]:.0f}" if row.get(name) else "")
        lines.append(f"{start}| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_machine(device: str) -> Figures:
    """Say where and when this was measured, with what."""
    import torch

    info = Path("/proc/cpuinfo")
    names = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    found: Figures = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        memory_mib = torch.cuda.get_device_properties(0).total_memory // 2**20
        found |= {"gpu": torch.cuda.get_device_name(0), "gpu_mib": memory_mib}
        found["cuda"] = torch.version.cuda
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def make_setup(asked: argparse.Namespace, folder: Path) -> Setup:
    """Return what the command line asked for, with nothing left open."""
    from univg.loop.device import choose_precision
    from univg.sd import inspect_base

    size_px = asked.size_px or NATIVE_PX.get(asked.base) or inspect_base(asked.base).native_px
    on_gpu = asked.device == "cuda"
    window = 10 if on_gpu else 1
    return Setup(
        base=asked.base,
        device=asked.device,
        precision=choose_precision(asked.precision),
        size_px=size_px,
        steps=-(-(asked.steps or (50 if on_gpu else 5)) // window) * window,
        warmup_steps=10 if on_gpu else 2,
        seed=asked.seed,
        folder=folder,
    )


def choose_variants(setup: Setup, names: Sequence[str] | None = None) -> list[Variant]:
    """Return the variants called `names`, or all that differ from one another here."""
    if names:
        return [variant for variant in VARIANTS if variant.name in names]
    dull = {f"channels_last {'on' if setup.device == 'cuda' else 'off'}"}  # is the default
    if setup.precision == "no":
        dull.add("plain, fp32 weights")
    if setup.device == "cpu":
        dull.add("univg, fp32 weights")  # as they are there
    if setup.device == "cpu":
        # Compiling takes minutes each there; who wants it names it.
        dull.add("compile")
    if setup.device != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        dull.add("8-bit Adam")
    return [variant for variant in VARIANTS if variant.name not in dull]


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_it_is)
    add = parser.add_argument
    add("--base", choices=["sd15", "small", "tiny", "nano"], default="small", help="(small)")
    add("--device", choices=["cuda", "cpu"], default="cpu", help="(cpu)")
    add("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="(all)")
    add("--batches", nargs="+", type=int, default=[1, 2, 8], help="samples a step (1 2 8)")
    add("--variants", nargs="+", choices=[v.name for v in VARIANTS], help="(all that apply)")
    add("--steps", type=int, help="timed in each round (50 on a GPU, 5 on a CPU)")
    add("--rounds", type=int, default=2, help="times that all is measured (2)")
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
    """Measure, print and, if asked, save; after every measurement, so that none is lost."""
    asked = read_words(words)
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU here; take --device cpu")
    figures: Figures = {"command": shown_command("engine_speed", words)}
    figures["machine"] = describe_machine(asked.device)
    with tempfile.TemporaryDirectory(prefix="univg-speed-", dir=asked.work) as folder:
        setup = make_setup(asked, Path(folder))
        figures["setup"] = {k: v for k, v in vars(setup).items() if k != "folder"}
        print(json.dumps(figures, indent=1))
        variants, runs = choose_variants(setup, asked.variants), []
        for number in range(asked.rounds):
            for engine, batch in itertools.product(asked.engines, asked.batches):
                for variant in variants[:: -1 if number % 2 else 1]:
                    runs.append(measure(setup, engine, variant, batch))
                    print(f"{number + 1}/{asked.rounds} {describe_run(runs[-1])}", file=sys.stderr)
                    figures |= {"rows": summarize(runs), "runs": runs}
                    save_figures(asked.out, figures, to_markdown(figures["rows"]))
    print(to_markdown(figures["rows"]))


def describe_run(run: Figures) -> str:
    """Return one line on a measurement."""
    what = f"{run['engine']} batch {run['batch']} {run['variant']}"
    if not run["step_s"]:
        return f"{what}: {run.get('error', 'nothing measured')}"
    return f"{what}: {1e3 * statistics.median(run['step_s']):.1f} ms, whole {run['whole_s']:.0f} s"


def save_figures(path: Path | None, figures: Figures, table: str) -> None:
    """Write the figures as JSON and the table beside them, where that was asked for."""
    if path is None:
        return
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    path.with_suffix(".md").write_text(
        f"`{figures['command']}`\n\n{machine}\n\n{table}\n", encoding="utf-8"
    )


def shown_command(name: str, words: Sequence[str] | None) -> str:
    """Return the command as it was typed."""
    return " ".join(
        ["python", f"benchmarks/{name}.py", *(sys.argv[1:] if words is None else words)]
    )


if __name__ == "__main__":
    main()
