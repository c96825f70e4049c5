"""How fast pairs are drawn by a diffusion engine: `python benchmarks/draw_speed.py`.

Two parts. Whole: `univg generate images` with the base and its ControlNet, from masks on disk to
written pairs, pairs a second, with the time of each part. Bare: our sampler beside a loop written
plainly with diffusers' pipeline (a call a batch, as its documentation shows), both in the same run,
taking turns, by batch size; images a second, the ratio of medians, and on a GPU the share of its
bf16 peak.

On two CPU cores: `--base nano`. On a GPU: `--base sd15 --size 512 --batches 1 4 8 16 32 --compile`
(random weights: speed does not depend on them). Not yet measured on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from engine_speed import describe_machine, shown_command
from engine_steps import build_base

PROMPT = "fundus image"


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the figures."""
    asked = read_words(words)
    figures: dict[str, Any] = {
        "command": shown_command(Path(__file__).stem, words),
        "machine": describe_machine(asked.device),
        "base": asked.base,
        "size_px": asked.size,
        "steps": asked.steps,
    }
    if asked.base == "nano":
        figures["whole"] = measure_whole(asked)
        print(json.dumps(figures["whole"]))
    figures["bare"] = [measure_bare(asked, batch) for batch in asked.batches]
    print(to_markdown(figures["bare"]))
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def read_words(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="nano", help="nano, tiny, small or sd15")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=40, help="pairs of the whole run")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16, for the share")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(words)


def measure_whole(asked: argparse.Namespace) -> dict[str, Any]:
    """Return pairs a second of `univg generate images`, loading left out by a run before."""
    from univg.generate.images import Images, run
    from univg.sca.synth import Synth
    from univg.sca.synth import run as synthesize

    with tempfile.TemporaryDirectory() as place:
        masks = Path(place) / "masks"
        size = (asked.size, asked.size)
        synthesize(Synth(out=masks, count=asked.count, size=size, seed=1))
        began = time.monotonic()
        result = run(
            Images(
                masks=masks, out=Path(place) / "pairs", image_engine="diffusion",
                base=asked.base, steps=asked.steps, size=size, device=asked.device,
            )
        )  # fmt: skip
        seconds = time.monotonic() - began
    return {
        "pairs": result.pairs,
        "pairs_per_s": round(result.pairs / result.wall_s, 2),
        "with_loading_pairs_per_s": round(result.pairs / seconds, 2),
    }


def measure_bare(asked: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Return images a second of ours and of the plain loop, taking turns."""
    forget_earlier(asked.device)
    masks = [np.random.default_rng(k).random((asked.size, asked.size)) > 0.9 for k in range(batch)]
    ours, plain = make_ours(asked, masks), make_plain(asked, masks)
    for draw in (ours, plain):
        draw()  # compile, allocate
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(asked.repeats):
        for name, draw in (("ours", ours), ("plain", plain)):
            times[name].append(clock(draw, asked.device))
    rates = {name: batch / median(each) for name, each in times.items()}
    row: dict[str, Any] = {
        "batch": batch,
        "ours_per_s": round(rates["ours"], 3),
        "plain_per_s": round(rates["plain"], 3),
        "ratio": round(rates["ours"] / rates["plain"], 2),
    }
    if asked.peak_tflops:
        row["share_of_peak"] = round(
            rates["ours"] * flops_an_image(asked) / asked.peak_tflops / 1e12, 3
        )
    if asked.device.startswith("cuda"):
        row["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def forget_earlier(device: str) -> None:
    """Free what an earlier batch has left, graphs compiled for its shape included."""
    torch._dynamo.reset()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def clock(draw: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    draw()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def make_engine(asked: argparse.Namespace) -> tuple[Any, Any]:
    """Return a base and a ControlNet of its own."""
    from univg.sd import make_control

    base = build_base(asked.base, asked.device, 0)
    return base, make_control(base.unet, vae_factor=base.vae_factor, seed=0)


def make_ours(asked: argparse.Namespace, masks: Sequence[Any]) -> Callable[[], Any]:
    """Return a call that draws a batch with our sampler."""
    from univg.sd_sample import Compute, Sampler, Sampling

    base, control = make_engine(asked)
    sampler = Sampler(
        base,
        control,
        sampling=Sampling(steps=asked.steps),
        compute=Compute(device=asked.device, compile=asked.compile),
        size_px=(asked.size, asked.size),
    )
    seeds = list(range(len(masks)))
    return lambda: sampler.draw([PROMPT] * len(masks), seeds, masks)


def make_plain(asked: argparse.Namespace, masks: Sequence[Any]) -> Callable[[], Any]:
    """Return a call that draws a batch as diffusers' documentation does it."""
    from univg.sd import build_pipeline

    base, control = make_engine(asked)
    dtype = torch.float16 if asked.device.startswith("cuda") else torch.float32
    pipeline: Any = build_pipeline(base, control).to(asked.device, dtype)
    planes = torch.from_numpy(np.stack(masks).astype(np.float32))[:, None].repeat(1, 3, 1, 1)
    generators = [torch.Generator().manual_seed(k) for k in range(len(masks))]
    return lambda: (
        pipeline(
            prompt=[PROMPT] * len(masks),
            image=planes,
            generator=generators,
            num_inference_steps=asked.steps,
            guidance_scale=2.0,
            height=asked.size,
            width=asked.size,
        ).images
    )


def flops_an_image(asked: argparse.Namespace) -> float:
    """Return the floating-point operations of one image, counted on its networks."""
    from torch.utils.flop_counter import FlopCounterMode

    from univg.sd_sample import Compute, Sampler, Sampling

    base, control = make_engine(asked)
    sampler = Sampler(
        base, control, sampling=Sampling(steps=2), compute=Compute(device=asked.device),
        size_px=(asked.size, asked.size),
    )  # fmt: skip
    mask = np.zeros((asked.size, asked.size), np.bool_)
    with FlopCounterMode(display=False) as two:
        sampler.draw([PROMPT], [0], [mask])
    sampler = Sampler(
        base, control, sampling=Sampling(steps=1), compute=None, size_px=(asked.size, asked.size)
    )
    with FlopCounterMode(display=False) as one:
        sampler.draw([PROMPT], [0], [mask])
    a_step = two.get_total_flops() - one.get_total_flops()
    return float(one.get_total_flops() + (asked.steps - 1) * a_step)


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]) for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    print(platform.platform())
    main()
