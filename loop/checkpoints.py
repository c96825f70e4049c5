"""Checkpoints of a run: all state, written whole or not at all, the oldest dropped.

In: tensors by name and plain values. Out: `checkpoints/step-00000100/` with `state.safetensors`
and `state.json`, which holds the checksum of the former. A folder appears under its name only when
it is complete; one that is damaged afterwards is passed over with a warning.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from univg.errors import ResumeError
from univg.files import explain_os_error, make_folder, sha256_hex, sha256_of_file, sync_folder
from univg.sd_save import find_os_error

FOLDER = "checkpoints"
TENSORS = "state.safetensors"
VALUES = "state.json"


@dataclass(frozen=True)
class State:
    """What a checkpoint holds."""

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def save_state(run: Path, state: State, keep: int) -> Path:
    """Write `state` as the newest checkpoint of the folder `run`, keep the last `keep`."""
    folder = make_folder(run / FOLDER)
    target = folder / f"step-{state.step:08d}"
    unfinished = folder / f".{target.name}.tmp"
    for leftover in folder.glob(".step-*.tmp"):  # of a run that was killed as it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _write(unfinished, state)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise explain_os_error(error, target) from error
    sync_folder(folder)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write(folder: Path, state: State) -> None:
    folder.mkdir()
    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
    _save_tensors(tensors, folder / TENSORS)
    values = {
        "step": state.step,
        "sha256": sha256_of_file(folder / TENSORS),
        "values": state.values,
    }
    values["self_sha256"] = _hash_values(values)
    (folder / VALUES).write_text(json.dumps(values, indent=1), encoding="utf-8")
    for path in (folder / TENSORS, folder / VALUES):
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    sync_folder(folder)


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        told = find_os_error(error)
        if told is None:
            raise
        raise told from error


def _hash_values(values: Mapping[str, Any]) -> str:
    """Return the checksum of `state.json` but for the checksum itself."""
    rest = {key: value for key, value in values.items() if key != "self_sha256"}
    return sha256_hex(json.dumps(rest, sort_keys=True).encode())


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of `run`, the oldest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*") if path.is_dir())


def load_newest(run: Path) -> State | None:
    """Return the newest checkpoint of `run` that is whole, or None where there is none."""
    found = list_checkpoints(run)
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(f"{path}: damaged ({error}); the one before is taken", stacklevel=2)
    if found:
        raise ResumeError(
            f"{run}: none of its {len(found)} checkpoints can be read; restore one, or delete the "
            "folder and run again"
        )
    return None


def _read(folder: Path) -> State:
    values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    if sha256_of_file(folder / TENSORS) != values["sha256"]:
        raise ValueError(f"checksum of {TENSORS} differs")
    if values.get("self_sha256", _hash_values(values)) != _hash_values(values):
        raise ValueError(f"checksum of {VALUES} differs")
    return State(
        step=int(values["step"]),
        tensors=load_file(folder / TENSORS),
        values=values["values"],
    )


def flatten(tree: Any, prefix: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Split nested state into tensors by path and a plain rest that JSON can hold."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree.detach()}, {"$tensor": prefix}
    if isinstance(tree, Mapping):
        tensors: dict[str, torch.Tensor] = {}
        pairs = []
        for key, value in tree.items():
            inner, rest = flatten(value, f"{prefix}/{key}")
            tensors |= inner
            pairs.append([key, rest])
        return tensors, {"$map": pairs}
    if isinstance(tree, list | tuple):
        tensors = {}
        rests = []
        for number, value in enumerate(tree):
            inner, rest = flatten(value, f"{prefix}/{number}")
            tensors |= inner
            rests.append(rest)
        return tensors, {"$list": rests}
    return {}, tree


def unflatten(rest: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `flatten`."""
    if isinstance(rest, dict) and "$tensor" in rest:
        return tensors[rest["$tensor"]]
    if isinstance(rest, dict) and "$map" in rest:
        return {key: unflatten(value, tensors) for key, value in rest["$map"]}
    if isinstance(rest, dict) and "$list" in rest:
        return [unflatten(value, tensors) for value in rest["$list"]]
    return rest
