"""`univg export`: a folder of pairs in the layout that the next tool reads.

In: folders of pairs, made or real. Out: the same pairs as Hugging Face parquet or ImageFolder,
WebDataset tars, an nnU-Net v2 or MONAI data set, the paper's folders, or our own. Pixels and masks
stay what they are; PNG files are copied as they are. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import difflib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Ge, Le, Lt
from pydantic import StringConstraints

from univg.config import check, settings
from univg.errors import ConfigError, DataError, UserError
from univg.pairs import DEFAULT_SUFFIXES
from univg.plugins import load_function

from .export_pictures import Encoding, ImageFormat

if TYPE_CHECKING:
    from .export_layout import Exporter
    from .export_writing import Job, Written

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))


@settings
class Export:
    """Bring pairs into the layout that the next tool reads.

    --to folder | hf | hf-imagefolder | webdataset | nnunet | monai | paper. The same command goes
    on after an interruption.
    """

    pairs: tyro.conf.Positional[Path]
    """Folder of pairs: images/ and masks/, with or without a manifest."""
    out: tyro.conf.Positional[Path]
    """Folder to write; new, empty, or of the same export. For nnunet: nnUNet_raw."""
    to: str
    """Layout: folder, hf, hf-imagefolder, webdataset, nnunet, monai or paper; or a builder of your
    own as package.module:function."""
    also: tuple[Path, ...] = ()
    """More folders of pairs, for one set of all."""
    real: tuple[Path, ...] = ()
    """Folders of real pairs. hf, webdataset: a split of their own; nnunet, monai: validation;
    paper: real/."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the pairs to hold out; images of one mask stay together."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of that draw."""
    image_format: ImageFormat = "png"
    """png; webp (lossless, smaller, slower); jpeg (lossy, smallest). Masks are always PNG."""
    quality: Annotated[int, Ge(1), Le(100)] = 95
    """Of JPEG."""
    shard_size: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    """Pairs a tar or parquet file; with single files, pairs between two notes of what is done."""
    dataset_id: Annotated[int, Ge(1), Le(999)] = 501
    """nnunet: number of the data set."""
    dataset_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")] = "Vessels"
    """nnunet: its name, as in Dataset501_Vessels."""
    modality: str = ""
    """Of pairs whose manifest names none."""
    licence: str = ""
    """Licence for the card, as the hub spells it (cc-by-4.0)."""
    push: str | None = None
    """hf: upload to this repository (user/name) when done; made private if it is new."""
    strip: tuple[str, ...] = DEFAULT_SUFFIXES
    """Endings of file names to ignore when images and masks are matched (no manifest)."""
    strict: bool = False
    """Refuse masks with grey levels instead of thresholding them."""
    skip_bad: bool = False
    """Leave out pairs that cannot be used, and count them, instead of stopping."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes; changes no byte."""


def build_folder(settings: Export) -> Exporter:
    """images/, masks/, fov/, manifest.jsonl."""
    from .export_folders import Folder

    return Folder(**_common(settings))


def build_paper(settings: Export) -> Exporter:
    """images/ + masks/, source/ + target/ with prompt.json."""
    from .export_folders import Paper

    return Paper(**_common(settings))


def build_monai(settings: Export) -> Exporter:
    """images/, labels/, dataset.json."""
    from .export_folders import Monai

    return Monai(**_common(settings))


def build_imagefolder(settings: Export) -> Exporter:
    """A folder a split, with metadata.jsonl."""
    from .export_folders import ImageFolder

    return ImageFolder(**_common(settings))


def build_nnunet(settings: Export) -> Exporter:
    """DatasetXXX_Name with imagesTr/ and labelsTr/."""
    from .export_nnunet import Nnunet

    number, name = settings.dataset_id, settings.dataset_name
    return Nnunet(**_common(settings), dataset_id=number, dataset_name=name)


def build_webdataset(settings: Export) -> Exporter:
    """Numbered tar files."""
    from .export_webdataset import WebDataset

    return WebDataset(**_common(settings))


def build_parquet(settings: Export) -> Exporter:
    """Parquet with image columns, and a card."""
    from .export_hf import Parquet

    return Parquet(**_common(settings))


EXPORTERS: dict[str, Callable[[Export], Exporter]] = {
    "folder": build_folder,
    "hf": build_parquet,
    "hf-imagefolder": build_imagefolder,
    "webdataset": build_webdataset,
    "nnunet": build_nnunet,
    "monai": build_monai,
    "paper": build_paper,
}


def _common(settings: Export) -> dict[str, Any]:
    encoding = Encoding(image_format=settings.image_format, quality=settings.quality)
    return {"encoding": encoding, "modality": settings.modality, "licence": settings.licence}


def find_builder(name: str) -> Callable[[Export], Exporter]:
    """Return the builder called `name`, or a user's own as package.module:function."""
    if name in EXPORTERS:
        return EXPORTERS[name]
    if ":" in name:
        return load_function(name, "to")
    near = difflib.get_close_matches(name, EXPORTERS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"to is {name!r}: {hint}one of {', '.join(EXPORTERS)}, or package.module:function"
    )


def build_exporter(settings: Export) -> Exporter:
    """Return the exporter asked for; what goes wrong in a builder of a user's is told as theirs."""
    from .export_layout import Exporter

    builder = find_builder(settings.to)
    if settings.to in EXPORTERS:
        return builder(settings)
    try:
        found = builder(settings)
    except UserError:
        raise
    except Exception as error:  # a user's code may raise anything, and it is theirs to mend
        reason = " ".join(str(error).split())
        raise ConfigError(f"to is {settings.to!r}: {type(error).__name__}: {reason}") from error
    if not isinstance(found, Exporter):
        raise ConfigError(
            f"to is {settings.to!r}: it returned a {type(found).__name__}, no Exporter of "
            "univg.generate.export_layout"
        )
    return found


def prepare_job(settings: Export) -> Job:
    """Resolve and check what was asked for, before any file is read."""
    from .export_listing import name_sources
    from .export_writing import Job

    exporter = build_exporter(settings)
    if settings.image_format not in exporter.formats:
        raise ConfigError(
            f"image_format is {settings.image_format!r}: {settings.to} reads "
            f"{' and '.join(exporter.formats)} only"
        )
    if settings.push is not None and not settings.to.startswith("hf"):
        raise ConfigError(f"push is {settings.push!r}: only --to hf and hf-imagefolder upload")
    if settings.validation and settings.real and exporter.real_validates:
        raise ConfigError(
            f"validation is {settings.validation:g}: {settings.to} validates on the --real pairs; "
            "leave one of the two out"
        )
    sources = name_sources([settings.pairs, *settings.also], settings.real)
    place = exporter.place(settings.out).resolve()
    for source in sources:
        folder = source.folder.resolve()
        if folder == place or place in folder.parents or folder in place.parents:
            raise DataError(
                f"{settings.out}: lies in the folder of pairs {source.folder}, or the other way "
                "round; choose another OUT"
            )
    return Job(
        name=settings.to, exporter=exporter, sources=tuple(sources), out=settings.out,
        strip=settings.strip, strict=settings.strict, skip_bad=settings.skip_bad,
        validation=settings.validation, seed=settings.seed, shard_pairs=settings.shard_size,
        workers=settings.workers,
    )  # fmt: skip


def plan(settings: Export) -> str:
    """Read and check every pair, and say what would be written."""
    from .export_writing import needed_bytes, open_index, prepare

    job = prepare_job(settings)
    with tempfile.TemporaryDirectory(prefix="univg-") as folder:
        index = open_index(Path(folder) / "index.db")
        try:
            ready = prepare(job, index)
        finally:
            index.close()
    splits = ", ".join(f"{count} {name}" for name, count in ready.summary.splits.items())
    return "\n".join([
        f"Would write {ready.summary.totals.pairs} pairs ({splits}) to "
        f"{ready.exporter.place(settings.out)} as {settings.to}, in {len(ready.shards)} shards.",
        f"About {needed_bytes(ready) / 1e6:.1f} MB; {ready.left_out} pairs left out as bad.",
        *ready.warnings,
    ])  # fmt: skip


def run(settings: Export) -> Written:
    """Export the pairs; go on where an earlier run stopped."""
    from .export_writing import export

    settings = check(settings)
    job = prepare_job(settings)
    start = time.perf_counter()
    written = export(job)
    wall_s = time.perf_counter() - start
    rate = f" ({written.pairs / wall_s:.3g} pairs/s)" if written.pairs else ""
    kept = f", {written.skipped} were there already" if written.skipped else ""
    bad = f", {written.left_out} bad ones left out" if written.left_out else ""
    print(f"{written.pairs} pairs written in {wall_s:.1f} s{rate}{kept}{bad}")  # noqa: T201
    print(written.advice)  # noqa: T201
    if settings.push is not None:
        from .export_hf import push_folder

        print(push_folder(written.place, settings.push))  # noqa: T201
    return written
