"""`univg generate pairs`: masks, then an image for each, in one go.

In: engines for masks and images, a count, a seed. Out: a folder of pairs as `univg generate images`
writes it, its masks' own run folder beside it in `OUT-masks`, the quality gate's page in
`OUT/quality`. Run again, all go on where they stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from univg.config import check, settings
from univg.errors import ConfigError

from .images import Drawing, Images, ImagesResult, Side
from .masks import Masks
from .placement import Placement


@settings
class Pairs(Drawing, Placement):
    """Make pairs: masks by an engine or grown, then an image for each.

    Writes OUT/images and OUT/masks with OUT/manifest.jsonl, and the masks' run to OUT-masks. The
    same command goes on after an interruption. For more options, run `univg generate masks` and
    `univg generate images` one after the other.
    """

    out: Path
    """Folder to write; new, empty, or of the same run."""
    mask_engine: Literal["auto", "diffusion", "sca"] = "auto"
    """How masks are made; auto: diffusion with --mask-engine-dir, else sca."""
    mask_engine_dir: Path | None = None
    """Run folder of `univg train adapt-masks`."""
    image_engine: Literal["auto", "procedural", "composite", "diffusion"] = "auto"
    """How images are made; auto: diffusion with --engine-dir, else composite with --shots, else
    procedural."""
    engine_dir: Path | None = None
    """Run folder of `univg train adapt-images`."""
    shots: Path | None = None
    """Folder of the shots: they lead grown masks, and the composite engine recombines them."""
    unlabelled: Path | None = None
    """Folder of images without masks, whose grounds the composite engine uses too."""
    found: Path | None = None
    """What `univg segment predict` wrote for them."""
    modality: str | None = None
    """Name (fundus, octa, oct, coronary, brain) or the path of a card."""
    count: Annotated[int, Ge(1), Le(10_000_000)] = 500
    """Pairs to make."""
    variants: Annotated[int, Ge(1), Le(10_000)] = 1
    """Images of each mask."""
    size: tuple[Side, Side] | None = None
    """Height and width [px]; default: the image engine's own, else 512 512."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    gate: bool = True
    """Measure every pair at the end (`univg generate check`): OUT/quality/report.html."""


def mask_folder(out: Path) -> Path:
    """Return where the masks' own run lies."""
    return out.with_name(f"{out.name}-masks")


def find_common_modality(settings: Pairs) -> str | None:
    """Return the modality of masks and images: as asked for, else that of the trained engines."""
    from univg.sd_engine import read_card

    if settings.modality is not None:
        return settings.modality
    names = []
    if settings.mask_engine_dir is not None:
        names.append(read_card(settings.mask_engine_dir, "masks").modality)
    if settings.engine_dir is not None:
        names.append(read_card(settings.engine_dir, "images").modality)
    names = [name for name in names if name]
    if len(set(names)) > 1:
        raise ConfigError(
            f"the mask engine is of {names[0]}, the image engine of {names[1]}: take engines of "
            "one modality, or say --modality to mix them"
        )
    return names[0] if names else None


def split_settings(settings: Pairs) -> tuple[Masks, Images]:
    """Return the settings of the two commands."""
    if settings.shard is not None:
        raise ConfigError("shard: share `univg generate masks`, then `univg generate images`")
    drawing = {
        name: getattr(settings, name)
        for name in ("base", "steps", "scheduler", "guidance", "batch", "device", "precision",
                     "attention", "channels_last", "compile", "workers", "engine",
                     "gpus_per_worker", "modality", "size", "seed")
    }  # fmt: skip
    drawing["modality"] = find_common_modality(settings)
    masks_locally = settings.mask_engine != "diffusion" and settings.mask_engine_dir is None
    masks = Masks(
        **{
            **drawing,
            "out": mask_folder(settings.out),
            "mask_engine": settings.mask_engine,
            "engine_dir": settings.mask_engine_dir,
            "base": "nano" if settings.mask_engine_dir else settings.base,
            "engine": "local" if masks_locally else settings.engine,
            "shots": settings.shots,
            "count": -(-settings.count // settings.variants),
        }
    )
    images = Images(
        **{
            **drawing,
            "masks": mask_folder(settings.out),
            "out": settings.out,
            "image_engine": settings.image_engine,
            "engine_dir": settings.engine_dir,
            "base": "nano" if settings.engine_dir else settings.base,
            "prompt": settings.prompt,
            "negative_prompt": settings.negative_prompt,
            "shots": settings.shots,
            "unlabelled": settings.unlabelled,
            "found": settings.found,
            "count": settings.count,
            "variants": settings.variants,
        }
    )
    return masks, images


def plan(settings: Pairs) -> str:
    """Say what would be written."""
    from .building import check_engine
    from .masks import plan as plan_masks

    masks, images = split_settings(settings)
    check_engine(images)
    return (
        f"{plan_masks(masks)}\nThen {settings.count} pairs to {images.out}, "
        f"{settings.variants} of each mask."
    )


def run(settings: Pairs) -> ImagesResult:
    """Write masks, then pairs; go on where an earlier run stopped."""
    from .building import check_engine
    from .gate_command import Check
    from .gate_command import run as run_gate
    from .images import run as run_images
    from .masks import run as run_masks

    settings = check(settings)
    masks, images = split_settings(settings)
    check_engine(images)  # refused before hours of masks
    run_masks(masks)
    result = run_images(images)
    if settings.gate:
        run_gate(
            Check(pairs=settings.out, shots=settings.shots, workers=min(settings.workers, 256))
        )
    return result
