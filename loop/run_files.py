"""What a training run leaves beside its checkpoints, and what a resumed one must share with it.

In: settings, processes, how it went. Out: `result.json`, `environment.json`, the weights of the
best validation under `best/`; the identity by which a folder knows its run; two lines of speech.
"""

from __future__ import annotations

import importlib.util
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg import __version__
from univg.config import to_plain, to_yaml
from univg.errors import UserError
from univg.files import make_folder, write_atomic
from univg.manifest import claim_folder

from .options import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .loop import Outcome
    from .task import Task

RESULT = "result.json"
ENVIRONMENT = "environment.json"
FREE = frozenset({
    "out", "save_every", "keep_checkpoints", "preview_every", "validate_every", "tracker",
    "micro_batch", "gradient_checkpointing", "preset", "report_samples", "stop_at", "compile",
    "channels_last", "shots", "skip_bad",
})  # fmt: skip
"""Settings that change nothing that comes out, but for rounding; data stand by their checksums."""
GROWING = frozenset({"constant", "constant_with_warmup"})
"""Schedules that do not know their end: such a run may be made longer."""


def identify_run(
    asked: Training, stage: str, free: frozenset[str], **more: object
) -> dict[str, Any]:
    """Return what a resumed run of `stage` must share with the first.

    `free` are the command's own settings that change nothing; `more` is what it learns from.
    """
    settings = {name: v for name, v in to_plain(asked).items() if name not in FREE | free}
    if asked.schedule in GROWING:
        settings.pop("max_steps")
    return {"stage": stage, "version": __version__, "settings": settings, **more}


def claim_run(asked: Training, identity: Mapping[str, Any]) -> None:
    """Take the run's folder, or refuse it as it is; leave the settings in it as `config.yaml`."""
    from .checkpoints import list_checkpoints

    claim_folder(asked.out, identity)
    steps = [path.name.partition("-")[2] for path in list_checkpoints(asked.out)]
    done = max((int(step) for step in steps if step.isdecimal()), default=0)
    if done > (asked.max_steps or 0):
        raise UserError(
            f"{asked.out}: is trained for {done} steps already, {asked.max_steps} are asked for; "
            "choose another --out, or ask for as many"
        )
    write_atomic(asked.out / "config.yaml", to_yaml(asked).encode())


def check_tracker(asked: Training) -> None:
    """Refuse a tracker that is not installed, before anything is loaded."""
    if asked.tracker != "none" and importlib.util.find_spec(asked.tracker) is None:
        raise UserError(
            f"--tracker {asked.tracker} needs the package {asked.tracker}, which is not installed: "
            f"`pip install {asked.tracker}`, or take --tracker none"
        )


def write_environment(
    out: Path, accelerator: Accelerator, libraries: Sequence[str], **more: object
) -> None:
    """Write `environment.json`: command, machine and versions of the newest call."""
    found = {
        "command": sys.argv,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "machine": platform.platform(),
        "python": platform.python_version(),
        "univg": __version__,
        "libraries": {name: _version(name) for name in libraries},
        **more,
    }
    _write_json(out / ENVIRONMENT, found)


def write_result(asked: Training, outcome: Outcome, more: Mapping[str, Any]) -> None:
    """Write `result.json`: what came out. `more` is added, and what stood there is kept."""
    path = asked.out / RESULT
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made, seconds = count_made(asked, outcome), round(outcome.seconds, 2)
    found = {
        "steps": outcome.steps,
        "samples": outcome.samples,
        "files": [str(file.relative_to(asked.out)) for file in outcome.files],
        "best_step": outcome.best_step,
        "micro_batch": outcome.micro_batch,
        # Of the last call that trained: one that finds all done says nothing about speed.
        **({"seconds": seconds, "trained_samples": made} if made else {}),
        **more,
    }
    _write_json(path, {**before, **found})


def best_of(outcome: Outcome) -> float | None:
    """Return the least validation loss, if there is one."""
    known = outcome.best_step is not None and math.isfinite(outcome.best_check)
    return outcome.best_check if known else None


def count_made(asked: Training, outcome: Outcome) -> int:
    """Return the samples of this call: not those of calls before it."""
    return (outcome.steps - outcome.first_step) * (asked.batch or 1)


def describe_speed(asked: Training, outcome: Outcome) -> str:
    """Return how far it went and how fast, for a line of speech."""
    made, text = count_made(asked, outcome), f"{outcome.steps} steps, {outcome.samples} samples"
    if not made:
        return text
    rate = made / max(outcome.seconds, 1e-9)
    return f"{text}; {rate:,.1f} samples/s in {outcome.seconds:,.0f} s"


def save_best(out: Path, task: Task) -> list[Path]:
    """Save the weights of the best validation under `OUT/best`, as the last ones are in `OUT`.

    Afterwards the network has its last weights again.
    """
    import torch
    from safetensors.torch import load_file

    from .looking import BEST

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
    return files


def _write_json(path: Path, found: Mapping[str, Any]) -> None:
    write_atomic(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV comes under several names
        return "unknown"
