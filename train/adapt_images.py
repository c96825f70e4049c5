"""`univg train adapt-images`: a ControlNet on a few real pairs (Sec. 3.3).

In: five images with masks, the image engine as base, where there is one a ControlNet to start
from. Out: `OUT/controlnet` in diffusers' layout, where asked for an adapter of the shots' look
beside it; images that they draw, measured against masks and shots, in `OUT/report.html`. Also
`accelerate launch -m univg.train.adapt_images …`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le

from univg.config import settings

from .options import Engine, Shots, fill_in

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

PRESETS: dict[str, dict[str, Any]] = {
    # The paper names batch and rate, not the steps.
    "paper": {
        "max_steps": 5000,
        "batch": 2,
        "learning_rate": 1e-5,
        "turns": "all",
        "report_samples": 8,
        "unet": "locked",
        "vessel_weight": 0.0,
        "refine_steps": 0,
    },
    "gpu-24gb": {"max_steps": 3000, "batch": 8, "refine_steps": 1500},
    "gpu-8gb": {
        "max_steps": 3000,
        "batch": 4,
        "micro_batch": 1,
        "optimizer": "adamw8bit",
        "gradient_checkpointing": True,
        "refine_steps": 1500,
    },
    "laptop": {
        "max_steps": 500,
        "batch": 4,
        "learning_rate": 3e-4,
        "schedule": "cosine",
        "warmup_steps": 20,
        "ema": 0.99,
        "report_samples": 10,
        "unet": "lora",
        "vessel_weight": 4.0,
        "refine_steps": 600,
    },
}


@settings
class AdaptImages(Engine, Shots):
    """Adapt the image engine to a few real pairs with a ControlNet.

    Writes OUT/controlnet, where asked for OUT/look.safetensors, and OUT/report.html. The same
    command goes on after an interruption.
    """

    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """ControlNet to start from: a folder, `nano` (the embedded one), or `unet` for a fresh one from
    the UNet as in the paper; default: the embedded one for base nano, else a fresh one."""
    unet: Literal["locked", "lora", "free"] | None = None
    """What of the UNet learns beside the ControlNet. locked: nothing, as in the paper, for a base
    that knows such images; lora: an adapter of how the shots look, written to OUT/look.safetensors;
    free: all of it, written to OUT/base."""
    vessel_weight: Annotated[float, Ge(0), Le(100)] | None = None
    """How much more the loss counts where there is a vessel, so that masks are followed sooner; 0
    as in the paper."""
    look_dim: Annotated[int, Ge(1), Le(1024)] = 16
    """Rank of that adapter."""
    refine_steps: Annotated[int, Ge(0)] | None = None
    """Steps of a small network that learns at the end what the autoencoder loses of thin vessels,
    and puts it back where the mask says; 0: none, as in the paper."""


def plan(asked: AdaptImages) -> str:
    """Return what a run would do."""
    from .planning import describe_plan

    return describe_plan(fill_in(asked, PRESETS), "control", f"{asked.out}/controlnet")


def run(asked: AdaptImages) -> Outcome:
    """Train; return how it went."""
    from .engines import adapt_images

    return adapt_images(fill_in(asked, PRESETS))


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["train", "adapt-images", *sys.argv[1:]]))
