"""What adapting the embedded base to five real shots brings, and how long it takes.

    python benchmarks/nano_adaptation.py --data FOLDER --work FOLDER [--sets …] [--draws A B C]

FOLDER (data) holds the sets of `splits.py`. For each set and draw: LoHa on the five masks, masks
drawn before and after, their distance (`univg sca score`) to the test half's masks; then a
ControlNet on the five pairs, images drawn for the test half's masks before and after, how well
they follow them (clDice of a fixed detector) and their distance in looks (FD-looks) to the test
half's images, beside that of procedural images of the same masks; drawn ones as they leave the
autoencoder (unfinished), with the grain of the shots, and with refiner and grain (after). Nothing
is chosen by these figures. Stopped, the same command goes on; results lie in WORK/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptation_tables import make_tables
from splits import SPLITS, Split

from univg.agreement import measure_agreement
from univg.binarise import Cut, cut_mask
from univg.files import make_folder, write_atomic
from univg.generate.procedural import render_pair
from univg.grain import learn_grain
from univg.images import encode_image, read_image
from univg.looks import look_distance
from univg.loop.loop import Outcome
from univg.masks import encode_mask, read_mask
from univg.memorisation import measure_copying
from univg.modalities import find_modality
from univg.pairs import find_masks
from univg.resize import fit_image, fit_mask
from univg.sca.descriptors import DESCRIPTORS, describe_many
from univg.sca.distance import compare
from univg.sca.synth import Synth
from univg.sca.synth import run as synthesize
from univg.sd import Base, load_base, load_control
from univg.sd_engine import load_engine, load_refiner, read_card
from univg.sd_sample import give_back
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_images import run as adapt_images
from univg.train.adapt_masks import AdaptMasks
from univg.train.adapt_masks import run as adapt_masks
from univg.train.drawing import sample_pictures
from univg.train.finishing import Finish
from univg.train.pictures import to_rgb8

PX = 256
RESOLUTION = [descriptor.resolution for descriptor in DESCRIPTORS]
MASKS = 40
"""Masks drawn before and after."""


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--sets", nargs="+", default=list(SPLITS))
    parser.add_argument("--draws", nargs="+", default=["A", "B", "C"])
    parser.add_argument("--parts", nargs="+", default=["masks", "images"])
    parser.add_argument("--again", action="store_true", help="measure what is trained once more")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="further WORK folders")
    parser.add_argument("--out", type=Path, help="file of the joined results; .md beside it")
    asked = parser.parse_args()
    path = make_folder(asked.work) / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found["facts"] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "base": load_base(asked.base, parts=("unet",)).identity,
        "threads": torch.get_num_threads(),
    }
    for other in asked.join:
        found |= {**json.loads((other / "results.json").read_text()), "facts": found["facts"]}
    for draw in asked.draws:
        for name in asked.sets:
            for part in asked.parts:
                key = f"{name} {draw} {part}"
                if key not in found or asked.again:
                    measured = MEASURES[part](asked, SPLITS[name], draw)
                    # A run that is found done takes no time again.
                    found[key] = measured | {"seconds": found.get(key, measured)["seconds"]}
                    write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
                    print(key, json.dumps(found[key]), flush=True)
    tables = make_tables(found)
    print(tables)
    if asked.out:
        write_atomic(asked.out, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
        write_atomic(asked.out.with_suffix(".md"), tables.encode())


def place_shots(asked: argparse.Namespace, split: Split, draw: str) -> Path:
    """Write the five shots of `draw` at the base's size; return their folder."""
    folder = asked.work / "shots" / f"{split.name}-{draw}"
    for kind in ("images", "masks"):
        make_folder(folder / kind)
    for path in split.shots(asked.data, draw):
        mask, image = read_both(path)
        write_atomic(folder / "masks" / f"{path.stem}.png", encode_mask(mask))
        write_atomic(folder / "images" / f"{path.stem}.png", encode_image(image))
    return folder


def read_both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask at `path` and its image, both stretched to the base's size."""
    mask = fit_mask(read_mask(path), PX, "stretch")
    twin = next((path.parent.parent / "images").glob(f"{path.stem}.*"))
    return mask, fit_image(to_rgb8(read_image(twin)), PX, "stretch")


def measure_masks(asked: argparse.Namespace, split: Split, draw: str) -> dict[str, Any]:
    """Adapt to five masks; return distances to the test half before and after."""
    shots = place_shots(asked, split, draw)
    out = asked.work / "masks" / f"{split.name}-{draw}"
    began = time.monotonic()
    run = AdaptMasks(
        out=out, base=asked.base, shots=shots, modality=split.modality, report_samples=0
    )
    seconds = take_time(out, adapt_masks(run), began)
    prompts = [find_modality(split.modality).mask_prompt] * MASKS
    before = draw_masks(load_base(asked.base), prompts, Cut())
    base, _, card = load_engine(read_card(out, "masks"))
    after = draw_masks(base, prompts, card.cut)
    grown = grow_masks(asked, split, draw, shots)
    test = [fit_mask(read_mask(path), PX, "stretch") for path in split.masks(asked.data)["test"]]
    own = [fit_mask(read_mask(path), PX, "stretch") for path in split.shots(asked.data, draw)]
    reference = describe_many(test)
    distances = {
        name: describe(compare(reference, describe_many(masks), resolution=RESOLUTION))
        for name, masks in {"before": before, "after": after, **grown}.items()
    }
    copying = measure_copying(after, own, kind="mask")
    return {"seconds": round(seconds, 1), **distances, "copying": copying.describe()}


def grow_masks(
    asked: argparse.Namespace, split: Split, draw: str, shots: Path
) -> dict[str, list[np.ndarray]]:
    """Return as many masks by space colonization, without the shots and led by them."""
    grown = {}
    for name, real in (("sca", None), ("rsca", shots / "masks")):
        out = asked.work / name / f"{split.name}-{draw}"
        synthesize(
            Synth(out=out, modality=(split.modality,), count=MASKS, size=(PX, PX), real=real)
        )
        grown[name] = [read_mask(path) for path in find_masks(out)]
    return grown


def draw_masks(base: Base, prompts: Sequence[str], cut: Cut) -> list[np.ndarray]:
    """Return a mask a prompt; empty ones, which have no descriptors, are left out."""
    masks = [cut_mask(picture, cut) for picture in sample_pictures(base, prompts, seed=0)]
    return [mask for mask in masks if mask.any()]


def measure_images(asked: argparse.Namespace, split: Split, draw: str) -> dict[str, Any]:
    """Adapt to five pairs; return agreement and looks before and after."""
    shots = place_shots(asked, split, draw)
    out = asked.work / "images" / f"{split.name}-{draw}"
    began = time.monotonic()
    run = AdaptImages(
        out=out, base=asked.base, shots=shots, modality=split.modality, report_samples=0
    )
    seconds = take_time(out, adapt_images(run), began)
    test = [read_both(path) for path in split.masks(asked.data)["test"]]
    masks, real = [mask for mask, _ in test], [image for _, image in test]
    base = load_base(asked.base)
    own = [read_both(path) for path in split.shots(asked.data, draw)]
    shots_only = [image for _, image in own]
    alone = learn_grain(shots_only, give_back(base, shots_only))
    prompts = [find_modality(split.modality).image_prompt] * len(masks)
    images: dict[str, list[np.ndarray]] = {"real": real}
    images["procedural"] = [
        to_rgb8(render_pair(mask, split.modality, 0, number)[0])
        for number, mask in enumerate(masks)
    ]
    images["before"] = sample_pictures(
        base, prompts, seed=0, control=load_control("nano", base), masks=masks
    )
    base, control, card = load_engine(read_card(out, "images"))
    plain = sample_pictures(base, prompts, seed=0, control=control, masks=masks)
    finisher = load_refiner(card)
    assert card.grain is not None
    assert finisher is not None
    images["unfinished"] = plain
    images["grain alone"] = Finish(alone).apply(plain, masks, 0, "grain")
    finish = Finish(card.grain, card.is_grey, strength=card.refiner_strength, finisher=finisher)
    images["after"] = finish.apply(plain, masks, 0, "grain")
    polarity = measure_agreement(real, masks).polarity
    result: dict[str, Any] = {"seconds": round(seconds, 1)}
    for name, each in images.items():
        result[name] = {"cldice": measure_agreement(each, masks, polarity=polarity).cldice}
        if name != "real":
            result[name] |= describe(look_distance(real, each))
    result["chance"] = measure_agreement(real, masks, polarity=polarity).chance
    result["refiner strength"] = card.refiner_strength
    copying = measure_copying(
        images["after"],
        shots_only,
        kind="image",
        generated_masks=masks,
        shot_masks=[mask for mask, _ in own],
    )
    return {**result, "copying": copying.describe()}


def take_time(out: Path, outcome: Outcome, began: float) -> float:
    """Return the seconds since `began`, with those of a training that was found done."""
    seconds = time.monotonic() - began
    if outcome.first_step == outcome.steps:
        seconds += float(json.loads((out / "result.json").read_text())["seconds"])
    return seconds


def describe(comparison: Any) -> dict[str, float]:
    """Return the figures of a comparison."""
    return {
        "frechet": comparison.frechet.mean,
        "energy": comparison.energy.mean,
        "floor": comparison.frechet_floor.mean,
    }


MEASURES = {"masks": measure_masks, "images": measure_images}

if __name__ == "__main__":
    main()
