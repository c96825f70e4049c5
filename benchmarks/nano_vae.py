"""How much of thin vessels survives the embedded base's autoencoder.

    python benchmarks/nano_vae.py --data FOLDER [--base nano] [--out results/nano_vae.json]

FOLDER holds `CHASEDB1/`, `HRF/`, `OCTA500_3M/`, `XCA/`, each with `masks/`. Masks are brought to
the base's size, encoded, decoded and cut at half; clDice with what went in, on the test halves
(reporting) and the pool halves. Bar: 0.97.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
from splits import SPLITS

from univg.agreement import cldice
from univg.masks import read_mask
from univg.resize import fit_mask
from univg.sd import Base, decode_latents, encode_images, load_base

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
    if asked.out:
        facts = {
            "command": f"python benchmarks/nano_vae.py --data FOLDER --base {asked.base}",
            "date": date.today().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "base": base.identity,
            "seconds": round(time.monotonic() - started, 1),
            "cldice": {name: [round(score, 5) for score in each] for name, each in found.items()},
        }
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")


def pass_through(base: Base, path: Path) -> float:
    """Return the clDice of the mask at `path` with itself after the autoencoder."""
    mask = fit_mask(read_mask(path), base.native_px, "stretch")
    picture = np.repeat(mask[None, ..., None].astype(np.uint8) * 255, 3, axis=3)
    back = decode_latents(base, encode_images(base, picture))[0]
    return cldice(back.mean(axis=2) > 127.5, mask)


if __name__ == "__main__":
    main()
