"""The run folder of `univg generate images`: chunks of pairs onto disk, then their rows.

In: a `Job` and a folder. Out: images, masks and manifest. A chunk is the unit of work: its pairs
are rendered, encoded, written and flushed by a worker, then the parent appends its rows; so the
manifest names only what is safe, and its order is that of the indices whatever the workers do.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml

from univg import __version__
from univg.config import to_plain
from univg.errors import DataError
from univg.files import (
    make_folder,
    remove_temporaries,
    sha256_hex,
    sha256_of_file,
    sync_folder,
    write_all_atomic,
    write_atomic,
)
from univg.images import encode_image
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    Row,
    claim_folder,
    iterate_rows,
    lock_folder,
    sort_rows,
)
from univg.masks import BoolMask, encode_mask, inspect_mask
from univg.pool import Workers
from univg.progress import show_progress
from univg.seeds import rng_for, seed_for

from .images import Images, ImagesResult, Job, indices_of
from .looks import sample_look
from .procedural import render, stage_of

CHUNK = 16  # pairs between two looks at the manifest; more would lose more to a kill
FOLDERS = {"image": "images", "mask": "masks"}


def names_of(job: Job, index: int) -> dict[str, str]:
    """Return the paths of a pair in its run folder, by role."""
    return {role: f"{folder}/{job.pair_id(index)}.png" for role, folder in FOLDERS.items()}


def make_pair(job: Job, index: int) -> tuple[dict[str, bytes], Row]:
    """Make pair `index` of `job`, alone: its files by role, and its row."""
    source = job.source(index)
    mask = fit_mask(inspect_mask(source).mask, job.size)
    stage = stage_of(job.modality_name)
    look = sample_look(job.card, rng_for(job.seed, stage, index))
    made = render(mask, look)
    files = {"image": encode_image(made.image), "mask": encode_mask(made.mask)}
    row = {
        "index": index,
        "id": job.pair_id(index),
        **names_of(job, index),
        "sha256": {role: sha256_hex(data) for role, data in files.items()},
        "modality": job.modality_name,
        "engine": job.engine,
        "source": source.name,
        "source_sha256": job.hashes[index // job.variants],
        "size_px": list(mask.shape),
        "seed": seed_for(job.seed, stage, index),
        "parameters": look.to_plain(),
        "version": __version__,
    }
    return files, row


def fit_mask(mask: BoolMask, size: tuple[int, int] | None) -> BoolMask:
    """Return `mask` at `size`, its thin vessels unbroken."""
    if size is None or mask.shape == tuple(size):
        return mask
    from univg.sca.resize import resize_to

    return resize_to(mask, size)


def write_job(job: Job, settings: Images, result: ImagesResult) -> None:
    """Bring the folder to hold the pairs that `settings` ask for."""
    folder = make_folder(settings.out)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_folder(folder))
        claim_folder(folder, job.identity())
        todo = _begin(job, folder, settings, result)
        tasks = [todo[k : k + CHUNK] for k in range(0, len(todo), CHUNK)]
        count = min(settings.workers, len(tasks))
        workers = stack.enter_context(Workers(count, _prepare_worker, (job, folder)))
        _write_pairs(job, folder, tasks, workers, settings, result)


def _begin(job: Job, folder: Path, settings: Images, result: ImagesResult) -> list[int]:
    """Tidy up after an earlier run and restore what it lost; return the indices still to make."""
    remove_temporaries(folder)
    for name in FOLDERS.values():
        remove_temporaries(make_folder(folder / name))
    _write_config(folder, settings)
    wanted = indices_of(settings, job)
    rows = _finished(job, folder)
    todo = [index for index in wanted if index not in rows]
    lost = [
        index
        for index in wanted
        if index in rows and not _is_whole(folder, names_of(job, index), rows[index])
    ]
    result.skipped += len(wanted) - len(todo) - len(lost)
    _restore(job, folder, lost, rows, result)
    return todo


def _write_pairs(
    job: Job, folder: Path, tasks: list[list[int]], workers: Workers, settings: Images,
    result: ImagesResult,
) -> None:  # fmt: skip
    total = len(indices_of(settings, job))
    done = total - sum(len(task) for task in tasks)
    with (
        ManifestWriter(folder) as manifest,
        show_progress(total, f"{job.modality_name} images", "pairs", done) as progress,
    ):
        for rows in workers.map_in_order(_make_chunk, tasks):
            manifest.append(rows)
            result.pairs += len(rows)
            progress.advance(len(rows))
    if tasks and (settings.first > 0 or done > 0):
        sort_rows(folder, "index")  # earlier runs may have made later pairs
    # A worker of a killed run may have outlived it for a moment and left a last file.
    for name in FOLDERS.values():
        remove_temporaries(folder / name)


def _write_config(folder: Path, settings: Images) -> None:
    """Write config.yaml, for `--config`: the settings without what changes no byte."""
    plain = {k: v for k, v in to_plain(settings).items() if k not in {"out", "workers"}}
    head = f"# univg {__version__}: univg generate images --config THIS --out FOLDER\n"
    write_atomic(folder / "config.yaml", (head + yaml.safe_dump(plain, sort_keys=False)).encode())


def _finished(job: Job, folder: Path) -> dict[int, dict[str, str]]:
    """Hashes by index of what the manifest names; a row this job cannot have written is refused."""
    rows: dict[int, dict[str, str]] = {}
    there = len(job.masks) * job.variants
    for row in iterate_rows(folder):
        index, digests = row.get("index"), row.get("sha256")
        sound = (
            isinstance(index, int)
            and 0 <= index < there
            and index not in rows
            and isinstance(digests, dict)
            and set(digests) == set(FOLDERS)
            and all(row.get(role) == name for role, name in names_of(job, index).items())
        )
        if not sound:
            raise DataError(
                f"{folder / MANIFEST_NAME}: the row of index {index!r} is incomplete, wrong or "
                "stands twice; the file was edited: restore it, or choose another --out"
            )
        rows[row["index"]] = row["sha256"]
    return rows


def _is_whole(folder: Path, names: dict[str, str], digests: dict[str, str]) -> bool:
    return all(
        (folder / name).is_file() and sha256_of_file(folder / name) == digests[role]
        for role, name in names.items()
    )


def _restore(
    job: Job, folder: Path, lost: list[int], rows: dict[int, dict[str, str]], result: ImagesResult
) -> None:
    """Make again what the manifest names and the disk has lost; it must come out the same."""
    for index in lost:
        files, row = make_pair(job, index)
        names = names_of(job, index)
        if row["sha256"] != rows[index]:
            raise DataError(
                f"{folder / names['image']}: is damaged or missing, and the pair made again "
                "differs from the one in the manifest (other library versions?); nothing was "
                "replaced: choose another --out"
            )
        write_all_atomic({folder / names[role]: data for role, data in files.items()})
        result.pairs += 1


_work: dict[str, Any] = {}  # what a worker process needs for every chunk


def _prepare_worker(job: Job, folder: Path) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work["job"], _work["folder"] = job, folder


def _make_chunk(indices: list[int]) -> list[Row]:
    """Render, encode and write the pairs of a chunk; return their rows."""
    job, folder = _work["job"], _work["folder"]
    rows: list[Row] = []
    files: dict[Path, bytes] = {}
    for index in indices:
        made, row = make_pair(job, index)
        files.update({folder / row[role]: data for role, data in made.items()})
        rows.append(row)
    write_all_atomic(files)
    for name in FOLDERS.values():
        sync_folder(folder / name)
    return rows
