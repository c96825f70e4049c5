"""What a training run of a segmenter leaves in its folder, and what a resumed one must share.

In: settings, data, how it went. Out: `result.json`, `environment.json`, `best/model.safetensors`;
the identity of the run; the facts that go into the file of weights.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg import __version__
from univg.config import to_plain
from univg.files import make_folder, write_atomic

from .data_store import hash_pairs

if TYPE_CHECKING:
    from accelerate import Accelerator

    from univg.loop.loop import Outcome

    from .fit import Fit
    from .fit_data import Data
    from .fit_task import SegmentTask

FREE = {
    "out", "save_every", "keep_checkpoints", "preview_every", "validate_every", "tracker",
    "micro_batch", "preset", "report_samples", "stop_at", "compile", "channels_last", "shots",
    "synthetic", "skip_bad", "memory_mb", "epochs", "onnx", "wanted", "gradient_checkpointing",
}  # fmt: skip
"""Settings that do not change what comes out, but for rounding; data stand by their checksums."""
LIBRARIES = ("torch", "accelerate", "diffusers", "opencv-python-headless", "numpy")
RESULT = "result.json"
SHOWN_FACTS = (
    *("loss", "learning_rate", "schedule", "optimizer", "ema", "batch", "max_steps", "stop_at"),
    *("augment", "patch_px", "synthetic_share", "seed", "preset"),
)


def describe_run(asked: Fit, data: Data, threshold: float | None) -> dict[str, Any]:
    """Return what a resumed run must share with the first."""
    settings = {name: value for name, value in to_plain(asked).items() if name not in FREE}
    if asked.schedule in {"constant", "constant_with_warmup"}:
        settings.pop("max_steps")  # such a run may be made longer
    return {
        "stage": "segment fit",
        "version": __version__,
        "settings": settings,
        "preparation": data.how.plain(),
        "threshold": threshold,
        "data": {
            "shots": hash_pairs(data.real),
            "held_out": hash_pairs(data.held_out),
            "synthetic": hash_pairs(data.synthetic),
        },
    }


def describe_model(asked: Fit, data: Data, tile_px: int, fixed: bool) -> dict[str, Any]:
    """Return what stands in the file of weights beside the network."""
    plain = to_plain(asked)
    return {
        "preparation": data.how.plain(),
        "tile_px": tile_px,
        "tile_fixed": fixed,
        "training": {
            **{name: plain[name] for name in SHOWN_FACTS},
            "shots": [pair.stem for pair in data.real],
            "held_out": [pair.stem for pair in data.held_out],
            "synthetic_pairs": len(data.synthetic),
        },
        "univg": __version__,
    }


def save_best(out: Path, task: SegmentTask) -> list[Path]:
    """Save the weights of the best validation under `OUT/best`, as the last ones are in `OUT`."""
    import torch
    from safetensors.torch import load_file

    from univg.loop.loop import BEST

    if not (out / BEST).exists():
        return []
    best, last = load_file(out / BEST), {}
    with torch.no_grad():
        for name, weight in task.trained().items():
            last[name] = weight.detach().clone()
            weight.copy_(best[name])
        files = task.save(make_folder(out / "best"))
        for name, weight in task.trained().items():
            weight.copy_(last[name])
    task.module.stale = True
    return files


def export_model(asked: Fit, model: Path) -> list[Path]:
    """Write `model` as ONNX beside it, where that is asked for."""
    if not asked.onnx:
        return []
    from .onnx_export import export_onnx
    from .weights import load_network

    network, card = load_network(model, asked.network)
    path = model.with_suffix(".onnx")
    export_onnx(network, path, threshold=card.threshold, facts=card.facts)
    return [path]


def write_result(asked: Fit, outcome: Outcome, more: Mapping[str, Any]) -> None:
    """Write `result.json`: what came out."""
    path = asked.out / RESULT
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = (outcome.steps - outcome.first_step) * (asked.batch or 1)
    known = outcome.best_step is not None and math.isfinite(outcome.best_check)
    found = {
        "steps": outcome.steps,
        "samples": outcome.samples,
        "files": [str(file.relative_to(asked.out)) for file in outcome.files],
        "best_step": outcome.best_step,
        "best_dice": 1 - outcome.best_check if known else None,
        "micro_batch": outcome.micro_batch,
        **({"seconds": round(outcome.seconds, 2), "trained_samples": made} if made else {}),
        **more,
    }
    text = json.dumps({**before, **found}, indent=1, sort_keys=True) + "\n"
    write_atomic(path, text.encode())


def write_environment(out: Path, accelerator: Accelerator) -> None:
    """Write `environment.json`: command, machine and versions of the newest call."""
    found = {
        "command": sys.argv,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "machine": platform.platform(),
        "python": platform.python_version(),
        "univg": __version__,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    write_atomic(out / "environment.json", text.encode())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV comes under several names
        return "unknown"
