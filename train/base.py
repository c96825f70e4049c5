"""`univg train base`: the embedded base from nothing: autoencoder, text and UNet, ControlNet.

In: folders of masks and images, by modality. Out: `OUT/base`, a Stable Diffusion pipeline in
diffusers' layout with `controlnet/` beside its parts, in half precision. Four parts, one after the
other, each a run of its own in `OUT/1-vae` to `OUT/4-decoder` that can be stopped and gone on with.
The last trains the decoder alone: latents, and so UNet and ControlNet, stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from univg.config import settings
from univg.files import make_folder
from univg.loop.options import Precision, Training
from univg.manifest import claim_folder, lock_folder

Part = Literal["vae", "unet", "control", "decoder"]
FOLDERS: dict[Part, str] = {
    "vae": "1-vae",
    "unet": "2-unet",
    "control": "3-control",
    "decoder": "4-decoder",
}
VAE_STEPS = 7_000
HELD_OUT = 32
"""Pictures of each kind that no part trains on."""


@settings
class TrainBase:
    """Train an embedded base: a small Stable Diffusion for vessel masks and images.

    DATA holds a folder a modality (fundus, octa, oct, coronary, brain), each with masks/ and
    images/, as `univg generate images` writes them; UNLABELLED one with images/ alone.
    """

    data: Annotated[tuple[Path, ...], MinLen(1)]
    """Folders of modalities, each with masks/ and, in one of them at least, images/."""
    unlabelled: tuple[Path, ...] = ()
    """Folders of modalities with images/ alone."""
    out: Path
    """Run folder; new, empty, or of the same run, which then goes on."""
    start: str | None = None
    """A base to go on from instead of fresh networks; its autoencoder stays as it is where
    --vae-steps does not say how long to go on with it, and where it has no controlnet/ a fresh one
    is made from the UNet."""
    until: Part = "decoder"
    """Last part to train."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of weights, order, noise."""
    vae_steps: Annotated[int, Ge(0)] | None = None
    """Steps of the autoencoder; default: 7000, with --start none."""
    vae_batch: Annotated[int, Ge(1)] = 8
    """Crops a step."""
    crop_px: Annotated[int, Ge(32), Le(256)] = 128
    """Side of the crops that the autoencoder learns on."""
    unet_steps: Annotated[int, Ge(1)] = 6_500
    """Steps of UNet and text encoder."""
    unet_batch: Annotated[int, Ge(1)] = 16
    """Latents a step."""
    control_steps: Annotated[int, Ge(1)] = 1_500
    """Steps of the ControlNet."""
    control_batch: Annotated[int, Ge(1)] = 8
    """Pairs a step."""
    decoder_steps: Annotated[int, Ge(1)] = 5_000
    """Steps of the decoder alone."""
    learning_rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Highest learning rate of the autoencoder; half for the UNet, a third for the others."""
    preview_every: Annotated[int, Ge(0)] = 1000
    """Steps between previews, 0: none."""
    precision: Precision = "auto"
    """Mixed precision; auto: bf16 where the processor or GPU computes it, else none."""


def plan(asked: TrainBase) -> str:
    """Return what a run would do."""
    return (
        f"Trains autoencoder ({steps_of_vae(asked)} steps), UNet with text encoder "
        f"({asked.unet_steps}), ControlNet ({asked.control_steps}), decoder "
        f"({asked.decoder_steps}) up to `{asked.until}`; writes {asked.out}/base and a run folder "
        "a part."
    )


def run(asked: TrainBase) -> Path:
    """Train the parts up to `asked.until`; return the folder of the base."""
    from .base_parts import Parts

    make_folder(asked.out)
    with lock_folder(asked.out):
        parts = Parts(asked)
        claim_folder(asked.out, parts.identity())
        for part in FOLDERS:
            if not parts.is_done(part) and not (part == "vae" and not steps_of_vae(asked)):
                getattr(parts, f"train_{part}")()
            if part == asked.until:
                break
        parts.assemble()
    return parts.folder


def steps_of_vae(asked: TrainBase) -> int:
    """Return how long the autoencoder is trained."""
    if asked.vae_steps is None:
        return 0 if asked.start else VAE_STEPS
    return asked.vae_steps


def loop_settings(asked: TrainBase, part: Part) -> Training:
    """Return what the loop is told for one part."""
    values: dict[Part, dict[str, Any]] = {
        "vae": {"max_steps": steps_of_vae(asked), "batch": asked.vae_batch, "ema": 0.999},
        "unet": {"max_steps": asked.unet_steps, "batch": asked.unet_batch, "ema": 0.9995},
        "control": {"max_steps": asked.control_steps, "batch": asked.control_batch, "ema": 0.999},
        "decoder": {"max_steps": asked.decoder_steps, "batch": asked.vae_batch, "ema": 0.999},
    }
    share = {"vae": 1.0, "unet": 0.5, "control": 1 / 3, "decoder": 1 / 3}[part]
    return Training(
        out=asked.out / FOLDERS[part],
        seed=asked.seed,
        learning_rate=asked.learning_rate * share,
        schedule="cosine",
        warmup_steps=200,
        optimizer="adamw",
        weight_decay=0.01,
        precision=asked.precision,
        save_every=500,
        preview_every=asked.preview_every,
        validate_every=500,
        **values[part],
    )
