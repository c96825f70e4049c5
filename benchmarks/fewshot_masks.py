"""Masks and squares that `fewshot.py` makes itself, where no stage of univg does.

In: folders of masks or pairs, a seed. Out: the shots' masks, bent; pairs and masks cut into squares
of the size that a base draws; pairs stretched back to the size of the set, or with other labels. An
item follows from its seed and number alone; what is there is not made again.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from univg.files import make_folder, write_all_atomic, write_atomic
from univg.images import encode_image, read_image
from univg.masks import BoolMask, encode_mask, read_mask
from univg.pairs import find_masks, open_pairs
from univg.resize import resize_image, resize_to
from univg.seeds import rng_for
from univg.segment.augment import BEND_POINTS, Warp
from univg.segment.augment_apply import make_map, warp_picture

TURN_DEG, SCALE, BEND = 15.0, 1.15, 0.02
LEAST_VESSEL = 0.01
"""Squares with less vessel than this share are no shots."""
TRIES = 20
REACH_PX = 2
"""How far off its own mask a pair may be labelled anew."""


def warp_masks(shots: Path, out: Path, count: int, seed: int) -> None:
    """Write `count` masks to `out`: those of `shots` in turn, mirrored, turned, scaled, bent."""
    masks = [read_mask(path) for path in find_masks(shots)]
    make_folder(out)
    for number in range(count):
        path = out / f"warped-{number:06d}.png"
        if not path.exists():
            rng = rng_for(seed, "few shots: warped masks", number)
            write_atomic(path, encode_mask(warp_mask(masks[number % len(masks)], rng)))


def warp_mask(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Return `mask` bent; what comes from beyond its border is mirrored."""
    bends = rng.normal(0.0, BEND, (2, BEND_POINTS, BEND_POINTS)).tolist()
    warp = Warp(
        mirror=bool(rng.random() < 0.5),
        turn_deg=float(rng.uniform(-TURN_DEG, TURN_DEG)),
        scale=float(SCALE ** rng.uniform(-1.0, 1.0)),
        bend_x=tuple(map(tuple, bends[0])),
        bend_y=tuple(map(tuple, bends[1])),
    )
    height, width = mask.shape
    side = max(height, width)
    places = make_map(warp, side, ((width - 1) / 2, (height - 1) / 2))
    top, left = (side - height) // 2, (side - width) // 2
    inner = np.ascontiguousarray(places[top : top + height, left : left + width])
    grey = mask.astype(np.uint8)[:, :, None] * np.uint8(255)
    return np.asarray(warp_picture(grey, inner)[:, :, 0] > 127)


def cut_shots(shots: Path, out: Path, side_px: int) -> None:
    """Write the squares that cover the pairs of `shots`, evenly laid, but those without vessels."""
    for kind in ("images", "masks"):
        make_folder(out / kind)
    for pair in open_pairs(shots).pairs:
        image, mask = read_image(pair.image), read_mask(pair.mask)
        for top in _lay_evenly(mask.shape[0], side_px):
            for left in _lay_evenly(mask.shape[1], side_px):
                part = (slice(top, top + side_px), slice(left, left + side_px))
                if mask[part].mean() < LEAST_VESSEL:
                    continue
                name = f"{pair.stem}-{top:04d}-{left:04d}.png"
                files = {out / "images" / name: encode_image(np.ascontiguousarray(image[part]))}
                write_all_atomic({**files, out / "masks" / name: encode_mask(mask[part])})


def cut_masks(masks: Path, out: Path, side_px: int, seed: int) -> None:
    """Write a square of each of `masks`, where there are vessels if some tries find any."""
    make_folder(out)
    for number, source in enumerate(find_masks(masks)):
        path = out / source.name
        if path.exists():
            continue
        rng = rng_for(seed, "few shots: squares", number)
        mask = read_mask(source)
        for _ in range(TRIES):
            top, left = (int(rng.integers(max(1, side - side_px + 1))) for side in mask.shape)
            part = mask[top : top + side_px, left : left + side_px]
            if part.mean() >= LEAST_VESSEL:
                break
        write_atomic(path, encode_mask(np.ascontiguousarray(part)))


def fit_pairs(pairs: Path, out: Path, shape: tuple[int, int]) -> None:
    """Write `pairs` at `shape`: a base draws squares of its own size, stretched."""
    for kind in ("images", "masks"):
        make_folder(out / kind)
    for pair in open_pairs(pairs).pairs:
        last = out / "masks" / f"{pair.stem}.png"
        if not last.exists():
            image = resize_image(np.asarray(read_image(pair.image), np.uint8), shape)
            write_atomic(out / "images" / last.name, encode_image(image))
            write_atomic(last, encode_mask(resize_to(read_mask(pair.mask), shape)))


def relabel_pairs(pairs: Path, found: Path, out: Path) -> None:
    """Write `pairs` with the masks of `found`, as far as they lie near their own."""
    for kind in ("images", "masks"):
        make_folder(out / kind)
    kernel = np.ones((2 * REACH_PX + 1,) * 2, np.uint8)
    for pair in open_pairs(pairs).pairs:
        last = out / "masks" / f"{pair.stem}.png"
        if not last.exists():
            near = cv2.dilate(read_mask(pair.mask).astype(np.uint8), kernel) > 0
            write_atomic(out / "images" / last.name, pair.image.read_bytes())
            write_atomic(last, encode_mask(near & read_mask(found / last.name)))


def _lay_evenly(length: int, side: int) -> list[int]:
    """Return where squares of `side` begin so that they cover `length`."""
    if length <= side:
        return [0]
    count = -(-length // side)
    return [round(k * (length - side) / (count - 1)) for k in range(count)]
