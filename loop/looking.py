"""Looking at a network while it learns: validation, the best weights, previews.

In: a run between two steps. Out: figures in its journal, `OUT/best.safetensors`, pictures; the run
itself is left as it was. A request to stop comes before looking, which may take longer than the
time that is left: whoever goes on with the run then looks first.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from univg.files import write_atomic

from .device import get_randomness, set_randomness
from .memory import is_out_of_memory, release
from .task import stack_samples

if TYPE_CHECKING:
    from .loop import _Run

BEST = "best.safetensors"


def look(run: _Run) -> bool:
    """Validate and preview where this step is one to do so; return whether all of it was done."""
    # Not at --stop-at: a run that is stopped and gone on with looks when another would.
    last = run.step == run.asked.max_steps
    looks = [(run.asked.validate_every, _validate), (run.asked.preview_every, _preview)]
    # What a network draws before its first step is shown first.
    for every, act in looks if run.step else reversed(looks):
        if every and (last or run.step % every == 0) and not act(run):
            return False
    return True


def is_hurried(run: _Run) -> bool:
    """Whether to leave off looking: asked to stop, and alone, so that nobody waits for it."""
    return run.world == 1 and run.stop.asked and run.step < run.steps


def _validate(run: _Run) -> bool:
    """Note the loss on what is held out; return whether that was done."""
    if not run.task.checks:
        return True
    losses = []
    run.network.eval()
    with _averaged(run), run.task.held(), torch.no_grad():
        # The same samples go together whatever the number of processes.
        for numbers in _group(run.task.checks, run.task.checks_at_once)[run.rank :: run.world]:
            if is_hurried(run):
                break
            batch = run.to_device(stack_samples([run.task.load_check(n) for n in numbers]))
            losses += run.alone(batch).float().unbind()
    run.network.train()
    if is_hurried(run):
        return False
    here = torch.zeros(2, device=run.accelerator.device, dtype=torch.float64)
    if losses:
        here[0], here[1] = torch.stack(losses).double().sum(), len(losses)
    summed = here if run.world == 1 else run.accelerator.reduce(here, "sum")
    found = float(summed[0] / summed[1])
    run.journal.write(run.step, {"validation": found}, run.task.noted())
    if found < run.outcome.best_check and run.step:
        run.outcome.best_check, run.outcome.best_step = found, run.step
        if run.accelerator.is_main_process:
            _save_best(run)
    return True


def _group(count: int, size: int) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _save_best(run: _Run) -> None:
    with _averaged(run):
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in run.trained.items()
        }
    write_atomic(run.asked.out / BEST, save(tensors, {"step": str(run.step)}))


def _preview(run: _Run) -> bool:
    """Draw a preview and measure it; nothing that goes wrong in it ends the run.

    Return whether there was time for it.
    """
    if is_hurried(run):
        return False
    if not run.accelerator.is_main_process:
        return True
    state, failed = get_randomness(), False
    run.network.eval()
    try:
        with _averaged(run), run.task.held(), torch.no_grad():
            picture = run.task.preview(run.step)
            figures = run.task.measure(run.step)
        if picture is not None:
            run.journal.show(run.step, picture)
        if figures:
            run.journal.write(run.step, figures)
    except Exception as error:
        reason = "out of memory" if is_out_of_memory(error) else " ".join(str(error).split())
        warnings.warn(f"no preview at step {run.step}, training goes on: {reason}", stacklevel=2)
        failed = True
    finally:
        run.network.train()
        set_randomness(state)
    if failed:  # after the except block, in which the error still holds on to its tensors
        release()
    return True


@contextlib.contextmanager
def _averaged(run: _Run) -> Iterator[None]:
    """Within, the weights are their moving average, which is what will be saved."""
    if run.average is None:
        yield
        return
    weights = list(run.trained.values())
    run.average.store(weights)
    run.average.copy_to(weights)
    try:
        yield
    finally:
        run.average.restore(weights)
