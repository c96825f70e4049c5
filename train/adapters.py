"""Fresh adapters to train: LoRA as peft makes it, LoHa as lycoris makes it.

In: a UNet and an `AdapterSpec`. Out: an `Adapter` (`univg.sd_adapter`) attached to the UNet, whose
output is unchanged until a step is taken. Which modules are changed, their shapes, names and first
values are those of the two libraries, so the files are theirs too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from univg.sd_adapter import SAMPLING_STRENGTH, Adapter, load_adapter, merge_adapters
from univg.sd_adapter_parts import LohaPart, LoraPart, Part

from .adapt_masks import AdaptMasks
from .masks import TrainMasks

if TYPE_CHECKING:
    from univg.sd import Base

__all__ = [
    "ADAPTERS",
    "LOHA",
    "LORA",
    "SAMPLING_STRENGTH",
    "Adapter",
    "AdapterSpec",
    "attach",
    "count_weights",
    "find_targets",
    "load_adapter",
    "load_for_training",
    "merge_adapters",
    "spec_of",
]

Targets = Literal["attention", "attention+conv", "all"]
TARGETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # What kohya's networks.lora changes: projections, attention and feed-forward layers.
    "attention": (("Transformer2DModel",), ()),
    "attention+conv": (("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"), ()),
    # The preset `full` of lycoris.kohya.
    "all": (
        ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"),
        ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"),
    ),
}
"""Classes of UNet blocks, and single modules by path, that an adapter changes."""


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """What an adapter is. `conv_dim` is the rank of convolutions larger than 1x1; 0 leaves them."""

    kind: str
    dim: int = 32
    alpha: float = 32
    conv_dim: int = 0
    conv_alpha: float = 0
    targets: Targets = "attention"


LORA = AdapterSpec(kind="lora")
"""The paper's mask engine, pretrained on pseudo-masks."""
LOHA = AdapterSpec(kind="loha", conv_dim=4, conv_alpha=4, targets="all")
"""The paper's adaptation to five masks."""


def spec_of(asked: TrainMasks | AdaptMasks) -> AdapterSpec:
    """Return the adapter that settings ask for."""
    plain = dataclasses.replace(LORA, dim=asked.dim, alpha=asked.alpha)
    if isinstance(asked, TrainMasks):
        return plain
    return dataclasses.replace(
        plain, kind=asked.kind, conv_dim=asked.conv_dim, conv_alpha=asked.conv_alpha, targets="all"
    )


Builder = Callable[[Mapping[str, nn.Module], AdapterSpec], dict[str, Part]]
"""From modules by kohya name (only their shapes are read) to a part for each."""


def attach(unet: nn.Module, spec: AdapterSpec, seed: int = 0) -> Adapter:
    """Return a fresh adapter of `spec` on `unet`, in fp32, its first values drawn from `seed`."""
    if spec.kind not in ADAPTERS:
        raise ValueError(f"no adapter is called {spec.kind}; there are {', '.join(ADAPTERS)}")
    found = find_targets(unet, spec)
    blanks = {name: _blank(module) for name, module in found.items()}
    with torch.random.fork_rng(devices=[]):  # the libraries draw from the global state: lend it
        torch.default_generator.manual_seed(seed)
        parts = ADAPTERS[spec.kind](blanks, spec)
    return Adapter(spec.kind, parts).train().attach(unet)


def count_weights(unet: nn.Module, spec: AdapterSpec) -> int:
    """Return how many weights a fresh adapter of `spec` has; `unet` may be without any."""
    blanks = {name: _blank(module) for name, module in find_targets(unet, spec).items()}
    with torch.random.fork_rng(devices=[]):
        parts = ADAPTERS[spec.kind](blanks, spec)
    return sum(weight.numel() for part in parts.values() for weight in part.parameters())


def load_for_training(path: Path, base: Base, check_base: bool = True) -> Adapter:
    """Load an adapter at λ = 1 with gradients on, to go on training it."""
    return load_adapter(path, base, 1.0, check_base).train().requires_grad_(True)


def find_targets(unet: nn.Module, spec: AdapterSpec) -> dict[str, nn.Module]:
    """Return the modules of `unet` that `spec` changes, by kohya name, in the UNet's order."""
    classes, paths = TARGETS[spec.targets]
    blocks = [p for p, module in unet.named_modules() if type(module).__name__ in classes]
    found: dict[str, nn.Module] = {}
    for path, module in unet.named_modules():
        inside = path in paths or any(path.startswith(f"{block}.") for block in blocks)
        if inside and _rank_of(module, spec)[0] > 0:
            found["lora_unet_" + path.replace(".", "_")] = module
    return found


def build_lora(modules: Mapping[str, nn.Module], spec: AdapterSpec) -> dict[str, Part]:
    """Return LoRA parts: peft's layers (A uniform as in `nn.Linear`, B zero)."""
    from peft import LoraConfig, inject_adapter_in_model

    ranks = {name: _rank_of(module, spec) for name, module in modules.items()}
    config = LoraConfig(
        r=spec.dim,
        lora_alpha=spec.alpha,
        target_modules=list(modules),
        rank_pattern={name: rank for name, (rank, _) in ranks.items()},
        alpha_pattern={name: alpha for name, (_, alpha) in ranks.items()},
    )
    layers: Any = inject_adapter_in_model(config, nn.ModuleDict(dict(modules)), "univg")
    parts: dict[str, Part] = {}
    for name in modules:
        layer = layers[name]
        factors = {
            "lora_down.weight": layer.lora_A["univg"].weight.detach(),
            "lora_up.weight": layer.lora_B["univg"].weight.detach(),
        }
        parts[name] = LoraPart(factors, float(layer.lora_alpha["univg"]))
    return parts


def build_loha(modules: Mapping[str, nn.Module], spec: AdapterSpec) -> dict[str, Part]:
    """Return LoHa parts: lycoris' modules (w2_a zero, the others normal)."""
    from lycoris.modules.loha import LohaModule

    parts: dict[str, Part] = {}
    for name, module in modules.items():
        rank, alpha = _rank_of(module, spec)
        made = LohaModule(name, module, 1.0, rank, alpha)
        factors = {key: getattr(made, key).detach() for key in ("hada_w1_a", "hada_w1_b")}
        factors |= {key: getattr(made, key).detach() for key in ("hada_w2_a", "hada_w2_b")}
        parts[name] = LohaPart(factors, float(alpha))
    return parts


ADAPTERS: dict[str, Builder] = {"lora": build_lora, "loha": build_loha}


def _rank_of(module: nn.Module, spec: AdapterSpec) -> tuple[int, float]:
    """Return rank and alpha for `module`; rank 0 where it is left alone."""
    if isinstance(module, nn.Linear):
        return spec.dim, spec.alpha
    if isinstance(module, nn.Conv2d):
        large = any(side > 1 for side in module.kernel_size)
        return (spec.conv_dim, spec.conv_alpha) if large else (spec.dim, spec.alpha)
    return 0, 0


def _blank(module: nn.Module) -> nn.Module:
    """Return a module of the same shape in CPU memory that is never touched.

    The libraries make their factors on the device and in the precision of what they are shown; the
    first values must not depend on either.
    """
    blank: nn.Module
    with torch.device("meta"):
        if isinstance(module, nn.Conv2d):
            kernel_px = (module.kernel_size[0], module.kernel_size[1])
            blank = nn.Conv2d(module.in_channels, module.out_channels, kernel_px, bias=False)
        else:
            assert isinstance(module, nn.Linear)
            blank = nn.Linear(module.in_features, module.out_features, bias=False)
    return blank.to_empty(device="cpu")
