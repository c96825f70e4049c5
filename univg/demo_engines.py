"""The second half of `univg demo`: the recipe on five shots of a look that no modality has.

In: a base, a seed, numbers of steps and pairs, a folder. Out: `EngineFacts`, and below the folder
shots and test set, the recipe's own folder, and pictures drawn without adaptation, to compare. Each
part is left alone where it is there already, and a stopped one goes on, so the same call can be
made again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from univg import __version__
from univg.demo_drawing import draw_images_before, draw_masks_before
from univg.errors import UserError
from univg.files import make_folder, sha256_hex, sha256_of_file, write_atomic
from univg.modalities import find_modality
from univg.sd_source import find_base

if TYPE_CHECKING:
    from univg.demo_engine_page import EngineFacts
    from univg.recipe import Recipe
    from univg.recipe_steps import Result

CARD = Path(__file__).parent / "assets" / "demo" / "membrane.yaml"
LOOK = "unseen"
SHOTS = 5
REFERENCE = 40
"""Pairs that nothing is trained on or drawn for: what the drawn ones are measured against."""
TEST = 20
"""Pairs of other trees that the segmenters are measured on."""
PRESET: Final = "laptop"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "lycoris", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for; all of it but `workers` and `lean` decides what comes out."""

    base: str
    seed: int
    mask_steps: int
    image_steps: int
    refine_steps: int
    segment_steps: int
    pairs: int
    drawn: int
    """Masks, and images, that are compared with what the base draws without adaptation."""
    workers: int
    lean: bool = False
    """Whether that is less than usual; for people."""


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
    """Do the recipe, compare, measure; go on where an earlier call stopped."""
    from univg.demo_engine_page import EngineFacts
    from univg.demo_figures import measure_images, measure_masks
    from univg.demo_pairs import make_demo_pairs

    identity = describe(wanted)
    name = sha256_hex(json.dumps(identity, sort_keys=True).encode())[:12]
    place = make_folder(out / "engines" / name)
    write_atomic(place / "run.json", (json.dumps(identity, indent=1) + "\n").encode())
    write_atomic(place / "card.yaml", CARD.read_bytes())
    _say("growing and rendering shots, test set and reference")
    size_px = make_pairs(place, wanted)
    _say("the recipe: five shots to pairs and a segmenter")
    asked = make_recipe(place, wanted)
    results = do_recipe(asked)
    _draw_before(place, wanted, results, size_px)
    _say("measuring")
    with timed(place, "measuring"):
        masks = measure_masks(place, results, wanted.drawn, wanted.workers)
        images = measure_images(place, results, wanted.drawn)
    _say("checking and exporting pairs")
    with timed(place, "export"):
        pairs = make_demo_pairs(place, results, wanted.seed, wanted.workers)
    return EngineFacts(
        base=wanted.base,
        lean=wanted.lean,
        place=place,
        size_px=size_px,
        drawn=wanted.drawn,
        masks=masks,
        images=images,
        asked=asked,
        results=results,
        times=read_times(place),
        commands=tuple(list_commands(place, wanted, results, size_px)),
        pairs=pairs,
    )


def describe(wanted: Wanted) -> dict[str, Any]:
    """Return what decides all that is drawn; the recipe knows its further steps by itself."""
    path = find_base(wanted.base).path
    files = [path] if path.is_file() else sorted(path.glob("*/*.safetensors"))
    return {
        "version": __version__,
        "seed": wanted.seed,
        "mask_steps": wanted.mask_steps,
        "image_steps": wanted.image_steps,
        "refine_steps": wanted.refine_steps,
        "pairs": wanted.pairs,
        "drawn": wanted.drawn,
        "reference": REFERENCE,
        "test": TEST,
        "card": sha256_of_file(CARD),
        "base": {f"{file.parent.name}/{file.name}": sha256_of_file(file) for file in files},
    }


# Pairs -------------------------------------------------------------------------------------------


def make_pairs(place: Path, wanted: Wanted) -> int:
    """Bring shots, targets, reference and test set to disk; return their side [px].

    The test set has a seed of its own: other trees in other colours, of the same kind.
    """
    from univg.sd import inspect_base

    size_px = inspect_base(wanted.base).native_px
    parts = {"shots": SHOTS, "targets": wanted.drawn, "reference": REFERENCE}
    with timed(place, "pairs"):
        _grow(place, "grown", sum(parts.values()), wanted.seed, size_px)
        first = 0
        for name, count in parts.items():
            _render(place, "grown", name, wanted.seed, first, count)
            first += count
        _grow(place, "grown-test", TEST, wanted.seed + 1, size_px)
        _render(place, "grown-test", "test", wanted.seed + 1, 0, TEST)
    return size_px


def _grow(place: Path, name: str, count: int, seed: int, size_px: int) -> None:
    from univg.sca.synth import Synth, run

    run(
        Synth(
            out=place / name, modality=(str(place / "card.yaml"),), count=count, seed=seed,
            size=(size_px, size_px), workers=1,
        )
    )  # fmt: skip


def _render(place: Path, masks: str | Path, name: str, seed: int, first: int, count: int) -> None:
    from univg.generate.images import Images, run

    run(
        Images(
            masks=place / masks, out=place / name, look=LOOK, first=first, count=count,
            modality=str(place / "card.yaml"), seed=seed, workers=1,
        )
    )  # fmt: skip


def _draw_before(place: Path, wanted: Wanted, results: Mapping[str, Result], size_px: int) -> None:
    """Draw what the base gives without adaptation, of the noise that the recipe drew from."""
    name, prompts = find_modality(str(CARD)).name, find_modality(str(CARD))
    masks = results["masks"].folder / "masks"
    with timed(place, "before"):
        draw_masks_before(
            place / "drawn" / "masks-before", wanted.base, prompts.mask_prompt, name,
            count=wanted.drawn, seed=wanted.seed, size_px=size_px, say=_say,
        )  # fmt: skip
        draw_images_before(
            place / "drawn" / "images-before", wanted.base, prompts.image_prompt, name, masks,
            count=wanted.drawn, seed=wanted.seed, size_px=size_px, say=_say,
        )  # fmt: skip
        _render(place, masks.resolve(), "rendered", wanted.seed, 0, wanted.drawn)


# The recipe --------------------------------------------------------------------------------------


def make_recipe(place: Path, wanted: Wanted) -> Recipe:
    """Return the recipe of the demo."""
    from univg.recipe import Recipe

    return Recipe(
        shots=place / "shots", test=place / "test", out=place / "recipe",
        modality=str(place / "card.yaml"), base=wanted.base, preset=PRESET,
        mask_engine="diffusion", image_engine="diffusion", pseudo_masks=0, pairs=wanted.pairs,
        mask_steps=wanted.mask_steps, image_steps=wanted.image_steps,
        refine_steps=wanted.refine_steps, segment_steps=wanted.segment_steps,
        seed=wanted.seed, workers=wanted.workers,
    )  # fmt: skip


def do_recipe(asked: Recipe) -> dict[str, Result]:
    """Do the recipe as `univg run` does it; return the results of its steps."""
    from univg.recipe import resolve, run
    from univg.recipe_chain import make_steps
    from univg.recipe_steps import Chain

    run(asked)
    chain = Chain(asked.out, say=lambda _: None)  # all is done: this only finds it
    for step in make_steps(resolve(asked)):
        chain.do(step)
    return chain.results


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
    print(f"Demo: {text}", flush=True)  # noqa: T201


def list_commands(
    place: Path, wanted: Wanted, results: Mapping[str, Result], size_px: int
) -> list[str]:
    """Return the commands that did it; where they find it done, they say so and leave it."""
    from univg.demo_pairs import list_pair_commands

    seed, count = wanted.seed, SHOTS + wanted.drawn + REFERENCE
    base = wanted.base if wanted.base == "nano" else str(find_base(wanted.base).path.resolve())
    grow = f"univg sca synth --modality card.yaml --size {size_px} {size_px}"
    look = f"univg generate images --modality card.yaml --look {LOOK}"
    masks = (results["masks"].folder / "masks").relative_to(place).as_posix()
    own = "" if base == "nano" else " --pseudo-masks 0"
    return [
        f"cd {place}",
        f"{grow} --count {count} --seed {seed} --out grown",
        f"{look} --masks grown --seed {seed} --count {SHOTS} --out shots",
        f"{look} --masks grown --seed {seed} --first {SHOTS} --count {wanted.drawn} --out targets",
        f"{look} --masks grown --seed {seed} --first {SHOTS + wanted.drawn} --count {REFERENCE} "
        "--out reference",
        f"{grow} --count {TEST} --seed {seed + 1} --out grown-test",
        f"{look} --masks grown-test --seed {seed + 1} --out test",
        f"univg run --shots shots --test test --modality card.yaml --base {base} "
        f"--preset {PRESET} --mask-engine diffusion --image-engine diffusion "
        f"--pairs {wanted.pairs} --mask-steps {wanted.mask_steps} "
        f"--image-steps {wanted.image_steps} --refine-steps {wanted.refine_steps} "
        f"--segment-steps {wanted.segment_steps} "
        f"--seed {seed}{own} --out recipe",
        f"univg sca score --real reference --floor targets --synth {masks} --size {size_px}",
        *list_pair_commands(place, results, seed),
    ]
