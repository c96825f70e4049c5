"""`univg data prepare`: what a provider hands out becomes the one layout that all stages read.

In: a folder or archive of the provider. Out: `images/ID.png` with exactly the provider's pixels,
`masks/ID.png` after the mask rule, `fov/ID.png`, and `manifest.jsonl`. The same command goes on
where a killed one stopped, and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Gt

from univg import __version__
from univg.config import settings
from univg.errors import DataError, Problem, ProblemReport, ResumeError, UserError
from univg.files import (
    TEMPORARY_PREFIX,
    make_folder,
    remove_temporaries,
    sha256_hex,
    sha256_of_file,
    sync_folder,
    write_atomic,
)
from univg.images import encode_image
from univg.manifest import (
    MANIFEST_NAME,
    RUN_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    encode_row,
    lock_folder,
    read_rows,
)
from univg.masks import encode_mask
from univg.progress import show_progress

from .archives import open_source
from .card import DataCard, Group
from .items import FovSource, ItemPixels, read_item
from .layouts import Item, Layout, arrange, card_for, check_classes, choose_groups, wants

_SCRATCH = f"{TEMPORARY_PREFIX}unpacked"
_ROLES = {"image": "images", "mask": "masks", "fov": "fov"}


@settings
class Prepare:
    """Turn a provider's files into images/ and masks/ with a manifest, without loss."""

    name: tyro.conf.Positional[str]
    """The data set (`univg data list`), or `generic` for any folder of images/ and masks/."""
    source: Annotated[Path, tyro.conf.arg(name="from")]
    """The provider's folder, zip or tar, as downloaded."""
    out: Path | None = None
    """Folder to write. Default: data/NAME."""
    group: str | None = None
    """Only this group of the provider's files (`univg data show NAME` lists them)."""
    labels: tuple[str, ...] = ()
    """Label classes that count as vessel, where the masks have several. Default: the card's."""
    images: tuple[str, ...] = ()
    """With `generic`: patterns of the image files below the root, such as "**/scans/*.tif"."""
    masks: tuple[str, ...] = ()
    """With `generic`: patterns of the mask files below the root."""
    strip: tuple[str, ...] = ()
    """More endings of file names to ignore when images and masks are matched, besides the card's
    (with `generic`: besides the usual ones)."""
    fov: FovSource = "provider"
    """Field of view: the provider's; auto: else found as the bright disc; none: left out."""
    limit_gib: Annotated[float, Gt(0)] = 20.0
    """Most that archives may unpack to [GiB]."""
    strict: bool = False
    """Refuse masks with in-between values (JPEG-damaged, smoothed) instead of cutting at half."""
    skip_bad: bool = False
    """Leave out files that cannot be used, and count them, instead of stopping."""


@dataclass(frozen=True)
class Prepared:
    """What a run did."""

    folder: Path
    written: int
    kept: int
    skipped: int


@dataclass
class _Job:
    """A source that was opened and arranged."""

    settings: Prepare
    card: DataCard
    groups: tuple[Group, ...]
    layout: Layout


@dataclass
class _Product:
    """The bytes of an item's files and its row."""

    files: dict[str, bytes]
    row: Row
    doubts: list[Problem] = field(default_factory=list)


def plan(settings: Prepare) -> str:
    """Tell what `run` would write, by the names of the files alone."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as scratch:
        job = _open_job(settings, Path(scratch), list_only=True)
    lines = [f"{_out_of(settings)}: {_count(len(job.layout.items), 'item')} of {job.card.title}"]
    for group in job.groups:
        items = [item for item in job.layout.items if item.group == group]
        masks = sum(item.mask is not None for item in items)
        views = sum(item.fov is not None for item in items)
        name = group.name or job.card.name
        lines.append(f"  {name}: {len(items)} images, {masks} masks, {views} fields of view")
    lines += [f"  {remark}" for remark in job.layout.remarks]
    lines += [f"  problem: {problem.line()}" for problem in job.layout.problems]
    return "\n".join(lines)


def run(settings: Prepare) -> Prepared:
    """Prepare a data set; see `Prepare`."""
    _refuse_overlap(settings)
    out = _out_of(settings)
    if not settings.source.exists():
        raise DataError(f"{settings.source}: does not exist; check --from")
    existed = out.exists()
    make_folder(out)
    with lock_folder(out):
        try:
            with _scratch_folder(out) as scratch:
                return _run_in(settings, out, scratch)
        finally:  # under the lock: a folder that is empty because another run begins must stay
            if not existed and not any(out.iterdir()):
                out.rmdir()


def _run_in(settings: Prepare, out: Path, scratch: Path) -> Prepared:
    job = _open_job(settings, scratch)
    _say(*job.layout.remarks)
    problems = list(job.layout.problems)
    if problems and not settings.skip_bad:
        raise ProblemReport(problems, f"{settings.source}: {_count(len(problems), 'problem')}")
    fresh = not (out / RUN_NAME).exists()
    claim_folder(out, _identity(job))
    try:
        done = _read_done(out)
        todo = [item for item in job.layout.items if not _is_whole(out, done.get(item.id))]
        if not settings.skip_bad:
            _check_all(todo, settings)
    except UserError:
        if fresh:
            (out / RUN_NAME).unlink()
        raise
    written, bad = _write_all(job, out, todo, done)
    problems += bad
    _say(*(problem.line() for problem in problems))
    kept = len(job.layout.items) - len(todo)
    if not written and not kept:
        raise DataError(f"{settings.source}: not one item can be used")
    _report(out, written, kept, len(problems))
    return Prepared(out, written, kept, len(problems))


def _open_job(settings: Prepare, scratch: Path, list_only: bool = False) -> _Job:
    card = _strip_more(card_for(settings.name, settings.images, settings.masks), settings.strip)
    groups = choose_groups(card, settings.group)
    check_classes(groups, settings.labels)
    source = open_source(
        settings.source, scratch, partial(wants, groups), settings.limit_gib, list_only
    )
    return _Job(settings, card, groups, arrange(card, groups, source))


def _strip_more(card: DataCard, strip: Sequence[str]) -> DataCard:
    """Return the card with more endings to drop; in a run's identity they show as its items."""
    layout = tuple(dataclasses.replace(g, strip=(*g.strip, *strip)) for g in card.layout)
    return dataclasses.replace(card, layout=layout)


def _identity(job: _Job) -> dict[str, Any]:
    """Everything that decides the bytes of the items, but not where the source lies."""
    used = [
        (item.id, role, file.name, file.path.stat().st_size, item.group.vessel, item.group.invert)
        for item in job.layout.items
        for role, file in (("image", item.image), ("mask", item.mask), ("fov", item.fov))
        if file is not None
    ]
    listing = hashlib.sha256(repr(used).encode()).hexdigest()
    return {
        "command": "data prepare",
        "card": job.card.name,
        "groups": [group.name for group in job.groups],
        "labels": list(job.settings.labels),
        "fov": job.settings.fov,
        "strict": job.settings.strict,
        "source": {"files": len(used), "listing_sha256": listing},
    }


def _check_all(items: Sequence[Item], settings: Prepare) -> None:
    """Read every file before the first is written, so that all bad ones are told at once."""
    problems: list[Problem] = []
    for item in _follow(items, "checking"):
        try:
            _read(item, settings)
        except ProblemReport as report:
            problems += report.problems
    if problems:
        count = _count(len(problems), "file")
        raise ProblemReport(
            problems, f"{settings.source}: {count} cannot be used (--skip-bad leaves them out)"
        )


def _write_all(
    job: _Job, out: Path, todo: Sequence[Item], done: dict[str, Row]
) -> tuple[int, list[Problem]]:
    """Make the items of `todo`; return how many were written, and what was wrong with others."""
    problems: list[Problem] = []
    written, replaced = 0, False
    for folder in _ROLES.values():
        if (out / folder).is_dir():
            remove_temporaries(out / folder)
    with ManifestWriter(out) as manifest:
        for item in _follow(todo, "writing"):
            try:
                product = _make(item, job)
            except ProblemReport as report:
                problems += report.problems
                continue
            _say(*(doubt.line() for doubt in product.doubts))
            _write_files(out, product)
            if item.id not in done:
                manifest.append([product.row])
            replaced |= item.id in done and done[item.id] != product.row
            done[item.id] = product.row
            written += 1
    if replaced:
        rows = [done[item.id] for item in job.layout.items if item.id in done]
        write_atomic(out / MANIFEST_NAME, b"".join(encode_row(row) for row in rows))
    return written, problems


def _make(item: Item, job: _Job) -> _Product:
    """Encode an item's files and describe them, with the terms under which the set is given."""
    pixels = _read(item, job.settings)
    files = {"image": encode_image(pixels.image)}
    sources = {"image": item.image.name}
    for role, file, mask in (("mask", item.mask, pixels.mask), ("fov", item.fov, pixels.fov)):
        if mask is not None:
            files[role] = encode_mask(mask)
            sources[role] = file.name if file is not None else "found in the image"
    row: Row = {
        "id": item.id,
        "group": item.group.name,
        "licence": job.card.licence,
        "size": [pixels.image.shape[1], pixels.image.shape[0]],
        "source": sources,
        "sha256": {role: sha256_hex(data) for role, data in files.items()},
        "univg": __version__,
        **{role: f"{_ROLES[role]}/{item.id}.png" for role in files},
    }
    return _Product(files, row, pixels.doubts)


def _read(item: Item, settings: Prepare) -> ItemPixels:
    return read_item(item, settings.labels, settings.fov, settings.strict)


def _write_files(out: Path, product: _Product) -> None:
    for role, data in product.files.items():
        path = out / str(product.row[role])
        make_folder(path.parent)
        write_atomic(path, data)
        sync_folder(path.parent)


def _read_done(out: Path) -> dict[str, Row]:
    """Return the finished items by id."""
    done: dict[str, Row] = {}
    for number, row in enumerate(read_rows(out), start=1):
        sums = row.get("sha256")
        if "id" not in row or not isinstance(sums, dict) or not all(role in row for role in sums):
            raise ResumeError(
                f"{out / MANIFEST_NAME}: line {number} is not a row of this command; "
                "choose another --out"
            )
        if str(row["id"]) in done:
            raise DataError(
                f"{out / MANIFEST_NAME}: {row['id']} stands twice, again in line {number}; remove "
                "that line, or choose another --out"
            )
        done[str(row["id"])] = row
    return done


def _is_whole(out: Path, row: Row | None) -> bool:
    """Whether an item's files are all there, byte for byte."""
    if row is None:
        return False
    paths = {role: out / str(row[role]) for role in row["sha256"]}
    return all(
        path.is_file() and sha256_of_file(path) == row["sha256"][role]
        for role, path in paths.items()
    )


def _out_of(settings: Prepare) -> Path:
    return settings.out if settings.out is not None else Path("data") / settings.name.lower()


def _refuse_overlap(settings: Prepare) -> None:
    out, source = _out_of(settings).resolve(), settings.source.resolve()
    if out == source or out in source.parents or source in out.parents:
        raise DataError(
            f"--out {_out_of(settings)} and --from {settings.source} lie inside each other; "
            "choose an --out beside the provider's files"
        )


@contextlib.contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """A folder for unpacked files; also clears what a killed run has left there."""
    scratch = out / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    remove_temporaries(out)
    make_folder(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _follow(items: Sequence[Item], verb: str) -> Iterator[Item]:
    """Yield the items and show how far they are worked off."""
    with show_progress(len(items), verb, "items") as progress:
        for item in items:
            yield item
            progress.advance()


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number != 1 else ''}"


def _say(*lines: str) -> None:
    for line in lines:
        print(f"univg: warning: {line}", file=sys.stderr)  # noqa: T201


def _report(out: Path, written: int, kept: int, skipped: int) -> None:
    if not written:
        text = f"{out}: nothing to do, {_count(kept, 'item')} in place"
    else:
        text = f"{out}: {_count(written, 'item')} written"
        text += f", {kept} already there" if kept else ""
    text += f", {_count(skipped, 'problem')} skipped" if skipped else ""
    print(text)  # noqa: T201
