"""`univg train adapt-masks`: LoHa on a few real masks, over the mask engine (Sec. 3.2).

In: five masks, a base, where there is one the LoRA of `univg train masks`. Out:
`OUT/adapter.safetensors`, a LoHa in the layout of kohya; masks that it draws, measured against
the shots, in `OUT/report.html`. Also `accelerate launch -m univg.train.adapt_masks …`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from univg.config import settings

from .options import Engine, Shots, fill_in

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "max_steps": 1500,
        "batch": 1,
        "learning_rate": 1e-4,
        "schedule": "cosine",
        "optimizer": "adam",
        "turns": "none",
        "report_samples": 16,
        "calibrate": 12,
    },
    "gpu-24gb": {"max_steps": 1500, "batch": 4, "turns": "mirror"},
    "gpu-8gb": {
        "max_steps": 1500,
        "batch": 4,
        "micro_batch": 1,
        "turns": "mirror",
        "gradient_checkpointing": True,
    },
    "laptop": {
        "max_steps": 400,
        "batch": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 20,
        "turns": "mirror",
        "report_samples": 16,
        "calibrate": 12,
    },
}


@settings
class AdaptMasks(Engine, Shots):
    """Adapt the mask engine to a few real masks with LoHa.

    Writes OUT/adapter.safetensors and OUT/report.html. The same command goes on after an
    interruption.
    """

    adapter: tuple[str, ...] = ()
    """Adapters to train on top of, FILE or FILE:STRENGTH; they stay as they are."""
    kind: Literal["loha", "lora"] = "loha"
    """Family of the new adapter."""
    dim: Annotated[int, Ge(1), Le(512)] = 32
    """Rank of linear layers and 1x1 convolutions."""
    alpha: Annotated[float, Gt(0)] = 32
    """Their change is scaled by alpha / rank."""
    conv_dim: Annotated[int, Ge(0), Le(512)] = 4
    """Rank of larger convolutions; 0 leaves them as they are."""
    conv_alpha: Annotated[float, Gt(0)] = 4
    """Their change is scaled by conv_alpha / conv_dim."""
    strength: Annotated[float, Ge(0), Le(2)] = 0.7
    """Strength λ at which the report's masks are drawn."""
    calibrate: Annotated[int, Ge(0), Le(1000)] | None = None
    """Masks drawn at the end to choose how drawn ones are cut, smoothed and pruned, so that they
    are most like the shots; 0: the cut follows from the autoencoder alone."""


def plan(asked: AdaptMasks) -> str:
    """Return what a run would do."""
    from .adapters import spec_of
    from .planning import describe_plan

    asked = fill_in(asked, PRESETS)
    return describe_plan(asked, "adapter", f"{asked.out}/adapter.safetensors", spec_of(asked))


def run(asked: AdaptMasks) -> Outcome:
    """Train; return how it went."""
    from .engines import adapt_masks

    return adapt_masks(fill_in(asked, PRESETS))


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["train", "adapt-masks", *sys.argv[1:]]))
