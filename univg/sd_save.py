"""A base or a ControlNet as a folder in diffusers layout, whole or not there at all.

In: a `Base` (or a ControlNet) in memory. Out: a folder that `StableDiffusionPipeline` and other
tools load: JSON configs and safetensors in half or full precision, written beside its final name,
flushed, and renamed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import UserError
from univg.files import TEMPORARY_PREFIX, explain_os_error, make_folder, sync_folder

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel

    from univg.sd import Base

_numbers = itertools.count()
_process = secrets.token_hex(3)
"""In a container each process may have the number of the one that was killed before it."""


def save_base(base: Base, folder: Path, half: bool = True) -> None:
    """Write `base` to `folder` as a pipeline in diffusers layout; replace an older base there."""

    def fill(target: Path) -> None:
        _save_part(base.unet, target / "unet", half)
        _save_part(base.vae, target / "vae", half)
        _save_text_encoder(base.text_encoder, target / "text_encoder", half)
        save_tokenizer(base.tokenizer, target / "tokenizer")
        base.scheduler.save_config(str(target / "scheduler"))
        _write_json(target / "model_index.json", model_index(base.scheduler))

    write_folder(folder, "model_index.json", fill)


def save_control(control: ControlNetModel, folder: Path, half: bool = True) -> None:
    """Write `control` to `folder` in diffusers layout; replace an older one there."""
    write_folder(folder, "config.json", lambda target: _save_part(control, target, half))


def model_index(scheduler: Any) -> dict[str, Any]:
    """Return what model_index.json says: the class of each part."""
    from diffusers import __version__

    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write `tokenizer` with vocab.json and merges.txt too, which older readers ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    tokenizer.backend_tokenizer.model.save(str(folder))


def write_folder(folder: Path, mark: str, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder under a temporary name, flush it and rename it to `folder`.

    An older folder there is replaced if it is empty or holds the file `mark`, else left alone.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another output folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise UserError(
            f"{folder}: holds other files (no {mark}) and is left alone; choose another folder"
        )
    make_folder(folder.parent)
    number = f"{_process}-{os.getpid()}-{next(_numbers)}"
    temporary = folder.parent / f"{TEMPORARY_PREFIX}{number}"
    old = folder.parent / f"{TEMPORARY_PREFIX}{number}-old"
    try:
        temporary.mkdir()
        fill(temporary)
        _flush_tree(temporary)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except Exception as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        told = find_os_error(error)
        if told is None:
            raise
        raise explain_os_error(told, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def find_os_error(error: Exception) -> OSError | None:
    """Return what the system said, if it did: libraries written in Rust tell it only in words."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return None if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


def _save_part(model: Any, folder: Path, half: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.to_json_string())
    config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
    _write_json(folder / "config.json", config)
    _save_weights(model.state_dict(), folder / "diffusion_pytorch_model.safetensors", half)


def _save_text_encoder(model: Any, folder: Path, half: bool) -> None:
    """Write the keys with `text_model.` before them: transformers 4 knows no others, 5 knows both.

    `architectures` is set, since only `save_pretrained` would write it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"}
    config.update(architectures=["CLIPTextModel"], dtype="float16" if half else "float32")
    _write_json(folder / "config.json", config)
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": weight
        for name, weight in model.state_dict().items()
    }
    _save_weights(weights, folder / "model.safetensors", half)


def _save_weights(weights: dict[str, torch.Tensor], path: Path, half: bool) -> None:
    import torch
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    stored = {
        name: weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()
        for name, weight in weights.items()
    }
    save_file(stored, str(path), {"format": "pt"})
    # safetensors lets only the owner read its files; a base is for all who may read its config.
    shutil.copymode(path.parent / "config.json", path)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _flush_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
