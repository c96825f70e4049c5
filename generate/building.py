"""From the settings of `univg generate images` to the engine that makes its pairs.

In: settings, checked field by field. Out: a maker, all it needs found and checked: masks, look,
shots or a trained engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from univg.errors import ConfigError
from univg.modalities import find_modality

from .images import Drawing, Images
from .sources import MaskSource, find_stated_modality, open_source

if TYPE_CHECKING:
    from univg.sd_engine import EngineCard

    from .diffusion import Engine
    from .image_makers import ImageMaker
    from .shots import Shot

DEFAULT_MODALITY = "fundus"


def name_modality(settings: Images) -> str:
    """Return the modality asked for, else that of the masks, as far as their manifest says it."""
    from univg.modalities import modality_names

    if settings.modality is not None:
        return settings.modality
    stated = find_stated_modality(settings.masks)
    return stated if stated in modality_names() else DEFAULT_MODALITY


def build_procedural(settings: Images) -> ImageMaker:
    """Return the randomised renderer."""
    from .image_makers import ProceduralMaker
    from .looks import find_look

    modality = find_modality(name_modality(settings))
    card = find_look(modality.name, settings.look)
    return ProceduralMaker(
        source=_open(settings, settings.size),
        modality_name=modality.name,
        seed=settings.seed,
        card=card,
    )


def build_composite(settings: Images) -> ImageMaker:
    """Return the engine that recombines the shots."""
    from .composite import build_library
    from .image_makers import CompositeMaker
    from .shots import read_shot_pairs

    assert settings.shots is not None
    modality = find_modality(name_modality(settings))
    library = build_library(read_shot_pairs(settings.shots), settings.size, _read_others(settings))
    return CompositeMaker(
        source=_open(settings, settings.size),
        modality_name=modality.name,
        seed=settings.seed,
        library=library,
    )


def _read_others(settings: Images) -> list[Shot]:
    """Return the unlabelled images, where there are any."""
    from .unlabelled import read_unlabelled

    if settings.unlabelled is None or settings.found is None:
        return []
    others = read_unlabelled(settings.unlabelled, settings.found)
    if not others:
        raise ConfigError(
            f"unlabelled is {settings.unlabelled}: what was found in its images leaves no ground; "
            "take a better segmenter, or leave --unlabelled out"
        )
    return others


def build_diffusion(settings: Images) -> ImageMaker:
    """Return the trained engine."""
    from .diffusion import DiffusionMaker

    card, modality_name = find_image_engine(settings)
    refuse_missing(settings, card)
    engine = open_engine(card, settings, settings.size, settings.control_strength)
    return DiffusionMaker(
        source=_open(settings, engine.size_px),
        modality_name=modality_name,
        seed=settings.seed,
        with_engine=engine,
        grain=settings.grain,
        refine=settings.refine,
    )


BUILDERS: dict[str, Callable[[Images], ImageMaker]] = {
    "procedural": build_procedural,
    "composite": build_composite,
    "diffusion": build_diffusion,
}


def check_engine(settings: Images) -> None:
    """Refuse what is wrong with the engine, before the masks are there."""
    from .images import choose_engine
    from .looks import find_look
    from .shots import read_shot_pairs

    engine = choose_engine(settings)
    if engine == "diffusion":
        card, _ = find_image_engine(settings)
        refuse_missing(settings, card)
        open_engine(card, settings, settings.size, settings.control_strength)
        return
    modality = find_modality(name_modality(settings))
    if engine == "procedural":
        find_look(modality.name, settings.look)
    elif settings.shots is not None:
        read_shot_pairs(settings.shots)
        _read_others(settings)


def _open(settings: Images, size: tuple[int, int] | None) -> MaskSource:
    from .images import indices_of

    source = open_source(
        settings.masks, variants=settings.variants, size=size, strict=settings.strict,
        wanted=None if settings.count is None else range(settings.first + settings.count),
    )  # fmt: skip
    indices_of(settings, source)
    return source


def find_image_engine(settings: Images) -> tuple[EngineCard, str]:
    """Return the card of the image engine, and the modality's name."""
    import dataclasses

    from univg.sd_engine import plain_card, read_card

    if settings.engine_dir is not None:
        if settings.control is not None or settings.base != "nano":
            raise ConfigError("engine_dir names base and ControlNet; leave --base, --control out")
        card = read_card(settings.engine_dir, "images")
        name = settings.modality or card.modality
        modality = find_modality(name).name if name else "vessels"
    else:
        found = find_modality(name_modality(settings))
        control = settings.control or ("nano" if settings.base == "nano" else "")
        if not control:
            raise ConfigError(
                f"base {settings.base} needs --control, a ControlNet, or --engine-dir"
            )
        card = plain_card("images", settings.base, found.image_prompt, found.name, control)
        modality = found.name
    if settings.prompt is not None:
        card = dataclasses.replace(card, prompt=settings.prompt)
    return card, modality


def refuse_missing(settings: Images, card: EngineCard) -> None:
    """Refuse more or less of what the engine does not have."""
    for name, there in (("refine", card.refiner), ("grain", card.grain)):
        strength = getattr(settings, name)
        if strength not in {0.0, 1.0} and not there:
            raise ConfigError(
                f"{name} is {strength:g}, and the engine has learned none; leave --{name} out"
            )


def open_engine(
    card: EngineCard,
    drawing: Drawing,
    size: tuple[int, int] | None,
    control_strength: float = 1.0,
) -> Engine:
    """Return the engine of `card`, ready to be loaded, drawing as `drawing` says."""
    from univg.sd import inspect_base
    from univg.sd_engine import base_of
    from univg.sd_sample import Compute, Sampling

    from .diffusion import Engine, choose_block

    info = inspect_base(base_of(card))
    side = card.size_px or info.native_px
    height, width = size or (side, side)
    levels = [len(info.configs[part]["block_out_channels"]) - 1 for part in ("vae", "unet")]
    unit = 2 ** sum(levels)
    if height % unit or width % unit:
        raise ConfigError(
            f"size is {height} × {width}: base {card.base} draws multiples of {unit} px; "
            f"it was trained at {side} × {side}"
        )
    return Engine(
        card=card,
        sampling=Sampling(
            steps=drawing.steps,
            scheduler=drawing.scheduler,
            guidance=drawing.guidance,
            control_strength=control_strength,
            negative_prompt=drawing.negative_prompt,
        ),
        compute=Compute(
            device=drawing.device,
            precision=drawing.precision,
            attention=drawing.attention,
            channels_last=drawing.channels_last,
            compile=drawing.compile,
        ),
        size_px=(height, width),
        block=choose_block(drawing.batch, drawing.device),
    )
