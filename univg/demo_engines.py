"""The second half of `univg demo`: engines adapted to five shots of a look that no modality has.

In: a base, a seed, numbers of steps and pictures, a folder. Out: `EngineFacts`, and below the
folder shots, run folders of both adaptations, pictures drawn before and after. Each part is left
alone where it is there already, and a stopped training goes on, so the same call can be made again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg import __version__
from univg.errors import UserError
from univg.files import make_folder, sha256_hex, sha256_of_file, write_all_atomic, write_atomic
from univg.modalities import find_modality
from univg.sd_source import find_base

if TYPE_CHECKING:
    from univg.demo_engine_page import EngineFacts
    from univg.masks import BoolMask
    from univg.sd import Base

CARD = Path(__file__).parent / "assets" / "demo" / "membrane.yaml"
LOOK = "unseen"
SHOTS = 5
REFERENCE = 40
"""Pairs that nothing is trained on or drawn for: what the drawn ones are measured against."""
STRENGTH = 0.7
PRESET = "laptop"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "lycoris", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for; all of it but `workers` decides what comes out."""

    base: str
    seed: int
    mask_steps: int
    image_steps: int
    drawn: int
    """Masks, and images, drawn before adaptation and again after it."""
    workers: int


def why_left_out(base: str) -> str:
    """Return in one line why the engines cannot be run here, and what to do; "" if they can."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"The engines are left out: {', '.join(missing)} not installed; "
            "`pip install torch`, then `pip install 'univg[diffusion]'`, and run this again."
        )
    try:
        find_base(base)
    except UserError as error:
        if base != "nano":
            raise
        return f"The engines are left out: {error}."
    return ""


def make_engines(out: Path, wanted: Wanted) -> EngineFacts:
    """Adapt both engines, draw before and after, measure; go on where an earlier call stopped."""
    from univg.demo_engine_page import EngineFacts
    from univg.demo_figures import measure_images, measure_masks
    from univg.demo_pairs import make_demo_pairs

    identity = describe(wanted)
    name = sha256_hex(json.dumps(identity, sort_keys=True).encode())[:12]
    place = make_folder(out / "engines" / name)
    write_atomic(place / "run.json", (json.dumps(identity, indent=1) + "\n").encode())
    write_atomic(place / "card.yaml", CARD.read_bytes())
    size_px = make_pairs(place, wanted)
    draw_masks(place, wanted, "masks-before", size_px)
    adapt_masks(place, wanted)
    draw_masks(place, wanted, "masks-after", size_px)
    draw_images(place, wanted, "images-before", size_px)
    adapt_images(place, wanted)
    draw_images(place, wanted, "images-after", size_px)
    with timed(place, "measuring"):
        masks, images = measure_masks(place, wanted.workers), measure_images(place)
    _say("drawing, checking and exporting pairs")
    with timed(place, "export"):
        pairs = make_demo_pairs(place, str(CARD), wanted.seed, wanted.workers)
    return EngineFacts(
        base=wanted.base,
        place=place,
        size_px=size_px,
        drawn=wanted.drawn,
        strength=STRENGTH,
        masks=masks,
        images=images,
        steps={"mask-engine": wanted.mask_steps, "image-engine": wanted.image_steps},
        times=read_times(place),
        commands=tuple(list_commands(place, wanted, size_px)),
        pairs=pairs,
    )


def describe(wanted: Wanted) -> dict[str, Any]:
    """Return all that decides what comes out."""
    path = find_base(wanted.base).path
    files = [path] if path.is_file() else sorted(path.glob("*/*.safetensors"))
    return {
        "version": __version__,
        "seed": wanted.seed,
        "mask_steps": wanted.mask_steps,
        "image_steps": wanted.image_steps,
        "drawn": wanted.drawn,
        "reference": REFERENCE,
        "card": sha256_of_file(CARD),
        "base": {f"{file.parent.name}/{file.name}": sha256_of_file(file) for file in files},
    }


# Pairs -------------------------------------------------------------------------------------------


def make_pairs(place: Path, wanted: Wanted) -> int:
    """Bring shots, targets and reference to disk, all of the same look; return their side [px]."""
    from univg.generate.images import Images
    from univg.generate.images import run as run_images
    from univg.sca.synth import Synth
    from univg.sca.synth import run as run_synth
    from univg.sd import inspect_base

    size_px = inspect_base(wanted.base).native_px
    parts = {"shots": SHOTS, "targets": wanted.drawn, "reference": REFERENCE}
    with timed(place, "pairs"):
        run_synth(
            Synth(
                out=place / "grown", modality=(str(place / "card.yaml"),),
                count=sum(parts.values()), seed=wanted.seed, size=(size_px, size_px), workers=1,
            )
        )  # fmt: skip
        first = 0
        for name, count in parts.items():
            run_images(
                Images(
                    masks=place / "grown", out=place / name, look=LOOK, first=first, count=count,
                    modality=str(place / "card.yaml"), seed=wanted.seed, workers=1,
                )
            )  # fmt: skip
            first += count
    return size_px


# Drawing -----------------------------------------------------------------------------------------


def draw_masks(place: Path, wanted: Wanted, name: str, size_px: int) -> None:
    """Draw masks with the base and, if its file is there, the adapter."""
    if _is_whole(place, name, wanted.drawn):
        return
    from univg.binarise import Cut, cut_mask
    from univg.masks import encode_mask
    from univg.sd_engine import load_engine, read_card
    from univg.train.drawing import sample_pictures

    _say(f"drawing {wanted.drawn} {name.replace('-', ' ')} adaptation")
    with timed(place, name):
        cut = Cut()
        if name == "masks-after":
            base, _, card = load_engine(read_card(place / "mask-engine", "masks"))
            cut = card.cut
            base.to(_device())
        else:
            base = _load_base(wanted.base)
        prompts = [find_modality(str(CARD)).mask_prompt] * wanted.drawn
        drawn = sample_pictures(base, prompts, seed=wanted.seed, size_px=size_px)
        _write(place, name, [encode_mask(cut_mask(picture, cut)) for picture in drawn])


def draw_images(place: Path, wanted: Wanted, name: str, size_px: int) -> None:
    """Draw an image for the mask of each target, with the ControlNet there is at that time."""
    if _is_whole(place, name, wanted.drawn):
        return
    from univg.images import encode_image
    from univg.sd import load_control, make_control
    from univg.train.drawing import sample_pictures

    _say(f"drawing {wanted.drawn} {name.replace('-', ' ')} adaptation")
    with timed(place, name):
        start = find_start(wanted.base)
        if name == "images-after":
            base, control = _load_adapted(place)
        elif start == "unet":
            base = _load_base(wanted.base)
            control = make_control(base.unet, vae_factor=base.vae_factor, seed=wanted.seed)
        else:
            base = _load_base(wanted.base)
            control = load_control(start, base)
        prompts = [find_modality(str(CARD)).image_prompt] * wanted.drawn
        drawn = sample_pictures(
            base, prompts, seed=wanted.seed, size_px=size_px,
            control=control, masks=read_masks(place / "targets"),
        )  # fmt: skip
        _write(place, name, [encode_image(picture) for picture in drawn])


def find_start(base: str) -> str:
    """Return the ControlNet to start from: that of the base, where it has one, or `unet`."""
    path = find_base(base).path
    return base if (path / "controlnet").is_dir() else "unet"


def read_masks(folder: Path) -> list[BoolMask]:
    """Return the masks of `folder` in the order of their names."""
    from univg.masks import read_mask
    from univg.pairs import find_masks

    return [read_mask(path) for path in find_masks(folder)]


def _load_base(name: str) -> Base:
    from univg.sd import load_base

    return load_base(name).to(_device())


def _load_adapted(place: Path) -> tuple[Base, Any]:
    from univg.sd_engine import load_engine, read_card

    base, control, _ = load_engine(read_card(place / "image-engine", "images"))
    assert control is not None
    return base.to(_device()), control.to(_device())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_whole(place: Path, name: str, count: int) -> bool:
    return len(list((place / "drawn" / name).glob("*.png"))) == count


def _write(place: Path, name: str, files: Sequence[bytes]) -> None:
    folder = make_folder(place / "drawn" / name)
    write_all_atomic({folder / f"{k:06d}.png": data for k, data in enumerate(files)})


# Adapting ----------------------------------------------------------------------------------------


def adapt_masks(place: Path, wanted: Wanted) -> None:
    """Train a LoHa on the masks of the shots, unless that is done."""
    from univg.train.adapt_masks import AdaptMasks, run

    options = _options(place, wanted, "mask-engine", find_modality(str(CARD)).mask_prompt)
    _train(place, "mask-engine", lambda: run(AdaptMasks(max_steps=wanted.mask_steps, **options)))


def adapt_images(place: Path, wanted: Wanted) -> None:
    """Train a ControlNet on the shots, unless that is done."""
    from univg.train.adapt_images import AdaptImages, run

    options = _options(place, wanted, "image-engine", find_modality(str(CARD)).image_prompt)
    if find_start(wanted.base) == wanted.base != "nano":  # else it is what the command takes anyway
        options["from_"] = wanted.base
    _train(place, "image-engine", lambda: run(AdaptImages(max_steps=wanted.image_steps, **options)))


def _options(place: Path, wanted: Wanted, name: str, prompt: str) -> dict[str, Any]:
    return {
        "out": place / name,
        "base": wanted.base,
        "shots": place / "shots",
        "prompt": prompt,
        "preset": PRESET,
        "seed": wanted.seed,
        # The page draws and measures more than these would, before and after.
        "report_samples": 0,
        "preview_every": 0,
        "validate_every": 0,
        "tracker": "none",
    }


def _train(place: Path, name: str, run: Callable[[], Any]) -> None:
    if (place / name / "result.json").exists():
        return
    _say(f"adapting the {name.replace('-', ' ')} to {SHOTS} shots")
    with timed(place, name):
        run()


# Times and words ---------------------------------------------------------------------------------


@contextlib.contextmanager
def timed(place: Path, part: str) -> Iterator[None]:
    """Add what `part` takes to the times on disk, until it is done once; broken tries count too."""
    times = read_times(place)
    entry = times.setdefault(part, {"seconds": 0.0, "done": False})
    start = time.perf_counter()
    done = False
    try:
        yield
        done = True
    finally:
        if not entry["done"]:
            entry["seconds"] += time.perf_counter() - start
            entry["done"] = done
            write_atomic(place / "times.json", (json.dumps(times, indent=1) + "\n").encode())


def read_times(place: Path) -> dict[str, Any]:
    """Return the seconds of each part, and whether it is done."""
    path = place / "times.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def _say(text: str) -> None:
    print(f"Engines: {text}", flush=True)  # noqa: T201


def list_pair_commands(seed: int) -> list[str]:
    """Return the commands that made, checked and exported the pairs."""
    from univg.demo_pairs import COMPOSITES, LAYOUTS, PAIRS

    start = "univg generate images --masks masks-for-pairs --modality card.yaml"
    exports = [
        f"univg export pairs export-{layout} --to {layout} --shard-size {PAIRS}"
        for layout in LAYOUTS
    ]
    return [
        "univg generate masks --engine-dir mask-engine --modality card.yaml "
        f"--count {PAIRS} --seed {seed} --out masks-for-pairs",
        f"{start} --engine-dir image-engine --seed {seed} --out pairs",
        f"{start} --shots shots --count {COMPOSITES} --seed {seed} --out composites",
        "univg generate check --pairs pairs --shots shots",
        *exports,
    ]


def list_commands(place: Path, wanted: Wanted, size_px: int) -> list[str]:
    """Return the commands that did it; where they find it done, they say so and leave it."""
    card, seed, count = find_modality(str(CARD)), wanted.seed, SHOTS + wanted.drawn + REFERENCE
    base = wanted.base if wanted.base == "nano" else str(find_base(wanted.base).path.resolve())
    start = "" if base == "nano" or find_start(base) == "unet" else f" --from {base}"
    look = f"univg generate images --masks grown --modality card.yaml --look {LOOK} --seed {seed}"
    shots = f"--base {base} --shots shots --preset {PRESET} --seed {seed}"
    return [
        f"cd {place}",
        f"univg sca synth --modality card.yaml --count {count} --size {size_px} {size_px} "
        f"--seed {seed} --out grown",
        f"{look} --count {SHOTS} --out shots",
        f"{look} --first {SHOTS} --count {wanted.drawn} --out targets",
        f"{look} --first {SHOTS + wanted.drawn} --count {REFERENCE} --out reference",
        f'univg train adapt-masks {shots} --prompt "{card.mask_prompt}" '
        f"--max-steps {wanted.mask_steps} --out mask-engine",
        f'univg train adapt-images {shots} --prompt "{card.image_prompt}" '
        f"--max-steps {wanted.image_steps}{start} --out image-engine",
        "univg sca score --real reference --floor targets --synth drawn/masks-after "
        f"--size {size_px}",
        *list_pair_commands(seed),
    ]
