"""`univg train images`: the image engine, the whole UNet on unlabelled images (Sec. 3.3).

In: folders of images, a base. Out: `OUT/base`, the base with its new UNet in diffusers' layout, to
be given as `--base` further on. Also `accelerate launch -m univg.train.images …`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from univg.config import settings

from .options import Engine, fill_in

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "max_steps": 141_000,
        "batch": 8,
        "learning_rate": 1e-4,
        "optimizer": "adam",
        "report_samples": 16,
    },
    "gpu-24gb": {
        "max_steps": 40_000,
        "batch": 16,
        "optimizer": "adamw8bit",
        "gradient_checkpointing": True,
        "ema": 0.999,
    },
    "laptop": {
        "optimizer": "adamw",
        "max_steps": 600,
        "batch": 8,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup_steps": 50,
        "ema": 0.99,
        "report_samples": 8,
    },
}


@settings
class TrainImages(Engine):
    """Train the whole UNet on unlabelled images: the image engine.

    Writes OUT/base. The same command goes on after an interruption.
    """

    data: Annotated[tuple[Path, ...], MinLen(1)]
    """Folders of images; sub-folders named by modality bring that modality's prompt."""
    skip_bad: bool = False
    """Leave files out that cannot be read, and say so, instead of refusing."""


def plan(asked: TrainImages) -> str:
    """Return what a run would do."""
    from .planning import describe_plan

    return describe_plan(fill_in(asked, PRESETS), "unet", f"{asked.out}/base")


def run(asked: TrainImages) -> Outcome:
    """Train; return how it went."""
    from .engines import train_images

    return train_images(fill_in(asked, PRESETS))


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["train", "images", *sys.argv[1:]]))
