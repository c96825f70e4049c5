"""The run folder of `univg sca synth`: chunks of masks onto disk, then their rows.

In: a `Job` and a folder. Out: masks and manifest. A chunk is the unit of work: its masks are grown,
encoded, written and flushed by a worker, then the parent appends its rows; so the manifest names
only what is safe, and its order is that of the indices whatever the workers do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
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
    write_atomic,
)
from univg.manifest import ManifestWriter, claim_folder, iterate_rows, lock_folder
from univg.pool import map_in_order
from univg.progress import show_progress
from univg.seeds import seed_for

from .synth import CHUNK, STAGE, Job, Made, Synth, SynthResult

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


def write_masks(job: Job, folder: Path, settings: Synth, result: SynthResult) -> None:
    """Bring `folder` to hold the masks that `settings` ask for."""
    make_folder(folder)
    claim_folder(folder, job.identity())
    with lock_folder(folder):
        remove_temporaries(folder)
        remove_temporaries(make_folder(folder / MASKS))
        _write_config(folder, settings)
        wanted = range(settings.first, settings.first + settings.count)
        rows = _finished(folder)
        todo = [index for index in wanted if index not in rows]
        lost = [index for index in wanted if index in rows and not _is_whole(folder, rows[index])]
        result.skipped += len(wanted) - len(todo) - len(lost)
        result.folders.append(folder)
        _restore(job, folder, lost, rows, result)
        done = len(wanted) - len(todo)
        label = f"{job.name} masks"
        with (
            ManifestWriter(folder) as manifest,
            show_progress(len(wanted), label, "masks", done) as progress,
        ):
            for made in _make_all(job, folder, todo, settings.workers):
                manifest.append(made.rows)
                result.add(made)
                progress.advance(len(made.rows))


def _write_config(folder: Path, settings: Synth) -> None:
    """Write config.yaml: the settings without what changes no byte."""
    plain = {k: v for k, v in to_plain(settings).items() if k not in {"out", "workers", "real"}}
    text = yaml.safe_dump({"univg": __version__, "command": "sca synth", **plain}, sort_keys=False)
    write_atomic(folder / "config.yaml", text.encode())


def _finished(folder: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for row in iterate_rows(folder):
        if not isinstance(row.get("index"), int) or row["index"] in rows:
            raise DataError(
                f"{folder / 'manifest.jsonl'}: index {row.get('index')!r} is no number or stands "
                "twice; the file was edited: restore it, or choose another --out"
            )
        rows[row["index"]] = row
    return rows


def _is_whole(folder: Path, row: dict[str, Any]) -> bool:
    path = folder / row["mask"]
    return path.is_file() and sha256_of_file(path) == str(row["sha256"])


def _restore(
    job: Job, folder: Path, lost: list[int], rows: dict[int, dict[str, Any]], result: SynthResult
) -> None:
    """Make again what the manifest names and the disk has lost; it must come out the same."""
    if not lost:
        return
    _prepare_worker(job, folder)
    made = _make_chunk(lost)
    for index, row in zip(lost, made.rows, strict=True):
        if row["sha256"] != rows[index]["sha256"]:
            raise DataError(
                f"{folder / row['mask']}: was damaged, and the mask made again differs from the "
                "one in the manifest (other library versions?); choose another --out"
            )
    result.add(made)


def _make_all(job: Job, folder: Path, todo: list[int], workers: int) -> Iterable[Made]:
    chunks = [todo[k : k + CHUNK] for k in range(0, len(todo), CHUNK)]
    yield from map_in_order(
        _make_chunk, chunks, min(workers, len(chunks)), _prepare_worker, (job, folder)
    )


_work: dict[str, Any] = {}  # what a worker process needs for every chunk


def _prepare_worker(job: Job, folder: Path) -> None:
    import cv2

    cv2.setNumThreads(1)
    _work["job"], _work["folder"] = job, folder


def _make_chunk(indices: list[int]) -> Made:
    """Grow, encode and write the masks `indices`; return their rows."""
    from univg.masks import encode_mask

    job, folder = _work["job"], _work["folder"]
    rows, nodes, seconds = [], 0, {"growth": 0.0, "drawing": 0.0, "PNG": 0.0, "disk": 0.0}
    for index in indices:
        made = synthesize(job, index)
        start = time.perf_counter()
        data = encode_mask(made.pixels > 0)
        encoded = time.perf_counter()
        write_atomic(folder / mask_name(job, index), data)
        written = time.perf_counter()
        seconds["growth"] += made.growth_s
        seconds["drawing"] += made.drawing_s
        seconds["PNG"] += encoded - start
        seconds["disk"] += written - encoded
        nodes += made.parameters["nodes"]
        rows.append(_row(job, index, sha256_hex(data), made.parameters))
    sync_folder(folder / MASKS)
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
