"""`univg run`: five annotated images to pairs and a segmenter, with the answer whether it helped.

In: shots, where there are any unlabelled images and a labelled test set, a modality, a preset; as
options or as a YAML recipe. Out: `OUT/report.html`, `table.md`, `segmenter.safetensors`, `pairs`,
and `steps`, a folder a step. A step is skipped while its inputs are unchanged; stopped anywhere,
the same command goes on; a change redoes only what depends on it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator

from univg.config import check, settings
from univg.errors import ConfigError, UserError
from univg.recipe_steps import Chain, HashFiles, Result

HASHES = ".univg-hashes.json"
"""File in OUT that remembers checksums of the user's files, by path, size and time."""
MARK = "univg run --config"
"""In the first line of OUT/config.yaml."""
ENGINE_PRESETS = {"laptop": "laptop", "gpu": "gpu-24gb", "paper": "paper"}
SEGMENT_PRESETS = {"laptop": "laptop", "gpu": "strong", "paper": "paper"}
PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"mask_engine": "grown", "image_engine": "composite", "pairs": 200},
    "gpu": {"mask_engine": "diffusion", "image_engine": "diffusion", "pairs": 500},
    "paper": {"mask_engine": "diffusion", "image_engine": "diffusion", "pairs": 500},
}
"""What `auto`, and a number of pairs that is left open, come to."""
PSEUDO_MASKS = 2000
"""From 1,500 to 2,000 masks a modality on, the paper sees no more diversity."""


def _as_several(value: Any) -> Any:
    """In YAML `network: unet` is one network, not four letters."""
    return (value,) if isinstance(value, str) else value


@settings
class Recipe:
    """From a few annotated images to pairs, to a segmenter, to a page that says whether it helped.

    Writes OUT/report.html, table.md, segmenter.safetensors, pairs and steps. The same command goes
    on after an interruption.
    """

    shots: Path
    """Folder of the annotated images: images/, masks/ and, where there is one, fov/."""
    out: Path
    """Folder to write."""
    modality: str = "fundus"
    """Name (fundus, octa, oct, coronary, brain) or the path of a card."""
    unlabelled: Path | None = None
    """Folder of images without masks. The diffusion image engine is trained on them first; the
    composite one takes the grounds of some dozens."""
    test: Path | None = None
    """Folder of labelled images that nothing is trained on, to measure the segmenters."""
    wanted: Annotated[int, Ge(1), Le(1000)] = 5
    """How many shots are expected; another number is refused."""
    preset: Literal["laptop", "gpu", "paper"] = "laptop"
    """How much is done: laptop, one GPU, or what the paper did."""
    base: str = "nano"
    """Base of the engines, as for `univg train adapt-masks`."""
    mask_engine: Literal["auto", "grown", "diffusion"] = "auto"
    """How new masks are made: grown by space colonization, or drawn by an adapted engine; auto:
    grown with laptop, else diffusion."""
    image_engine: Literal["auto", "composite", "diffusion", "procedural"] = "auto"
    """How images are made for them; auto: composite with laptop, else diffusion."""
    fit_card: bool = True
    """Fit the growth of masks to the shots first; minutes. Leave it out with a card that `univg sca
    fit` has made of these shots."""
    pseudo_masks: Annotated[int, Ge(0), Le(1_000_000)] | None = None
    """Grown masks from which a diffusion mask engine first learns what masks are; default: 2000,
    and 0 for nano, which has."""
    pairs: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    """Synthetic pairs; default: 200 with laptop, else 500."""
    keep: str = ""
    """Which pairs to keep, as for `univg generate check`; default: all."""
    network: Annotated[tuple[str, ...], BeforeValidator(_as_several)] = ()
    """Segmenters, as for `univg segment fit`, each trained without and with the pairs; default: the
    preset's."""
    pretrain_steps: Annotated[int, Ge(1)] | None = None
    """Steps of what engines learn before they see the shots; default: the preset's."""
    mask_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the mask engine on the shots; default: the preset's."""
    image_steps: Annotated[int, Ge(1)] | None = None
    """Steps of the image engine on the shots; default: the preset's."""
    refine_steps: Annotated[int, Ge(0)] | None = None
    """Steps of its refiner, 0 for none; default: the preset's."""
    segment_steps: Annotated[int, Ge(1)] | None = None
    """Steps of each segmenter; default: the preset's."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of everything."""
    workers: Annotated[int, Ge(1), Le(256)] = max(1, min(8, os.cpu_count() or 1))
    """Processes; changes no byte."""


def resolve(asked: Recipe) -> Recipe:
    """Return `asked` with nothing left open that a preset decides; contradictions are refused."""
    asked = check(asked)
    preset = PRESETS[asked.preset]
    image_engine: Any = asked.image_engine
    if image_engine == "auto":
        image_engine = preset["image_engine"]
    if asked.unlabelled is not None and image_engine == "procedural":
        raise ConfigError(
            f"unlabelled is {asked.unlabelled}, and image_engine procedural has no use for it; "
            "leave one of the two out"
        )
    mask_engine = preset["mask_engine"] if asked.mask_engine == "auto" else asked.mask_engine
    pseudo = 0 if asked.base == "nano" else PSEUDO_MASKS
    if mask_engine == "grown":
        pseudo = 0
        if asked.pseudo_masks:
            raise ConfigError(
                f"pseudo_masks is {asked.pseudo_masks}: they teach a diffusion mask engine, and "
                "mask_engine is grown; leave one of the two out"
            )
    return dataclasses.replace(
        asked,
        image_engine=image_engine,
        mask_engine=mask_engine,
        pseudo_masks=pseudo if asked.pseudo_masks is None else asked.pseudo_masks,
        pairs=preset["pairs"] if asked.pairs is None else asked.pairs,
    )


def plan(asked: Recipe) -> str:
    """Say what would be done."""
    asked = resolve(asked)
    with tempfile.TemporaryDirectory(prefix="univg-") as scratch:
        check_inputs(asked, Path(scratch) / HASHES)
    steps = list_steps(asked)
    lines = [f"Would write {asked.out}, in {len(steps)} steps:"]
    lines += [f"  {number:2d} {name}: {words}" for number, (name, words) in enumerate(steps, 1)]
    return "\n".join(lines)


def list_steps(asked: Recipe) -> list[tuple[str, str]]:
    """Return the steps by name, each in a few words."""
    from univg.recipe_chain import make_steps

    return [(step.name, step.words) for step in make_steps(asked)]


def check_inputs(asked: Recipe, memory: Path | None = None) -> None:
    """Refuse bad shots and settings that cannot work, before work starts.

    `memory` is a file that remembers checksums of unlabelled images, read and written.
    """
    from univg.recipe_inputs import check_grounds, check_leaks, check_shots, check_unlabelled
    from univg.recipe_segmenters import choose_grounds, uses_grounds

    asked = resolve(asked)
    _check_settings(asked)
    if asked.unlabelled is not None:
        check_unlabelled(asked.unlabelled, asked.shots, asked.test)
    alike = asked.image_engine == "composite"
    tests = check_shots(asked.shots, asked.wanted, asked.modality, asked.test, alike)
    if asked.unlabelled is not None:
        from univg.modalities import find_modality
        from univg.train.pictures import list_pictures_of

        modality = find_modality(asked.modality)
        found = list_pictures_of([asked.unlabelled], "image", default=modality, hashes=memory)
        grounds = choose_grounds(asked.unlabelled).values() if uses_grounds(asked) else ()
        sums = {each.path: each.sha256 for each in found}
        check_leaks(asked.unlabelled, sums, tests, grounds)
        check_grounds(grounds, asked.shots)


def run(asked: Recipe) -> Path:
    """Do what is not done yet; return the page."""
    from univg import __version__
    from univg.config import to_yaml
    from univg.files import make_folder, write_atomic
    from univg.manifest import lock_folder
    from univg.recipe_chain import make_steps
    from univg.recipe_outcome import write_outcome
    from univg.recipe_page import write_page

    asked = resolve(asked)
    memory = asked.out / HASHES
    with tempfile.TemporaryDirectory(
        prefix="univg-"
    ) as scratch:  # nothing of ours before the check
        draft = Path(scratch) / HASHES
        if memory.is_file():
            shutil.copyfile(memory, draft)
        check_inputs(asked, draft)
        make_folder(asked.out)
        if draft.is_file():
            write_atomic(memory, draft.read_bytes())
    with lock_folder(asked.out):
        text = f"# univg {__version__}: {MARK} THIS\n{to_yaml(asked)}"
        write_atomic(asked.out / "config.yaml", text.encode())
        steps = make_steps(asked)
        chain = Chain(asked.out, _say, len(steps), hash_remembering(asked))
        for step in steps:
            chain.do(step)
        lines = write_outcome(asked, chain.results)
        page = write_page(asked, chain.results)
    for line in lines:
        _say(line)
    _say(f"The page: {page.resolve()}")
    return page


def hash_remembering(asked: Recipe) -> HashFiles:
    """Return what gives checksums of files, and reads none twice that has not changed."""
    from univg.train.checksums import hash_files

    return functools.partial(hash_files, memory=asked.out / HASHES)


def facts_of(results: dict[str, Result], name: str) -> dict[str, Any]:
    """Return what a step has found out, nothing where it was not asked for."""
    return dict(results[name].facts) if name in results else {}


def _check_settings(asked: Recipe) -> None:
    """Refuse what would stop a step hours later."""
    import importlib.util

    from univg.generate.gate_command import Check, prepare_keep
    from univg.modalities import find_modality
    from univg.plugins import load_function
    from univg.recipe_outcome import check_out
    from univg.sd_source import find_base
    from univg.segment.networks import check_network

    find_modality(asked.modality)
    for name in asked.network:
        check_network(name)
        if ":" in name and not name.startswith("monai:"):
            load_function(name, "network")
    if len(set(asked.network)) < len(asked.network):
        raise ConfigError(f"network names {' '.join(asked.network)}: each only once")
    prepare_keep(Check(pairs=asked.out, shots=asked.shots, keep=asked.keep,
                       out=asked.out if asked.keep else None))  # fmt: skip
    missing = [n for n in ("torch", "accelerate") if importlib.util.find_spec(n) is None]
    if missing:
        raise UserError(
            f"univg run trains segmenters and needs {' and '.join(missing)}: `pip install "
            "torch==2.13.0`, then `pip install 'univg[diffusion]'`"
        )
    if "diffusion" in {asked.mask_engine, asked.image_engine}:
        find_base(asked.base)
    for folder in (asked.shots, asked.test, asked.unlabelled):
        out = asked.out.resolve()
        if folder is not None and folder.resolve() in {out, *out.parents}:
            raise ConfigError(f"out is {asked.out}, which lies in {folder}: choose another folder")
    check_out(asked.out)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
