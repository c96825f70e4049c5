"""Where a run computes: device, precision, processes.

In: settings. Out: an Accelerator, the same for one process and for many that `accelerate launch` or
`torchrun` started.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration

from .options import Training


def make_accelerator(asked: Training) -> Accelerator:
    """Return the Accelerator of a run."""
    # A second run in one process (demo, tests, notebooks) may ask for another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=choose_precision(asked.precision),
        log_with=None if asked.tracker == "none" else asked.tracker,
        project_config=ProjectConfiguration(
            project_dir=str(asked.out), logging_dir=str(asked.out / "log")
        ),
    )


def choose_precision(asked: str) -> str:
    """Return the mixed precision to use: no, bf16 or fp16."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if torch.backends.mps.is_available() or _cpu_has_bf16() else "no"


def _cpu_has_bf16() -> bool:
    """Whether bf16 is computed by the processor itself; emulated, it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
