"""What must hold of the shots before a recipe begins: hours of work stand on five files.

In: folders of shots and of a test set, a modality. Out: nothing, or one report of all that is
wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_of_file
from univg.images import ImageArray, read_image
from univg.masks import BoolMask, read_mask
from univg.modalities import find_modality
from univg.pairs import Pair, check_pairs, open_pairs

BRIGHT = {"octa"}
DARK = {"fundus", "oct", "coronary", "brain"}
GREY = {"octa", "oct", "coronary", "brain"}
"""How vessels stand out, and which modalities have no colour; of others nothing is known."""
COLOUR_LEVELS = 12.0
"""Mean spread of the channels from which a picture is in colour; scanners tint grey ones."""
RING_PX = 4


def check_shots(folder: Path, wanted: int, modality: str, test: Path | None) -> None:
    """Refuse shots, or a test set, that nothing good can come of."""
    problems = check_pairs(folder)
    if problems:
        raise ProblemReport(problems, f"{folder}: shots that cannot be used")
    pairs = open_pairs(folder).pairs
    if len(pairs) != wanted:
        raise DataError(
            f"{folder}: holds {len(pairs)} annotated images, and {wanted} are expected; add some, "
            f"choose some, or say --wanted {len(pairs)}"
        )
    name = find_modality(modality).name
    for pair in pairs:
        problems += judge_shot(pair, name)
    if problems:
        raise ProblemReport(problems, f"{folder}: shots that cannot be right")
    if test is not None:
        _check_test(pairs, test)


def judge_shot(pair: Pair, modality: str) -> list[Problem]:
    """Return what makes a shot, whose files can be read, implausible."""
    image = read_image(pair.image)
    if len(np.unique(image)) <= 2:
        remedy = "are images/ and masks/ swapped?"
        return [Problem(path=pair.image, kind="swapped", detail="has two levels", remedy=remedy)]
    problems = []
    remedy = f"is it {modality}? see --modality"
    if modality in GREY and is_coloured(image):
        detail = f"is in colour, and {modality} images are grey"
        problems.append(Problem(path=pair.image, kind="modality", detail=detail, remedy=remedy))
    contrast = vessel_contrast(image, read_mask(pair.mask))
    if (modality in DARK and contrast > 0) or (modality in BRIGHT and contrast < 0):
        found, usual = ("brighter", "darker") if contrast > 0 else ("darker", "brighter")
        detail = f"has vessels {found} than what is beside them; those of {modality} are {usual}"
        problems.append(Problem(path=pair.image, kind="modality", detail=detail, remedy=remedy))
    return problems


def is_coloured(image: ImageArray) -> bool:
    """Whether a picture is more than a tinted grey one."""
    if image.ndim == 2:
        return False
    levels = image.astype(np.float32) / (np.iinfo(image.dtype).max / 255)
    return float((levels.max(axis=2) - levels.min(axis=2)).mean()) > COLOUR_LEVELS


def vessel_contrast(image: ImageArray, mask: BoolMask) -> float:
    """Return how much brighter vessels are than what is beside them, in spreads of the picture."""
    import cv2

    grey = image.astype(np.float32)
    grey = grey if grey.ndim == 2 else grey[..., 1]
    kernel = np.ones((2 * RING_PX + 1, 2 * RING_PX + 1), np.uint8)
    near = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    ring = near & ~mask
    if not ring.any():
        return 0.0
    return float((np.median(grey[mask]) - np.median(grey[ring])) / max(float(grey.std()), 1e-6))


def _check_test(shots: tuple[Pair, ...], test: Path) -> None:
    """Refuse a test set that cannot be read, or that holds one of the shots."""
    problems = check_pairs(test)
    sums = {sha256_of_file(pair.image): pair for pair in shots}
    for pair in open_pairs(test).pairs:
        shot = sums.get(sha256_of_file(pair.image))
        if shot is not None:
            detail, remedy = f"is the shot {shot.image.name}", "take it out of one of the two"
            problems.append(Problem(path=pair.image, kind="leak", detail=detail, remedy=remedy))
    if problems:
        raise ProblemReport(problems, f"{test}: a test set that cannot be used")
