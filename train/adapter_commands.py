"""`univg adapter convert`, `merge` and `info`: adapter files for other tools, and what they hold.

In: LoRA or LoHa files. Out: the same adapter in another layout; a base with adapters baked in, as a
plain diffusers folder; or a description on stdout.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import MinLen

from univg.config import settings
from univg.errors import ConfigError, ResumeError, UserError

if TYPE_CHECKING:
    from univg.sd_adapter_files import AdapterFile

DEFAULT_STRENGTH = 0.7


@settings
class Convert:
    """Write a LoRA in the layout of other tools: kohya's, or that of diffusers and peft."""

    file: tyro.conf.Positional[Path]
    """The adapter, in either layout."""
    to: Literal["kohya", "diffusers"]
    """kohya: ComfyUI, A1111, kohya. diffusers: load_lora_weights, peft; LoRA only."""
    out: Path
    """The .safetensors file to write."""
    half: bool = False
    """Store fp16: half the size, values rounded."""
    overwrite: bool = False
    """Replace a file that is there."""


@settings
class Merge:
    """Bake adapters into a base: a plain diffusers folder that needs no adapter."""

    base: str
    """nano, a folder in diffusers layout, a .safetensors checkpoint, or a hub id."""
    adapter: Annotated[tuple[str, ...], MinLen(1)]
    """Adapter files, each as FILE or FILE:STRENGTH; the strength is 0.7 if not given."""
    out: Path
    """The folder to write."""
    half: bool = True
    """Store fp16; else fp32, exact."""
    overwrite: bool = False
    """Replace a base that is there."""
    any_base: bool = False
    """Also take adapters that say they were made for another base, if their shapes fit."""


@settings
class Info:
    """Say what an adapter file holds: kind, ranks, alphas, modules, base, size."""

    file: tyro.conf.Positional[Path]
    """The adapter, in either layout."""


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What an adapter file holds."""

    path: Path
    kind: str
    layout: str
    modules: int
    ranks: dict[int, int]
    """Rank -> number of modules."""
    alphas: dict[float, int]
    parameters: int
    size_bytes: int
    base: str
    """Name and identity of the base it was made for, or "not said"."""
    metadata: dict[str, str]


def plan(settings: Convert | Merge | Info) -> str:
    """Tell what would be written; writes nothing."""
    if isinstance(settings, Convert):
        _check_target(settings.out, settings.overwrite)
        return f"{settings.out}: the adapter of {settings.file} in {settings.to} layout"
    if isinstance(settings, Merge):
        from univg.sd import inspect_base

        wanted = [parse_adapter(word) for word in settings.adapter]
        info = inspect_base(settings.base)
        baked = ", ".join(f"{path} at {strength:g}" for path, strength in wanted)
        size = sum(info.parameters.values()) * (2 if settings.half else 4) / 2**20
        return f"{settings.out}: base {settings.base} with {baked}, about {size:,.0f} MB"
    return "Reads only; writes nothing."


def run_convert(settings: Convert) -> Path:
    """Write the adapter in the wanted layout; return the file."""
    from univg.sd_adapter_files import read_adapter, write_adapter, write_diffusers_lora

    _check_target(settings.out, settings.overwrite)
    file = read_adapter(settings.file)
    if settings.to == "diffusers":
        write_diffusers_lora(settings.out, file, half=settings.half)
    else:
        write_adapter(settings.out, _with_kohya_metadata(file), half=settings.half)
    print(f"{settings.out}: {file.kind} of {len(file.factors)} modules, {settings.to} layout")  # noqa: T201
    return settings.out


def run_merge(settings: Merge) -> Path:
    """Write the base with all adapters baked in; return the folder."""
    from univg.sd import load_base, save_base
    from univg.sd_adapter import merge_adapters, read_as_adapter

    wanted = [parse_adapter(word) for word in settings.adapter]
    if settings.out.exists() and any(settings.out.iterdir()) and not settings.overwrite:
        raise ResumeError(f"{settings.out}: is there already; choose another --out, or --overwrite")
    base = load_base(settings.base)
    adapters = [
        read_as_adapter(path, base, strength, check_base=not settings.any_base)
        for path, strength in wanted
    ]
    merge_adapters(adapters, base.unet, base.text_encoder)
    save_base(base, settings.out, half=settings.half)
    print(f"{settings.out}: base {settings.base} with {len(adapters)} adapter(s) baked in")  # noqa: T201
    return settings.out


def run_info(settings: Info) -> AdapterInfo:
    """Print and return what the file holds."""
    info = inspect_adapter(settings.file)
    print(describe(info))  # noqa: T201
    return info


def inspect_adapter(path: Path) -> AdapterInfo:
    """Return what the adapter file at `path` holds."""
    from univg.sd_adapter_files import read_adapter

    file = read_adapter(path)
    name = file.metadata.get("univg_base_name")
    identity = file.metadata.get("univg_base_identity", "")
    return AdapterInfo(
        path=path,
        kind=file.kind,
        layout=file.layout,
        modules=len(file.factors),
        ranks=dict(sorted(Counter(file.ranks().values()).items())),
        alphas=dict(sorted(Counter(file.alphas.values()).items())),
        parameters=sum(w.numel() for parts in file.factors.values() for w in parts.values()),
        size_bytes=path.stat().st_size,
        base=f"{name} ({identity})" if name else "not said",
        metadata=file.metadata,
    )


def describe(info: AdapterInfo) -> str:
    """Return `info` as lines for a person, with the strength to begin with."""
    names = {"lora": "LoRA", "loha": "LoHa"}
    lines = {
        "kind": f"{names[info.kind]}, {info.layout} layout",
        "modules": str(info.modules),
        "rank": _count(info.ranks),
        "alpha": _count(info.alphas),
        "parameters": f"{info.parameters:,}",
        "size": f"{info.size_bytes / 2**20:.1f} MB",
        "base": info.base,
        "strength": f"sample at {DEFAULT_STRENGTH:g} first; nearer 1 follows the training masks "
        "more closely and copies them more, nearer 0 is nearer to the base",
    }
    if len(info.ranks) == 1 and len(info.alphas) == 1:
        scale = next(iter(info.alphas)) / next(iter(info.ranks))
        if not math.isclose(scale, 1):
            lines["scale"] = f"alpha/rank is {scale:g}, which multiplies every strength"
    return "\n".join([str(info.path), *(f"  {key:<12}{value}" for key, value in lines.items())])


def parse_adapter(word: str, strength: float = DEFAULT_STRENGTH) -> tuple[Path, float]:
    """Return file and strength of `FILE:STRENGTH`, or of `FILE` with the default `strength`."""
    name, colon, tail = word.rpartition(":")
    if not colon:
        return Path(word), strength
    try:
        named = float(tail)
    except ValueError:
        if Path(word).suffix == ".safetensors":  # a colon in the path
            return Path(word), strength
        raise ConfigError(f"--adapter {word}: {tail!r} is not a strength; write FILE:0.7") from None
    if not math.isfinite(named):
        raise ConfigError(f"--adapter {word}: the strength must be finite; write FILE:0.7")
    return Path(name), named


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: must end in .safetensors")
    if out.exists() and not overwrite:
        raise ResumeError(f"{out}: is there already; choose another --out, or --overwrite it")


def _with_kohya_metadata(file: AdapterFile) -> AdapterFile:
    """Return `file` with the entries that kohya's readers ask for, where it has none."""
    from univg.sd_adapter_files import MODULES

    rank = Counter(file.ranks().values()).most_common(1)[0][0]
    alpha = Counter(file.alphas.values()).most_common(1)[0][0]
    added = {
        "ss_network_module": MODULES[file.kind],
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": "{}",
    }
    return dataclasses.replace(file, metadata={**added, **file.metadata})


def _count(counts: dict[int, int] | dict[float, int]) -> str:
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return ", ".join(f"{value:g} ({number} modules)" for value, number in counts.items())
