"""What every command that trains an engine can be told.

In: a settings class that inherits `Engine`, with fields left at None. Out: the same settings with
nothing left open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le, Lt

from univg.config import settings
from univg.loop import options as of_the_loop
from univg.loop.options import Training

Preset = Literal["paper", "laptop", "gpu-8gb", "gpu-24gb"]
Fit = Literal["stretch", "crop", "pad"]


@settings
class Engine(Training):
    """Options that the commands for engines share."""

    base: str = "nano"
    """`nano` (embedded), a diffusers folder, a single-file .safetensors checkpoint, or a hub id."""
    preset: Preset | None = None
    """Named values: paper, laptop, gpu-24gb, gpu-8gb (not for the whole UNet). Default: laptop for
    nano, paper for other bases."""
    size_px: Annotated[int, Ge(64), Le(2048)] | None = None
    """Side of the square pictures; default: the base's own."""
    fit: Fit = "stretch"
    """How pictures come to a square: stretch the whole picture, crop its middle, pad its border."""
    cache: Path | None = None
    """Folder of the latent cache; default: OUT/cache."""
    attention: Literal["auto", "sdpa", "plain", "xformers"] = "auto"
    """Attention kernels; auto: sdpa, for small pictures on a CPU plain matrix products, which are
    faster there; xformers needs that package and a GPU."""
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

T = TypeVar("T", bound=Engine)


def fill_in(asked: T, presets: Mapping[str, Mapping[str, Any]]) -> T:
    """Return `asked` with each None replaced by its preset's value; default: laptop for nano."""
    name: Any = asked.preset or ("laptop" if asked.base == "nano" else "paper")
    filled = of_the_loop.fill_in(asked, presets, name)
    return dataclasses.replace(filled, preset=name)
