"""A network that has learned procedural pairs, for `univg segment fit --start-from`.

    python benchmarks/pretrain_segmenter.py --work FOLDER [--to FILE] [--steps 6000] [--seed 11]

Masks of every modality's card, grown from nothing at two sizes, and a procedural image of each. One
small UNet learns all of them. No real picture is in it. Stopped, the same command goes on. Writes
FOLDER/run/model.safetensors, and the same at one byte a weight to where `--to` says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file, save

from univg.files import write_atomic
from univg.generate.images import Images
from univg.generate.images import run as make_images
from univg.modalities import modality_names
from univg.sca.synth import Synth
from univg.sca.synth import run as grow_masks
from univg.segment.fit import Fit
from univg.segment.fit import run as fit_segmenter
from univg.segment.weights import KEY, read_card, write_card
from univg.segment.weights_small import pack

SIDES_PX = (320, 640)
PAIRS = 150
"""Of each modality and size."""
FIRST = "fundus"
"""Its pairs stand as shots, because a run needs some; they get the share of the others."""


def main() -> None:
    """Make the pairs, then the network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--to", type=Path, help="file to pack it to")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    folders = [make_pairs(asked, name, side) for side in SIDES_PX for name in modality_names()]
    shots = asked.work / f"{FIRST}-{SIDES_PX[0]}" / "pairs"
    others = [folder for folder in folders if folder != shots]
    fit_segmenter(
        Fit(
            shots=shots, synthetic=tuple(others), out=asked.work / "run", preset="laptop",
            network="unet-small", channels="rgb", start_from="none",
            synthetic_share=0.75, batch=4, max_steps=asked.steps, seed=asked.seed, ema=0.999,
            skip_bad=True, tracker="none", report_samples=0, preview_every=0, validate_every=0,
            memory_mb=8192,
        )
    )  # fmt: skip
    if asked.to:
        pack_model(asked.work / "run" / "model.safetensors", asked.to)


def pack_model(model: Path, to: Path) -> None:
    """Write `model` to `to` with a byte a weight."""
    card = write_card(read_card(model))
    write_atomic(to, save(pack(load_file(model)), {KEY: card}))


def make_pairs(asked: argparse.Namespace, name: str, side_px: int) -> Path:
    """Return a folder of pairs of a modality and size."""
    place = asked.work / f"{name}-{side_px}"
    grow_masks(
        Synth(out=place / "masks", modality=(name,), count=PAIRS, seed=asked.seed + side_px,
              size=(side_px, side_px), workers=asked.workers)
    )  # fmt: skip
    make_images(
        Images(masks=place / "masks", out=place / "pairs", image_engine="procedural",
               modality=name, seed=asked.seed, workers=asked.workers)
    )  # fmt: skip
    return place / "pairs"


if __name__ == "__main__":
    main()
