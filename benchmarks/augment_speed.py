"""What augmentation costs a training run of a segmenter: the speed beside that on constant tensors.

    python benchmarks/augment_speed.py --steps 40 --out benchmarks/results/augment_speed.csv

Both runs are the loop's own, with the settings of `univg segment fit --preset laptop` and its
strongest augmentation, on pictures drawn here. They take turns, and who begins changes, so that
what else the machine does falls on both alike. Time counts from the `WARM_STEPS`th step on, when
pictures are decoded and memory is fitted, to the last; processor time is told too, which others do
not change: where all cores are busy, its ratio is that of the speeds. Also told: what one sample
takes to make, part by part. The aim is a share of 0.9.
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
from typing import Any

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

WARM_STEPS = 4
AIM = 0.9
COLUMNS = ("network", "patch_px", "batch", "channels", "threads", "loaders",
           "constant_samples_per_s", "augmented_samples_per_s", "share", "constant_cpu_ms",
           "augmented_cpu_ms", "cpu_share", "load_ms", "turns", "steps")  # fmt: skip


class Timed(SegmentTask):
    """The same task, with the time at which each sample was asked for."""

    times: list[tuple[float, float]]
    """On the wall and of the processor [s]."""

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        self.times.append((time.perf_counter(), time.process_time()))
        return self.make(item, rng)

    def make(self, item: int, rng: np.random.Generator) -> Sample:
        """Return a sample as a run has it."""
        return super().load(item, rng)


class Constant(Timed):
    """The same, but one sample, made once."""

    _made: Sample | None = None

    def make(self, item: int, rng: np.random.Generator) -> Sample:
        if self._made is None:
            self._made = super().make(item, rng)
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


def make(asked: Fit, constant: bool) -> Timed:
    """Return the task of a run, with real or with constant samples."""
    shots, synthetic = read_pairs(asked)
    task: Any = make_task(asked, arrange(asked, shots, synthetic))
    task.__class__, task.times, task.checks = Constant if constant else Timed, [], 0
    found: Timed = task
    return found


def measure(asked: Fit, constant: bool, out: Path) -> tuple[float, float]:
    """Return samples a second of one run, and milliseconds of processor time a sample."""
    here = dataclasses.replace(asked, out=out)
    out.mkdir(parents=True)
    task, accelerator = make(here, constant), make_accelerator(here)
    outcome = train(task, here, accelerator)
    batch = outcome.samples // outcome.steps
    # The first samples are those on which memory is fitted; then a batch a step.
    first, last = batch * (1 + WARM_STEPS), batch * outcome.steps
    (begun, begun_cpu), (ended, ended_cpu) = task.times[first], task.times[last]
    count = last - first
    return count / (ended - begun), 1000 * (ended_cpu - begun_cpu) / count


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
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--network", default="unet-small")
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--loaders", type=int)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.steps < 2 * WARM_STEPS:
        parser.error(f"--steps {asked.steps}: take {2 * WARM_STEPS} at least")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_pictures(place / "shots", 5, asked.size_px, asked.channels)
        write_pictures(place / "made", 20, asked.size_px, asked.channels)
        settings = Fit(
            shots=place / "shots", synthetic=(place / "made",), out=place / "unused",
            network=asked.network, max_steps=asked.steps, validate_every=0, preview_every=0,
            save_every=10**6, tracker="none", loaders=asked.loaders,
        )  # fmt: skip
        settings = resolve(settings, 5, 20)
        task = make(settings, constant=False)
        parts = time_parts(task)
        for part, taken in parts.items():
            print(f"{part:>16} {taken:7.2f} ms")
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for turn in range(asked.turns):
            for constant in (True, False) if turn % 2 == 0 else (False, True):
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
           torch.get_num_threads(), task.loaders, round(plain, 2), round(varied, 2),
           round(varied / plain, 4), round(plain_cpu, 2), round(varied_cpu, 2),
           round(plain_cpu / varied_cpu, 4), round(parts["all of a sample"], 2),
           asked.turns, asked.steps)  # fmt: skip
    print(
        f"augmented {varied:.2f}, constant {plain:.2f} samples/s: {varied / plain:.1%}; "
        f"by processor time {plain_cpu / varied_cpu:.1%}; the aim is {AIM:.0%}"
    )
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        with asked.out.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([COLUMNS, row])


if __name__ == "__main__":
    main()
