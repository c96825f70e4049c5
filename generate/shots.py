"""The five real pairs, as the engines that learn from them without training read them.

In: a folder of pairs. Out: images, masks and fields of view in memory, all that is wrong with them
told in one report.
"""

from __future__ import annotations

from pathlib import Path

from univg.errors import ProblemReport
from univg.images import ImageArray, read_image
from univg.masks import BoolMask, read_mask
from univg.pairs import check_pairs, open_pairs

Shot = tuple[str, ImageArray, BoolMask, BoolMask | None]


def read_shot_pairs(folder: Path) -> list[Shot]:
    """Return (name, image, mask, field of view) of each pair of `folder`."""
    problems = check_pairs(folder)
    if problems:
        raise ProblemReport(problems, f"{folder}: shots that cannot be used")
    return [
        (
            pair.stem,
            read_image(pair.image),
            read_mask(pair.mask),
            None if pair.fov is None else read_mask(pair.fov),
        )
        for pair in open_pairs(folder).pairs
    ]
