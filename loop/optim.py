"""Optimizers, schedules and the moving average of the weights.

In: parameters and the names that the settings give. Out: the field's own parts (torch,
bitsandbytes, diffusers), set up as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from univg.errors import UserError

from .options import Training


def make_optimizer(
    asked: Training, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer that `asked` names."""
    rate = asked.learning_rate
    assert rate is not None
    if asked.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    decay = asked.weight_decay or 0.0
    if asked.optimizer == "adamw8bit":
        return _eight_bit(parameters, rate, decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _eight_bit(
    parameters: Sequence[torch.nn.Parameter], rate: float, decay: float
) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "--optimizer adamw8bit needs the package bitsandbytes, which is not installed: "
            "`pip install bitsandbytes`, or take --optimizer adamw"
        ) from error
    if not torch.cuda.is_available():
        raise UserError("--optimizer adamw8bit needs a GPU; take --optimizer adamw")
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, lr=rate, weight_decay=decay)
    return optimizer


def make_schedule(asked: Training, optimizer: torch.optim.Optimizer) -> Any:
    """Return the schedule of the learning rate, counted in optimizer steps."""
    assert asked.schedule is not None
    assert asked.max_steps is not None
    return get_scheduler(
        asked.schedule,
        optimizer=optimizer,
        num_warmup_steps=asked.warmup_steps or 0,
        num_training_steps=asked.max_steps,
    )


def make_average(asked: Training, parameters: Sequence[torch.nn.Parameter]) -> EMAModel | None:
    """Return the moving average of `parameters`, or None where none is asked for."""
    if not asked.ema:
        return None
    return EMAModel(parameters, decay=asked.ema, use_ema_warmup=True, power=0.75, foreach=True)
