"""Five pairs of lines on noise, and the settings of short runs on the tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from vessel_pictures import draw_lines, paint

from univg.images import encode_image
from univg.masks import encode_mask

SIZE = 72
QUICK: dict[str, Any] = {
    "size_px": 64,
    "max_steps": 6,
    "batch": 2,
    "precision": "no",
    "save_every": 2,
    "validate_every": 3,
    "preview_every": 0,
    "report_samples": 0,
    "tracker": "none",
}


def write_shots(folder: Path, count: int = 5) -> Path:
    """Write `count` pairs into `folder`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(count):
        mask = draw_lines(k, SIZE, count=3, width=3)
        pixels = np.repeat(paint(mask, k)[:, :, None], 3, axis=2)
        (folder / "images" / f"shot-{k}.png").write_bytes(encode_image(pixels))
        (folder / "masks" / f"shot-{k}.png").write_bytes(encode_mask(mask))
    return folder
