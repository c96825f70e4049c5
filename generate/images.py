"""`univg generate images`: an image for each mask of a folder, hence labelled pairs.

In: a folder of masks, a modality, a look, a seed. Out: a folder of pairs, `images/*.png` and
`masks/*.png` of the same names, with `manifest.jsonl` (a row a pair: the drawn look, hashes),
`run.json` (what decides the bytes) and `config.yaml`. Run again, it goes on where it stopped; the
number of workers and interruptions change no byte.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from univg import __version__
from univg.config import check, settings, to_plain
from univg.errors import ConfigError, DataError, Problem, ProblemReport
from univg.modalities import find_modality

if TYPE_CHECKING:
    from .looks import LookCard

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))
ALGORITHM = 1  # raise with every change that changes images: older runs are then not resumed
Side = Annotated[int, Ge(16), Le(16384)]


@settings
class Images:
    """Make an image for each mask: a folder of labelled pairs.

    Writes OUT/images/NAME.png and OUT/masks/NAME.png with OUT/manifest.jsonl; NAME is that of the
    mask. The same command goes on after an interruption.
    """

    masks: Path
    """Folder of masks: plain, of pairs, or as `univg sca synth` writes it."""
    out: Path
    """Folder to write; new, empty, or of the same run."""
    image_engine: Literal["procedural"] = "procedural"
    """How images are made. procedural: drawn from measured vessels, no model needed."""
    modality: str = "fundus"
    """Name (fundus, octa, oct, coronary, brain) or the path of a card."""
    look: str = "default"
    """default: the modality's whole range; plain: its middle; unseen: of no real modality; or the
    path of a look card (my_look.yaml)."""
    count: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    """Pairs to make; default: all masks times --variants."""
    first: Annotated[int, Ge(0)] = 0
    """Index of the first pair; makes single pairs again, or a part of a larger run."""
    variants: Annotated[int, Ge(1), Le(10_000)] = 1
    """Images of each mask, each of another look."""
    size: tuple[Side, Side] | None = None
    """Height and width [px] to which masks are scaled; default: as they are."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    strict: bool = False
    """Refuse masks with grey levels instead of thresholding them."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes; changes no byte."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides the pairs of a run, resolved and checked."""

    engine: str
    modality_name: str
    card: LookCard
    masks: tuple[Path, ...]
    hashes: tuple[str, ...]
    variants: int
    size: tuple[int, int] | None
    seed: int

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the first."""
        listing = "\n".join(f"{d} {p.name}" for p, d in zip(self.masks, self.hashes, strict=True))
        return {
            "stage": "generate images",
            "version": __version__,
            "algorithm": ALGORITHM,
            "engine": self.engine,
            "seed": self.seed,
            "modality": self.modality_name,
            "look": to_plain(self.card),
            "variants": self.variants,
            "size_px": None if self.size is None else list(self.size),
            "masks": {
                "count": len(self.masks),
                "sha256": hashlib.sha256(listing.encode()).hexdigest(),
            },
        }

    def source(self, index: int) -> Path:
        """Return the mask of pair `index`."""
        return self.masks[index // self.variants]

    def pair_id(self, index: int) -> str:
        """Return the name of pair `index`: its mask's, with a number where there are several."""
        stem = self.source(index).stem
        return stem if self.variants == 1 else f"{stem}-v{index % self.variants:02d}"


@dataclass
class ImagesResult:
    """What a run made."""

    pairs: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    folder: Path = field(default_factory=Path)

    def line(self) -> str:
        """One line for the terminal."""
        kept = f", {self.skipped} were there already" if self.skipped else ""
        rate = f" ({self.pairs / self.wall_s:.0f} pairs/s)" if self.pairs and self.wall_s else ""
        return f"{self.pairs} pairs written in {self.wall_s:.1f} s{rate}{kept}"


def prepare_job(settings: Images) -> Job:
    """Resolve and check all that the run needs, before anything is written."""
    from univg.files import sha256_of_file
    from univg.images import MAX_PIXELS
    from univg.pairs import find_masks

    from .looks import find_look

    if settings.size is not None and settings.size[0] * settings.size[1] > MAX_PIXELS:
        height, width = settings.size
        raise ConfigError(f"size is {height} × {width}: more than the {MAX_PIXELS} px univg reads")
    modality = find_modality(settings.modality)
    card = find_look(modality.name, settings.look)
    paths = find_masks(settings.masks)
    _refuse_doubles(paths)
    job = Job(
        engine=settings.image_engine, modality_name=modality.name, card=card, masks=tuple(paths),
        hashes=tuple(sha256_of_file(path) for path in paths), variants=settings.variants,
        size=settings.size, seed=settings.seed,
    )  # fmt: skip
    wanted = indices_of(settings, job)
    _check_masks(sorted({job.source(index) for index in wanted}), settings.strict)
    return job


def indices_of(settings: Images, job: Job) -> range:
    """Return the indices of the pairs that `settings` ask for."""
    there = len(job.masks) * job.variants
    count = there - settings.first if settings.count is None else settings.count
    if count < 1 or settings.first + count > there:
        asked = f"first is {settings.first} and count {settings.count or 'all'}"
        raise ConfigError(
            f"{asked}: {settings.masks} has {len(job.masks)} masks, so {there} pairs with "
            f"--variants {job.variants}; ask for fewer, or for more variants of each mask"
        )
    return range(settings.first, settings.first + count)


def _refuse_doubles(paths: Sequence[Path]) -> None:
    """Two masks of one stem would be written to the same file."""
    seen: dict[str, Path] = {}
    problems = []
    for path in paths:
        other = seen.setdefault(path.stem.casefold(), path)
        if other is not path:
            detail = f"has the same name as {other.name}"
            problems.append(
                Problem(path=path, kind="duplicate", detail=detail, remedy="rename one of them")
            )
    if problems:
        raise ProblemReport(problems, "masks whose pairs would have the same name")


def _check_masks(paths: Sequence[Path], strict: bool) -> None:
    """Tell all masks that cannot be used in one report; those with grey levels in one line."""
    import warnings

    from univg.images import PictureError
    from univg.masks import MaskWarning, describe_grey, inspect_mask, judge_mask

    problems: list[Problem] = []
    grey: list[Path] = []
    for path in paths:
        try:
            reading = inspect_mask(path)
        except PictureError as error:
            problems.append(error.problem)
            continue
        found = judge_mask(path, reading, strict=strict)
        problems += found
        if not found and describe_grey(path, reading) is not None:
            grey.append(path)
    if problems:
        raise ProblemReport(problems, f"{paths[0].parent}: masks that cannot be used")
    if grey:
        warnings.warn(
            f"{len(grey)} masks have grey levels and are cut at half, such as {grey[0]}; --strict "
            "refuses them",
            MaskWarning,
            stacklevel=2,
        )


def plan(settings: Images) -> str:
    """Say what would be written."""
    job = prepare_job(settings)
    wanted = indices_of(settings, job)
    size = "of the masks' own size" if job.size is None else "of {} × {} px".format(*job.size)
    return (
        f"Would write {len(wanted)} pairs {size} to {settings.out / 'images'} and "
        f"{settings.out / 'masks'}:\n"
        f"  {job.modality_name} images, look {job.card.name}, of {len(job.masks)} masks in "
        f"{settings.masks}, {job.variants} of each.\n"
        f"About 20 pairs/s of 256 × 256 px on each of {settings.workers} workers."
    )


def run(settings: Images) -> ImagesResult:
    """Write the pairs; go on where an earlier run stopped."""
    from .writing import write_job

    settings = check(settings)
    job = prepare_job(settings)
    if settings.out.resolve() == settings.masks.resolve():
        raise DataError(f"{settings.out}: is the folder of the masks; choose another --out")
    result = ImagesResult(folder=settings.out)
    start = time.perf_counter()
    write_job(job, settings, result)
    result.wall_s = time.perf_counter() - start
    print(result.line())  # noqa: T201
    print(result.folder)  # noqa: T201
    return result
