"""What a run would need, before it starts: memory, steps, what is written.

In: settings with nothing left open, the kind of weights that are trained. Out: text. The base's
configuration is read, its weights are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from univg.sd import inspect_base
from univg.sd_checkpoint import build_on_meta
from univg.sd_compute import choose_precision

from .options import Engine

if TYPE_CHECKING:
    from .adapters import AdapterSpec

Kind = Literal["adapter", "unet", "control"]
SHARES: dict[Kind, float] = {"unet": 1.0, "control": 0.42, "adapter": 0.0}
"""Trained weights as a share of the UNet's; an adapter's are counted."""
GIB = 2**30
# Bytes a trained weight: itself, its gradient, two moments of Adam in fp32; moments in 8 bits.
STATE_BYTES = {"adamw": 16, "adam": 16, "adamw8bit": 10}
ACTIVATION_FLOATS: dict[Kind, tuple[int, int]] = {
    "unet": (119_000, 34_000),
    "adapter": (90_000, 34_000),
    "control": (110_000, 45_000),
}
"""Values kept for the backward pass for each pixel of a latent, plain and with gradient
checkpointing: what autograd saves in SD 1.5 built without weights, less the scores of attention,
which its kernels do not keep. Narrower networks keep less in proportion to their first block."""
SD15_WIDTH = 320


def describe_plan(asked: Engine, kind: Kind, written: str, spec: AdapterSpec | None = None) -> str:
    """Return steps, samples and an estimate of memory beside what is free.

    `spec` says what an adapter would be.
    """
    assert asked.max_steps is not None
    assert asked.batch is not None
    info = inspect_base(asked.base)
    unet = info.parameters["unet"]
    trained = SHARES[kind] * unet
    if spec is not None:
        from .adapters import count_weights

        trained = count_weights(build_on_meta("unet", info.configs["unet"]), spec)
    # A GPU holds what a step needs; autoencoder and text encoder wait outside.
    whole: float = unet if on_gpu() else sum(info.parameters.values())
    whole += 0 if kind == "unet" else trained
    size = asked.size_px or info.native_px
    frozen = bytes_of_frozen(choose_precision(asked.precision))
    need = estimate_bytes(info.configs["unet"], whole, trained, asked, size, kind, frozen)
    total = asked.max_steps * asked.batch
    steps = f"{asked.max_steps} steps of {asked.batch}, {total} samples"
    if asked.stop_at:
        steps += f", stopped after step {asked.stop_at}"
    return (
        f"Base {info.name}: {sum(info.parameters.values()) / 1e6:.1f} M parameters, {size} px.\n"
        f"Preset {asked.preset}: {steps}; optimizer {asked.optimizer}, learning rate "
        f"{asked.learning_rate:g}, {asked.schedule}.\n"
        f"Trains about {trained / 1e6:.2g} M weights; {describe_memory(need, *free_bytes())}.\n"
        "Time: told after the first step.\n"
        f"Writes {written}, checkpoints every {asked.save_every} steps, previews, metrics.jsonl."
    )


def describe_memory(need: float, free: int, place: str) -> str:
    """Return the estimate beside what is free."""
    verdict = (
        "fits" if need < free else "may not fit: --micro-batch 1, --gradient-checkpointing True"
    )
    beside = f"{need / GIB:.1f} GiB of {free / GIB:.1f} GiB free on {place}"
    return f"memory, estimated: {beside}, {verdict}"


def estimate_bytes(
    unet: Mapping[str, Any],
    whole: float,
    trained: float,
    asked: Engine,
    size_px: int,
    kind: Kind,
    frozen: int = 4,
) -> float:
    """Return a rough estimate of the memory that training needs.

    `unet` is the UNet's configuration; of `whole` weights, `trained` move, the others take `frozen`
    bytes each.
    """
    weights = frozen * (whole - trained)
    state = STATE_BYTES[asked.optimizer or "adamw"] * trained
    state += 4 * trained if asked.ema else 0
    side = size_px // 8
    floats = ACTIVATION_FLOATS[kind][bool(asked.gradient_checkpointing)]
    micro = asked.micro_batch or asked.batch or 1
    share = int(unet["block_out_channels"][0]) / SD15_WIDTH
    return weights + state + 4.0 * micro * side * side * floats * share


def bytes_of_frozen(precision: str) -> int:
    """Return the bytes of a weight that does not move: GPUs keep it in mixed `precision`."""
    return 2 if on_gpu() and precision in {"bf16", "fp16"} else 4


def on_gpu() -> bool:
    """Whether a GPU will compute."""
    import torch

    return torch.cuda.is_available()


def free_bytes() -> tuple[int, str]:
    """Return the memory that is free, and where."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "the CPU"
    except (AttributeError, ValueError, OSError):
        return 4 * GIB, "the CPU (unknown, 4 GiB taken)"
