"""What must hold of the shots before a recipe begins: hours of work stand on five files.

In: folders of shots, of a test set, of unlabelled images, a modality. Out: nothing, or one report
of all that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from univg.errors import DataError, Problem, ProblemReport
from univg.files import sha256_hex, sha256_of_file
from univg.images import ImageArray, PictureError, read_image
from univg.likeness import Signed, choose_evenly, find_copies, sign_files, sign_picture
from univg.masks import BoolMask, judge_example
from univg.modalities import find_modality
from univg.pairing import Trace, judge_pairing, trace_shot
from univg.pairs import Matching, Pair, PairFacts, find_pairs, match_stems, read_pair

BRIGHT = {"octa"}
DARK = {"fundus", "oct", "coronary", "brain"}
GREY = {"octa", "oct", "coronary", "brain"}
"""How vessels stand out, and which modalities have no colour; of others nothing is known."""
COLOUR_LEVELS = 12.0
"""Mean spread of the channels from which a picture is in colour; scanners tint grey ones."""
RING_PX = 4
APART = "take it out of one of the two"
MOST_SEEN = 200
"""Unlabelled images that are looked at for test images saved again: seconds, and where all of a
test set lies among others, one of it is met."""


@dataclass(frozen=True)
class Tests:
    """What is remembered of test images, to find them elsewhere."""

    sums: Mapping[str, Path] = field(default_factory=dict)
    """By the checksum of their files."""
    signed: Sequence[Signed] = ()


def check_shots(
    folder: Path, wanted: int, modality: str, test: Path | None, alike: bool = False
) -> Tests:
    """Refuse shots, or a test set, that nothing good can come of.

    `alike`: shots are recombined, so all must be grey, or all in colour.
    """
    name = find_modality(modality).name
    found, problems = find_pairs(folder, verify=True)
    doubts: list[Problem] = []
    shots = Shots()
    for pair in found.pairs:
        wrong, facts = read_pair(pair)
        problems += wrong
        if facts is not None and not wrong:
            doubts += judge_shot(facts, name)
            doubts += shots.add(facts, alike)
    if problems:
        raise ProblemReport([*problems, *doubts], f"{folder}: shots that cannot be used")
    if len(found.pairs) != wanted:
        count = len(found.pairs)
        raise DataError(
            f"{folder}: holds {count} annotated images, and {wanted} are expected; add some, "
            f"choose some, or say --wanted {count}"
        )
    if all(doubt.kind == "modality" for doubt in doubts):
        # A mask that is not the image's own makes vessels look like those of another modality.
        doubts = judge_pairing(shots.traces) or doubts
    if doubts:
        raise ProblemReport(doubts, f"{folder}: shots that cannot be right")
    return Tests() if test is None else _check_test(shots, folder, test)


@dataclass
class Shots:
    """What is remembered of shots, to compare others with them."""

    prints: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    kinds: dict[int, Path] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    signed: list[Signed] = field(default_factory=list)

    def add(self, facts: PairFacts, alike: bool) -> list[Problem]:
        """Remember a shot; return what makes it one too many, or of another kind than the first."""
        pair, image = facts.pair, facts.image
        problems = note_double(self.prints, image, pair.image)
        problems += note_double(self.masks, facts.reading.mask, pair.mask)
        first = self.kinds.setdefault(image.ndim, pair.image)
        if alike and first == pair.image and len(self.kinds) > 1:
            other = next(iter(self.kinds.values()))
            detail = f"is {_kind_of(image)}, and {other.name} {_kind_of(read_image(other))}"
            remedy = "bring all shots to one kind"
            problems.append(Problem(path=pair.image, kind="kind", detail=detail, remedy=remedy))
        signed = sign_picture(pair.image, image)
        if not problems:
            problems += _tell_copies(find_copies([signed], self.signed), "is", "each must differ")
        self.signed.append(signed)
        self.traces.append(trace_shot(facts))
        return problems


def note_double(seen: dict[str, Path], picture: ImageArray | BoolMask, path: Path) -> list[Problem]:
    """Note a picture among those `seen`; return what is wrong if it is there already."""
    first = seen.setdefault(print_of(picture), path)
    if first == path:
        return []
    detail, remedy = f"is the same picture as {first.name}", "each must differ"
    return [Problem(path=path, kind="duplicate", detail=detail, remedy=remedy)]


def judge_shot(facts: PairFacts, modality: str) -> list[Problem]:
    """Return what makes a shot, whose files can be read, implausible."""
    pair, image = facts.pair, facts.image
    problems = judge_pair_kind(facts)
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


def judge_pair_kind(facts: PairFacts) -> list[Problem]:
    """Return why a pair is not one of an image and its vessels: exchanged, inverted, …"""
    pair = facts.pair
    if len(np.unique(facts.image)) <= 2:
        remedy = "are images/ and masks/ swapped?"
        return [Problem(path=pair.image, kind="swapped", detail="has two levels", remedy=remedy)]
    return judge_example(pair.mask, facts.reading)


def check_unlabelled(folder: Path, shots: Path, test: Path | None) -> None:
    """Refuse a folder of unlabelled images that is that of the shots, or of the test set."""
    others = [(shots, "the shots", "unlabelled images are others")]
    if test is not None:
        others.append((test, "the test set", "nothing may be trained on it"))
    here = folder.resolve()
    for other, what, why in others:
        _refuse_same(folder, other, what, why)
        there = other.resolve()
        if there in here.parents:
            raise DataError(f"{folder}: lies in the folder of {what}; {why}")
        if here in there.parents:
            raise DataError(
                f"{folder}: holds the folder of {what}, {other}, masks and all; give a folder of "
                "unlabelled images alone"
            )


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
        if len(np.unique(image)) <= 2:
            detail, remedy = "has two levels", "is it a mask? take it out"
            problems.append(Problem(path=path, kind="mask", detail=detail, remedy=remedy))
            continue
        if image.ndim != like.ndim or image.dtype != like.dtype:
            detail = f"is {_kind_of(image)}, and the shot {first.image.name} {_kind_of(like)}"
            remedy = "bring all to one kind"
            problems.append(Problem(path=path, kind="kind", detail=detail, remedy=remedy))
    if problems:
        raise ProblemReport(problems, "unlabelled images whose grounds cannot be used")


def _kind_of(image: ImageArray) -> str:
    return f"{'grey' if image.ndim == 2 else 'colour'} of {8 * image.dtype.itemsize} bits"


def check_leaks(
    folder: Path, sums: Mapping[Path, str], tests: Tests, used: Iterable[Path] = ()
) -> None:
    """Refuse unlabelled images, with the checksums of their files, that are among the tests.

    Files are all compared; what they show, of those `used` and of no more than `MOST_SEEN` of all.
    """
    problems = [
        Problem(path=path, kind="leak", detail=f"is the test image {tests.sums[digest].name}",
                remedy=APART)
        for path, digest in sums.items() if digest in tests.sums
    ]  # fmt: skip
    if tests.signed and not problems:
        some = dict.fromkeys([*used, *choose_evenly(list(sums), MOST_SEEN)])
        seen = sign_files(list(some))
        problems = _tell_copies(find_copies(seen, tests.signed), "is the test image", APART)
    if problems:
        raise ProblemReport(problems, f"{folder}: unlabelled images that are test images")


def print_of(image: ImageArray | BoolMask) -> str:
    """Return a checksum of the pixels, the same for a lossless copy in another format or depth."""
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    if image.dtype == np.uint16 and not (image % 257).any():
        image = (image // 257).astype(np.uint8)
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


def _check_test(shots: Shots, folder: Path, test: Path) -> Tests:
    """Refuse a test set that cannot be read, or that holds one of the shots."""
    _refuse_same(test, folder, "the shots", "a test set is of other images")
    found, problems = find_pairs(test, verify=True)
    if not found.pairs and not problems:
        raise DataError(f"{test}: holds no pair of image and mask; check the path")
    sums: dict[str, Path] = {}
    prints: dict[str, Path] = {}
    signed: list[Signed] = []
    bare = 0
    for pair in found.pairs:
        wrong, facts = read_pair(pair)
        # Without any vessel a test image is one all the same: evaluation has a rule for it.
        grave = [each for each in wrong if (each.path, each.kind) != (pair.mask, "empty")]
        problems += grave
        if facts is None:
            continue
        is_bare = not facts.reading.mask.any()
        bare += is_bare
        if not grave and not is_bare:
            problems += judge_pair_kind(facts)
        problems += note_double(prints, facts.image, pair.image)
        sums[sha256_of_file(pair.image)] = pair.image
        shot = shots.prints.get(print_of(facts.image))
        if shot is None:
            signed.append(sign_picture(pair.image, facts.image))
        else:
            detail = f"is the shot {shot.name}"
            problems.append(Problem(path=pair.image, kind="leak", detail=detail, remedy=APART))
    problems += _tell_copies(find_copies(signed, shots.signed), "is the shot", APART)
    problems += _find_other_names(found.pairs)
    if problems:
        raise ProblemReport(problems, f"{test}: a test set that cannot be used")
    if bare == len(found.pairs):
        raise DataError(f"{test}: no mask holds a vessel, so nothing can be measured; check them")
    _require_views(test, found.pairs)
    return Tests(sums, signed)


def _tell_copies(copies: Mapping[Path, Path], what: str, remedy: str) -> list[Problem]:
    return [
        Problem(path=path, kind="leak", detail=f"{what} {other.name}, saved again", remedy=remedy)
        for path, other in copies.items()
    ]


def _find_other_names(pairs: Sequence[Pair]) -> list[Problem]:
    """Return pairs that a manifest has made of files whose names differ: results go by names."""
    matching = match_stems([pair.image for pair in pairs], [pair.mask for pair in pairs])
    masks = {pair.image: pair.mask.name for pair in pairs}
    doubles = Matching(pairs=(), duplicates=matching.duplicates).problems()
    return doubles + [
        Problem(path=path, kind="unmatched", detail=f"has the mask {masks[path]}",
                remedy="give both one name")
        for path in matching.unmatched_images
    ]  # fmt: skip


def _require_views(test: Path, pairs: Sequence[Pair]) -> None:
    """Refuse a test set of which some images have a field of view and others none."""
    lacking = [pair for pair in pairs if pair.fov is None]
    if lacking and ((test / "fov").is_dir() or len(lacking) < len(pairs)):
        raise DataError(
            f"{test}: {len(lacking)} of {len(pairs)} images have no field of view in fov/ (first: "
            f"{lacking[0].image.name}); add them, or take fov/ away"
        )


def _refuse_same(folder: Path, other: Path, what: str, why: str) -> None:
    places = {other.resolve(), (other / "images").resolve()}
    if folder.resolve() in places or (folder / "images").resolve() in places:
        raise DataError(f"{folder}: is the folder of {what}; {why}")
