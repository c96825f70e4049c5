"""`univg data build univg-58k`: the unlabelled pretraining set from whatever sources are there.

In: a folder with one sub-folder a data set. Out: `data/data-00000-of-….parquet`, `README.md` by
which `datasets` finds them, `manifest.jsonl` (a line a finished shard) and, last, `report.json`.
No test image enters: see `build_sources` for what counts as one. A killed run goes on after its
last finished shard; a finished one is verified and left as it is.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le

from univg.config import settings
from univg.errors import DataError, Problem, ProblemReport, ResumeError
from univg.files import (
    TEMPORARY_PREFIX,
    make_folder,
    remove_temporaries,
    sha256_hex,
    sha256_of_file,
    sync_folder,
    write_atomic,
)
from univg.images import PictureError, is_picture_name, read_image
from univg.manifest import ManifestWriter, Row, claim_folder, lock_folder

from .build_report import make_report, read_report, read_shard_rows, show_table
from .build_shards import (
    Fit,
    Format,
    Made,
    ShardWriter,
    hash_pixels,
    make_image,
    map_in_order,
    read_hashes,
    require_pyarrow,
)
from .build_sources import Candidate, Survey, survey_root

REPORT_NAME = "report.json"
_MOST_WORKERS = 8
_README = """---
configs:
- config_name: default
  data_files: "data/*.parquet"
---
Unlabelled vascular images for pretraining, made by `univg data build univg-58k`. `report.json`
says what is in it. The terms of the data sets it was made of go on to hold.
"""


@settings
class Build:
    """Build the unlabelled pretraining set as parquet shards, never with a test image in it."""

    name: tyro.conf.Positional[Literal["univg-58k"]]
    """Which set to build."""
    root: Path
    """Folder with one sub-folder a data set, named like its card (`univg data list`)."""
    out: Path
    """Folder to write, new or of the same run."""
    exclude: tuple[Path, ...] = ()
    """Folders of test images, compared by decoded pixels."""
    size: Annotated[int, Ge(32), Le(4096)] = 512
    """Side of the images [px]."""
    fit: Fit = "crop"
    """crop: the central square, scaled to the size; longest: the whole image, its longest side."""
    image_format: Annotated[Format, tyro.conf.arg(name="format")] = "png"
    """png: without loss; jpeg: quality 95, smaller, with loss."""
    shard_images: Annotated[int, Ge(1), Le(100_000)] = 1000
    """Images in a shard."""
    workers: Annotated[int, Ge(0), Le(256)] = 0
    """Threads that read and scale; 0: one a core, at most 8. Does not change the result."""
    skip_bad: bool = False
    """Leave out files that cannot be read, and list them, instead of stopping."""


@dataclass
class _Progress:
    """What the finished shards hold, and what the one under way has met."""

    tests: dict[str, str]
    """Hash of a test image's pixels -> its path."""
    seen: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, str]] = field(default_factory=list)
    bad: list[Problem] = field(default_factory=list)

    @property
    def consumed(self) -> int:
        """How many candidates the finished shards have used up."""
        return int(self.rows[-1]["until"]) if self.rows else 0


def plan(settings: Build) -> str:
    """Tell what is there and what would be written; reads names only."""
    survey = survey_root(settings.root)
    excluded = _list_excluded(settings)
    count = len(survey.candidates)
    shards = -(-count // settings.shard_images)
    lines = [show_table(survey, None), ""]
    lines.append(f"{len(survey.tests) + len(excluded)} test images to compare with")
    files = f"{shards} shard{'s' if shards != 1 else ''}"
    lines.append(f"writes at most {count} images in {files} to {settings.out / 'data'}")
    return "\n".join(lines)


def run(settings: Build) -> dict[str, Any]:
    """Build the set; see `Build`. Returns the content of `report.json`."""
    require_pyarrow()
    survey = survey_root(settings.root)
    excluded = _list_excluded(settings)
    out = make_folder(settings.out)
    with lock_folder(out):
        return _run_in(settings, survey, excluded, out)


def _run_in(settings: Build, survey: Survey, excluded: list[Path], out: Path) -> dict[str, Any]:
    claim_folder(out, _identity(settings, survey, excluded))
    if (out / REPORT_NAME).exists():
        return _verify_finished(out, survey)
    data = make_folder(out / "data")
    remove_temporaries(data)
    write_atomic(out / "README.md", _README.encode())
    progress = _Progress(_hash_tests(settings, survey, excluded))
    _take_up(out, survey, progress)
    with ManifestWriter(out) as manifest:
        _write_shards(settings, survey, progress, manifest)
    if not any(row["rows"] for row in progress.rows):
        raise DataError(f"{settings.root}: not one image can be taken in")
    shards = _name_shards(data, progress.rows)
    report = make_report(_shown(settings), survey, progress.rows, shards)
    write_atomic(out / REPORT_NAME, (json.dumps(report, indent=1, sort_keys=True) + "\n").encode())
    print(show_table(survey, report))  # noqa: T201
    print(f"{out}: {report['images']} images in {len(shards)} shards")  # noqa: T201
    return report


def _shown(settings: Build) -> dict[str, Any]:
    """The settings that a reader of the report wants to know."""
    return {
        "set": settings.name,
        "size_px": settings.size,
        "fit": settings.fit,
        "format": settings.image_format,
    }


def _workers(settings: Build) -> int:
    return settings.workers or min(_MOST_WORKERS, os.cpu_count() or 1)


def _list_excluded(settings: Build) -> list[Path]:
    """Return the pictures of the --exclude folders; an empty one is a mistake, not a wish."""
    found = []
    for folder in settings.exclude:
        pictures = sorted(p for p in folder.rglob("*") if is_picture_name(p.name) and p.is_file())
        if not pictures:
            reason = "holds no picture" if folder.is_dir() else "is not a folder"
            raise DataError(f"--exclude {folder}: {reason}; check the path")
        found += pictures
    return found


def _identity(settings: Build, survey: Survey, excluded: Sequence[Path]) -> dict[str, Any]:
    """Everything that decides the shards' bytes: settings and files, but not where they lie.

    Sources count by name here and by size in the row of their shard, so that a file that stopped a
    run can be mended and the run goes on.
    """
    names = [(candidate.source, candidate.name) for candidate in survey.candidates]
    tests = sorted((p.name, p.stat().st_size) for p in (*survey.tests, *excluded) if p.is_file())
    return {
        "command": "data build",
        "set": settings.name,
        "size": settings.size,
        "fit": settings.fit,
        "format": settings.image_format,
        "shard_images": settings.shard_images,
        "sources_sha256": sha256_hex(repr(names).encode()),
        "tests_sha256": sha256_hex(repr(tests).encode()),
    }


def _hash_tests(settings: Build, survey: Survey, excluded: Sequence[Path]) -> dict[str, str]:
    """Hash the pixels of every test image; one that cannot be read cannot be kept out."""

    def hash_one(path: Path) -> tuple[Path, str, Problem | None]:
        try:
            return path, hash_pixels(read_image(path)), None
        except PictureError as error:
            return path, "", error.problem

    results = list(map_in_order(hash_one, [*survey.tests, *excluded], _workers(settings)))
    given = set(excluded)
    problems = [p for path, _, p in results if p and (path in given or not settings.skip_bad)]
    if problems:
        headline = "test images that cannot be read cannot be kept out"
        hint = "" if settings.skip_bad else " (--skip-bad passes over those below --root)"
        raise ProblemReport(problems, headline + hint)
    return {sha256: str(path) for path, sha256, problem in results if problem is None}


def _take_up(out: Path, survey: Survey, progress: _Progress) -> None:
    """Read what finished shards hold, after checking that they are what was written."""
    rows = read_shard_rows(out)
    _refuse_changed(out, survey, rows)
    total = sum(1 for row in rows if row["rows"])
    for row in rows:
        if row["rows"]:
            path = _find_shard(out / "data", row, total)
            for sha256, place in read_hashes(path).items():
                progress.seen[sha256] = place
    progress.rows = rows


def _refuse_changed(out: Path, survey: Survey, rows: Sequence[Row]) -> None:
    """Refuse to go on where files that are already in a shard have changed."""
    start = 0
    for row in rows:
        if row["inputs_sha256"] != _hash_sizes(survey.candidates[start : row["until"]]):
            raise ResumeError(
                f"{out}: files that shard {row['shard']} was made of have changed; choose another "
                "--out, or delete this one"
            )
        start = row["until"]


def _hash_sizes(candidates: Sequence[Candidate]) -> str:
    sizes = [c.path.stat().st_size if c.path.is_file() else -1 for c in candidates]
    return sha256_hex(repr(sizes).encode())


def _find_shard(data: Path, row: Row, total: int) -> Path:
    """Return the file of a finished shard, under its working or its final name."""
    for path in (data / _part_name(row["shard"]), data / _final_name(row["shard"], total)):
        if path.is_file() and sha256_of_file(path) == row["sha256"]:
            return path
    raise ResumeError(
        f"{data}: shard {row['shard']} is missing or not what was written; delete {data.parent} "
        "and run again"
    )


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _final_name(number: int, total: int) -> str:
    return f"data-{number:05d}-of-{total:05d}.parquet"


def _write_shards(
    settings: Build, survey: Survey, progress: _Progress, manifest: ManifestWriter
) -> None:
    """Go through the candidates that are left, one shard after the other."""
    start, data = progress.consumed, settings.out / "data"
    todo = survey.candidates[start:]
    work = partial(
        make_image,
        size_px=settings.size,
        fit=settings.fit,
        image_format=settings.image_format,
    )
    shard: ShardWriter | None = None
    for index, made in enumerate(map_in_order(work, todo, _workers(settings)), start=start + 1):
        if _is_wanted(made, progress):
            if shard is None:
                name = f"{TEMPORARY_PREFIX}{_part_name(len(progress.rows))}"
                shard = ShardWriter(data / name, settings.image_format)
            shard.add(made)
            progress.taken[made.candidate.source] += 1
        full = shard is not None and shard.rows == settings.shard_images
        if full or index == start + len(todo):
            inputs = survey.candidates[progress.consumed : index]
            _finish_shard(settings, shard, inputs, progress, manifest)
            shard = None


def _is_wanted(made: Made, progress: _Progress) -> bool:
    """Decide on one image, and note why one is left out."""
    place = f"{made.candidate.source}/{made.candidate.name}"
    if made.problem is not None:
        progress.bad.append(made.problem)
        why, detail = "unreadable", made.problem.detail
    elif made.sha256 in progress.tests:
        why, detail = "test image", progress.tests[made.sha256]
    elif made.sha256 in progress.seen:
        why, detail = "duplicate", progress.seen[made.sha256]
    else:
        progress.seen[made.sha256] = f"{made.candidate.source}/{made.candidate.stem}"
        return True
    source = made.candidate.source
    progress.dropped.append({"source": source, "image": place, "why": why, "detail": detail})
    return False


def _finish_shard(
    settings: Build,
    shard: ShardWriter | None,
    inputs: Sequence[Candidate],
    progress: _Progress,
    manifest: ManifestWriter,
) -> None:
    """Close a shard, give it its working name and enter it; stop here if files were bad."""
    row: Row = {"shard": len(progress.rows), "rows": 0, "inputs_sha256": _hash_sizes(inputs)}
    row["until"] = progress.consumed + len(inputs)
    if shard is not None:
        shard.close()
    if progress.bad and not settings.skip_bad:
        remove_temporaries(settings.out / "data")
        headline = f"{settings.root}: files that cannot be read (--skip-bad leaves them out)"
        raise ProblemReport(progress.bad, headline)
    if shard is not None:
        path = shard.path.with_name(_part_name(row["shard"]))
        row |= {"rows": shard.rows, "sha256": sha256_of_file(shard.path)}
        with shard.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        shard.path.replace(path)
        sync_folder(path.parent)
    row |= {"taken": dict(progress.taken), "dropped": progress.dropped}
    manifest.append([row])
    progress.rows.append(row)
    progress.taken, progress.dropped = Counter(), []


def _name_shards(data: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give the shards their final names, now that their number is known."""
    full = [row for row in rows if row["rows"]]
    shards = []
    for row in full:
        name = _final_name(row["shard"], len(full))
        if not (data / name).exists():
            (data / _part_name(row["shard"])).replace(data / name)
        shards.append({"name": name, "rows": row["rows"], "sha256": row["sha256"]})
    sync_folder(data)
    return shards


def _verify_finished(out: Path, survey: Survey) -> dict[str, Any]:
    """Compare a finished build with its report; say so and do nothing else."""
    _refuse_changed(out, survey, read_shard_rows(out))
    report = read_report(out / REPORT_NAME)
    for shard in report["shards"]:
        path = out / "data" / shard["name"]
        if not path.is_file() or sha256_of_file(path) != shard["sha256"]:
            raise ResumeError(
                f"{path}: is missing or not what was written; delete {out} and run again"
            )
    print(f"{out}: nothing to do, {report['images']} images in place")  # noqa: T201
    return report
