"""Pictures drawn by an engine while it trains: one a prompt, or one a mask.

In: a base, prompts or pairs, a seed. Out: a sheet (H, W, 3) for the previews of a run, always of
the same noise, so that one preview can be held beside the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from univg.agreement import measure_agreement
from univg.loop.task import Preview
from univg.resize import Fit
from univg.sd import Base
from univg.sd_sample import GUIDANCE, STEPS, Sampler, Sampling
from univg.seeds import seed_for

from .pictures import TURNS, Picture, load_mask, load_picture, turn

if TYPE_CHECKING:
    from diffusers import ControlNetModel

GAUGE_COUNT, GAUGE_STEPS = 4, 10
"""Pictures and steps of a look at how well masks are followed: rough, but cheap."""


def draw_samples(
    base: Base,
    prompts: Sequence[str],
    *,
    seed: int,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    size_px: int | None = None,
) -> Preview:
    """Return one picture a prompt, side by side."""
    return np.hstack(
        sample_pictures(base, prompts, seed=seed, guidance=guidance, steps=steps, size_px=size_px)
    )


def draw_steered(
    base: Base,
    control: ControlNetModel,
    pairs: Sequence[Picture],
    *,
    seed: int,
    size_px: int | None = None,
    fit: Fit = "crop",
) -> Preview:
    """Return masks, real images and what the engine draws for the masks, in three rows."""
    side = size_px or base.native_px
    masks = [load_mask(picture.mask_path, side, fit) for picture in pairs if picture.mask_path]
    prompts = [picture.prompt for picture in pairs]
    drawn = sample_pictures(base, prompts, seed=seed, control=control, masks=masks, size_px=side)
    grey = [np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2) for mask in masks]
    real = [load_picture(picture, side, fit) for picture in pairs]
    return np.vstack([np.hstack(row) for row in (grey, real, drawn)])


class SteeringGauge:
    """How well an engine follows masks while it is trained: clDice on a few quick drawings.

    The masks are those of `pairs`, turned, so that a picture known by heart is no answer.
    """

    def __init__(
        self,
        base: Base,
        control: ControlNetModel,
        pairs: Sequence[Picture],
        *,
        seed: int,
        size_px: int,
        fit: Fit,
    ) -> None:
        self.base, self.control, self.seed, self.size_px = base, control, seed, size_px
        self.pairs = [pairs[k % len(pairs)] for k in range(GAUGE_COUNT)]
        whole = [load_mask(p.mask_path, size_px, fit) for p in self.pairs if p.mask_path]
        real = [load_picture(picture, size_px, fit) for picture in self.pairs]
        self.polarity = measure_agreement(real, whole).polarity
        # Each in another position: the same pair may be drawn for twice.
        self.masks = [turn(mask, 1 + k % (TURNS - 1)) for k, mask in enumerate(whole)]

    def measure(self) -> dict[str, float]:
        """Return clDice, and what the masks of others would give: chance."""
        drawn = sample_pictures(
            self.base,
            [picture.prompt for picture in self.pairs],
            seed=self.seed,
            steps=GAUGE_STEPS,
            control=self.control,
            masks=self.masks,
            size_px=self.size_px,
        )
        found = measure_agreement(drawn, self.masks, polarity=self.polarity)
        chance = {} if found.chance is None else {"cldice_chance": found.chance}
        return {"cldice": found.cldice, **chance}


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
    side = size_px or base.native_px
    sampler = Sampler(
        base,
        control,
        sampling=Sampling(steps=steps, guidance=guidance, control_strength=strength),
        size_px=(side, side),
    )
    pictures: list[Preview] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [seed_for(seed, "draw", start + number) for number in range(len(part))]
        pictures += list(sampler.draw(part, seeds, masks[start : start + batch]))
    return pictures
