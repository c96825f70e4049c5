"""What must hold of the shots before a recipe begins: hours of work stand on five files.

In: folders of shots, of a test set, of unlabelled images, a modality. Out: nothing, or one report
of all that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_hex, sha256_of_file
from univg.images import ImageArray, PictureError, read_image
from univg.masks import BoolMask, judge_example
from univg.modalities import find_modality
from univg.pairs import PairFacts, find_pairs, read_pair

BRIGHT = {"octa"}
DARK = {"fundus", "oct", "coronary", "brain"}
GREY = {"octa", "oct", "coronary", "brain"}
"""How vessels stand out, and which modalities have no colour; of others nothing is known."""
COLOUR_LEVELS = 12.0
"""Mean spread of the channels from which a picture is in colour; scanners tint grey ones."""
RING_PX = 4


def check_shots(folder: Path, wanted: int, modality: str, test: Path | None) -> dict[str, Path]:
    """Refuse shots, or a test set, that nothing good can come of.

    Returns the test images by the checksum of their files.
    """
    name = find_modality(modality).name
    found, problems = find_pairs(folder, verify=True)
    doubts: list[Problem] = []
    prints: dict[str, Path] = {}
    for pair in found.pairs:
        wrong, facts = read_pair(pair)
        problems += wrong
        if facts is None or wrong:
            continue
        doubts += judge_shot(facts, name)
        first = prints.setdefault(print_of(facts.image), pair.image)
        if first != pair.image:
            detail, remedy = f"is the same picture as {first.name}", "shots must differ"
            doubts.append(Problem(path=pair.image, kind="duplicate", detail=detail, remedy=remedy))
    if problems:
        raise ProblemReport([*problems, *doubts], f"{folder}: shots that cannot be used")
    if len(found.pairs) != wanted:
        count = len(found.pairs)
        raise DataError(
            f"{folder}: holds {count} annotated images, and {wanted} are expected; add some, "
            f"choose some, or say --wanted {count}"
        )
    if doubts:
        raise ProblemReport(doubts, f"{folder}: shots that cannot be right")
    return {} if test is None else _check_test(prints, folder, test)


def judge_shot(facts: PairFacts, modality: str) -> list[Problem]:
    """Return what makes a shot, whose files can be read, implausible."""
    pair, image = facts.pair, facts.image
    if len(np.unique(image)) <= 2:
        remedy = "are images/ and masks/ swapped?"
        return [Problem(path=pair.image, kind="swapped", detail="has two levels", remedy=remedy)]
    problems = judge_example(pair.mask, facts.reading)
    if problems:
        return problems
    remedy = f"is it {modality}? see --modality"
    if modality in GREY and has_colour(image):
        detail = f"is in colour, and {modality} images are grey"
        problems.append(Problem(path=pair.image, kind="modality", detail=detail, remedy=remedy))
    contrast = vessel_contrast(image, facts.reading.mask)
    if (modality in DARK and contrast > 0) or (modality in BRIGHT and contrast < 0):
        found, usual = ("brighter", "darker") if contrast > 0 else ("darker", "brighter")
        detail = f"has vessels {found} than what is beside them; those of {modality} are {usual}"
        problems.append(Problem(path=pair.image, kind="modality", detail=detail, remedy=remedy))
    return problems


def check_unlabelled(folder: Path, shots: Path, test: Path | None) -> None:
    """Refuse a folder of unlabelled images that is that of the shots, or of the test set."""
    _refuse_same(folder, shots, "the shots", "unlabelled images are others")
    if test is not None:
        _refuse_same(folder, test, "the test set", "nothing may be trained on it")


def check_grounds(paths: Iterable[Path], shots: Path) -> None:
    """Refuse unlabelled images of another kind than the shots: grounds are mixed with theirs."""
    first = find_pairs(shots)[0].pairs[0]
    like = read_image(first.image)
    problems: list[Problem] = []
    for path in paths:
        try:
            image = read_image(path)
        except PictureError as error:
            problems.append(error.problem)
            continue
        if image.ndim != like.ndim or image.dtype != like.dtype:
            detail = f"is {_kind_of(image)}, and the shot {first.image.name} {_kind_of(like)}"
            remedy = "bring all to one kind"
            problems.append(Problem(path=path, kind="kind", detail=detail, remedy=remedy))
    if problems:
        raise ProblemReport(problems, "unlabelled images whose grounds cannot be used")


def _kind_of(image: ImageArray) -> str:
    return f"{'grey' if image.ndim == 2 else 'colour'} of {8 * image.dtype.itemsize} bits"


def check_leaks(folder: Path, sums: Mapping[Path, str], tests: Mapping[str, Path]) -> None:
    """Refuse unlabelled images, with the checksums of their files, that are among the tests."""
    remedy = "take it out of one of the two"
    problems = [
        Problem(path=path, kind="leak", detail=f"is the test image {tests[digest].name}",
                remedy=remedy)
        for path, digest in sums.items() if digest in tests
    ]  # fmt: skip
    if problems:
        raise ProblemReport(problems, f"{folder}: unlabelled images that are test images")


def print_of(image: ImageArray) -> str:
    """Return a checksum of the pixels, the same for a copy in another format."""
    head = f"{image.shape} {image.dtype}\0".encode()
    return sha256_hex(head + np.ascontiguousarray(image).tobytes())


def has_colour(image: ImageArray) -> bool:
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


def _check_test(shots: Mapping[str, Path], folder: Path, test: Path) -> dict[str, Path]:
    """Refuse a test set that cannot be read, or that holds one of the shots."""
    _refuse_same(test, folder, "the shots", "a test set is of other images")
    found, problems = find_pairs(test, verify=True)
    if not found.pairs and not problems:
        raise DataError(f"{test}: holds no pair of image and mask; check the path")
    sums: dict[str, Path] = {}
    for pair in found.pairs:
        wrong, facts = read_pair(pair)
        # Without any vessel a test image is one all the same: evaluation has a rule for it.
        problems += [problem for problem in wrong if problem.kind != "empty"]
        if facts is None:
            continue
        sums[sha256_of_file(pair.image)] = pair.image
        shot = shots.get(print_of(facts.image))
        if shot is not None:
            detail, remedy = f"is the shot {shot.name}", "take it out of one of the two"
            problems.append(Problem(path=pair.image, kind="leak", detail=detail, remedy=remedy))
    if problems:
        raise ProblemReport(problems, f"{test}: a test set that cannot be used")
    return sums


def _refuse_same(folder: Path, other: Path, what: str, why: str) -> None:
    places = {other.resolve(), (other / "images").resolve()}
    if folder.resolve() in places or (folder / "images").resolve() in places:
        raise DataError(f"{folder}: is the folder of {what}; {why}")
