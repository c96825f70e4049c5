"""What a run would need, before it starts: memory, steps, what is written.

In: settings with nothing left open, the kind of weights that are trained. Out: text. The base's
configuration is read, its weights are not.
"""

from __future__ import annotations

import os
from typing import Literal

from univg.sd import inspect_base

from .options import Engine

Kind = Literal["lora", "loha", "unet", "control"]
GIB = 2**30
# Bytes a trained weight: itself, its gradient, two moments of Adam in fp32; moments in 8 bits.
STATE_BYTES = {"adamw": 16, "adam": 16, "adamw8bit": 10}
ACTIVATION_FLOATS = {"plain": 11_000, "checkpointed": 2_600}
"""Values kept for the backward pass, for each latent pixel and channel of the first block: the sum
over SD 1.5's blocks by their configuration, not measured."""


def describe_plan(asked: Engine, kind: Kind, written: str) -> str:
    """Return steps, samples and an estimate of memory beside what is free."""
    assert asked.max_steps is not None
    assert asked.batch is not None
    info = inspect_base(asked.base)
    need = estimate_bytes(asked, kind)
    free, device = free_bytes()
    verdict = "fits" if need < free else "may not fit: lower --micro-batch, raise checkpointing"
    total = asked.max_steps * asked.batch
    size = asked.size_px or info.native_px
    parameters = sum(info.parameters.values()) / 1e6
    return (
        f"Base {info.name}: {parameters:.1f} M parameters, {size} px.\n"
        f"Preset {asked.preset}: {asked.max_steps} steps of {asked.batch}, {total} samples.\n"
        f"Memory: about {need / GIB:.1f} GiB of {free / GIB:.1f} GiB free on {device}; {verdict}.\n"
        f"Writes {written}, checkpoints every {asked.save_every} steps, previews, metrics.jsonl."
    )


def estimate_bytes(asked: Engine, kind: Kind) -> float:
    """Return a rough estimate of the memory that training needs."""
    info = inspect_base(asked.base)
    unet = info.parameters["unet"]
    trained = {"unet": 1.0, "control": 0.42, "lora": 0.01, "loha": 0.02}[kind] * unet
    weights = 4.0 * sum(info.parameters.values()) + (4.0 * trained if kind == "control" else 0)
    state = STATE_BYTES[asked.optimizer or "adamw"] * trained + (4 * trained if asked.ema else 0)
    width = int(info.configs["unet"]["block_out_channels"][0])
    factor = 2 ** (len(info.configs["vae"]["block_out_channels"]) - 1)
    side = (asked.size_px or info.native_px) // factor
    how = "checkpointed" if asked.gradient_checkpointing else "plain"
    micro = asked.micro_batch or asked.batch or 1
    activations = 4.0 * micro * side * side * ACTIVATION_FLOATS[how] * width / 320
    return weights + state + activations


def free_bytes() -> tuple[int, str]:
    """Return the memory that is free, and where."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "the CPU"
    except (AttributeError, ValueError, OSError):
        return 4 * GIB, "the CPU (unknown, 4 GiB taken)"
