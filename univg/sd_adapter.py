"""Adapters in use: low-rank changes ΔW that ride on a base whose weights stay as they are.

In: factors from a file (`univg.sd_adapter_files`) or fresh ones (`univg.train.adapters`). Out: an
`Adapter` that is attached to a base with a strength λ, stacked on others, taken off, saved, or
merged for good: W' = W + λ·(alpha/rank)·ΔW.

An adapter rides on the modules that it changes: LoRA adds an output of its own to theirs, LoHa
has them run their operation on W + λ·ΔW. So the UNet keeps its keys and its bytes, stacking is a
sum, and λ can change between two calls.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from univg.errors import DataError
from univg.sd_adapter_files import (
    FACTORS,
    AdapterFile,
    check_base_identity,
    describe_adapter,
    read_adapter,
    write_adapter,
    write_diffusers_lora,
)

if TYPE_CHECKING:
    from univg.sd import Base

SAMPLING_STRENGTH = 0.7
"""λ when sampling, as in the paper; in training it is 1."""


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
            found = functional.conv2d(_apply(x, down, None, module), up)
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

    def factors(self) -> dict[str, nn.Parameter]:
        """Return the factors under the names that they have in a file."""
        return dict(zip(FACTORS["loha"], (self.w1_a, self.w1_b, self.w2_a, self.w2_b), strict=True))

    def delta(self, shape: Sequence[int]) -> torch.Tensor:
        """Return ΔW in the weight's `shape`, scaled by alpha/rank."""
        product = (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)
        return (product * (self.alpha / self.rank)).reshape(*shape)

    def forward(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """Return `weight` + λ·ΔW, in its precision."""
        scale = self.alpha / self.rank
        factors = (each.to(weight.device) for each in self.factors().values())
        delta: torch.Tensor = _Hadamard.apply(  # type: ignore[no-untyped-call]
            *factors, scale, weight.dtype
        )
        return torch.add(weight, delta.reshape(weight.shape), alpha=strength)


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


class Adapter(nn.Module):
    """Changes of many modules, under their kohya names. Only its factors are its parameters."""

    def __init__(self, kind: str, parts: Mapping[str, Part], strength: float = 1.0) -> None:
        super().__init__()
        self.kind = kind
        self.strength = strength
        # By name: fresh or from a file, the order that an optimizer sees is the same.
        self.parts = nn.ModuleDict(dict(sorted(parts.items())))
        self.metadata: dict[str, str] = {}
        self._handles: list[Any] = []

    def named_parts(self) -> Iterator[tuple[str, Part]]:
        """Yield kohya name and part of each module that is changed."""
        yield from self.parts.items()  # type: ignore[misc]

    def attach(self, *roots: nn.Module) -> Adapter:
        """Ride on the modules of `roots` (a UNet, a text encoder); return self."""
        if self._handles:
            raise RuntimeError("this adapter is attached already")
        targets = name_modules(*roots)
        for name, part in self.named_parts():
            part.to(targets[name].weight.device)  # type: ignore[arg-type]
            if isinstance(part, LohaPart):
                self._handles.append(_Rider(targets[name], part, self))
            else:
                self._handles.append(targets[name].register_forward_hook(self._hook(part)))
        return self

    def detach(self) -> None:
        """Get off; the base is as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of all factors and alphas under their names in a kohya file."""
        state: dict[str, torch.Tensor] = {}
        for name, part in self.named_parts():
            state[f"{name}.alpha"] = torch.tensor(float(part.alpha))
            for factor, weight in part.factors().items():
                state[f"{name}.{factor}"] = weight.detach().clone()
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take all factors from what `state` gave, exactly."""
        expected = self.state()
        if set(expected) != set(state):
            odd = sorted(set(expected) ^ set(state))[0]
            raise ValueError(f"the state is of another adapter: {odd}")
        for name, part in self.named_parts():
            part.alpha = float(state[f"{name}.alpha"])
            for factor, weight in part.factors().items():
                weight.copy_(state[f"{name}.{factor}"])

    def save(
        self, path: Path, base: Base, metadata: Mapping[str, str] | None = None, half: bool = False
    ) -> None:
        """Write a kohya file that names `base`; `half` stores fp16, else what is trained."""
        alphas = {name: float(part.alpha) for name, part in self.named_parts()}
        factors = {name: dict(part.factors()) for name, part in self.named_parts()}
        described = describe_adapter(self.kind, factors, alphas, base, path.stem)
        file = AdapterFile(
            path=path,
            kind=self.kind,
            layout="kohya",
            factors=factors,  # type: ignore[arg-type]
            alphas=alphas,
            metadata={**described, **(metadata or {})},
        )
        write_adapter(path, file, half=half)

    def save_diffusers(self, path: Path, half: bool = False) -> None:
        """Write a LoRA in the layout of diffusers and peft."""
        alphas = {name: float(part.alpha) for name, part in self.named_parts()}
        factors = {name: dict(part.factors()) for name, part in self.named_parts()}
        file = AdapterFile(
            path=path,
            kind=self.kind,
            layout="kohya",
            factors=factors,  # type: ignore[arg-type]
            alphas=alphas,
            metadata=self.metadata,
        )
        write_diffusers_lora(path, file, half=half)

    def merge_into(self, *roots: nn.Module) -> None:
        """Add λ·ΔW to the weights of `roots` for good; detach first."""
        merge_adapters([self], *roots)

    def _hook(self, part: LoraPart) -> Any:
        def add_change(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> Any:
            if self.strength == 0:
                return output
            change = part(inputs[0], module)
            return output + (change if self.strength == 1 else change * self.strength)

        return add_change


RIDERS = "_univg_riders"


class _Rider:
    """A LoHa on a module, whose operation then runs once for both, on W + Σ λ·ΔW.

    Its ΔW is as large as W: beside the module, as LoRA is, it would cost the operation twice.
    """

    def __init__(self, module: nn.Module, part: LohaPart, adapter: Adapter) -> None:
        self.module, self.part, self.adapter = module, part, adapter
        self.own: dict[str, Any] = vars(module)
        self.own.setdefault(RIDERS, []).append(self)
        self.own["forward"] = functools.partial(_run_changed, module)

    def remove(self) -> None:
        """Get off; after the last one, the module is as it was."""
        self.own[RIDERS].remove(self)
        if not self.own[RIDERS]:
            del self.own["forward"], self.own[RIDERS]


def _run_changed(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Do what `module` does, with the changes of all that ride on it."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    for rider in getattr(module, RIDERS):
        if rider.adapter.strength != 0:
            weight = rider.part(weight.to(_working_dtype(x)), rider.adapter.strength)
    return _apply(x, weight, module.bias, module)  # type: ignore[arg-type]


@torch.no_grad()
def merge_adapters(adapters: Sequence[Adapter], *roots: nn.Module) -> None:
    """Add λ·ΔW of all `adapters` to the weights of `roots`, summed in fp32, rounded once."""
    targets = name_modules(*roots)
    names = dict.fromkeys(name for adapter in adapters for name, _ in adapter.named_parts())
    for name in names:
        weight: torch.Tensor = targets[name].weight  # type: ignore[assignment]
        total = weight.float()
        for adapter in adapters:
            if name in adapter.parts and adapter.strength != 0:
                part: Part = adapter.parts[name]  # type: ignore[assignment]
                delta = part.delta(weight.shape).float().to(weight.device)
                total = total + adapter.strength * delta
        weight.copy_(total)


def load_adapter(
    path: Path, base: Base, strength: float = SAMPLING_STRENGTH, check_base: bool = True
) -> Adapter:
    """Load the file at `path`, frozen, and attach it to `base` with `strength`.

    A file that was made for another base is refused with both names, unless `check_base` is false;
    one that does not say (from other tools) is accepted if all its names and shapes fit.
    """
    adapter = read_as_adapter(path, base, strength, check_base)
    return adapter.attach(base.unet, base.text_encoder)


def read_as_adapter(
    path: Path, base: Base, strength: float = SAMPLING_STRENGTH, check_base: bool = True
) -> Adapter:
    """Load and check as `load_adapter`, but do not attach."""
    file = read_adapter(path)
    if check_base:
        check_base_identity(file, base)
    _check_shapes(file, base)
    build = PARTS[file.kind]
    parts = {
        name: build({f: w.float() for f, w in factors.items()}, file.alphas[name])
        for name, factors in file.factors.items()
    }
    adapter = Adapter(file.kind, parts, strength)
    adapter.metadata = dict(file.metadata)
    return adapter.eval().requires_grad_(False)


def name_modules(*roots: nn.Module | None) -> dict[str, nn.Module]:
    """Return the linear and convolution modules of a UNet and a text encoder by kohya name."""
    named: dict[str, nn.Module] = {}
    for root in roots:
        if root is None:
            continue
        of_text = type(root).__name__.startswith("CLIP")
        for path, module in root.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                # transformers 5 dropped the outer `text_model`, which files still name
                inner = path.removeprefix("text_model.") if of_text else path
                prefix = "lora_te_text_model_" if of_text else "lora_unet_"
                named[f"{prefix}{inner.replace('.', '_')}"] = module
    return named


def _check_shapes(file: AdapterFile, base: Base) -> None:
    targets = name_modules(base.unet, base.text_encoder)
    for name, factors in file.factors.items():
        if name not in targets:
            raise DataError(
                f"{file.path}: does not fit base {base.name}, which has no module {name}; "
                "use the base that this adapter was made for"
            )
        weight: Any = targets[name].weight
        ours = (int(weight.shape[0]), int(weight[0].numel()))
        theirs = change_shape(file.kind, factors)
        if ours != theirs:
            raise DataError(
                f"{file.path}: does not fit base {base.name}: {name} is {theirs[0]}x{theirs[1]}, "
                f"the base's {ours[0]}x{ours[1]}; use the base that this adapter was made for"
            )


def change_shape(kind: str, factors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return rows and columns of the ΔW that `factors` make."""
    tall, wide = FACTORS[kind][:2] if kind == "loha" else FACTORS[kind][::-1]
    return int(factors[tall].shape[0]), int(factors[wide][0].numel())


def _working_dtype(x: torch.Tensor) -> torch.dtype:
    # The meta device, on which shapes are checked, knows no autocast.
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _cast(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # The device too: a text encoder may have been sent away from the GPU since.
    return weight.to(x.device, _working_dtype(x))


def _apply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, module: nn.Module
) -> torch.Tensor:
    """Return the module's own operation with `weight` and `bias` in place of its own."""
    if isinstance(module, nn.Conv2d):
        return functional.conv2d(
            x, weight, bias, module.stride, module.padding, module.dilation, module.groups
        )
    return functional.linear(x, weight, bias)
