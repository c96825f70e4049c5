"""Which pairs a run trains on, which it holds out, and how their images are prepared.

In: settings. Out: `Data`, and how samples are cut; or one report of what is wrong with the folders.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from univg.errors import UserError
from univg.masks import BoolMask, read_mask
from univg.pairs import Pair

from .data import Preparation
from .data_store import ShotWarning, choose_channels, look_at, open_folder
from .fit import Fit
from .patches import Cut
from .scale import choose_longest

FEW = 20
"""So many masks tell what scaling costs."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run learns from."""

    real: list[Pair]
    held_out: list[Pair]
    synthetic: list[Pair]
    how: Preparation
    most_px: int
    """Longest side of any training image, scaled."""
    shots_px: int
    """Longest side of the shots' images as they are, the median of them."""


def read_pairs(asked: Fit) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of all folders, or tell what is wrong with them."""
    from univg.pairing import doubt_pairing

    shots = open_folder(asked.shots, wanted=asked.wanted, skip_bad=asked.skip_bad, fov=asked.fov)
    synthetic = [
        pair
        for folder in asked.synthetic
        for pair in open_folder(folder, synthetic=True, skip_bad=asked.skip_bad, fov=asked.fov)
    ]
    for doubt in doubt_pairing(shots):
        warnings.warn(doubt, ShotWarning, stacklevel=2)
    return shots, synthetic


def arrange(asked: Fit, shots: Sequence[Pair], synthetic: Sequence[Pair]) -> Data:
    """Part the shots, and find how images are prepared: from the shots alone."""
    held_out = list(shots[max(0, len(shots) - asked.hold_out) :]) if asked.hold_out else []
    if asked.left_out is not None:
        if asked.hold_out or asked.left_out >= len(shots):
            raise UserError(
                f"--left-out {asked.left_out}: there are {len(shots)} shots, counted from 0, and "
                "--hold-out must be 0"
            )
        held_out = [shots[asked.left_out]]
    real = [pair for pair in shots if pair not in held_out]
    if not real:
        raise UserError(
            f"--hold-out {asked.hold_out} leaves none of {len(shots)} shots to train on"
        )
    bare = [p.stem for p in (*shots, *synthetic) if p.fov is None] if asked.fov == "given" else []
    if bare:
        raise UserError(
            f"--fov given: {len(bare)} pairs have no field of view ({bare[0]} is the first); add "
            "them as fov/ beside images/, or take --fov auto"
        )
    shapes = [look_at(pair) for pair in shots]
    how = Preparation(
        channels=choose_channels(asked.channels, shapes),
        longest_px=choose_longest(asked.size_px, shapes, lambda: read_masks(shots)),
        fov=asked.fov,
    )
    sizes = [how.longest_px]
    if not how.longest_px:
        others = [look_at(pair) for pair in synthetic] if not asked.patch_px else []
        sizes = [max(shape.size) for shape in (*shapes, *others)]
    return Data(
        real=real, held_out=held_out, synthetic=list(synthetic), how=how, most_px=max(sizes),
        shots_px=median_low(max(shape.size) for shape in shapes),
    )  # fmt: skip


def read_masks(pairs: Sequence[Pair]) -> list[BoolMask]:
    """Return the masks of the first of `pairs`, enough of them to know what scaling costs."""
    return [read_mask(pair.mask) for pair in pairs[:FEW]]


def choose_cut(asked: Fit, data: Data) -> Cut:
    """Return how samples are cut."""
    whole = not asked.patch_px
    return Cut(
        side_px=data.most_px if whole else int(asked.patch_px or 0),
        whole=whole,
        vessel_share=asked.vessel_share or 0.0,
        level=asked.augment or "none",
    )
