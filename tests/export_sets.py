"""Small folders of pairs for the tests of exporters, and the command as a process.

In: a folder. Out: pairs of many kinds: RGB, grey, 16 bits, odd sizes, odd names, fields of view.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from univg.config import from_plain
from univg.files import sha256_hex
from univg.generate.export import Export, run
from univg.images import encode_image
from univg.manifest import encode_row
from univg.masks import encode_mask

COMMAND = "import sys; from univg.cli import main; sys.exit(main(['export', *sys.argv[1:]]))"
LONG = "langer-name-" + "x" * 180
NAMES = ("plain", "with.dots.in it", "Gefäß_血管", LONG)


def draw_mask(index: int, height: int, width: int) -> np.ndarray:
    """A few lines, different for each index."""
    rng = np.random.default_rng(index)
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(3):
        ends = [tuple(int(v) for v in rng.integers(0, (width, height))) for _ in range(2)]
        cv2.line(canvas, ends[0], ends[1], 255, 2)
    return canvas > 0


def draw_image(mask: np.ndarray, index: int, kind: str) -> np.ndarray:
    """Noise that is darker on vessels: `rgb`, `grey` or `grey16`."""
    rng = np.random.default_rng(1000 + index)
    top = 65_536 if kind in {"grey16", "rgb16"} else 256
    shape = (*mask.shape, 3) if kind.startswith("rgb") else mask.shape
    image = rng.integers(top // 2, top, shape)
    image[mask] //= 3
    return image.astype(np.uint16 if top > 256 else np.uint8)


def make_run(folder: Path, count: int, kind: str = "rgb", first: int = 0) -> Path:
    """A folder with a manifest as `univg generate images` leaves it, two images of each mask."""
    rows = []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        mask = draw_mask(first + index // 2, 61, 83)
        name = f"fundus-{index // 2:06d}-v{index % 2:02d}"
        files = {
            "image": encode_image(draw_image(mask, first + index, kind)),
            "mask": encode_mask(mask),
        }
        row = {"id": name, "index": index, "modality": "fundus", "engine": "procedural"}
        row |= {"source": f"fundus-{index // 2:06d}.png", "seed": index, "version": "0"}
        row["sha256"] = {role: sha256_hex(data) for role, data in files.items()}
        for role, data in files.items():
            row[role] = f"{role}s/{name}.png"
            (folder / row[role]).write_bytes(data)
        rows.append(row)
    (folder / "manifest.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    return folder


def make_plain(folder: Path, kind: str = "grey", fov: bool = True, first: int = 0) -> Path:
    """A folder without a manifest, of odd sizes and names."""
    for name in ("images", "masks", *(["fov"] if fov else [])):
        (folder / name).mkdir(parents=True)
    for index, name in enumerate(NAMES):
        mask = draw_mask(first + index, 33 + 2 * index, 47)
        view = np.ones(mask.shape, np.bool_)
        view[:4] = False
        image = draw_image(mask, first + index, kind)
        (folder / "images" / f"{name}.png").write_bytes(encode_image(image))
        (folder / "masks" / f"{name}.png").write_bytes(encode_mask(mask))
        if fov:
            (folder / "fov" / f"{name}.png").write_bytes(encode_mask(view))
    return folder


def export(pairs: Path, out: Path, to: str, **changes: object) -> object:
    """Export in this process."""
    plain = {"pairs": pairs, "out": out, "to": to, "workers": 1, "shard_size": 3, **changes}
    return run(from_plain(Export, plain))


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(words: list[object]) -> subprocess.Popen[bytes]:
    """Start the command as a user does."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill_at_random(words: list[object], out: Path, dice: random.Random) -> bool:
    """Run until a random moment of its writing, then kill -9; return whether it was running."""
    process = start(words)
    if dice.random() < 0.25:
        limit = time.monotonic() + dice.uniform(0.1, 2.0)
        while process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
    else:
        enough = _count(out) + dice.randrange(1, 12)
        while process.poll() is None and _count(out) < enough:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.02))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert running or process.returncode == 0, said.decode()
    return running


def _count(folder: Path) -> int:
    """Files there, finished or not."""
    return sum(1 for path in folder.rglob("*")) if folder.exists() else 0
