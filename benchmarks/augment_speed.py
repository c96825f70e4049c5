"""What augmentation costs a training run of a segmenter: the speed beside that on constant tensors.

    python benchmarks/augment_speed.py --steps 30 --out benchmarks/results/augment_speed.csv

Both runs are the loop's own, with the settings of `univg segment fit --preset laptop` and its
strongest augmentation, on pictures drawn here. They take turns, so that what else the machine does
falls on both alike; processor time is told too, which others do not change: where all cores are
busy, its ratio is that of the speeds. Also told: what one sample takes to make, part by part.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from univg.images import encode_image
from univg.loop.device import make_accelerator
from univg.loop.loop import train
from univg.loop.task import Sample
from univg.masks import encode_mask
from univg.seeds import rng_for
from univg.segment.augment import draw_augmentation
from univg.segment.augment_apply import change_tones, make_map, warp_picture
from univg.segment.fit import Fit, resolve
from univg.segment.fit_data import arrange, read_pairs
from univg.segment.fit_run import make_task
from univg.segment.fit_task import SegmentTask
from univg.segment.patches import cut_sample, draw_sample

COLUMNS = ("network", "patch_px", "batch", "channels", "threads", "constant_samples_per_s",
           "augmented_samples_per_s", "share", "constant_cpu_ms", "augmented_cpu_ms", "cpu_share",
           "load_ms", "turns", "steps")  # fmt: skip


class Constant(SegmentTask):
    """The same task, its samples made once."""

    _made: Sample | None = None

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        if self._made is None:
            self._made = super().load(item, rng)
        return self._made


def write_pictures(folder: Path, count: int, size: int, channels: int) -> None:
    """Write pairs of smooth noise and curves."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(count):
        rng = np.random.default_rng(k)
        mask = np.zeros((size, size), np.uint8)
        for _ in range(12):
            points = np.cumsum(rng.normal(0, size / 30, (40, 2)), axis=0) + rng.uniform(0, size, 2)
            cv2.polylines(mask, [points.astype(np.int32)], False, 1, 4)
        ground = cv2.GaussianBlur(rng.normal(0, 1, (size, size, channels)), (0, 0), 5)
        ground = ground.reshape(size, size, channels)
        image = np.clip(120 + 200 * ground - 40 * mask[:, :, None], 0, 255).astype(np.uint8)
        image = image if channels == 3 else image[:, :, 0]
        (folder / "images" / f"{k}.png").write_bytes(encode_image(image))
        (folder / "masks" / f"{k}.png").write_bytes(encode_mask(mask > 0))


def make(asked: Fit, constant: bool) -> SegmentTask:
    """Return the task of a run, with real or with constant samples."""
    shots, synthetic = read_pairs(asked)
    task = make_task(asked, arrange(asked, shots, synthetic))
    task.checks = 0
    if constant:
        task.__class__ = Constant
    return task


def measure(asked: Fit, constant: bool, out: Path) -> tuple[float, float]:
    """Return samples a second of one run, and milliseconds of processor time a sample."""
    here = dataclasses.replace(asked, out=out)
    out.mkdir(parents=True)
    task, accelerator = make(here, constant), make_accelerator(here)
    start = time.process_time()
    outcome = train(task, here, accelerator)
    spent = time.process_time() - start
    return outcome.samples / outcome.seconds, 1000 * spent / outcome.samples


def time_of(work: Callable[[int], object], count: int = 200) -> float:
    """Return milliseconds a call."""
    work(0)
    start = time.perf_counter()
    for k in range(count):
        work(k)
    return 1000 * (time.perf_counter() - start) / count


def time_parts(task: SegmentTask) -> dict[str, float]:
    """Return milliseconds of each part of one sample."""
    cut, example = task.cut, task.real.get(0)
    draws = [draw_sample(rng_for(0, "bench", k), example, cut) for k in range(200)]
    channels = example.image.pixels.shape[2]
    places = make_map(draws[0].augmentation.warp, cut.side_px, draws[0].centre)
    values = example.image.scale(warp_picture(example.image.pixels, places))
    mean = example.image.mean
    return {
        "draw": time_of(lambda k: draw_augmentation(rng_for(0, "b", k), cut.level, channels)),
        "map": time_of(lambda k: make_map(draws[k].augmentation.warp, cut.side_px, (96, 96))),
        "warp": time_of(lambda _: warp_picture(example.image.pixels, places)),
        "tones": time_of(lambda k: change_tones(values, draws[k].augmentation.tone, mean)),
        "all of a sample": time_of(lambda k: cut_sample(example, draws[k], cut.side_px)),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--network", default="unet-small")
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_pictures(place / "shots", 5, asked.size_px, asked.channels)
        write_pictures(place / "made", 20, asked.size_px, asked.channels)
        settings = Fit(
            shots=place / "shots", synthetic=(place / "made",), out=place / "unused",
            network=asked.network, max_steps=asked.steps, validate_every=0, preview_every=0,
            save_every=10**6, tracker="none",
        )  # fmt: skip
        settings = resolve(settings, 5, 20)
        parts = time_parts(make(settings, constant=False))
        for part, taken in parts.items():
            print(f"{part:>16} {taken:7.2f} ms")
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for turn in range(asked.turns):
            for constant in (True, False):
                taken_here = measure(settings, constant, place / f"{turn}-{int(constant)}")
                found[constant].append(taken_here)
                kind = "constant" if constant else "augmented"
                print(
                    f"turn {turn}: {kind} {taken_here[0]:.2f} samples/s, "
                    f"{taken_here[1]:.1f} ms of processor time a sample",
                    flush=True,
                )
    plain, plain_cpu = (statistics.median(column) for column in zip(*found[True], strict=True))
    varied, varied_cpu = (statistics.median(column) for column in zip(*found[False], strict=True))
    row = (asked.network, settings.patch_px, settings.batch, asked.channels,
           torch.get_num_threads(), round(plain, 2), round(varied, 2), round(varied / plain, 4),
           round(plain_cpu, 2), round(varied_cpu, 2), round(plain_cpu / varied_cpu, 4),
           round(parts["all of a sample"], 2), asked.turns, asked.steps)  # fmt: skip
    print(
        f"augmented {varied:.2f}, constant {plain:.2f} samples/s: {varied / plain:.1%}; "
        f"by processor time {plain_cpu / varied_cpu:.1%}"
    )
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        with asked.out.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([COLUMNS, row])


if __name__ == "__main__":
    main()
