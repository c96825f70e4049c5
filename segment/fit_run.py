"""A training run of a segmenter from its folders to its page.

In: settings. Out: a run folder that is locked, claimed and gone on with like those of engines:
`model.safetensors`, `result.json`, `config.yaml`, checkpoints, figures, `report.html`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from univg.errors import ResumeError, UserError
from univg.files import make_folder
from univg.loop import run_files
from univg.loop.journal import METRICS
from univg.loop.options import check_folds, folder_of
from univg.manifest import lock_folder
from univg.pairs import Pair

from .data_store import Store
from .fit import Fit, count_synthetic, count_synthetic_steps, parse_options, resolve
from .fit_data import Data, arrange, choose_cut, read_masks, read_pairs
from .fit_files import (
    LIBRARIES,
    describe_model,
    describe_run,
    export_model,
    save_best,
    write_result,
)
from .networks import build_network, check_network
from .predict_tiles import round_tile
from .scale import describe_loss
from .start import find_start, start_from
from .thresholds import choose_threshold, find_dice

if TYPE_CHECKING:
    from accelerate import Accelerator

    from univg.loop.loop import Outcome

    from .fit_task import SegmentTask
    from .net_frame import Segmenter

TILE_PX = 512
FEW_SHOTS = 20
"""As few do not say what mean and spread of other images are."""


def fit_segmenter(asked: Fit) -> Outcome:
    """Train a segmenter; return how it went."""
    from univg.loop.folds import choose_steps

    given = asked
    shots, synthetic = read_pairs(asked)
    asked = resolve(asked, count_trained(asked, len(shots)), len(synthetic))
    check_request(asked)
    if not asked.leave_one_out:
        return _fit(asked, shots, synthetic, None)

    def fit_fold(fold: Fit) -> Outcome:
        return _fit(fold, shots, synthetic, None)

    asked = choose_steps(asked, len(shots), fit_fold)
    assert asked.stop_at is not None
    threshold = read_threshold(folder_of(given.out), len(shots), asked.stop_at)
    return _fit(asked, shots, synthetic, threshold)


def count_trained(asked: Fit, shots: int) -> int:
    """Return how many of `shots` are trained on."""
    return max(1, shots - asked.hold_out - (asked.left_out is not None))


def describe_plan(asked: Fit) -> str:
    """Say what a run would do; refuse what it would, a network that cannot be built too."""
    shots, synthetic = read_pairs(asked)
    asked = resolve(asked, count_trained(asked, len(shots)), len(synthetic))
    check_request(asked)
    if asked.leave_one_out:
        check_folds(asked, len(shots))
    data = arrange(asked, shots, synthetic)
    make_task(asked, data)
    cut = choose_cut(asked, data)
    folds = f"First {len(shots)} runs, each without one shot.\n" if asked.leave_one_out else ""
    made = count_synthetic(asked.batch or 1, asked.synthetic_share or 0.0, len(synthetic))
    total = (asked.max_steps or 0) * (asked.batch or 1)
    what = "whole images of" if cut.whole else "patches of"
    return (
        f"{len(data.real)} shots, {len(data.held_out)} held out, {len(synthetic)} synthetic pairs; "
        f"{data.how.channels}, longest side "
        f"{data.how.longest_px or 'as it is'}, {what} {cut.side_px} px.\n"
        f"Network {asked.network}{describe_source(asked)}, preset {asked.preset}: "
        f"{asked.max_steps} steps of {asked.batch} ({made} of them synthetic), {total} samples; "
        f"{asked.loss}, {asked.optimizer}, learning rate {asked.learning_rate:g}, "
        f"{asked.schedule}.\n{folds}"
        "Time: told after the first step.\n"
        f"Writes {asked.out / 'model.safetensors'}, report.html, checkpoints every "
        f"{asked.save_every} steps, metrics.jsonl."
    )


def check_request(asked: Fit) -> None:
    """Refuse what cannot work, before anything is built."""
    assert asked.network is not None
    check_network(asked.network, parse_options(asked.network_options))
    _check_packages(asked)
    run_files.check_tracker(asked)


def read_threshold(folds: Path, count: int, step: int) -> float:
    """Return the threshold that suits best, at `step`, the shots that each fold had left out."""
    from .fit_task import DICE_BY_THRESHOLD

    curves = []
    for number in range(count):
        path = folds / str(number + 1) / METRICS
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [row[DICE_BY_THRESHOLD] for row in rows
                 if row["step"] == step and DICE_BY_THRESHOLD in row]  # fmt: skip
        if not found:
            raise ResumeError(
                f"{path}: holds no Dice by threshold of step {step}, so another version of univg "
                f"made it; delete {folds} and run again"
            )
        curves.append(np.array(found[-1], np.float64))
    return choose_threshold(curves)[0]


def _check_packages(asked: Fit) -> None:
    for name in ("onnx", "onnxruntime") if asked.onnx else ():
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--onnx needs the package {name}, which is not installed: "
                "`pip install 'univg[onnx]'`, or leave --onnx away"
            )


def _fit(
    asked: Fit, shots: Sequence[Pair], synthetic: Sequence[Pair], threshold: float | None
) -> Outcome:
    from univg.loop.device import make_accelerator

    data = arrange(asked, shots, synthetic)
    make_folder(asked.out)
    accelerator = make_accelerator(asked)
    task = make_task(asked, data, threshold)  # a network that cannot be built claims no folder
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(asked.out))
            run_files.claim_run(asked, describe_run(asked, data, threshold))
            run_files.write_environment(asked.out, accelerator, LIBRARIES)
        accelerator.wait_for_everyone()
        return _train(asked, data, task, accelerator)


def make_task(asked: Fit, data: Data, threshold: float | None = None) -> SegmentTask:
    """Return the task of a run."""
    import torch

    from univg.loop.loading import choose_threads

    from .fit_task import SegmentTask, Tiling

    cut = choose_cut(asked, data)
    options = parse_options(asked.network_options)
    side = cut.side_px
    fixed = is_fixed(asked.network or "")
    size = (side, side) if fixed else None
    network: Segmenter = build_network(
        asked.network or "", data.how.count, size, seed=asked.seed, **options
    )
    start = find_start(asked.start_from)
    if start is not None:
        start_from(network, start)
    tiling = Tiling(tile_px=side if fixed else max(TILE_PX, round_tile(side)), fixed=fixed)
    stores = [Store(pairs, data.how, asked.memory_mb / 3) if pairs else None
              for pairs in (data.real, data.synthetic, data.held_out)]  # fmt: skip
    real, synthetic, held_out = stores
    assert real is not None
    task = SegmentTask(
        network,
        asked.loss or "bce",
        real,
        synthetic,
        batch=asked.batch or 1,
        synthetic_count=count_synthetic(
            asked.batch or 1, asked.synthetic_share or 0.0, len(data.synthetic)
        ),
        synthetic_steps=count_synthetic_steps(asked),
        cut=cut,
        tiling=tiling,
        seed=asked.seed,
        held_out=held_out,
        channels_last=torch.cuda.is_available()
        if asked.channels_last is None
        else asked.channels_last,
        loaders=choose_threads(asked.loaders, on_gpu=torch.cuda.is_available()),
        facts=describe_model(asked, data, tiling.tile_px, tiling.fixed),
    )
    task.fixed_threshold = threshold
    return task


def is_fixed(network: str) -> bool:
    """Whether a network may work at one size only: those of others are not known to take any."""
    return ":" in network


def _train(asked: Fit, data: Data, task: SegmentTask, accelerator: Accelerator) -> Outcome:
    from univg.loop.loop import train

    from .fit_report import write_report
    from .fit_task import MODEL

    def say(text: str) -> None:
        if accelerator.is_main_process:
            print(text, flush=True)  # noqa: T201

    say(describe_start(asked, data, task, accelerator))
    outcome = train(task, asked, accelerator, say)
    if not accelerator.is_main_process:
        return outcome
    threshold, dice, curves = task.score()
    if task.fixed_threshold is not None:
        threshold = task.fixed_threshold
        dice = find_dice(curves, threshold)
    outcome.files += export_model(asked, asked.out / MODEL)
    if task.held_out and (outcome.best_step or outcome.steps) < outcome.steps:
        outcome.files += save_best(asked.out, task)
    write_result(asked, outcome, threshold=threshold, dice=dice, dice_by_threshold=curves)
    write_report(asked, data, task, outcome, (threshold, dice, curves))
    say(describe_end(asked, task, outcome, threshold, dice))
    return outcome


def describe_start(asked: Fit, data: Data, task: SegmentTask, accelerator: Accelerator) -> str:
    """Return what is trained, in a line or two."""
    weights = sum(weight.numel() for weight in task.trained().values())
    precision = accelerator.mixed_precision
    what = f"{'images' if task.cut.whole else 'patches'} of {task.cut.side_px} px"
    last = task.synthetic_steps
    until = "" if last is None or not task.synthetic_count else f" up to step {last}"
    text = (
        f"{asked.network}: {weights / 1e6:,.2f} M weights{describe_source(asked)}; "
        f"{len(data.real)} shots, "
        f"{len(data.synthetic)} synthetic pairs ({task.synthetic_count} of each batch of "
        f"{asked.batch}{until}), {what}, {asked.max_steps} steps on {accelerator.device}, "
        f"precision {'fp32' if precision == 'no' else precision}"
    )
    if not task.held_out and not asked.leave_one_out and asked.stop_at is None:
        text += (
            "\nno shot is held out, so nothing is validated on; --hold-out or --leave-one-out "
            "shows overtraining"
        )
    if task.module.normalisers and len(data.real) <= FEW_SHOTS:
        text += (
            f"\nits normalisation is of batches, and {len(data.real)} shots say little of how "
            "images differ; norm=instance among --network-options, where offered, is safer"
        )
    loss = describe_loss(read_masks(data.real), data.how.longest_px)
    return f"{text}\n{loss}" if loss else text


def describe_source(asked: Fit) -> str:
    """Return what the weights are at first, where they are not random."""
    return f" that start from {asked.start_from}" if find_start(asked.start_from) else ""


def describe_end(
    asked: Fit, task: SegmentTask, outcome: Outcome, threshold: float, dice: float
) -> str:
    """Return how it went, in a line."""
    text = run_files.describe_speed(asked, outcome)
    whom = "held-out shots" if task.held_out else "the shots it was trained on"
    text += f"; Dice {dice:.4f} on {whom}, cut at {threshold:g}"
    if task.held_out and outcome.best_step is not None:
        text += f"; best {1 - outcome.best_check:.4f} at step {outcome.best_step}"
    return f"{text}; {', '.join(map(str, outcome.files))}"
