"""`univg sca show`: a contact sheet, real masks beside synthetic ones.

In: a folder of synthetic masks and, to compare, one of real masks. Out: one PNG with some masks of
each, drawn by the seed: the same seed and folders give the same sheet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from univg.config import settings
from univg.errors import ConfigError, DataError, Problem, ProblemReport
from univg.files import make_folder, write_atomic
from univg.images import PictureError
from univg.masks import BoolMask, read_mask
from univg.pairs import find_masks
from univg.seeds import rng_for

COLUMNS = 6
COLUMNS_BESIDE = 3


@settings
class Show:
    """Contact sheet of masks, real beside synthetic."""

    synth: Path
    """Folder of synthetic masks, or a run or a folder of pairs that holds one."""
    real: Path | None = None
    """Folder of real masks to set beside them, likewise."""
    count: Annotated[int, Ge(1), Le(400)] = 12
    """Masks of each folder; fewer where a folder holds fewer."""
    out: Path = Path("sheet.png")
    """PNG to write; an older one of that name is replaced."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the choice of masks."""
    tile_px: Annotated[int, Ge(32), Le(1024)] = 192
    """Side of one mask on the sheet [px]."""


def plan(settings: Show) -> str:
    """Say what a run would write."""
    named = [folder for folder in (settings.real, settings.synth) if folder is not None]
    shown = " and ".join(f"{min(settings.count, len(find_masks(f)))} masks of {f}" for f in named)
    return f"Would write {settings.out} with {shown}."


def run(settings: Show) -> Path:
    """Write the sheet; return its path."""
    from univg.images import encode_image
    from univg.report import contact_sheet

    if settings.out.suffix.lower() != ".png":
        raise ConfigError(f"out is {str(settings.out)!r}: the sheet is a PNG; end the name in .png")
    folders = {"Real": settings.real, "Synthetic": settings.synth}
    groups: list[list[BoolMask]] = []
    labels: list[str] = []
    for name, folder in folders.items():
        if folder is None:
            continue
        paths = find_masks(folder)
        _keep_clear(settings.out, paths)
        chosen = choose_masks(paths, settings.count, settings.seed, name.lower())
        groups.append(_read_all(chosen))
        labels.append(f"{name}: {len(chosen)} of {len(paths)}")
    sheet = contact_sheet(
        groups, labels, tile_px=settings.tile_px, beside=len(groups) > 1,
        columns=COLUMNS_BESIDE if len(groups) > 1 else COLUMNS,
    )  # fmt: skip
    make_folder(settings.out.parent)
    write_atomic(settings.out, encode_image(sheet))
    print(f"{settings.out}: {', '.join(labels)}")  # noqa: T201
    return settings.out


def choose_masks(paths: list[Path], count: int, seed: int, name: str) -> list[Path]:
    """Return `count` of `paths`, in their order, drawn by `seed` and the set's `name`."""
    rng = rng_for(seed, f"sca show/{name}")
    drawn = rng.choice(len(paths), min(count, len(paths)), replace=False)
    return [paths[k] for k in sorted(drawn)]


def _keep_clear(out: Path, paths: list[Path]) -> None:
    if out.exists() and any(out.samefile(path) for path in paths):
        raise DataError(f"{out}: is one of the masks to show; choose another --out")


def _read_all(paths: list[Path]) -> list[BoolMask]:
    masks: list[BoolMask] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            masks.append(read_mask(path))
        except PictureError as error:
            problems.append(error.problem)
    if problems:
        raise ProblemReport(problems, f"{len(problems)} of {len(paths)} masks cannot be read")
    return masks
