"""Adapters in use: low-rank changes ΔW that ride on a base whose weights stay as they are.

In: factors from a file (`univg.sd_adapter_files`) or fresh ones (`univg.train.adapters`). Out: an
`Adapter` that is attached to a base with a strength λ, stacked on others, taken off, saved, or
merged for good: W' = W + λ·(alpha/rank)·ΔW.

An adapter rides on the modules that it changes: LoRA adds an output of its own to theirs, LoHa
has them run their operation on W + λ·ΔW. So the UNet keeps its keys and its bytes, stacking is a
sum, and λ can change between two calls.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
from univg.sd_adapter_parts import PARTS, LohaPart, LoraPart, Part, apply_weight, working_dtype

if TYPE_CHECKING:
    from univg.sd import Base

SAMPLING_STRENGTH = 0.7
"""λ when sampling, as in the paper; in training it is 1."""


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

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, factors stand still and nothing learns: each ΔW of a LoHa is made once.

        On a CPU alone: together they are as large as the UNet, which a GPU may have no room for.
        """
        parts = [part for _, part in self.named_parts() if isinstance(part, LohaPart)]
        parts = [part for part in parts if part.w1_a.device.type == "cpu"]
        for part in parts:
            part.kept = {}
        try:
            yield
        finally:
            for part in parts:
                part.kept = None

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
            weight = rider.part(weight.to(working_dtype(x)), rider.adapter.strength)
    return apply_weight(x, weight, module.bias, module)  # type: ignore[arg-type]


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
