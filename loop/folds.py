"""How long to train on a few shots: leave each out once, and see when it stops getting better.

In: settings of an adaptation, the number of shots, the adaptation itself. Out: the settings with
`stop_at` set to the step with the least mean validation loss. The folds lie beside the run folder,
in `OUT-folds/1` and so on, each a run that can be gone on with; what they found stands in
`OUT-folds/leave-one-out.json`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from univg.errors import UserError
from univg.files import make_folder, write_atomic

from .journal import METRICS
from .options import CURVES, check_folds, folder_of

T = TypeVar("T")
LOOKS = 20


def choose_steps(asked: T, shots: int, adapt: Callable[[Any], Any]) -> T:
    """Return `asked` for all shots, to be stopped at the step that the folds found."""
    from .device import is_first_process

    settings: Any = asked
    check_folds(settings, shots)
    folder = make_folder(folder_of(settings.out))
    is_first = is_first_process()
    curves = []
    for number in range(shots):
        if is_first:
            print(f"leave-one-out {number + 1}/{shots}", flush=True)  # noqa: T201
        fold = dataclasses.replace(
            settings,
            out=folder / str(number + 1),
            leave_one_out=False,
            left_out=number,
            report_samples=0,
            preview_every=0,
            validate_every=settings.validate_every or max(1, settings.max_steps // LOOKS),
            **_shared_cache(settings, folder),
        )
        adapt(fold)
        curves.append(read_curve(fold.out))
    best, mean = find_best_step(curves)
    if is_first:
        print(f"leave-one-out: best at step {best} of {settings.max_steps}", flush=True)  # noqa: T201
        found = {"best_step": best, "mean": mean, "folds": curves}
        write_atomic(folder / CURVES, (json.dumps(found, indent=1) + "\n").encode())
    changed: T = dataclasses.replace(settings, leave_one_out=False, stop_at=best)
    return changed


def _shared_cache(settings: Any, folder: Path) -> dict[str, Path]:
    """Return one cache for all folds, where the command has one."""
    if not hasattr(settings, "cache"):
        return {}
    return {"cache": settings.cache or folder / "cache"}


def find_best_step(
    curves: Sequence[dict[int, float]],
) -> tuple[int, dict[int, float]]:
    """Return the step with the least mean of all `curves`, and that mean by step.

    Step 0 does not count: a run of no steps is none.
    """
    steps = sorted(set.intersection(*(set(curve) for curve in curves)) - {0})
    if not steps:
        raise UserError("--leave-one-out: no step was validated; take a smaller --validate-every")
    mean = {step: float(np.mean([curve[step] for curve in curves])) for step in steps}
    return min(mean, key=lambda step: mean[step]), mean


def read_curve(run: Path) -> dict[int, float]:
    """Return the validation losses of the folder `run` by step."""
    rows = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    return {int(row["step"]): float(row["validation"]) for row in rows if "validation" in row}
