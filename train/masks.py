"""`univg train masks`: the mask engine, LoRA on a base from synthesized masks (Sec. 3.2).

In: folders of masks, as `univg sca synth` writes them, a base. Out: `OUT/adapter.safetensors`, a
LoRA in the layout of kohya, and `OUT/adapter-diffusers.safetensors` in that of diffusers.
Also `accelerate launch -m univg.train.masks …`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

from univg.config import settings

from .options import Engine, fill_in

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

PRESETS: dict[str, dict[str, Any]] = {
    # The paper names Adam and the rate of its adaptation; steps and batch of this stage it does
    # not: one epoch of its 10,000 masks at batch 4.
    "paper": {
        "max_steps": 2500,
        "batch": 4,
        "learning_rate": 1e-4,
        "optimizer": "adam",
        "report_samples": 16,
    },
    "gpu-24gb": {
        "max_steps": 2500,
        "batch": 16,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 100,
    },
    "gpu-8gb": {
        "max_steps": 2500,
        "batch": 8,
        "micro_batch": 1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 100,
        "gradient_checkpointing": True,
    },
    "laptop": {
        "optimizer": "adamw",
        "max_steps": 400,
        "batch": 4,
        "learning_rate": 5e-4,
        "schedule": "cosine",
        "warmup_steps": 20,
        "report_samples": 8,
    },
}


@settings
class TrainMasks(Engine):
    """Train a LoRA on many synthesized masks: the mask engine.

    Writes OUT/adapter.safetensors. The same command goes on after an interruption.
    """

    data: Annotated[tuple[Path, ...], MinLen(1)]
    """Folders of masks; sub-folders named by modality bring that modality's prompt."""
    dim: Annotated[int, Ge(1), Le(512)] = 32
    """Rank."""
    alpha: Annotated[float, Gt(0)] = 32
    """The change is scaled by alpha / rank."""
    skip_bad: bool = False
    """Leave files out that cannot be read, and say so, instead of refusing."""


def plan(asked: TrainMasks) -> str:
    """Return what a run would do."""
    from .adapters import spec_of
    from .planning import describe_plan

    asked = fill_in(asked, PRESETS)
    return describe_plan(asked, "adapter", f"{asked.out}/adapter.safetensors", spec_of(asked))


def run(asked: TrainMasks) -> Outcome:
    """Train; return how it went."""
    from .engines import train_masks

    return train_masks(fill_in(asked, PRESETS))


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["train", "masks", *sys.argv[1:]]))
