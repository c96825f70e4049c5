"""`univg generate images`: an image for each mask of a folder, hence labelled pairs.

In: a folder of masks, an image engine, a seed. Out: a folder of pairs, `images/*.png` and
`masks/*.png` of the same names, with `manifest.jsonl` (a row a pair: how it was made, hashes),
`run.json` (what decides the bytes) and `config.yaml`. Run again, it goes on where it stopped; the
number of workers, shards and interruptions change no byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from univg.config import check, settings
from univg.errors import ConfigError, DataError

from .placement import FREE as PLACEMENT
from .placement import Placement, do_run
from .placement import config_of as spell_config

if TYPE_CHECKING:
    from .image_makers import ImageMaker
    from .sources import MaskSource

FREE = {*PLACEMENT, "out", "batch", "device", "attention", "channels_last", "compile", "strict"}
"""Settings that change no byte, or are of one machine only."""
Side = Annotated[int, Ge(16), Le(16384)]


@settings
class Drawing:
    """Options of the commands that draw with a diffusion engine."""

    base: str = "nano"
    """Base where no --engine-dir names one: nano, a folder, a file, a hub id."""
    steps: Annotated[int, Ge(1), Le(1000)] = 20
    """Steps from noise to picture."""
    scheduler: Literal["ddim", "unipc", "dpm++"] = "ddim"
    """How the steps are taken."""
    guidance: Annotated[float, Ge(1), Le(30)] = 2.0
    """How far to go beyond the empty prompt; 1 is without, and twice as fast."""
    prompt: str | None = None
    """Default: the one that the engine was trained with, else the modality's."""
    negative_prompt: str = ""
    """What the pictures should be unlike; with --guidance above 1."""
    batch: Annotated[int, Ge(1), Le(1024)] | None = None
    """Pictures drawn together on a GPU, default 8; on a CPU always 8."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the processor or GPU computes it, else fp32."""
    attention: Literal["auto", "sdpa", "plain", "xformers"] = "auto"
    """Attention kernels."""
    channels_last: bool | None = None
    """Memory layout; default: on for GPUs."""
    compile: bool = False
    """Compile the networks with torch.compile."""


@settings
class Images(Drawing, Placement):
    """Make an image for each mask: a folder of labelled pairs.

    Writes OUT/images/NAME.png and OUT/masks/NAME.png with OUT/manifest.jsonl; NAME is that of the
    mask. The same command goes on after an interruption.
    """

    masks: Path
    """Folder of masks: plain, of pairs, or as `univg sca synth` writes it."""
    out: Path
    """Folder to write; new, empty, or of the same run."""
    image_engine: Literal["auto", "procedural", "composite", "diffusion"] = "auto"
    """How images are made. procedural: drawn from measured vessels, nothing needed. composite:
    vessels and backgrounds of the shots recombined, no model needed. diffusion: by a trained
    engine. auto: diffusion with --engine-dir, else composite with --shots, else procedural."""
    engine_dir: Path | None = None
    """Run folder of `univg train adapt-images`."""
    shots: Path | None = None
    """Folder of the shots, images/ and masks/, for the composite engine."""
    unlabelled: Path | None = None
    """Folder of images without masks, a few dozen, whose grounds the composite engine uses too; of
    large ones fewer are taken, spread over their names."""
    found: Path | None = None
    """What `univg segment predict` wrote for them: what may be vessel is taken out of them."""
    modality: str | None = None
    """Name (fundus, octa, oct, coronary, brain) or the path of a card; default: that of the engine
    or of the masks' manifest, else fundus."""
    look: str = "default"
    """Of the procedural engine. default: the modality's whole range; plain: its middle; unseen: of
    no real modality; or the path of a look card (my_look.yaml)."""
    control: str | None = None
    """ControlNet where no --engine-dir names one: a folder; default: the embedded one of nano."""
    control_strength: Annotated[float, Gt(0), Le(5)] = 1.0
    """How strictly diffusion follows the mask."""
    grain: Annotated[float, Ge(0), Le(3)] = 1.0
    """Strength of the grain that the engine has learned of the shots, with diffusion; 0: none."""
    refine: Annotated[float, Ge(0), Le(2)] = 1.0
    """Strength at which vessels that the autoencoder lost are put back, with diffusion, of that
    which the engine has chosen on the shots; 0: not at all."""
    count: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    """Pairs to make; default: all masks times --variants."""
    first: Annotated[int, Ge(0)] = 0
    """Index of the first pair; makes single pairs again, or a part of a larger run."""
    variants: Annotated[int, Ge(1), Le(10_000)] = 1
    """Images of each mask, each of another look."""
    size: tuple[Side, Side] | None = None
    """Height and width [px] to which masks are scaled; default: as they are, with diffusion the
    size that its engine was trained at."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    strict: bool = False
    """Refuse masks with grey levels instead of thresholding them."""


OF_DIFFUSION = ("prompt", "negative_prompt", "control", "control_strength", "grain", "refine")
OF_COMPOSITE = ("unlabelled", "found")
IDLE: dict[str, tuple[str, ...]] = {
    "procedural": (*OF_DIFFUSION, *OF_COMPOSITE),
    "composite": (*OF_DIFFUSION, "look"),
    "diffusion": ("look", *OF_COMPOSITE),
}
"""Settings that an image engine does not know."""


@dataclass
class ImagesResult:
    """What a run made."""

    pairs: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    folder: Path = field(default_factory=Path)


def refuse_idle(settings: Drawing, names: tuple[str, ...], engine: str) -> None:
    """Refuse what was asked for and would change nothing."""
    defaults = {each.name: each.default for each in fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise ConfigError(f"{name} is of no use to {engine}; leave one of them out")


def choose_engine(settings: Images) -> str:
    """Return the image engine that `settings` mean; contradictions are refused."""
    asked = settings.image_engine
    if asked == "auto":
        asked = "procedural" if settings.shots is None else "composite"
        asked = asked if settings.engine_dir is None else "diffusion"
    refuse_idle(settings, IDLE[asked], f"image_engine {asked}")
    if asked == "composite" and settings.shots is None:
        raise ConfigError("image_engine composite needs --shots, the folder of the real pairs")
    if (settings.unlabelled is None) != (settings.found is None):
        raise ConfigError(
            "unlabelled and found belong together: images, and what `univg segment predict` wrote "
            "for them; name both or neither"
        )
    if asked != "diffusion" and settings.engine_dir is not None:
        raise ConfigError(f"engine_dir is of no use to image_engine {asked}; leave one of them out")
    return asked


def prepare_maker(settings: Images) -> ImageMaker:
    """Resolve and check all that the run needs, before anything is written."""
    from univg.images import MAX_PIXELS

    from .building import BUILDERS

    if settings.size is not None and settings.size[0] * settings.size[1] > MAX_PIXELS:
        height, width = settings.size
        raise ConfigError(f"size is {height} × {width}: more than the {MAX_PIXELS} px univg reads")
    return BUILDERS[choose_engine(settings)](settings)


def indices_of(settings: Images, source: MaskSource) -> range:
    """Return the indices of the pairs that `settings` ask for."""
    there = source.total
    count = there - settings.first if settings.count is None else settings.count
    if count < 1 or settings.first + count > there:
        asked = f"first is {settings.first} and count {settings.count or 'all'}"
        raise ConfigError(
            f"{asked}: {settings.masks} has {len(source.names)} masks, so {there} pairs with "
            f"--variants {source.variants}; ask for fewer, or for more variants of each mask"
        )
    return range(settings.first, settings.first + count)


def plan(settings: Images) -> str:
    """Say what would be written."""
    maker = prepare_maker(settings)
    source = maker.source
    wanted = indices_of(settings, source)
    size = "of the masks' own size" if source.size is None else "of {} × {} px".format(*source.size)
    return (
        f"Would write {len(wanted)} pairs {size} to {settings.out / 'images'} and "
        f"{settings.out / 'masks'}:\n"
        f"  {maker.modality_name} images, engine {maker.engine}, of {len(source.names)} masks in "
        f"{settings.masks}, {source.variants} of each."
    )


def run(settings: Images) -> ImagesResult:
    """Write the pairs; go on where an earlier run stopped."""
    settings = check(settings)
    if settings.out.resolve() == settings.masks.resolve():
        raise DataError(f"{settings.out}: is the folder of the masks; choose another --out")
    maker = prepare_maker(settings)
    wanted = indices_of(settings, maker.source)
    filled = do_run(settings, maker, settings.out, wanted, config_of(settings))
    print(filled.line("pairs"))  # noqa: T201
    print(settings.out)  # noqa: T201
    return ImagesResult(filled.made, filled.skipped, filled.wall_s, settings.out)


def config_of(settings: Images) -> bytes:
    """Return config.yaml, for `--config`."""
    return spell_config(settings, "generate images", FREE)


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["generate", "images", *sys.argv[1:]]))
