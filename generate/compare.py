"""`univg generate compare`: how near sets of pairs are to a real one, and how varied.

In: folders of pairs: synthetic, real, the shots, more to set beside. Out: `report.html`,
`compare.md`, `compare.json`, `looks.png`, `masks.png` in a folder. Every number stands beside its
floor, the same between two halves of the real set.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from univg.config import check, settings
from univg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .compare_scores import Compared
    from .compare_sets import MeasuredSet
    from .compare_tables import Table

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))
REPORT, MARKDOWN, NUMBERS = "report.html", "compare.md", "compare.json"
LOOKS_PICTURE, MASKS_PICTURE = "looks.png", "masks.png"


@settings
class Compare:
    """Measure how near sets of pairs are to a real one, and how varied; one report of all."""

    synthetic: Path
    """Folder of generated pairs."""
    real: Path
    """Folder of real pairs, best ones that nothing was trained on."""
    out: Path
    """Folder for report.html, compare.md, compare.json and two pictures."""
    shots: Path | None = None
    """Folder of the few real pairs that the generator learnt from: finds copies of them."""
    against: tuple[Path, ...] = ()
    """More folders of pairs, each a row of the tables."""
    count: Annotated[int, Ge(3), Le(5000)] = 200
    """Pairs of each set that are measured at most, drawn from the seed; all shots are."""
    size: Annotated[int, Ge(64), Le(4096)] = 512
    """Longest side [px] that all masks are scaled to before they are measured."""
    draws: Annotated[int, Ge(10), Le(100_000)] = 200
    """Subsamples for the intervals."""
    inception: Path | None = None
    """InceptionV3 weights (.safetensors, torchvision's names) for FID and the Inception score;
    nothing is downloaded."""
    show: Annotated[int, Ge(1), Le(24)] = 6
    """Pairs in each row of pictures of the page."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of all draws."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes that measure pairs; changes no byte."""


def plan(settings: Compare) -> str:
    """Say what would be measured and written."""
    from univg.pairs import open_pairs

    from .compare_sets import refuse_few

    folders = list_folders(settings)
    _check_inception(settings)
    if settings.shots is not None:
        folders = {**folders, "shots": settings.shots}
    lines = []
    for name, folder in folders.items():
        found = len(open_pairs(folder).pairs)
        taken = found if name == "shots" else min(found, settings.count)
        if name != "shots":
            refuse_few(folder, taken)
        lines.append(f"Would measure {taken:,} of {found:,} pairs of {folder}.")
    files = ", ".join((REPORT, MARKDOWN, NUMBERS, LOOKS_PICTURE, MASKS_PICTURE))
    return "\n".join([*lines, f"Would write {files} to {settings.out}."])


def run(settings: Compare) -> Compared:
    """Measure the sets, write page, tables and pictures; return the scores."""
    from univg.files import make_folder

    from .compare_scores import score_sets
    from .compare_sets import measure_sets
    from .compare_tables import make_tables

    settings = check(settings)
    folders = list_folders(settings)
    shots = "\0shots"  # no folder's name
    _check_inception(settings)
    sets = measure_sets(
        folders if settings.shots is None else {**folders, shots: settings.shots},
        size_px=settings.size,
        count=settings.count,
        seed=settings.seed,
        whole=[shots],
        workers=settings.workers,
    )
    real, *others = (sets[name] for name in folders)
    if shots in sets:
        _warn_of_shots_among(real, sets[shots])
    found = score_sets(
        real,
        others,
        shots=sets.get(shots),
        inception=settings.inception,
        draws=settings.draws,
        seed=settings.seed,
    )
    tables = make_tables(found)
    make_folder(settings.out)
    write_report(found, tables, settings)
    _tell(found, settings.out / REPORT)
    return found


def _check_inception(settings: Compare) -> None:
    """Refuse a wrong file of weights before the work."""
    if settings.inception is not None:
        from .compare_inception_net import load_inception

        load_inception(settings.inception)


def list_folders(settings: Compare) -> dict[str, Path]:
    """Return the sets by name, the real one first; refuse a folder that is given twice."""
    from .compare_sets import name_sets

    folders = [settings.real, settings.synthetic, *settings.against]
    places = [folder.resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(
                f"{folders[number]} is given twice: real, synthetic and against are different sets"
            )
    out = settings.out.resolve()
    every = [*places, *([] if settings.shots is None else [settings.shots.resolve()])]
    if out in every or any(out == place / part for place in every for part in ("images", "masks")):
        raise ConfigError(f"out is {settings.out}, a folder of pairs: name another for the report")
    return dict(zip(name_sets(folders), folders, strict=True))


def write_report(found: Compared, tables: Sequence[Table], settings: Compare) -> None:
    """Write all files of the report, the page last."""
    from univg import __version__
    from univg.config import to_plain as plain_settings
    from univg.files import write_all_atomic
    from univg.images import encode_image

    from .compare_page import TITLE, build_page, describe, draw_both_clouds
    from .compare_tables import format_markdown, to_plain

    clouds = draw_both_clouds(found, settings.seed)
    chosen = plain_settings(settings)
    del chosen["workers"]  # changes nothing, so it is no part of the result
    numbers = {"version": __version__, "settings": chosen, **to_plain(found)}
    page = build_page(found, tables, clouds, show=settings.show, seed=settings.seed)
    write_all_atomic(
        {
            settings.out / LOOKS_PICTURE: encode_image(clouds[0]),
            settings.out / MASKS_PICTURE: encode_image(clouds[1]),
            settings.out / NUMBERS: (json.dumps(numbers, indent=1) + "\n").encode(),
            settings.out / MARKDOWN: format_markdown(TITLE, describe(found), tables).encode(),
            settings.out / REPORT: page.html().encode(),
        }
    )


def _warn_of_shots_among(real: MeasuredSet, shots: MeasuredSet) -> None:
    from .compare_sets import count_shared

    shared = count_shared(real, shots)
    if shared:
        warnings.warn(
            f"{shared} of the images of {real.folder} are shots: what was made from them lies "
            "nearer to that set than to new real ones; leave them out of it",
            stacklevel=3,
        )


def _tell(found: Compared, page: Path) -> None:
    from univg.sca.tables import print_table

    from .compare_tables import make_summary

    table = make_summary(found)
    print_table(table.caption, table.columns, table.rows)
    print(page)  # noqa: T201
