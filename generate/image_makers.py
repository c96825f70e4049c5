"""Image engines that need no network: each makes a pair from a mask and a seed.

In: a `MaskSource`, a seed, a look or the shots. Out: makers for `univg.run_folder`. What is drawn
at random is drawn first and goes into the row, so a row is enough to make its pair again.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from univg import __version__
from univg.config import to_plain
from univg.images import encode_image
from univg.manifest import Row
from univg.masks import BoolMask, encode_mask
from univg.run_folder import Made, Maker
from univg.seeds import rng_for, seed_for

from .composite import render_composite, sample_recipe
from .composite_library import Library
from .looks import LookCard, sample_look
from .procedural import render, stage_of
from .sources import MaskSource

ALGORITHM = 1  # raise with every change that changes images: older runs are then not resumed


@dataclass(frozen=True)
class Drawn:
    """A pair in memory and how it was made."""

    index: int
    image: npt.NDArray[np.uint8]
    mask: BoolMask
    size_px: list[int]
    parameters: dict[str, Any]


@dataclass(kw_only=True)
class ImageMaker(Maker):
    """Makes an image for a mask. Engines differ in `draw` and in what decides it."""

    engine = ""
    source: MaskSource
    modality_name: str
    seed: int

    def __post_init__(self) -> None:
        self.label = f"{self.modality_name} images"

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what decides the images of this engine, beside masks, seed and modality."""

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first."""
        size = self.source.size
        return {
            "stage": "generate images",
            "version": __version__,
            "algorithm": ALGORITHM,
            "engine": self.engine,
            "seed": self.seed,
            "modality": self.modality_name,
            "variants": self.source.variants,
            "size_px": None if size is None else list(size),
            "masks": self.source.identity(),
            **self.settings(),
        }

    def id_of(self, index: int) -> str:
        """Return the name of pair `index`."""
        return self.source.id_of(index)

    @property
    def stage(self) -> str:
        """Name under which this run's seeds are drawn."""
        return stage_of(self.modality_name)

    def load(self, indices: Sequence[int]) -> list[tuple[int, BoolMask]]:
        """Read the masks."""
        return [(index, self.source.read(index)) for index in indices]

    @abc.abstractmethod
    def draw(self, loaded: Sequence[tuple[int, BoolMask]]) -> list[Drawn]:
        """Make an image for each mask."""

    def finish(self, drawn: Sequence[Drawn]) -> list[Made]:
        """Encode the pairs."""
        return [
            Made(
                each.index,
                {"image": encode_image(each.image), "mask": encode_mask(each.mask)},
                self.describe(each),
            )
            for each in drawn
        ]

    def describe(self, drawn: Drawn) -> Row:
        """Return what a row says beside names and checksums."""
        return {
            "modality": self.modality_name,
            "engine": self.engine,
            **self.source.row_of(drawn.index),
            "size_px": drawn.size_px,
            "seed": seed_for(self.seed, self.stage, drawn.index),
            "parameters": drawn.parameters,
            "version": __version__,
        }


class CpuMaker(ImageMaker):
    """Paints one image after the other."""

    def draw(self, loaded: Sequence[tuple[int, BoolMask]]) -> list[Drawn]:
        """Paint an image for each mask."""
        return [self.paint(index, mask) for index, mask in loaded]

    @abc.abstractmethod
    def paint(self, index: int, mask: BoolMask) -> Drawn:
        """Return pair `index`, whose mask is `mask`."""


@dataclass(kw_only=True)
class ProceduralMaker(CpuMaker):
    """Draws measured vessels in a drawn look; no shots, no network."""

    engine = "procedural"
    card: LookCard

    def settings(self) -> dict[str, Any]:
        """Return the look."""
        return {"look": to_plain(self.card)}

    def paint(self, index: int, mask: BoolMask) -> Drawn:
        """Render `mask` in look number `index`."""
        look = sample_look(self.card, rng_for(self.seed, self.stage, index))
        made = render(mask, look)
        return Drawn(index, made.image, made.mask, list(mask.shape), look.to_plain())


@dataclass(kw_only=True)
class CompositeMaker(CpuMaker):
    """Draws the mask's vessels, as the shots have them, over their backgrounds."""

    engine = "composite"
    library: Library

    def settings(self) -> dict[str, Any]:
        """Return which shots."""
        return {"shots": self.library.identity}

    @property
    def stage(self) -> str:
        """Name under which this run's seeds are drawn."""
        return f"generate/composite/{self.modality_name}"

    def paint(self, index: int, mask: BoolMask) -> Drawn:
        """Compose an image for `mask` by recipe number `index`."""
        recipe = sample_recipe(self.library, rng_for(self.seed, self.stage, index))
        made = render_composite(mask, self.library, recipe)
        return Drawn(index, made.image, made.mask, list(mask.shape), recipe.to_plain())
