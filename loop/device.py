"""Where a run computes: device, precision, processes.

In: settings. Out: an Accelerator, the same for one process and for many that `accelerate launch` or
`torchrun` started.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from univg.sd_compute import choose_precision

from .options import Training

LONGEST_WAIT = timedelta(hours=6)


def make_accelerator(asked: Training) -> Accelerator:
    """Return the Accelerator of a run."""
    # A second run in one process (demo, tests, notebooks) may ask for another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        # Left to itself, accelerate sees no other processes where there is no GPU: each would take
        # itself for the only one.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=choose_precision(asked.precision),
        log_with=None if asked.tracker == "none" else asked.tracker,
        project_config=ProjectConfiguration(
            project_dir=str(asked.out), logging_dir=str(asked.out / "log")
        ),
        # The others wait while the first draws previews and measures: ten minutes, which is the
        # default for GPUs, may not do. A process that died ends the others through its launcher.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )


def is_first_process() -> bool:
    """Whether this process is the first of those that a launcher started, or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def get_randomness() -> torch.Tensor:
    """Return the state of torch's own generators: the CPU's, then that of this process's GPU."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def seed_randomness(seed: int) -> None:
    """Set torch's own generators, which only dropout and the like draw from."""
    states = [torch.Generator().manual_seed(seed).get_state()]
    if torch.cuda.is_available():
        states.append(torch.Generator("cuda").manual_seed(seed).get_state())
    set_randomness(torch.cat(states))


def set_randomness(states: torch.Tensor) -> None:
    """Undo: put the generators back to `states` of `get_randomness`."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(states[:size].clone())
    if torch.cuda.is_available() and len(states) > size:
        torch.cuda.set_rng_state(states[size:].clone())
