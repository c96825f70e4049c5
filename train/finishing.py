"""How drawn pictures are finished: masks cut, images refined, as is learned at the end of a run.

In: a run whose engine is trained, the shots. Out: a cut for drawn masks; for drawn images a
refiner (vessels that the autoencoder loses, by the mask), how strongly it is to be used, and the
grain that is still missing then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from univg.agreement import measure_agreement
from univg.binarise import Cut, choose_cut
from univg.files import make_folder, remove_temporaries
from univg.grain import Grain, add_grain, drop_colour, has_any_colour, learn_grain
from univg.loop.device import make_accelerator
from univg.loop.loop import train
from univg.loop.options import Training
from univg.masks import BoolMask
from univg.sd_refiner import Finisher, Pixels, Refiner
from univg.sd_sample import give_back
from univg.seeds import rng_for, seed_for

from .adapt_images import AdaptImages
from .adapt_masks import AdaptMasks
from .calibration import calibrate_cut
from .drawing import sample_pictures
from .options import TURNS
from .refiner_task import NAME, RefinerTask
from .session import Session
from .shots import Shot

FOLDER = "refiner"
BATCH, LEARNING_RATE = 8, 2e-3
WARMUP_SHARE = 0.3
"""Of the steps: started at its full rate, a refiner may stay where it learns nothing."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Finish:
    """What drawn pictures get."""

    grain: Grain
    is_grey: bool = False
    refiner: Path | None = None
    strength: float = 0.0
    finisher: Finisher | None = None

    def apply(
        self, pictures: Sequence[Pixels], masks: Sequence[BoolMask], seed: int, stage: str
    ) -> list[Pixels]:
        """Return `pictures` finished, each with grain of its own."""
        refined = list(pictures)
        if self.finisher is not None:
            refined = self.finisher.refine(refined, masks, self.strength)
        if self.is_grey:
            refined = [make_grey(each) for each in refined]
        return [
            add_grain(each, self.grain, rng_for(seed, stage, number))
            for number, each in enumerate(refined)
        ]


def learn_cut(session: Session, asked: AdaptMasks, prompt: str, masks: Sequence[BoolMask]) -> Cut:
    """Learn from the shots' masks how pictures that the trained base draws are to be cut."""
    cut = choose_cut(give_back(session.base, masks), masks)
    if not asked.calibrate:
        return cut
    session.say(f"calibrating the cut on {asked.calibrate} drawn masks")
    seed = seed_for(asked.seed, "calibrate")
    prompts = [prompt] * asked.calibrate
    drawn = sample_pictures(session.base, prompts, seed=seed, size_px=session.size_px)
    return calibrate_cut(cut, drawn, masks)


def learn_finish(session: Session, asked: AdaptImages, shots: Sequence[Shot]) -> Finish:
    """Learn from `shots` how pictures that the trained base draws are to be finished."""
    images = [shot.image for shot in shots if shot.image is not None]
    masks = [shot.mask for shot in shots if shot.image is not None]
    given = give_back(session.base, images)
    is_grey = not any(has_any_colour(image) for image in images)
    if is_grey:
        given = [make_grey(each) for each in given]
    plain = Finish(learn_grain(images, given), is_grey)
    if not asked.refine_steps:
        return plain
    finisher, path = train_refiner(session, asked, images, masks)
    return replace(choose_strength(finisher, path, images, given, masks), is_grey=is_grey)


def make_grey(picture: Pixels) -> Pixels:
    """Return `picture` without colour, in three channels still."""
    return np.repeat(drop_colour(picture)[..., None], 3, axis=2)


def train_refiner(
    session: Session, asked: AdaptImages, images: Sequence[Pixels], masks: Sequence[BoolMask]
) -> tuple[Finisher, Path]:
    """Train a refiner in a folder of its own, which an interrupted run goes on with."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(asked.seed, "refiner"))
        refiner = Refiner()
    task = RefinerTask(refiner, images, masks, TURNS[asked.turns], partial(give_back, session.base))
    settings = settings_of(asked, session.accelerator.num_processes)
    session.say(
        f"refiner: {settings.max_steps} steps of {settings.batch} crops of {task.crop_px} px"
    )
    if session.is_first:
        remove_temporaries(make_folder(settings.out))
    outcome = train(task, settings, make_accelerator(settings))
    (path,) = outcome.files or [settings.out / NAME]
    return Finisher(refiner.requires_grad_(False), task.fields), path


def settings_of(asked: AdaptImages, processes: int) -> Training:
    """Return what the loop is told for the refiner; its batch is one that they can share."""
    steps, batch = asked.refine_steps or 1, -(-BATCH // processes) * processes
    return Training(
        out=asked.out / FOLDER, seed=asked.seed, max_steps=steps, batch=batch,
        learning_rate=LEARNING_RATE, schedule="cosine", warmup_steps=int(WARMUP_SHARE * steps),
        optimizer="adamw", weight_decay=0.01, ema=0.0, precision=asked.precision,
        channels_last=asked.channels_last, gradient_checkpointing=False, tracker=asked.tracker,
        save_every=max(1, -(-steps // 4)), preview_every=steps, validate_every=0,
    )  # fmt: skip


def choose_strength(
    finisher: Finisher,
    path: Path,
    images: Sequence[Pixels],
    given: Sequence[Pixels],
    masks: Sequence[BoolMask],
) -> Finish:
    """Return the weakest finish with which vessels show as well as in the shots, else the whole.

    Vessels that are seen more easily than real ones would teach a segmenter too little.
    """
    real = measure_agreement(images, masks)
    found = None
    for strength in STRENGTHS:
        grain = learn_grain(images, finisher.refine(given, masks, strength))
        found = Finish(grain, refiner=path, strength=strength, finisher=finisher)
        finished = found.apply(given, masks, 0, "finish")
        if measure_agreement(finished, masks, polarity=real.polarity).cldice >= real.cldice:
            break
    assert found is not None
    return found
