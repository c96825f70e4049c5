"""From a vessel mask, an image of a modality: measured vessels, a drawn look, a renderer.

In: a bool mask H×W and a `Look`. Out: an 8-bit image, grey H×W or RGB H×W×3, and the mask of what
is visible in it (a round field of view may cut vessels off). The same mask and look give the same
bytes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from univg.masks import BoolMask
from univg.seeds import rng_for

from .looks import DEFAULT, Look, find_look, fit_look, sample_look
from .vessels import measure_vessels

RENDERERS = {
    "fundus": ("univg.generate.fundus", "render"),
    "octa": ("univg.generate.octa", "render"),
    "oct": ("univg.generate.oct", "render"),
    "coronary": ("univg.generate.angiography", "render_coronary"),
    "brain": ("univg.generate.angiography", "render_brain"),
    "generic": ("univg.generate.generic", "render"),
}
"""Module and function by the `renderer` of a look card."""


@dataclass(frozen=True)
class Rendered:
    """An image and the vessels that are visible in it."""

    image: npt.NDArray[np.uint8]
    mask: BoolMask


def render(mask: BoolMask, look: Look) -> Rendered:
    """Render `mask` as `look` says."""
    module, function = RENDERERS[look.renderer]
    draw: Any = getattr(importlib.import_module(module), function)
    rng = np.random.Generator(np.random.PCG64(look.texture_seed))
    vessels = measure_vessels(np.ascontiguousarray(mask, np.bool_))
    image, visible = draw(vessels, fit_look(look, min(mask.shape)), rng)
    return Rendered(image, visible)


def stage_of(modality_name: str) -> str:
    """Return the name under which the looks of a modality are drawn."""
    return f"generate/images/{modality_name}"


def render_pair(
    mask: BoolMask, modality_name: str, seed: int, index: int, look: str = DEFAULT
) -> tuple[npt.NDArray[np.uint8], BoolMask]:
    """Return (image, visible mask): number `index` of the run `seed`, as the command writes it."""
    card = find_look(modality_name, look)
    drawn = sample_look(card, rng_for(seed, stage_of(modality_name), index))
    made = render(mask, drawn)
    return made.image, made.mask
