"""Where a base comes from: embedded, a folder, a single file or the hub, checked before loading.

In: what the user wrote after `--base`. Out: a `Source` (its kind and a local path), or one line
that says what is missing. Nothing of torch is imported; only `owner/name` may use the network.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from univg.errors import DataError, UserError

PARTS = ("unet", "vae", "text_encoder", "tokenizer")
EMBEDDED = {"nano": Path(__file__).parent / "assets" / "nano"}
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
WEIGHT_NAMES = ("diffusion_pytorch_model", "model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = [
    "model_index.json",
    *(f"{part}/*.json" for part in (*PARTS, "scheduler")),
    "tokenizer/*.txt",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A base on this machine: a folder in diffusers layout or a single safetensors file."""

    name: str
    kind: Literal["embedded", "folder", "file", "hub"]
    path: Path


def find_base(name: str) -> Source:
    """Return where the base called `name` lies; a hub id is fetched unless it is in the cache."""
    if name in EMBEDDED:
        return _find_embedded(name)
    path = Path(name).expanduser()
    if path.is_dir():
        check_folder(path)
        return Source(name=name, kind="folder", path=path)
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path}: is a pickled checkpoint ({path.suffix}), which can run code when it is read; "
            "univg loads safetensors only: take the .safetensors file of the same model"
        )
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise DataError(f"{path}: is not a base; give a .safetensors checkpoint or a folder")
        return Source(name=name, kind="file", path=path)
    if _HUB_ID.fullmatch(name) and path.suffix.lower() != ".safetensors":
        return Source(name=name, kind="hub", path=_fetch(name))
    raise UserError(
        f"--base {name}: no such folder or file; a base is nano (embedded), a folder in diffusers "
        "layout, a .safetensors checkpoint of SD 1.5, or a hub id as owner/name"
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete base in diffusers layout, with all that it lacks."""
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"{folder}: is not a base in diffusers layout: it holds no model_index.json; "
            "give the folder that holds it"
        )
    missing = [f"{part}/" for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise DataError(
            f"{folder}: is not a complete base: {', '.join(missing)} missing; copy the whole folder"
        )
    for part in ("unet", "vae", "text_encoder"):
        find_weights(folder / part)


def find_weights(folder: Path) -> tuple[Path, str | None]:
    """Return the safetensors file (or index of shards) of one part, and its variant's name.

    A variant (`fp16`) is taken only where the plain file is absent, as in folders that were
    downloaded with it.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: holds no config.json; copy the whole folder again")
    for stem in WEIGHT_NAMES:
        for ending in (".safetensors", ".safetensors.index.json"):
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}", None
        for found in sorted(folder.glob(f"{stem}.*.safetensors")):
            variant = found.name[len(stem) + 1 : -len(".safetensors")]
            if variant in {"fp16", "bf16", "fp32"}:
                return found, variant
    if any(folder.glob("*.bin")):
        raise DataError(
            f"{folder}: holds only pickled weights (.bin); univg loads safetensors only; convert "
            "with diffusers: load the pipeline and save_pretrained(..., safe_serialization=True)"
        )
    raise DataError(f"{folder}: holds no weights (.safetensors); copy the whole folder again")


def refuse_mismatch(configs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuse a base whose parts do not fit as those of Stable Diffusion 1.x do."""
    unet = configs["unet"]
    taken, given = unet.get("in_channels"), configs["vae"].get("latent_channels")
    if None not in {taken, given} and taken != given:
        raise DataError(
            f"{path}: its UNet takes {taken} channels, its VAE gives {given}: is it an inpainting "
            "base? take a plain one of SD 1.5"
        )
    width, given = unet.get("cross_attention_dim"), configs["text_encoder"].get("hidden_size")
    if isinstance(width, int) and given is not None and width != given:
        raise DataError(
            f"{path}: its UNet takes prompts of {width} values, its text encoder gives {given}: is "
            "it an SDXL base? take one of SD 1.5"
        )


def is_offline() -> bool:
    """Whether the user has forbidden the hub (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _find_embedded(name: str) -> Source:
    path = EMBEDDED[name]
    if not (path / "model_index.json").is_file():
        raise UserError(
            f"--base {name}: this installation holds no embedded base ({path} is absent); "
            "install univg from a release, or give a folder, a file or a hub id"
        )
    return Source(name=name, kind="embedded", path=path)


def _fetch(name: str) -> Path:
    """Return the local snapshot of a hub id, from the cache if it is complete there."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True))
        check_folder(folder)
        return folder
    except (OSError, ValueError, UserError):  # not cached, or only in part
        pass
    if is_offline():
        raise _not_at_hand(name, "HF_HUB_OFFLINE forbids the network")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise _not_at_hand(name, f"the hub gave none ({reason})") from error
    check_folder(folder)
    return folder


def _not_at_hand(name: str, why: str) -> UserError:
    return UserError(
        f"--base {name}: is neither a folder here nor in the local hub cache, and {why}; "
        f"run `hf download {name}` beforehand on a machine with network, or give a folder"
    )
