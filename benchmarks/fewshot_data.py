"""The real pairs that `fewshot.py` uses, written at the size at which it works.

In: the folder of the data sets, a set's split, what is wanted: the shots of a draw, the rest of the
pool, the pool, the test half. Out: a folder of pairs below WORK/prepared. Only the files of what is
wanted are opened.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from splits import Split

from univg.errors import DataError
from univg.files import make_folder, write_atomic
from univg.images import encode_image, read_image
from univg.masks import BoolMask, encode_mask, read_mask
from univg.pairs import find_masks
from univg.resize import resize_image, resize_to
from univg.vesselness import find_field

JUDGED_INSIDE = ("fundus",)
"""Modalities that are judged inside the field of view: HRF's given one, CHASEDB1's as found."""


def place_shots(data: Path, work: Path, split: Split, draw: str, longest_px: int) -> Path:
    """Return the folder of the five shots of `draw`."""
    out = _folder(work, split, longest_px) / f"shots-{draw}"
    return write_pairs(split.shots(data, draw), out, split.modality, longest_px)


def place_pool(data: Path, work: Path, split: Split, longest_px: int) -> Path:
    """Return the folder of the whole pool."""
    out = _folder(work, split, longest_px) / "pool"
    return write_pairs(split.masks(data)["pool"], out, split.modality, longest_px)


def place_truth(data: Path, work: Path, split: Split, draw: str, longest_px: int, on: str) -> Path:
    """Return the folder that is scored on: the test half, or the pool without the draw."""
    halves = split.masks(data)
    folder = _folder(work, split, longest_px)
    if on == "test":
        return write_pairs(halves["test"], folder / "test", split.modality, longest_px)
    rest = [path for path in halves["pool"] if path.stem not in split.draws[draw]]
    return write_pairs(rest, folder / f"rest-{draw}", split.modality, longest_px)


def place_unlabelled(data: Path, work: Path, split: Split, draw: str, longest_px: int) -> Path:
    """Return the folder of the images of the pool without the draw; nothing else is in it."""
    return place_truth(data, work, split, draw, longest_px, "pool") / "images"


def write_pairs(masks: list[Path], out: Path, modality: str, longest_px: int) -> Path:
    """Write the pairs of `masks` to `out`, but for those that are there; return it."""
    for kind in ("images", "masks", *(["fov"] if modality in JUDGED_INSIDE else [])):
        make_folder(out / kind)
    for path in masks:
        last = out / "masks" / f"{path.stem}.png"
        if not last.exists():
            write_atomic(last, encode_mask(_write_image(path, out, modality, longest_px)))
    return out


def size_of(folder: Path) -> tuple[int, int]:
    """Return height and width of the masks in `folder`, which are all of one size."""
    sizes = {read_mask(path).shape for path in find_masks(folder)}
    if len(sizes) > 1:
        raise DataError(f"{folder}: masks of {len(sizes)} sizes; the sets of this table have one")
    height, width = sizes.pop()
    return height, width


def _folder(work: Path, split: Split, longest_px: int) -> Path:
    return work / "prepared" / f"{split.name}-{longest_px or 'own'}px"


def _write_image(path: Path, out: Path, modality: str, longest_px: int) -> BoolMask:
    """Write image and field of view of the mask at `path`; return the mask."""
    found = sorted((path.parent.parent / "images").glob(f"{path.stem}.*"))
    if len(found) != 1:
        raise DataError(f"{path}: has {len(found)} images of its name; one is needed")
    image, mask = read_image(found[0]), read_mask(path)
    if image.dtype != np.uint8:
        raise DataError(f"{found[0]}: is of type {image.dtype}; these sets have 8 bits")
    scale = min(1.0, longest_px / max(mask.shape)) if longest_px else 1.0
    shape = round(mask.shape[0] * scale), round(mask.shape[1] * scale)
    write_atomic(
        out / "images" / f"{path.stem}.png",
        encode_image(resize_image(image.astype(np.uint8, copy=False), shape)),
    )
    if modality in JUDGED_INSIDE:
        given = path.parent.parent / "fov" / f"{path.stem}.png"
        view = read_mask(given) if given.exists() else find_field(image)
        small = cv2.resize(view.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
        write_atomic(out / "fov" / f"{path.stem}.png", encode_mask(small > 0))
    return resize_to(mask, shape)
