"""What the demo's engines had learnt: distances, agreement and copying, before and after.

In: the folder of a demo's engines, the recipe's results. Out: figures for its page. Nothing here is
trained on or drawn for the pairs that it is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from univg.demo_traits import FloatArray

if TYPE_CHECKING:
    from univg.distance import Comparison
    from univg.images import ImageArray
    from univg.memorisation import Copying
    from univg.recipe_steps import Result


@dataclass(frozen=True, kw_only=True)
class MaskFigures:
    """Masks drawn before and after, against the reference."""

    before: Comparison
    after: Comparison
    descriptors: Mapping[str, Mapping[str, FloatArray]]
    """By set (reference, floor, before, after) and name: arrays (N,)."""
    copying: Copying
    empty_before: int
    """Masks without any vessel."""
    empty_after: int


@dataclass(frozen=True, kw_only=True)
class ImageFigures:
    """Images drawn before and after, against the reference and against their masks."""

    before: Comparison
    after: Comparison
    follows: Mapping[str, float]
    """clDice with the own mask: before, after, rendered; chance: after, with another's mask."""
    copying: Copying


def measure_masks(
    place: Path, results: Mapping[str, Result], count: int, workers: int
) -> MaskFigures:
    """Measure the first `count` masks as `univg sca score` does, at their own size."""
    from univg import distance
    from univg.masks import read_mask
    from univg.memorisation import measure_copying
    from univg.pairs import find_masks
    from univg.sca.descriptors import DESCRIPTOR_GROUPS, DESCRIPTOR_NAMES, DESCRIPTORS
    from univg.sca.measure import measure_folders

    folders = {
        "reference": place / "reference",
        "floor": place / "targets",
        "before": place / "drawn" / "masks-before",
        "after": results["masks"].folder / "masks",
    }
    found = measure_folders(folders, size_px=None, workers=workers)
    found["after"] = found["after"][:count]

    values = {name: np.array([m.descriptors for m in found[name]]) for name in folders}
    resolution = [descriptor.resolution for descriptor in DESCRIPTORS]

    def compare(name: str) -> Comparison:
        return distance.compare(
            values["reference"], values[name], floor=values["floor"],
            resolution=resolution, groups=DESCRIPTOR_GROUPS,
        )  # fmt: skip

    pixels = {
        name: [read_mask(path) for path in find_masks(folder)]
        for name, folder in {**folders, "shots": place / "shots"}.items()
    }
    pixels["after"] = pixels["after"][:count]
    return MaskFigures(
        before=compare("before"),
        after=compare("after"),
        descriptors={
            name: dict(zip(DESCRIPTOR_NAMES, columns.T, strict=True))
            for name, columns in values.items()
        },
        copying=measure_copying(
            pixels["after"], pixels["shots"], [*pixels["floor"], *pixels["reference"]], kind="mask"
        ),
        empty_before=sum(not mask.any() for mask in pixels["before"]),
        empty_after=sum(not mask.any() for mask in pixels["after"]),
    )


def measure_images(place: Path, results: Mapping[str, Result], count: int) -> ImageFigures:
    """Measure looks (FD-looks), whether vessels lie where the masks say, and copying.

    Before, after and rendered are of the same masks, the first `count` of the recipe.
    """
    from univg.agreement import measure_agreement
    from univg.looks import describe_looks, look_distance
    from univg.masks import read_mask
    from univg.memorisation import measure_copying
    from univg.pairs import find_masks

    images: dict[str, Sequence[ImageArray]] = {
        "shots": read_images(place / "shots" / "images"),
        "rendered": read_images(place / "rendered" / "images"),
        "reference": read_images(place / "reference" / "images"),
        "before": read_images(place / "drawn" / "images-before"),
        "after": read_images(results["pairs"].folder / "pairs" / "images")[:count],
    }
    masks = {
        name: [read_mask(path) for path in find_masks(place / name)]
        for name in ("shots", "rendered", "reference")
    }
    looks = {name: describe_looks(each) for name, each in images.items() if name != "shots"}

    def compare(name: str) -> Comparison:
        return look_distance(looks["reference"], looks[name], floor=looks["rendered"])

    ceiling = measure_agreement(images["rendered"], masks["rendered"])
    follows: dict[str, Any] = {
        name: measure_agreement(images[name], masks["rendered"], polarity=ceiling.polarity)
        for name in ("before", "after")
    }
    return ImageFigures(
        before=compare("before"),
        after=compare("after"),
        follows={
            "rendered": ceiling.cldice,
            "before": follows["before"].cldice,
            "after": follows["after"].cldice,
            "chance": follows["after"].chance or 0.0,
        },
        copying=measure_copying(
            images["after"],
            images["shots"],
            [*images["rendered"], *images["reference"]],
            kind="image",
            generated_masks=masks["rendered"],
            shot_masks=masks["shots"],
            other_masks=[*masks["rendered"], *masks["reference"]],
        ),
    )


def read_images(folder: Path) -> list[ImageArray]:
    """Return the pictures of `folder` in the order of their names."""
    from univg.images import list_pictures, read_image

    return [read_image(path) for path in list_pictures(folder)]
