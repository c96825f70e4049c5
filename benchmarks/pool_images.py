"""Unlabelled pictures for the embedded base: views of the pool halves' images, never their masks.

    python benchmarks/pool_images.py --data FOLDER --out FOLDER

FOLDER holds `CHASEDB1/images`, `HRF/images`, `OCTA500_3M/images`, `XCA/images`. Out: 256 x 256 PNGs
in `OUT/<modality>/images/`: each image whole, and random windows of it, turned and mirrored. Which
images are pool is in `splits.py`; those of the test halves are not opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from splits import SPLITS

from univg.files import make_folder
from univg.images import encode_image, read_image
from univg.seeds import rng_for

SIDE_PX = 256
SMALLEST_WINDOW = 0.55
"""Share of the shorter side that the smallest window takes."""


def main() -> None:
    """Write the views of all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--pixels", type=int, default=40_000_000, help="views to make per set, in pixels"
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for split in SPLITS.values():
        folder = make_folder(asked.out / split.modality / "images")
        paths = sorted((asked.data / split.name / "images").iterdir())
        pool = [path for path in paths if split.in_pool(path.stem)]
        views = max(2, asked.pixels // (SIDE_PX**2 * len(pool)))
        for number, path in enumerate(pool):
            image = read_image(path)
            for view in range(views):
                rng = rng_for(asked.seed, f"pool {split.name}", number * 10_000 + view)
                pixels = take_view(image, rng, whole=view == 0)
                name = f"{split.name}-{path.stem}-{view:03d}.png"
                (folder / name).write_bytes(encode_image(pixels))
        print(f"{split.name}: {len(pool)} pool images, {views} views of each")


def take_view(image: np.ndarray, rng: np.random.Generator, whole: bool) -> np.ndarray:
    """Return the middle square of `image`, or a random window, as SIDE_PX square."""
    height, width = image.shape[:2]
    short = min(height, width)
    side = short if whole else round(short * rng.uniform(SMALLEST_WINDOW, 1.0))
    top = (height - side) // 2 if whole else int(rng.integers(0, height - side + 1))
    left = (width - side) // 2 if whole else int(rng.integers(0, width - side + 1))
    window = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > SIDE_PX else cv2.INTER_CUBIC
    pixels = cv2.resize(window, (SIDE_PX, SIDE_PX), interpolation=how)
    if not whole:
        pixels = np.rot90(pixels, int(rng.integers(4)))
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return np.ascontiguousarray(pixels)


if __name__ == "__main__":
    main()
