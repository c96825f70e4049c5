"""The run folder of `univg sca synth`: chunks of masks onto disk, then their rows.

In: a `Job` and a folder. Out: masks and manifest. A chunk is the unit of work: its masks are grown,
encoded, written and flushed by a worker, then the parent appends its rows; so the manifest names
only what is safe, and its order is that of the indices whatever the workers do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from univg.manifest import (
    MANIFEST_NAME,
    ManifestWriter,
    claim_folder,
    iterate_rows,
    lock_folder,
    sort_rows,
)
from univg.masks import encode_mask
from univg.pool import Workers
from univg.progress import show_progress
from univg.seeds import seed_for

from .synth import CHUNK, STAGE, Job, Made, Synth, SynthResult, folder_of

if TYPE_CHECKING:
    from .compose import Synthetic

MASKS = "masks"


def mask_name(job: Job, index: int) -> str:
    """Path of a mask in its run folder."""
    return f"{MASKS}/{job.name}-{index:06d}.png"


def synthesize(job: Job, index: int) -> Synthetic:
    """Make mask `index` of `job`, alone; the same whatever else is made."""
    import numpy as np

    from .compose import grow_mask

    rng = np.random.Generator(np.random.PCG64(seed_for(job.seed, f"{STAGE}/{job.name}", index)))
    return grow_mask(job.growth, *job.size, rng, job.templates)


def write_jobs(jobs: Sequence[Job], settings: Synth, result: SynthResult) -> None:
    """Bring the folder of each job to hold the masks that `settings` ask for."""
    folders = {job.name: folder_of(settings, job, jobs) for job in jobs}
    with contextlib.ExitStack() as stack:
        for job in jobs:
            make_folder(folders[job.name])
            stack.enter_context(lock_folder(folders[job.name]))
            claim_folder(folders[job.name], job.identity())
        todo = {job.name: _begin(job, folders[job.name], settings, result) for job in jobs}
        chunks = sum(-(-len(indices) // CHUNK) for indices in todo.values())
        count = min(settings.workers, chunks)
        workers = stack.enter_context(Workers(count, _prepare_worker, (list(jobs), folders)))
        for job in jobs:
            _write_masks(job, folders[job.name], todo[job.name], workers, settings, result)


def _begin(job: Job, folder: Path, settings: Synth, result: SynthResult) -> list[int]:
    """Tidy up after an earlier run and restore what it lost; return the indices still to make."""
    remove_temporaries(folder)
    remove_temporaries(make_folder(folder / MASKS))
    _write_config(folder, settings)
    wanted = range(settings.first, settings.first + settings.count)
    rows = _finished(job, folder)
    todo = [index for index in wanted if index not in rows]
    lost = [
        index
        for index in wanted
        if index in rows and not _is_whole(folder / mask_name(job, index), rows[index])
    ]
    result.skipped += len(wanted) - len(todo) - len(lost)
    result.folders.append(folder)
    _restore(job, folder, lost, rows, result)
    return todo


def _write_masks(
    job: Job, folder: Path, todo: list[int], workers: Workers, settings: Synth, result: SynthResult
) -> None:
    tasks = [(job.name, todo[k : k + CHUNK]) for k in range(0, len(todo), CHUNK)]
    done = settings.count - len(todo)
    with (
        ManifestWriter(folder) as manifest,
        show_progress(settings.count, f"{job.name} masks", "masks", done) as progress,
    ):
        for made in workers.map_in_order(_make_chunk, tasks):
            manifest.append(made.rows)
            result.add(made)
            progress.advance(len(made.rows))
    if tasks and (settings.first > 0 or settings.count > len(todo)):
        sort_rows(folder, "index")  # earlier runs may have made later masks
    # A worker of a killed run may have outlived it for a moment and left a last file.
    remove_temporaries(folder / MASKS)


def _write_config(folder: Path, settings: Synth) -> None:
    """Write config.yaml, for `--config`: the settings without what changes no byte."""
    plain = {k: v for k, v in to_plain(settings).items() if k not in {"out", "workers"}}
    head = f"# univg {__version__}: univg sca synth --config THIS --out FOLDER\n"
    write_atomic(folder / "config.yaml", (head + yaml.safe_dump(plain, sort_keys=False)).encode())


def _finished(job: Job, folder: Path) -> dict[int, str]:
    """Hash by index of what the manifest names; a row this job cannot have written is refused."""
    rows: dict[int, str] = {}
    for row in iterate_rows(folder):
        index = row.get("index")
        sound = (
            isinstance(index, int)
            and index not in rows
            and row.get("mask") == mask_name(job, index)
            and isinstance(row.get("sha256"), str)
        )
        if not sound:
            raise DataError(
                f"{folder / MANIFEST_NAME}: the row of index {index!r} is incomplete, wrong or "
                "stands twice; the file was edited: restore it, or choose another --out"
            )
        rows[row["index"]] = row["sha256"]
    return rows


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of_file(path) == digest


def _restore(
    job: Job, folder: Path, lost: list[int], rows: dict[int, str], result: SynthResult
) -> None:
    """Make again what the manifest names and the disk has lost; it must come out the same."""
    for index in lost:
        made = synthesize(job, index)
        data = encode_mask(made.pixels > 0)
        path = folder / mask_name(job, index)
        if sha256_hex(data) != rows[index]:
            raise DataError(
                f"{path}: is damaged or missing, and the mask made again differs from the one in "
                "the manifest (other library versions?); nothing was replaced: choose another --out"
            )
        write_atomic(path, data)
        result.masks += 1
        result.nodes += made.parameters["nodes"]


_work: dict[str, Any] = {}  # what a worker process needs for every chunk


def _prepare_worker(jobs: list[Job], folders: dict[str, Path]) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work["jobs"], _work["folders"] = {job.name: job for job in jobs}, folders


def _make_chunk(task: tuple[str, list[int]]) -> Made:
    """Grow, encode and write the masks of a chunk; return their rows."""
    name, indices = task
    job, folder = _work["jobs"][name], _work["folders"][name]
    rows, nodes, files = [], 0, {}
    seconds = {"growth": 0.0, "drawing": 0.0, "PNG": 0.0, "disk": 0.0}
    for index in indices:
        made = synthesize(job, index)
        start = time.perf_counter()
        data = encode_mask(made.pixels > 0)
        seconds["PNG"] += time.perf_counter() - start
        seconds["growth"] += made.growth_s
        seconds["drawing"] += made.drawing_s
        nodes += made.parameters["nodes"]
        files[folder / mask_name(job, index)] = data
        rows.append(_row(job, index, sha256_hex(data), made.parameters))
    start = time.perf_counter()
    write_all_atomic(files)
    sync_folder(folder / MASKS)
    seconds["disk"] += time.perf_counter() - start
    return Made(rows, nodes, seconds)


def _row(job: Job, index: int, digest: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "index": index,
        "id": f"{job.name}-{index:06d}",
        "mask": mask_name(job, index),
        "sha256": digest,
        "modality": job.name,
        "size_px": list(job.size),
        "seed": seed_for(job.seed, f"{STAGE}/{job.name}", index),
        "parameters": parameters,
        "version": __version__,
    }
