"""All that a run has to remember, so that it goes on as if nothing had interrupted it.

In: a run between two steps. Out: a checkpoint with weights, optimizer, schedule, average, scaler
and the state of torch's own generators on each process; and the same put back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from univg.errors import ResumeError

from .checkpoints import State, flatten, load_newest, save_state, unflatten
from .device import get_randomness, set_randomness
from .losses import refuse_nan

if TYPE_CHECKING:
    from .loop import _Run


def save_run(run: _Run) -> None:
    """Write a checkpoint of `run`, but of weights that are no numbers."""
    weights = list(run.trained.values())
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        refuse_nan(run, run.step - 1, "a weight")
    randomness = _gather_randomness(run)
    if run.accelerator.is_main_process:
        tensors, rest = flatten(_collect(run), "state")
        tensors |= {f"rng/{rank}": state for rank, state in enumerate(randomness)}
        best = [run.outcome.best_step, run.outcome.best_check]
        values = {"rest": rest, "best": best, "looked": run.looked}
        save_state(run.asked.out, State(run.step, tensors, values), run.asked.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def restore_run(run: _Run) -> bool:
    """Put `run` where the newest checkpoint of its folder was; return whether there is one."""
    state = load_newest(run.asked.out)
    if state is not None:
        _put_back(run, state)
    if run.world > 1:
        here = torch.tensor([run.step], device=run.accelerator.device)
        steps = run.accelerator.gather(here).tolist()
        if len(set(steps)) > 1:
            raise ResumeError(
                f"{run.asked.out}: processes find different checkpoints in it (steps "
                f"{', '.join(map(str, steps))}); --out must lie on a disk that all of them share"
            )
    return state is not None


def _put_back(run: _Run, state: State) -> None:
    whole = unflatten(state.values["rest"], state.tensors)
    with torch.no_grad():
        for name, value in run.trained.items():
            value.copy_(whole["weights"][name])
    run.optimizer.optimizer.load_state_dict(whole["optimizer"])
    lay_like_weights(run.optimizer.optimizer)
    run.schedule.load_state_dict(whole["schedule"])
    if run.average is not None:
        run.average.load_state_dict(whole["average"])
        run.average.to(run.accelerator.device)
    if run.accelerator.scaler and whole["scaler"]:
        run.accelerator.scaler.load_state_dict(whole["scaler"])
    if f"rng/{run.rank}" in state.tensors:
        set_randomness(state.tensors[f"rng/{run.rank}"].cpu())
    run.step = state.step
    run.outcome.best_step, run.outcome.best_check = state.values["best"]
    run.looked = bool(state.values.get("looked", True))


def lay_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their weights.

    A fused step walks through memory, not through indices, and checkpoints are contiguous.
    """
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                kept[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _collect(run: _Run) -> dict[str, Any]:
    scaler = run.accelerator.scaler
    return {
        "weights": {name: value.detach() for name, value in run.trained.items()},
        "optimizer": run.optimizer.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "average": run.average.state_dict() if run.average else None,
        "scaler": scaler.state_dict() if scaler else None,
    }


def _gather_randomness(run: _Run) -> list[torch.Tensor]:
    """Return the state of torch's own generators on each process (for dropout and the like)."""
    here = get_randomness().to(run.accelerator.device)
    everywhere = run.accelerator.gather(here) if run.world > 1 else here
    return list(everywhere.cpu().reshape(run.world, -1))
