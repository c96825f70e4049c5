"""What every training command can be told, and the values that a preset fills in.

In: a settings class that inherits `Training`, with fields left at None. Out: the same settings
with nothing left open: what the user named, else what the preset names for this command, else the
paper's value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from univg.config import check, settings
from univg.errors import ConfigError

Preset = Literal["paper", "laptop", "gpu-24gb"]
Optimizer = Literal["adamw", "adam", "adamw8bit"]
Schedule = Literal["constant", "constant_with_warmup", "cosine", "linear"]
Precision = Literal["auto", "no", "bf16", "fp16"]
Fit = Literal["stretch", "crop", "pad"]


@settings
class Training:
    """Options that all training commands share. A field left at None takes the preset's value."""

    out: Path
    """Run folder; new, empty, or of the same run, which then goes on."""
    base: str = "nano"
    """`nano` (embedded), a diffusers folder, a single-file .safetensors checkpoint, or a hub id."""
    preset: Preset | None = None
    """Named values: paper, laptop, gpu-24gb. Default: laptop for nano, paper for other bases."""
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
    attention: Literal["auto", "sdpa", "plain", "xformers"] = "auto"
    """Attention kernels; auto: sdpa, for small pictures on a CPU plain matrix products, which are
    faster there; xformers needs that package and a GPU."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool | None = None
    """Memory layout; default: on for GPUs."""
    gradient_checkpointing: bool | None = None
    """Trade time for memory."""
    size_px: Annotated[int, Ge(64), Le(2048)] | None = None
    """Side of the square pictures; default: the base's own."""
    fit: Fit = "stretch"
    """How pictures come to a square: stretch the whole picture, crop its middle, pad its border."""
    save_every: Annotated[int, Ge(1)] | None = None
    """Steps between checkpoints; default: a tenth of the run."""
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    """Checkpoints kept."""
    preview_every: Annotated[int, Ge(0)] | None = None
    """Steps between previews, 0: none; default: a fifth of the run."""
    validate_every: Annotated[int, Ge(0)] | None = None
    """Steps between validations, 0: none; default: a twentieth of the run."""
    cache: Path | None = None
    """Folder of the latent cache; default: OUT/cache."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where losses and previews go besides OUT/metrics.jsonl; wandb sends them to its servers."""


@settings
class Engine(Training):
    """Options that the commands for engines share: Stable Diffusion's loss and its measures."""

    modality: str | None = None
    """Name or card of the modality, whose prompt is taken; default: a prompt for any vessels."""
    prompt: str | None = None
    """Prompt in place of the modality's."""
    prompt_drop: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of samples that are shown without prompt, which makes guidance possible."""
    min_snr: Annotated[float, Ge(0)] = 0.0
    """Gamma of min-SNR weighting, 5 is usual; 0: none."""
    noise_offset: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of noise that is the same all over a channel; 0: none."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that it ends in noise alone."""
    report_samples: Annotated[int, Ge(0), Le(10_000)] | None = None
    """Pictures drawn at the end to measure what was learnt; 0: none."""


@settings
class Shots:
    """Options of the commands that learn from a few annotated examples."""

    shots: Path
    """Folder of the shots: images/ and masks/; where masks alone are needed, also plain masks."""
    wanted: Annotated[int, Ge(1), Le(1000)] | None = None
    """How many shots to take, fewer are refused; default: all."""
    turns: Literal["none", "mirror", "all"] | None = None
    """Show each shot also mirrored, or in all eight positions of a square."""
    hold_out: Annotated[int, Ge(0)] = 0
    """Shots (the last ones) that are validated on instead of trained on."""
    left_out: Annotated[int, Ge(0)] | None = None
    """Number, from 0, of one shot to validate on instead; each fold of --leave-one-out has one."""
    skip_bad: bool = False
    """Leave shots out that cannot be used, and say so, instead of refusing."""
    leave_one_out: bool = False
    """First train once without each shot, to find the step after which the others get no better;
    then on all shots up to that step."""


TURNS: dict[str | None, tuple[int, ...]] = {
    "none": (0,),
    "mirror": (0, 4),
    "all": tuple(range(8)),
}
"""Positions of `pictures.turn` by the name of the option."""

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


def fill_in(asked: T, presets: Mapping[str, Mapping[str, Any]]) -> T:
    """Return `asked` with each None replaced by its preset's value and steps resolved."""
    name = asked.preset or ("laptop" if asked.base == "nano" else "paper")
    if name not in presets:
        raise ConfigError(f"preset `{name}` is not offered here; there are: {', '.join(presets)}")
    values = {**PAPER, **presets["paper"], **presets[name], "preset": name}
    names = {field.name for field in dataclasses.fields(asked)}
    unknown = set(values) - names
    if unknown:
        raise AssertionError(f"preset {name} names unknown fields: {sorted(unknown)}")
    opened = {key: value for key, value in values.items() if getattr(asked, key) is None}
    return check(_space_events(dataclasses.replace(asked, **opened)))


def _space_events(asked: T) -> T:
    steps = asked.max_steps or 1
    spaced = {"save_every": 10, "preview_every": 5, "validate_every": 20}
    opened: dict[str, Any] = {
        key: max(1, -(-steps // parts))
        for key, parts in spaced.items()
        if getattr(asked, key) is None
    }
    return dataclasses.replace(asked, **opened)
