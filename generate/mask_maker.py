"""Masks drawn by an adapted Stable Diffusion.

In: an engine, a cut, a seed. Out: a maker for `univg.run_folder`. A mask that comes out empty is
drawn again from the next seed of its own; the row says how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from univg import __version__
from univg.binarise import Cut, cut_mask
from univg.errors import DataError
from univg.masks import INVERTED_DENSITY, BoolMask, encode_mask
from univg.run_folder import Made, Maker
from univg.seeds import seed_for

from .diffusion import Engine

ALGORITHM = 1  # raise with every change that changes masks: older runs are then not resumed
TRIES = 8


@dataclass(frozen=True)
class DrawnMask:
    """A mask in memory, and which try it is."""

    index: int
    mask: BoolMask
    attempt: int


@dataclass(kw_only=True)
class MaskMaker(Maker):
    """Draws masks by prompt."""

    unit: ClassVar[str] = "masks"
    folders: ClassVar[Mapping[str, str]] = {"mask": "masks"}
    with_engine: Engine
    cut: Cut
    modality_name: str
    size: tuple[int, int]
    seed: int

    def __post_init__(self) -> None:
        self.block = self.with_engine.block
        self.label = f"{self.modality_name} masks"

    @property
    def stage(self) -> str:
        """Name under which this run's seeds are drawn."""
        return f"generate/masks/{self.modality_name}"

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first."""
        return {
            "stage": "generate masks",
            "version": __version__,
            "algorithm": ALGORITHM,
            "engine": "diffusion",
            "seed": self.seed,
            "modality": self.modality_name,
            "size_px": list(self.size),
            "cut": asdict(self.cut),
            "diffusion": self.with_engine.identity(),
        }

    def id_of(self, index: int) -> str:
        """Return the name of mask `index`."""
        return f"{self.modality_name}-{index:06d}"

    def prepare(self) -> None:
        """Load the engine."""
        self.with_engine.load()

    def load(self, indices: Sequence[int]) -> list[int]:
        """Masks are drawn from nothing."""
        return list(indices)

    def draw(self, loaded: Sequence[int]) -> list[DrawnMask]:
        """Draw the masks of one block; those that are no vessel trees again."""
        found: dict[int, DrawnMask] = {}
        for attempt in range(TRIES):
            missing = [index for index in loaded if index not in found]
            if not missing:
                break
            seeds = [self.seed_of(index, attempt) for index in missing]
            pictures = self.with_engine.draw([index % self.block for index in missing], seeds)
            for index, picture in zip(missing, pictures, strict=True):
                mask = cut_mask(picture, self.cut, self.size)
                if 0 < mask.mean() <= INVERTED_DENSITY:
                    found[index] = DrawnMask(index, mask, attempt)
        if len(found) < len(loaded):
            missing = [index for index in loaded if index not in found]
            raise DataError(
                f"mask {missing[0]}: the engine draws nothing but empty or full masks ({TRIES} "
                "tries); is its prompt right, its adaptation trained long enough?"
            )
        return [found[index] for index in loaded]

    def seed_of(self, index: int, attempt: int) -> int:
        """Return the seed of a try at mask `index`."""
        again = f"/again-{attempt}" if attempt else ""
        return seed_for(self.seed, self.stage + again, index)

    def finish(self, drawn: Sequence[DrawnMask]) -> list[Made]:
        """Encode the masks."""
        parameters = {**self.with_engine.parameters(), **self.with_engine.card.provenance()}
        parameters["course"] = self.with_engine.course()
        return [
            Made(
                each.index,
                {"mask": encode_mask(each.mask)},
                {
                    "modality": self.modality_name,
                    "engine": "diffusion",
                    "size_px": list(self.size),
                    "seed": self.seed_of(each.index, each.attempt),
                    "parameters": {**parameters, **asdict(self.cut), "attempt": each.attempt},
                    "version": __version__,
                },
            )
            for each in drawn
        ]
