"""Adapter files: kohya's layout, which ComfyUI, A1111 and kohya read, and diffusers' for LoRA.

In: a safetensors file. Out: an `AdapterFile` (kind, factors and alpha of each module under its
kohya name, metadata), or one line that says what the file is instead. And the way back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import DataError, UserError
from univg.files import make_folder, write_atomic

if TYPE_CHECKING:
    import torch

    from univg.sd import Base

Factors = dict[str, dict[str, "torch.Tensor"]]
"""Kohya name of a module -> name of a factor -> its tensor."""

FACTORS = {
    "lora": ("lora_down.weight", "lora_up.weight"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
}
MODULES = {"lora": "networks.lora", "loha": "lycoris.kohya"}
UNKNOWN = {
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "hada_t1": "LoHa with Tucker factors",
    "lora_mid": "LoCon with Tucker factors",
    "oft_blocks": "OFT",
    "diff_b": "full difference",
}
"""What in a key marks a kind that is not read."""

_PEFT_NAMES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
}
_PREFIXES = {"unet.": "lora_unet_", "text_encoder.": "lora_te_"}
_KOHYA_PREFIXES = ("lora_unet_", "lora_te_")
_PEFT_KEY = "lora_adapter_metadata"
_COMPOUNDS = re.compile(
    "|".join(
        (
            "(?:down|up)_blocks|mid_block|transformer_blocks|time_emb_proj|time_embedding",
            "conv_(?:in|out|shortcut)|proj_(?:in|out)|linear_[12]|to_(?:q|k|v|out)",
            "text_model|self_attn|(?:q|k|v|out)_proj",
        )
    )
)


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """An adapter as it is stored."""

    path: Path
    kind: str
    """`lora` or `loha`."""
    layout: str
    """`kohya` or `diffusers`."""
    factors: Factors
    alphas: dict[str, float]
    metadata: dict[str, str]

    def ranks(self) -> dict[str, int]:
        """Return the rank of each module."""
        wide = FACTORS[self.kind][0 if self.kind == "lora" else 1]
        return {name: int(factors[wide].shape[0]) for name, factors in self.factors.items()}


def read_adapter(path: Path) -> AdapterFile:
    """Read the LoRA or LoHa at `path`, in either layout."""
    tensors, metadata = _read(path)
    _refuse_other_kinds(path, tensors)
    layout = "diffusers" if any(key.startswith(tuple(_PREFIXES)) for key in tensors) else "kohya"
    if layout == "diffusers":
        tensors = {_to_kohya_key(path, key): tensor for key, tensor in tensors.items()}
    grouped: Factors = {}
    stored_alphas: dict[str, float] = {}
    for key, tensor in sorted(tensors.items()):
        name, _, factor = key.partition(".")
        if not name.startswith(_KOHYA_PREFIXES):
            raise DataError(f"{path}: is not a LoRA or LoHa of SD 1.5: it holds {key}")
        if factor == "alpha":
            stored_alphas[name] = float(tensor)
        else:
            grouped.setdefault(name, {})[factor] = tensor
    kind = "loha" if any("hada_w1_a" in factors for factors in grouped.values()) else "lora"
    _refuse_torn(path, kind, grouped)
    file = AdapterFile(
        path=path, kind=kind, layout=layout, factors=grouped, alphas={}, metadata=metadata
    )
    alphas = {**file.ranks(), **_peft_alphas(file), **stored_alphas}  # without alpha: no scaling
    file.alphas.update({name: float(alphas[name]) for name in grouped})
    return file


def write_adapter(path: Path, file: AdapterFile, half: bool = False) -> None:
    """Write `file` to `path` in kohya's layout, in full precision or fp16."""
    import torch

    tensors = {f"{name}.alpha": torch.tensor(alpha) for name, alpha in file.alphas.items()}
    for name, factors in file.factors.items():
        tensors.update({f"{name}.{factor}": weight for factor, weight in factors.items()})
    metadata = {key: value for key, value in file.metadata.items() if key != _PEFT_KEY}
    _write(path, tensors, metadata, half)


def write_diffusers_lora(path: Path, file: AdapterFile, half: bool = False) -> None:
    """Write a LoRA to `path` in the layout that `load_lora_weights` and peft read."""
    if file.kind != "lora":
        raise UserError(
            f"{file.path}: is a LoHa, which diffusers cannot load; bake it into a base with "
            "`univg adapter merge`, or use the kohya file in ComfyUI, A1111 or kohya"
        )
    back = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    tensors = {
        f"{dotted_path(name)}.{back[factor]}": weight
        for name, factors in file.factors.items()
        for factor, weight in factors.items()
    }
    kept = {k: v for k, v in file.metadata.items() if not k.startswith(("ss_", "sshs_"))}
    _write(path, tensors, {**kept, _PEFT_KEY: _peft_metadata(file)}, half)


def dotted_path(name: str) -> str:
    """Return `unet.` or `text_encoder.` and the module's path for its kohya name."""
    for prefix, kohya in _PREFIXES.items():
        if name.startswith(kohya):
            held = _COMPOUNDS.sub(lambda m: m.group().replace("_", "\0"), name.removeprefix(kohya))
            return prefix + held.replace("_", ".").replace("\0", "_")
    raise ValueError(f"not a kohya name: {name}")


def check_base_identity(file: AdapterFile, base: Base) -> None:
    """Refuse a file that says it was made for another base, with both names."""
    identity = file.metadata.get("univg_base_identity", "")
    if identity and identity != base.identity:
        made_for = file.metadata.get("univg_base_name", "an unnamed base")
        raise DataError(
            f"{file.path}: was made for base {made_for} ({identity}), not for {base.name} "
            f"({base.identity}); use it with its own base"
        )


def describe_adapter(
    kind: str, factors: Mapping[str, Any], alphas: Mapping[str, float], base: Base, name: str
) -> dict[str, str]:
    """Return the metadata that kohya, A1111 and ComfyUI read, and the base it was made for."""
    wide = FACTORS[kind][0 if kind == "lora" else 1]
    # Convolutions larger than 1x1 may have a rank of their own; the others are the adapter's.
    ranks = {module: int(parts[wide].shape[0]) for module, parts in factors.items()}
    linear = next((m for m in ranks if "_attn1_to_q" in m), next(iter(ranks)))
    conv = next((m for m in ranks if m.endswith(("_conv1", "conv_in"))), None)
    arguments: dict[str, str] = {"algo": "loha"} if kind == "loha" else {}
    if conv is not None:
        arguments.update(conv_dim=str(ranks[conv]), conv_alpha=f"{alphas[conv]:g}")
    like_sd15 = int(base.unet.config.cross_attention_dim) == 768
    described = {
        "ss_network_module": MODULES[kind],
        "ss_network_dim": str(ranks[linear]),
        "ss_network_alpha": f"{alphas[linear]:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
        "ss_base_model_version": "sd_v1"
        if like_sd15
        else "univg_" + re.sub(r"\W+", "_", Path(base.name).stem),
        "ss_output_name": name,
        "univg_base_name": _public_name(base.name),
        "univg_base_identity": base.identity,
    }
    if like_sd15:
        described |= {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": name,
        }
    return described


def encode_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file; equal content gives equal bytes.

    The library writes metadata in an order that differs from run to run, so the header is sorted.
    """
    from safetensors.torch import save

    data = save(dict(tensors), dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path}: no such adapter file; check the path")
    if path.suffix.lower() != ".safetensors":
        raise DataError(
            f"{path}: is not a .safetensors file; univg reads no pickles: save it as safetensors"
        )
    try:
        with safe_open(str(path), framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
            return tensors, dict(stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: is not a whole safetensors file ({error}); copy or make it again"
        ) from error


def _write(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], half: bool
) -> None:
    import torch

    dtype = torch.float16 if half else torch.float32
    stored = {k: t.detach().to("cpu", dtype).contiguous() for k, t in sorted(tensors.items())}
    data = encode_tensors(stored, {"format": "pt"})
    body = data[8 + int.from_bytes(data[:8], "little") :]
    # The hash of the tensors alone: readers find the same adapter again under another name.
    marks = {"sshs_model_hash": hashlib.sha256(body).hexdigest()}
    make_folder(path.parent)
    write_atomic(path, encode_tensors(stored, {"format": "pt", **metadata, **marks}))


def _refuse_other_kinds(path: Path, tensors: Mapping[str, Any]) -> None:
    if not tensors:
        raise DataError(f"{path}: holds no tensors; make it again")
    for mark, kind in UNKNOWN.items():
        found = next((key for key in tensors if mark in key), None)
        if found:
            raise DataError(
                f"{path}: is of a kind that univg does not read: {kind} ({found}); "
                "it reads LoRA and LoHa"
            )
    if any(key.startswith(("lora_te1_", "lora_te2_")) for key in tensors):
        raise DataError(f"{path}: is an adapter for SDXL; univg takes those of SD 1.5")


def _refuse_torn(path: Path, kind: str, grouped: Factors) -> None:
    for name, factors in grouped.items():
        odd = set(factors) ^ set(FACTORS[kind])
        if odd:
            raise DataError(
                f"{path}: is not a whole {'LoHa' if kind == 'loha' else 'LoRA'}: {name} has "
                f"{', '.join(sorted(factors)) or 'no factors'}; make or download it again"
            )


def _to_kohya_key(path: Path, key: str) -> str:
    for prefix, kohya in _PREFIXES.items():
        if not key.startswith(prefix):
            continue
        inner = key.removeprefix(prefix)
        for theirs, ours in _PEFT_NAMES.items():
            if inner.endswith(f".{theirs}"):
                module = inner.removesuffix(f".{theirs}")
                if prefix == "text_encoder.":
                    module = f"text_model.{module.removeprefix('text_model.')}"
                return f"{kohya}{module.replace('.', '_')}.{ours}"
        if inner.endswith(".alpha"):
            return f"{kohya}{inner.removesuffix('.alpha').replace('.', '_')}.alpha"
    raise DataError(f"{path}: is not a LoRA in diffusers layout: it holds {key}")


def _peft_alphas(file: AdapterFile) -> dict[str, float]:
    """Return the alphas that a file in diffusers layout keeps in its metadata."""
    if _PEFT_KEY not in file.metadata:
        return {}
    try:
        stored = json.loads(file.metadata[_PEFT_KEY])
    except ValueError as error:
        raise DataError(f"{file.path}: its {_PEFT_KEY} is not JSON; make it again") from error
    alphas: dict[str, float] = {}
    for name in file.factors:
        prefix, _, module = dotted_path(name).partition(".")
        pattern = stored.get(f"{prefix}.alpha_pattern") or {}
        alpha = pattern.get(module, stored.get(f"{prefix}.lora_alpha"))
        if alpha is not None:
            alphas[name] = float(alpha)
    return alphas


def _peft_metadata(file: AdapterFile) -> str:
    """Return what peft needs to know beside the tensors, as diffusers stores it.

    Every rank and alpha is named by module: a module's own entry wins over the common one.
    """
    stored: dict[str, Any] = {}
    ranks = file.ranks()
    for prefix, kohya in _PREFIXES.items():
        paths = {n: dotted_path(n).removeprefix(prefix) for n in ranks if n.startswith(kohya)}
        if not paths:
            continue
        first = next(iter(paths))
        values = {
            "r": ranks[first],
            "lora_alpha": file.alphas[first],
            "rank_pattern": {p: ranks[n] for n, p in paths.items() if ranks[n] != ranks[first]},
            "alpha_pattern": {
                p: file.alphas[n] for n, p in paths.items() if file.alphas[n] != file.alphas[first]
            },
            "target_modules": sorted(paths.values()),
        }
        stored |= {f"{prefix}{key}": value for key, value in values.items()}
    return json.dumps(stored, indent=2, sort_keys=True)


def _public_name(name: str) -> str:
    """Return a base's name without the folders of this machine; a hub id stays whole."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name
