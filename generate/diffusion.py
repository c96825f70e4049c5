"""Image–mask pairs drawn by an adapted Stable Diffusion with a ControlNet.

In: an engine (base, adapters, ControlNet, prompt), masks, a seed. Out: a maker for
`univg.run_folder`. Pictures are drawn in blocks of equal shape, filled up where a block is not
whole: the processor's matrix products round by the shape of a batch, never by what else is in it,
so a pair comes out the same whatever is drawn beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from univg.devices import require_device
from univg.files import sha256_hex
from univg.grain import add_grain, drop_colour, has_any_colour
from univg.masks import BoolMask
from univg.run_folder import Made
from univg.sd_compute import resolve_attention, resolve_layout
from univg.sd_engine import EngineCard, load_engine, load_refiner
from univg.sd_refiner import Finisher
from univg.sd_sample import Compute, Sampler, Sampling, choose_device
from univg.seeds import rng_for, seed_for

from .image_makers import Drawn, ImageMaker

CPU_BLOCK = 8
GPU_BLOCK = 8
LIBRARIES = {name: version(name) for name in ("torch", "diffusers")}


@dataclass(kw_only=True)
class Engine:
    """An engine and how to draw with it; loaded once in each process."""

    card: EngineCard
    sampling: Sampling
    compute: Compute
    size_px: tuple[int, int]
    block: int
    is_refined: bool = False
    """Whether the card's refiner is wanted."""
    sampler: Sampler | None = field(default=None, compare=False, repr=False)
    finisher: Finisher | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sampler": None, "finisher": None}

    def load(self) -> Sampler:
        """Return the sampler, loaded."""
        if self.sampler is None:
            require_device(self.compute.device)
            base, control, card = load_engine(self.card)
            finisher = load_refiner(card) if self.is_refined else None
            sampler = Sampler(
                base, control, sampling=self.sampling, compute=self.compute, size_px=self.size_px
            )
            if finisher is not None:
                finisher.refiner.to(sampler.device)
            self.card, self.finisher, self.sampler = card, finisher, sampler
        return self.sampler

    def identity(self) -> dict[str, Any]:
        """Return what decides the pictures; the block only where it does."""
        self.load()
        found = {**self.card.provenance(), **self.parameters()}
        del found["libraries"]  # a run may go on with others; its rows tell
        return found

    def parameters(self) -> dict[str, Any]:
        """Return what a row says of how it was drawn."""
        assert self.sampler is not None
        sampling = self.sampling
        return {
            "steps": sampling.steps,
            "scheduler": sampling.scheduler,
            "guidance": sampling.guidance,
            "control_strength": sampling.control_strength,
            "prompt": self.card.prompt,
            "negative_prompt": sampling.negative_prompt,
            "precision": str(self.sampler.dtype).removeprefix("torch."),
            "drawn_px": list(self.size_px),
            "libraries": dict(LIBRARIES),
        }

    def course(self) -> dict[str, Any]:
        """Return what changes pictures in their rounding alone, for who makes one again."""
        compute = self.compute
        side = max(self.size_px) // self.load().base.vae_factor
        return {
            "batch": self.block,
            "compile": compute.compile,
            "attention": resolve_attention(compute.attention, side),
            "channels_last": resolve_layout(compute.channels_last),
        }

    def draw(
        self, places: Sequence[int], seeds: Sequence[int], masks: Sequence[BoolMask] = ()
    ) -> npt.NDArray[np.uint8]:
        """Return a picture for each of `places` in a block of `self.block`."""
        sampler, count = self.load(), self.block
        filled = list(range(count))
        for number, place in enumerate(places):
            filled[place] = number
        # An empty place repeats the first picture; what is in it changes no other.
        chosen = [filled[place] if place in places else 0 for place in range(count)]
        drawn = sampler.draw(
            [self.card.prompt] * count,
            [seeds[k] for k in chosen],
            [masks[k] for k in chosen] if len(masks) else (),
        )
        return drawn[list(places)]


def choose_block(batch: int | None, device: str) -> int:
    """Return how many pictures are drawn together: fixed on a CPU, as asked on a GPU."""
    if choose_device(device).partition(":")[0] == "cpu":
        return CPU_BLOCK
    return batch or GPU_BLOCK


@dataclass(kw_only=True)
class DiffusionMaker(ImageMaker):
    """Draws images for masks with a ControlNet."""

    engine = "diffusion"
    with_engine: Engine
    grain: float = 1.0
    """Strength of the grain that the card holds."""
    refine: float = 1.0
    """Strength of its refiner, of that which the card names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.block = self.with_engine.block
        self.with_engine.is_refined = self._refining() > 0

    def settings(self) -> dict[str, Any]:
        """Return the engine and how it is used."""
        return {"diffusion": {**self.with_engine.identity(), **self._describe_finish()}}

    def _describe_finish(self) -> dict[str, Any]:
        """Return strength and checksum of refiner and grain, and whether colour is dropped."""
        card = self.with_engine.card
        refined, grainy = self._refining() > 0, card.grain is not None and self.grain > 0
        grain = sha256_hex(repr(card.grain).encode())[:16]
        return {
            "refiner": [self._refining(), card.refiner_sha256[:16]] if refined else [0.0, ""],
            "grain": [self.grain, grain] if grainy else [0.0, ""],
            "is_grey": card.is_grey,
        }

    def _refining(self) -> float:
        """Return how strongly pictures are refined."""
        card = self.with_engine.card
        return self.refine * card.refiner_strength if card.refiner else 0.0

    @property
    def stage(self) -> str:
        """Name under which this run's seeds are drawn."""
        return f"generate/diffusion/{self.modality_name}"

    def prepare(self) -> None:
        """Load the engine."""
        self.with_engine.load()

    def draw(self, loaded: Sequence[tuple[int, BoolMask]]) -> list[Drawn]:
        """Draw the images of one block."""
        indices = [index for index, _ in loaded]
        seeds = [seed_for(self.seed, self.stage, index) for index in indices]
        masks = [mask for _, mask in loaded]
        places = [index % self.block for index in indices]
        pictures = list(self.with_engine.draw(places, seeds, masks))
        finisher = self.with_engine.finisher
        if finisher is not None and self._refining() > 0:
            pictures = finisher.refine(pictures, masks, self._refining())
        is_grey = self.with_engine.card.is_grey
        parameters = {**self.with_engine.parameters(), **self.with_engine.card.provenance()}
        parameters |= {**self._describe_finish(), "course": self.with_engine.course()}
        return [
            Drawn(index, _as_stored(picture, is_grey), mask, list(mask.shape), parameters)
            for index, picture, mask in zip(indices, pictures, masks, strict=True)
        ]

    def finish(self, drawn: Sequence[Drawn]) -> list[Made]:
        """Encode the pairs, their images with grain of their own."""
        grain = self.with_engine.card.grain
        if grain is not None and self.grain > 0:
            stage = f"{self.stage}/grain"
            drawn = [
                dataclasses.replace(
                    each,
                    image=add_grain(
                        each.image, grain, rng_for(self.seed, stage, each.index), self.grain
                    ),
                )
                for each in drawn
            ]
        return super().finish(drawn)


def _as_stored(picture: npt.NDArray[np.uint8], is_grey: bool) -> npt.NDArray[np.uint8]:
    """Return a picture as a grey one (H, W) where it has no colour, or is to have none."""
    return drop_colour(picture) if is_grey or not has_any_colour(picture) else picture
