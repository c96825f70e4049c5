"""From the settings of `univg generate masks` to the engine that makes its masks.

In: settings, checked field by field. Out: a maker, its engine found and its cut chosen.
"""

from __future__ import annotations

import dataclasses

from univg.binarise import Cut, choose_cut
from univg.errors import ConfigError
from univg.modalities import find_modality
from univg.sd_engine import EngineCard, plain_card, read_card

from .building import DEFAULT_MODALITY, open_engine
from .diffusion import Engine
from .mask_maker import MaskMaker
from .masks import Masks

LARGEST_PX = 1024


def build_mask_maker(settings: Masks) -> MaskMaker:
    """Return the maker of a run with a diffusion engine."""
    card, modality = _find_card(settings)
    engine = open_engine(card, settings, None)
    size = settings.size or engine.size_px
    if max(size) > LARGEST_PX:
        raise ConfigError(
            f"size is {size[0]} × {size[1]}: masks are drawn at {engine.size_px[0]} px, enlarged "
            f"to {LARGEST_PX} at most they stay smooth"
        )
    cut = card.cut
    if settings.shots is not None and settings.engine_dir is None:
        cut = choose_cut_on_shots(settings, engine)
    if settings.threshold is not None:
        cut = dataclasses.replace(cut, threshold=settings.threshold)
    return MaskMaker(
        with_engine=engine, cut=cut, modality_name=modality, size=size, seed=settings.seed
    )


def _find_card(settings: Masks) -> tuple[EngineCard, str]:
    if settings.engine_dir is not None:
        if settings.base != "nano":
            raise ConfigError("engine_dir names its base; leave --base out")
        card = read_card(settings.engine_dir, "masks")
        name = settings.modality or card.modality
        modality = find_modality(name).name if name else "vessels"
    else:
        found = find_modality(settings.modality or DEFAULT_MODALITY)
        card = plain_card("masks", settings.base, found.mask_prompt, found.name)
        modality = found.name
    if settings.strength is not None:
        if not card.adapters:
            raise ConfigError("strength is that of an adaptation; give its --engine-dir")
        last = dataclasses.replace(card.adapters[-1], strength=settings.strength)
        card = dataclasses.replace(card, adapters=(*card.adapters[:-1], last))
    if settings.prompt is not None:
        card = dataclasses.replace(card, prompt=settings.prompt)
    return card, modality


def choose_cut_on_shots(settings: Masks, engine: Engine) -> Cut:
    """Return the cut that brings the shots back best through the engine's autoencoder."""
    from univg.masks import read_mask
    from univg.pairs import find_masks
    from univg.resize import fit_mask
    from univg.sd_sample import give_back

    assert settings.shots is not None
    side = engine.size_px[0]
    masks = [fit_mask(read_mask(path), side, "stretch") for path in find_masks(settings.shots)]
    return choose_cut(give_back(engine.load().base, masks), masks)
