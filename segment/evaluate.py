"""`univg segment evaluate`: predicted masks against true ones, as a paper's table would have it.

In: a folder of truth and one of predictions; fields of view, probabilities, a second method, if
there are. Out: in OUT, per_image.csv, summary.csv, evaluation.json, table.md, table.tex,
report.html and config.yaml. The same files give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from univg.config import check, settings
from univg.errors import ConfigError
from univg.pairs import DEFAULT_SUFFIXES

if TYPE_CHECKING:
    from .evaluate_files import Method
    from .evaluate_folders import Evaluation

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))
FILES = (
    *("per_image.csv", "summary.csv", "evaluation.json"),
    *("table.md", "table.tex", "report.html", "config.yaml"),
)
PARTS = ("images", "masks", "fov", "probabilities", "overlays")
"""Folders of the files that are measured, below the one that is given."""


@settings
class Evaluate:
    """Measure predicted masks against true ones; compare two methods, if asked to.

    Metrics: dsc, cldice, iou, nsd, nsd_paper, hd95, betti0, betti1, betti0_patches,
    betti1_patches, sensitivity, specificity, auc, or package.module:function.
    """

    truth: Path
    """Folder of true masks, or a folder of pairs that holds one."""
    predicted: Path
    """Folder of predicted masks, of the same names; or one that holds masks/."""
    out: Path
    """Folder for the tables and the page."""
    probabilities: Path | None = None
    """Folder of probabilities (grey, 8 or 16 bits), for auc; default: PREDICTED/probabilities."""
    fov: str = "whole"
    """Where to judge: whole (everywhere), inside (the fov/ of TRUTH), or a folder of masks."""
    against: Path | None = None
    """Folder of a second method's masks: paired tests between the two."""
    against_probabilities: Path | None = None
    """Its probabilities; default: AGAINST/probabilities."""
    name: str = ""
    """What to call the method; default: its folder's name."""
    against_name: str = ""
    """What to call the second method."""
    metrics: tuple[str, ...] = ()
    """Metrics to measure; the first one ranks the images. Default: all but those in patches."""
    tolerance: Annotated[float, Ge(0), Le(1000)] = 2.0
    """How far boundaries may be apart for nsd and nsd_paper [px]."""
    patch: Annotated[int, Ge(8), Le(4096)] = 64
    """Side of the patches of betti0_patches and betti1_patches [px]."""
    draws: Annotated[int, Ge(100), Le(1_000_000)] = 10_000
    """Resamples of the bootstrap, and of the permutation test of more than 12 images."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of both."""
    show: Annotated[int, Ge(1), Le(12)] = 4
    """How many of the worst and of the best images the page shows."""
    strip: tuple[str, ...] = DEFAULT_SUFFIXES
    """Endings of file names to ignore when files are matched."""
    skip_bad: bool = False
    """Leave out images with bad or missing files, and count them, instead of stopping."""
    workers: Annotated[int, Gt(0), Le(256)] = DEFAULT_WORKERS
    """Processes; changes no byte."""


def plan(settings: Evaluate) -> str:
    """Say what would be measured and written."""
    from .evaluate_files import find_items
    from .evaluate_folders import check_methods

    _check_out(settings)
    methods = list_methods(settings)
    metrics = check_methods(settings.truth, methods, settings.metrics)
    listing = find_items(settings.truth, methods, _fov_folder(settings), settings.strip)
    return (
        f"Would measure {', '.join(metrics)} on {len(listing.items)} images "
        f"({len(listing.problems)} problems with names) and write {', '.join(FILES)} "
        f"to {settings.out}."
    )


def run(settings: Evaluate) -> Evaluation:
    """Measure the folders, write tables and page, print the summary; return the figures."""
    from univg.files import make_folder, write_all_atomic

    from .evaluate_folders import evaluate_folders
    from .tables import write_text

    settings = check(settings)
    methods = list_methods(settings)
    _check_out(settings)
    found = evaluate_folders(
        settings.truth,
        methods,
        fov=settings.fov,
        metrics=settings.metrics,
        tolerance_px=settings.tolerance,
        patch_px=settings.patch,
        strip=settings.strip,
        skip_bad=settings.skip_bad,
        draws=settings.draws,
        seed=settings.seed,
        workers=settings.workers,
    )
    files = render_files(found, settings)
    make_folder(settings.out)
    write_all_atomic({settings.out / name: text.encode() for name, text in files.items()})
    print(write_text(found))  # noqa: T201
    print(found.line())  # noqa: T201
    print(settings.out / "report.html")  # noqa: T201
    return found


def render_files(found: Evaluation, settings: Evaluate) -> dict[str, str]:
    """Return the content of every file that a run writes."""
    import json

    from univg import __version__
    from univg.config import to_plain, to_yaml

    from .evaluate_page import make_page
    from .tables import list_images, list_summaries, to_json, write_latex, write_markdown

    # The number of workers changes no byte of anything, so not of these either.
    told = dataclasses.replace(settings, workers=1)
    plain = {name: value for name, value in to_plain(told).items() if name != "workers"}
    document = {"version": __version__, "settings": plain, **to_json(found)}
    return {
        "per_image.csv": list_images(found),
        "summary.csv": list_summaries(found),
        "evaluation.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        + "\n",
        "table.md": write_markdown(found),
        "table.tex": write_latex(found),
        "report.html": make_page(found, settings.truth, show=settings.show).html(),
        "config.yaml": f"# univg {__version__}\n{to_yaml(told)}",
    }


def list_methods(settings: Evaluate) -> list[Method]:
    """Return the methods to measure: the one asked for, and the one to compare with."""
    from .evaluate_files import Method

    methods = [
        Method(
            name=settings.name or _name_of(settings.predicted),
            masks=settings.predicted,
            probabilities=_probabilities(settings, settings.predicted, settings.probabilities),
        )
    ]
    if settings.against is not None:
        name = settings.against_name or _name_of(settings.against)
        if name == methods[0].name and not (settings.name and settings.against_name):
            name = f"{name} (against)"
        given = settings.against_probabilities
        probabilities = _probabilities(settings, settings.against, given)
        methods.append(Method(name=name, masks=settings.against, probabilities=probabilities))
    return methods


def _name_of(folder: Path) -> str:
    place = folder.resolve()
    return place.parent.name if place.name == "masks" else place.name


def _probabilities(settings: Evaluate, folder: Path, given: Path | None) -> Path | None:
    """Return where the probabilities of a method are, None where no metric reads them."""
    from .metrics import METRICS

    wanted = [METRICS[name] for name in settings.metrics or METRICS if name in METRICS]
    if not any(metric.needs_probability for metric in wanted):
        return None
    usual = folder / "probabilities"
    return given or (usual if usual.is_dir() else None)


def _fov_folder(settings: Evaluate) -> Path | None:
    from .evaluate_files import find_views

    if settings.fov == "whole":
        return None
    return find_views(settings.truth) if settings.fov == "inside" else Path(settings.fov)


def _check_out(settings: Evaluate) -> None:
    """Refuse to write among the files that are measured, over their config.yaml."""
    if settings.out.exists() and not settings.out.is_dir():
        raise ConfigError(f"out is {settings.out}, which is a file: give a folder")
    inputs = [settings.truth, settings.predicted, settings.against, settings.probabilities,
              settings.against_probabilities, _fov_folder(settings)]  # fmt: skip
    for folder in inputs:
        places = () if folder is None else (folder, *(folder / part for part in PARTS))
        if settings.out.resolve() in {place.resolve() for place in places}:
            raise ConfigError(f"out is {settings.out}, a folder that is measured: give another one")
    # Where another command has been, report.html and config.yaml are its own.
    if (settings.out / "run.json").exists():
        raise ConfigError(f"out is {settings.out}, the folder of another run: give another one")
