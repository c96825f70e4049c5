"""How the networks of a base compute: precision, attention, memory layout.

In: networks and what is asked for. Out: the same networks, set to it; `auto` is what is fastest on
this machine. Nothing here changes what comes out but for rounding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from univg.errors import UserError

Attention = Literal["auto", "sdpa", "plain", "xformers"]
PLAIN_TOKENS = 1024
"""Up to here plain matrix products are faster on a CPU than its fused kernel, and fit."""


def choose_precision(asked: str) -> str:
    """Return the mixed precision to use: no, bf16 or fp16."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        # Emulated, as on GPUs before Ampere, bf16 is slower than fp16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.backends.mps.is_available() or _cpu_has_bf16() else "no"


def _cpu_has_bf16() -> bool:
    """Whether bf16 is computed by the processor itself; emulated, it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def set_attention(network: Any, kind: Attention, side: int) -> None:
    """Have `network` (a UNet or ControlNet) compute attention as asked.

    `side` is that of its latents [px].
    """
    kind = resolve_attention(kind, side)
    if kind == "xformers":
        _set_xformers(network)
    elif kind == "plain":
        from diffusers.models.attention_processor import AttnProcessor

        network.set_attn_processor(AttnProcessor())


def resolve_attention(kind: Attention, side: int) -> Attention:
    """Return the kernels that `set_attention` takes for `kind`."""
    if kind != "auto":
        return kind
    return "plain" if _is_plain_faster(side) else "sdpa"


def _is_plain_faster(side: int) -> bool:
    return not torch.cuda.is_available() and side**2 <= PLAIN_TOKENS


def _set_xformers(network: Any) -> None:
    try:
        network.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"--attention xformers does not work here ({' '.join(str(error).split())[:120]}); "
            "take --attention sdpa"
        ) from error


def set_layout(network: Any, channels_last: bool | None) -> None:
    """Lay weights out channels last, which GPUs prefer; None: on a GPU."""
    if resolve_layout(channels_last):
        network.to(memory_format=torch.channels_last)


def resolve_layout(channels_last: bool | None) -> bool:
    """Return whether `set_layout` lays weights out channels last."""
    return torch.cuda.is_available() if channels_last is None else channels_last
