"""How an adapter changes one module: LoRA and LoHa.

In: the factors of one module, its weight or its input. Out: ΔW, or what it adds to the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from univg.sd_adapter_files import FACTORS


class LoraPart(nn.Module):
    """The change of one module: ΔW = up·down · alpha/rank."""

    kind = "lora"

    def __init__(self, factors: Mapping[str, torch.Tensor], alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(factors["lora_down.weight"])
        self.up = nn.Parameter(factors["lora_up.weight"])
        self.alpha = alpha
        self.rank = int(self.down.shape[0])

    def factors(self) -> dict[str, nn.Parameter]:
        """Return the factors under the names that they have in a file."""
        return {"lora_down.weight": self.down, "lora_up.weight": self.up}

    def delta(self, shape: Sequence[int]) -> torch.Tensor:
        """Return ΔW in the weight's `shape`, scaled by alpha/rank."""
        product = self.up.reshape(self.up.shape[0], -1) @ self.down.reshape(self.rank, -1)
        return (product * (self.alpha / self.rank)).reshape(*shape)

    def forward(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Return what ΔW adds to the output of `module` for its input `x`."""
        down, up = _cast(self.down, x), _cast(self.up, x)
        if isinstance(module, nn.Conv2d):
            found = functional.conv2d(apply_weight(x, down, None, module), up)
        else:
            found = functional.linear(functional.linear(x, down), up)
        scale = self.alpha / self.rank
        return found if scale == 1 else found * scale


class LohaPart(nn.Module):
    """The change of one module: ΔW = (w1a·w1b) ⊙ (w2a·w2b) · alpha/rank."""

    kind = "loha"

    def __init__(self, factors: Mapping[str, torch.Tensor], alpha: float) -> None:
        super().__init__()
        self.w1_a = nn.Parameter(factors["hada_w1_a"])
        self.w1_b = nn.Parameter(factors["hada_w1_b"])
        self.w2_a = nn.Parameter(factors["hada_w2_a"])
        self.w2_b = nn.Parameter(factors["hada_w2_b"])
        self.alpha = alpha
        self.rank = int(self.w1_b.shape[0])
        self.kept: dict[torch.dtype, torch.Tensor] | None = None
        """ΔW by precision, where the factors stand still."""

    def factors(self) -> dict[str, nn.Parameter]:
        """Return the factors under the names that they have in a file."""
        return dict(zip(FACTORS["loha"], (self.w1_a, self.w1_b, self.w2_a, self.w2_b), strict=True))

    def delta(self, shape: Sequence[int]) -> torch.Tensor:
        """Return ΔW in the weight's `shape`, scaled by alpha/rank."""
        product = (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)
        return (product * (self.alpha / self.rank)).reshape(*shape)

    def forward(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """Return `weight` + λ·ΔW, in its precision."""
        delta = self._delta_like(weight)
        return torch.add(weight, delta.reshape(weight.shape), alpha=strength)

    def _delta_like(self, weight: torch.Tensor) -> torch.Tensor:
        if self.kept is not None and weight.dtype in self.kept:
            return self.kept[weight.dtype]
        factors = (each.to(weight.device) for each in self.factors().values())
        delta: torch.Tensor = _Hadamard.apply(  # type: ignore[no-untyped-call]
            *factors, self.alpha / self.rank, weight.dtype
        )
        if self.kept is not None:
            self.kept[weight.dtype] = delta.detach()
        return delta


class _Hadamard(torch.autograd.Function):
    """(a1·b1) ⊙ (a2·b2) · scale, whose two products are made again in the backward pass.

    Kept, they would cost twice the UNet's own weights in memory. The library's own forward is not
    used: it rounds (W + ΔW) − W in half precision and reads its scale back from the GPU each call.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        *factors, scale, dtype = inputs
        a1, b1, a2, b2 = (factor.to(dtype) for factor in factors)
        ctx.save_for_backward(*factors)
        ctx.scale = scale
        return (a1 @ b1) * (a2 @ b2) * scale  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        grad = gradients[0] * ctx.scale
        stored = ctx.saved_tensors
        a1, b1, a2, b2 = (factor.to(grad.dtype) for factor in stored)
        of_first, of_second = grad * (a2 @ b2), grad * (a1 @ b1)
        of_factors = (of_first @ b1.T, a1.T @ of_first, of_second @ b2.T, a2.T @ of_second)
        cast = (one.to(like.dtype) for one, like in zip(of_factors, stored, strict=True))
        return (*cast, None, None)


Part = LoraPart | LohaPart
PARTS: dict[str, type[LoraPart] | type[LohaPart]] = {"lora": LoraPart, "loha": LohaPart}


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the precision in which an operation on `x` is done here."""
    # The meta device, on which shapes are checked, knows no autocast.
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _cast(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # The device too: a text encoder may have been sent away from the GPU since.
    return weight.to(x.device, working_dtype(x))


def apply_weight(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, module: nn.Module
) -> torch.Tensor:
    """Return the module's own operation with `weight` and `bias` in place of its own."""
    if isinstance(module, nn.Conv2d):
        return functional.conv2d(
            x, weight, bias, module.stride, module.padding, module.dilation, module.groups
        )
    return functional.linear(x, weight, bias)
