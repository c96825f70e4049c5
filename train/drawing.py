"""Pictures drawn by an engine while it trains: one a prompt, or one a mask.

In: a base, prompts or pairs, a seed. Out: a sheet (H, W, 3) for the previews of a run, always of
the same noise, so that one preview can be held beside the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from univg.seeds import seed_for
from univg.sd import Base, build_pipeline

from .pictures import Picture, load_mask, load_picture
from .task import Preview

if TYPE_CHECKING:
    from diffusers import ControlNetModel

STEPS = 20
GUIDANCE = 2.0


def draw_samples(
    base: Base, prompts: Sequence[str], *, seed: int, guidance: float = GUIDANCE, steps: int = STEPS
) -> Preview:
    """Return one picture a prompt, side by side."""
    return np.hstack(sample_pictures(base, prompts, seed=seed, guidance=guidance, steps=steps))


def draw_steered(
    base: Base, control: ControlNetModel, pairs: Sequence[Picture], *, seed: int
) -> Preview:
    """Return masks, real images and what the engine draws for the masks, in three rows."""
    side = base.native_px
    masks = [load_mask(picture.mask_path, side, "crop") for picture in pairs if picture.mask_path]
    prompts = [picture.prompt for picture in pairs]
    drawn = sample_pictures(base, prompts, seed=seed, control=control, masks=masks)
    grey = [np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2) for mask in masks]
    real = [load_picture(picture, side, "crop") for picture in pairs]
    return np.vstack([np.hstack(row) for row in (grey, real, drawn)])


@torch.no_grad()
def sample_pictures(
    base: Base,
    prompts: Sequence[str],
    *,
    seed: int,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    control: ControlNetModel | None = None,
    masks: Sequence[np.ndarray] = (),
    strength: float = 1.0,
    size_px: int | None = None,
    batch: int = 8,
) -> list[Preview]:
    """Return one picture (S, S, 3) a prompt; each depends on its number and `seed` alone."""
    pipeline: Any = build_pipeline(base, control)
    pictures: list[Preview] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [
            torch.Generator().manual_seed(seed_for(seed, "draw", start + number))
            for number in range(len(part))
        ]
        options: dict[str, Any] = {"generator": generators, "guidance_scale": guidance}
        options["height"] = options["width"] = size_px or base.native_px
        if control is not None:
            planes = [mask.astype(np.float32) for mask in masks[start : start + batch]]
            options["image"] = torch.from_numpy(np.stack(planes))[:, None].repeat(1, 3, 1, 1)
            options["controlnet_conditioning_scale"] = strength
        found = pipeline(
            prompt=part, num_inference_steps=steps, output_type="np", **options
        ).images
        pictures += [(picture * 255).round().astype(np.uint8) for picture in found]
    return pictures
