"""How much of thin vessels, and of images, survives the embedded base's autoencoder.

    python benchmarks/nano_vae.py --data FOLDER [--base nano] [--out results/nano_vae.json]

FOLDER holds `CHASEDB1/`, `HRF/`, `OCTA500_3M/`, `XCA/`, each with `masks/`. Masks are brought to
the base's size, encoded, decoded and cut at half; clDice with what went in, on the test halves
(reporting) and the pool halves. Bar: 0.97. Then the test halves' images: how well a fixed detector
still finds their vessels, and their distance in looks from what they were, as they come back and
with the grain that is learned on the five shots of draw A and put back.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
from nano_adaptation import read_both
from splits import SPLITS, Split

from univg.agreement import cldice, measure_agreement
from univg.grain import add_grain, learn_grain
from univg.looks import look_distance
from univg.masks import read_mask
from univg.resize import fit_mask
from univg.sd import Base, decode_latents, encode_images, load_base
from univg.sd_sample import give_back
from univg.seeds import rng_for

BAR = 0.97


def main() -> None:
    """Measure all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    base = load_base(asked.base, parts=("unet", "vae"))
    started, found = time.monotonic(), {}
    print(f"| set | half | masks | clDice | least | bar {BAR} |\n|---|---|---|---|---|---|")
    for split in SPLITS.values():
        for half, paths in split.masks(asked.data).items():
            scores = [pass_through(base, path) for path in paths]
            found[f"{split.name} {half}"] = scores
            mean = float(np.mean(scores))
            verdict = "reached" if mean >= BAR else "missed"
            print(
                f"| {split.name} | {half} | {len(scores)} | {mean:.4f} | {min(scores):.4f} "
                f"| {verdict} |",
                flush=True,
            )
    print(
        "\n| images of | clDice: real | given back | with grain | FD-looks: given back "
        "| with grain |\n|---|---|---|---|---|---|"
    )
    images = {}
    for split in SPLITS.values():
        images[split.name] = row = measure_images(base, asked.data, split)
        print(
            f"| {split.name} | {' | '.join(f'{value:.3f}' for value in row.values())} |", flush=True
        )
    if asked.out:
        facts = {
            "command": f"python benchmarks/nano_vae.py --data FOLDER --base {asked.base}",
            "date": date.today().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "base": base.identity,
            "seconds": round(time.monotonic() - started, 1),
            "images": images,
            "cldice": {name: [round(score, 5) for score in each] for name, each in found.items()},
        }
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")


def pass_through(base: Base, path: Path) -> float:
    """Return the clDice of the mask at `path` with itself after the autoencoder."""
    mask = fit_mask(read_mask(path), base.native_px, "stretch")
    picture = np.repeat(mask[None, ..., None].astype(np.uint8) * 255, 3, axis=3)
    back = decode_latents(base, encode_images(base, picture))[0]
    return cldice(back.mean(axis=2) > 127.5, mask)


def measure_images(base: Base, data: Path, split: Split) -> dict[str, float]:
    """Return agreement and looks of the test half's images after the autoencoder."""
    masks, real = zip(*(read_both(path) for path in split.masks(data)["test"]), strict=True)
    shots = [read_both(path)[1] for path in split.shots(data, "A")]
    grain = learn_grain(shots, give_back(base, shots))
    back = give_back(base, list(real))
    grainy = [add_grain(each, grain, rng_for(0, "grain", k)) for k, each in enumerate(back)]
    polarity = measure_agreement(list(real), list(masks)).polarity
    agreed = [
        measure_agreement(list(each), list(masks), polarity=polarity).cldice
        for each in (real, back, grainy)
    ]
    looks = [look_distance(list(real), each).frechet.mean for each in (back, grainy)]
    names = ("real", "given back", "with grain", "looks given back", "looks with grain")
    return dict(zip(names, [round(value, 3) for value in (*agreed, *looks)], strict=True))


if __name__ == "__main__":
    main()
