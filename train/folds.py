"""How long to train on a few shots: leave each out once, and see when it stops getting better.

In: settings of an adaptation, the number of shots, the adaptation itself. Out: the settings with
`stop_at` set to the step with the least mean validation loss. The folds lie in `OUT/folds/1` and so
on, each a run that can be gone on with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from univg.errors import UserError
from univg.files import make_folder, write_atomic

from .journal import METRICS

T = TypeVar("T")
CURVE = "leave-one-out.json"


def choose_steps(asked: T, shots: int, adapt: Callable[[Any], Any]) -> T:
    """Return `asked` for all shots, to be stopped at the step that the folds found."""
    settings: Any = asked
    if shots < 2:
        raise UserError("--leave-one-out needs two shots at least")
    folder = make_folder(settings.out.parent / f"{settings.out.name}-folds")
    curves = []
    for number in range(shots):
        fold = dataclasses.replace(
            settings,
            out=folder / str(number + 1),
            leave_one_out=False,
            left_out=number,
            report_samples=0,
            preview_every=0,
            cache=settings.cache or folder / "cache",
        )
        adapt(fold)
        curves.append(read_curve(fold.out))
    steps = sorted(set.intersection(*(set(curve) for curve in curves)) - {0})
    mean = {step: float(np.mean([curve[step] for curve in curves])) for step in steps}
    best = min(mean, key=lambda step: mean[step])
    write_atomic(folder / CURVE, json.dumps({"best_step": best, "mean": mean}, indent=1).encode())
    changed: T = dataclasses.replace(settings, leave_one_out=False, stop_at=best)
    return changed


def read_curve(run: Path) -> dict[int, float]:
    """Return the validation losses of the folder `run` by step."""
    rows = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    return {int(row["step"]): float(row["validation"]) for row in rows if "validation" in row}
