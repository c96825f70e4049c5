"""Training the refiner: from what the autoencoder gives back of the shots to the shots.

In: shots and what gives them back. Out: a `Refiner`. It sees crops that are blurred and bent
beyond what the autoencoder does, so that it goes by the mask and not by what is left of a vessel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from univg.loop.task import Preview, Sample, Task
from univg.masks import BoolMask
from univg.sd_refiner import LARGEST_STEP, Finisher, Pixels, Refiner, save_finisher, stack_planes
from univg.vesselness import find_field

from .pictures import Array, turn
from .vae_task import edge_error

CROP_PX = 96
LEAST_BLUR_PX, LARGEST_BLUR_PX = 0.3, 2.0
BEND_PX, BEND_GRID_PX = 1.5, 16
"""Spread of how far the drawn picture may lie beside its mask, and how quickly that changes."""
EDGE_WEIGHT = 0.5
VESSEL_WEIGHT, NEAR_PX = 8.0, 5
"""How much more the error counts in a vessel and near it: few pixels, and what it is all about."""
NAME = "refiner.safetensors"


class RefinerLoss(torch.nn.Module):
    """The refiner with its loss."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.refiner = refiner

    def forward(self, batch: Sample) -> torch.Tensor:
        """Return the loss of each crop, (B,)."""
        planes, wanted = batch["planes"], batch["wanted"]
        found = planes[:, :3] + self.refiner(planes).float()
        near = functional.max_pool2d(planes[:, 3:4], NEAR_PX, 1, NEAR_PX // 2)
        weight = 1 + VESSEL_WEIGHT * near
        wrong = (weight * torch.abs(found - wanted)).flatten(1).mean(dim=1)
        return wrong + EDGE_WEIGHT * edge_error(found, wanted)


class RefinerTask(Task):
    """Crops of shots, in each of `turns`, and what `give_back` makes of the turned images."""

    name = "refiner"

    def __init__(
        self,
        refiner: Refiner,
        images: Sequence[Pixels],
        masks: Sequence[BoolMask],
        turns: Sequence[int],
        give_back: Callable[[Sequence[Pixels]], Sequence[Pixels]],
    ) -> None:
        self.refiner, self.module = refiner, RefinerLoss(refiner)
        self.fields = [find_field(image) for image in images]
        self.wanted = _turn_all(images, turns)
        self.masks = _turn_all(masks, turns)
        self.own_fields = _turn_all(self.fields, turns)
        self.given = give_back(self.wanted)
        self.items = len(self.wanted)
        side = min(self.wanted[0].shape[:2])
        self.crop_px = min(CROP_PX, side - side % LARGEST_STEP)

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Return a random crop, its picture blurred and bent at random."""
        height, width = self.masks[item].shape
        top = int(rng.integers(0, height - self.crop_px + 1))
        left = int(rng.integers(0, width - self.crop_px + 1))
        inside = np.s_[top : top + self.crop_px, left : left + self.crop_px]
        given = soften(bend(self.given[item], inside, rng), rng)
        planes = stack_planes(given, self.masks[item][inside], self.own_fields[item][inside])
        wanted = self.wanted[item][inside].astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
        return {"planes": torch.from_numpy(planes), "wanted": torch.from_numpy(wanted)}

    def preview(self, step: int) -> Preview | None:  # noqa: ARG002 - the same at each step
        """Return shots, what the autoencoder gives back, and that refined, in three rows."""
        stride = max(1, self.items // len(self.fields))
        shown = list(range(0, self.items, stride))[:5]
        given = [self.given[k] for k in shown]
        refined = Finisher(self.refiner, self.fields).refine(given, [self.masks[k] for k in shown])
        rows = ([self.wanted[k] for k in shown], given, refined)
        return np.vstack([np.hstack(row) for row in rows])

    def save(self, folder: Path) -> list[Path]:
        """Write the refiner."""
        save_finisher(Finisher(self.refiner, self.fields), folder / NAME)
        return [folder / NAME]


def _turn_all(pictures: Sequence[Array], turns: Sequence[int]) -> list[Array]:
    """Return each of `pictures` in each of `turns`."""
    return [turn(each, k) for each in pictures for k in turns]


def bend(picture: Pixels, inside: tuple[slice, slice], rng: np.random.Generator) -> Pixels:
    """Return the crop `inside` of `picture`, each place taken from a little beside it."""
    rows, columns = inside
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    spread = BEND_PX * rng.random()
    coarse = rng.normal(0, spread, (2, shape[0] // BEND_GRID_PX + 3, shape[1] // BEND_GRID_PX + 3))
    moves = [
        cv2.resize(each.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
        for each in coarse
    ]
    across, down = np.meshgrid(
        np.arange(columns.start, columns.stop, dtype=np.float32),
        np.arange(rows.start, rows.stop, dtype=np.float32),
    )
    bent = cv2.remap(
        picture, across + moves[0], down + moves[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(bent, np.uint8)


def soften(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Return `picture` blurred a little more or less."""
    sigma = LARGEST_BLUR_PX * rng.random()
    if sigma < LEAST_BLUR_PX:
        return picture
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)
