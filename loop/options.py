"""What a training run can be told, whatever it trains, and the values that a preset fills in.

In: a settings class that inherits `Training`, with fields left at None. Out: the same settings
with nothing left open: what the user named, else what the preset names for this command, else the
paper's value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from univg.config import check, settings
from univg.errors import ConfigError, UserError
from univg.manifest import RUN_NAME, refuse_strangers

CURVES = "leave-one-out.json"
"""What the folds found, in their folder."""
Optimizer = Literal["adamw", "adam", "adamw8bit"]
Schedule = Literal["constant", "constant_with_warmup", "cosine", "linear"]
Precision = Literal["auto", "no", "bf16", "fp16"]


@settings
class Training:
    """Options that all training commands share. A field left at None takes the preset's value."""

    out: Path
    """Run folder; new, empty, or of the same run, which then goes on."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    max_steps: Annotated[int, Ge(1)] | None = None
    """Optimizer steps."""
    stop_at: Annotated[int, Ge(1)] | None = None
    """Stop after this step, the schedule still that of --max-steps; default: at its end."""
    batch: Annotated[int, Ge(1), Le(4096)] | None = None
    """Samples a step, over all processes and accumulated micro-batches."""
    micro_batch: Annotated[int, Ge(1), Le(4096)] | None = None
    """Samples that go through the network at once on one process; default: as many as fit."""
    learning_rate: Annotated[float, Gt(0), Le(1)] | None = None
    """Highest learning rate."""
    schedule: Schedule | None = None
    """How the learning rate goes on from there."""
    warmup_steps: Annotated[int, Ge(0)] | None = None
    """Steps of linear warm-up."""
    optimizer: Optimizer | None = None
    """adamw8bit needs bitsandbytes and a GPU."""
    weight_decay: Annotated[float, Ge(0), Le(1)] | None = None
    """Weight decay of AdamW."""
    clip_norm: Annotated[float, Gt(0)] | None = 1.0
    """Gradients longer than this are scaled down to it."""
    ema: Annotated[float, Ge(0), Le(1)] | None = None
    """Decay of the moving average of the weights, which is then what is saved; 0: none."""
    precision: Precision = "auto"
    """Mixed precision; auto: bf16 where the processor or GPU computes it, else none."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool | None = None
    """Memory layout; default: on for GPUs."""
    gradient_checkpointing: bool | None = None
    """Trade time for memory."""
    save_every: Annotated[int, Ge(1)] | None = None
    """Steps between checkpoints; default: a tenth of the run."""
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    """Checkpoints kept."""
    preview_every: Annotated[int, Ge(0)] | None = None
    """Steps between previews, 0: none; default: a fifth of the run."""
    validate_every: Annotated[int, Ge(0)] | None = None
    """Steps between validations, 0: none; default: a twentieth of the run, at least 20 steps."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where losses and previews go besides OUT/metrics.jsonl; wandb sends them to its servers."""


T = TypeVar("T", bound=Training)

PAPER: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.01,
    "ema": 0.0,
    "gradient_checkpointing": False,
}
"""Values that the paper's runs share where a command names no other."""


def fill_in(asked: T, presets: Mapping[str, Mapping[str, Any]], name: str) -> T:
    """Return `asked` with each None replaced by the value of preset `name`, steps resolved."""
    if name not in presets:
        raise ConfigError(f"preset `{name}` is not offered here; there are: {', '.join(presets)}")
    values = {**PAPER, **presets["paper"], **presets[name]}
    names = {field.name for field in dataclasses.fields(asked)}
    unknown = set(values) - names
    if unknown:
        raise AssertionError(f"preset {name} names unknown fields: {sorted(unknown)}")
    opened = {key: value for key, value in values.items() if getattr(asked, key) is None}
    return check(_space_events(dataclasses.replace(asked, **opened)))


def _space_events(asked: T) -> T:
    steps = asked.max_steps or 1
    spaced = {"save_every": (10, 1), "preview_every": (5, 1), "validate_every": (20, 20)}
    opened: dict[str, Any] = {
        key: max(least, -(-steps // parts))
        for key, (parts, least) in spaced.items()
        if getattr(asked, key) is None
    }
    return dataclasses.replace(asked, **opened)


def check_folds(settings: Any, shots: int) -> None:
    """Refuse what cannot be left out in turn."""
    if shots < 2:
        raise UserError(f"--leave-one-out needs two shots at least, there is {shots}")
    if settings.hold_out:
        raise UserError("--leave-one-out holds each shot out in turn; leave --hold-out away")
    if getattr(settings, "left_out", None) is not None:
        raise UserError("--leave-one-out leaves each shot out in turn; leave --left-out away")
    if settings.stop_at:
        raise UserError("--leave-one-out finds the step to stop at; leave --stop-at away")
    _check_folder(settings.out)


def folder_of(out: Path) -> Path:
    """Return the folder of the folds of the run in `out`."""
    return out.parent / f"{out.name}-folds"


def _check_folder(out: Path) -> None:
    """Refuse a folder that the run for all shots could not take once the folds are trained."""
    if not out.is_dir():
        return
    if not (out / RUN_NAME).exists():
        refuse_strangers(out)
    elif not (folder_of(out) / CURVES).exists():
        raise UserError(
            f"{out}: holds a run that was trained without --leave-one-out; choose another --out"
        )
