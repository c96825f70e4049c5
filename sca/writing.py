"""The run folder of `univg sca synth`: grown masks as items of `univg.run_folder`.

In: `Job`s and settings. Out: masks and manifest of each job, made by one set of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from univg import __version__
from univg.config import to_plain
from univg.executors import SharedProcesses
from univg.files import make_folder
from univg.manifest import Row, claim_folder, lock_folder
from univg.masks import encode_mask
from univg.run_folder import Filled, Made, Maker, fill_folder
from univg.seeds import seed_for

from .synth import CHUNK, STAGE, Job, Synth, SynthResult, folder_of

if TYPE_CHECKING:
    from .compose import Synthetic


def synthesize(job: Job, index: int) -> Synthetic:
    """Make mask `index` of `job`, alone; the same whatever else is made."""
    import numpy as np

    from .compose import grow_mask

    rng = np.random.Generator(np.random.PCG64(seed_for(job.seed, f"{STAGE}/{job.name}", index)))
    return grow_mask(job.growth, *job.size, rng, job.templates)


@dataclass(kw_only=True)
class SynthMaker(Maker):
    """Grows the masks of one modality."""

    unit: ClassVar[str] = "masks"
    folders: ClassVar[Mapping[str, str]] = {"mask": "masks"}
    job: Job
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        self.label = f"{self.job.name} masks"

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the first."""
        return self.job.identity()

    def id_of(self, index: int) -> str:
        """Return the name of mask `index`."""
        return f"{self.job.name}-{index:06d}"

    def load(self, indices: Sequence[int]) -> list[int]:
        """Masks are grown from nothing, or from the job's templates."""
        return list(indices)

    def draw(self, loaded: Sequence[int]) -> list[tuple[int, Synthetic]]:
        """Grow and draw the masks."""
        return [(index, synthesize(self.job, index)) for index in loaded]

    def finish(self, drawn: Sequence[tuple[int, Synthetic]]) -> list[Made]:
        """Encode the masks."""
        job = self.job
        return [
            Made(
                index,
                {"mask": encode_mask(grown.pixels > 0)},
                {
                    "modality": job.name,
                    "size_px": list(job.size),
                    "seed": seed_for(job.seed, f"{STAGE}/{job.name}", index),
                    "parameters": grown.parameters,
                    "version": __version__,
                },
                {"growth": grown.growth_s, "drawing": grown.drawing_s},
            )
            for index, grown in drawn
        ]

    def count_rows(self, rows: Sequence[Row]) -> dict[str, float]:
        """Return the nodes of all trees."""
        return {"nodes": sum(row["parameters"]["nodes"] for row in rows)}


def write_jobs(jobs: Sequence[Job], settings: Synth, result: SynthResult) -> None:
    """Bring the folder of each job to hold the masks that `settings` ask for."""
    makers = [SynthMaker(job=job) for job in jobs]
    folders = [make_folder(folder_of(settings, job, jobs)) for job in jobs]
    for maker, folder in zip(makers, folders, strict=True):
        with lock_folder(folder):  # all are claimed before the first is begun
            claim_folder(folder, maker.identity())
    chunks = len(jobs) * -(-settings.count // CHUNK)
    runs = list(zip(makers, folders, strict=True))
    wanted = range(settings.first, settings.first + settings.count)
    with SharedProcesses(min(settings.workers, chunks), runs) as workers:
        for maker, folder in runs:
            filled = fill_folder(maker, folder, wanted, workers, config=_config_of(settings))
            _add(result, filled)
            result.folders.append(folder)


def _add(result: SynthResult, filled: Filled) -> None:
    result.masks += filled.made
    result.skipped += filled.skipped
    result.nodes += int(filled.counted.get("nodes", 0))
    for part, seconds in filled.seconds.items():
        name = {"encoding": "PNG"}.get(part, part)
        result.seconds[name] = result.seconds.get(name, 0.0) + seconds


def _config_of(settings: Synth) -> bytes:
    """Return config.yaml, for `--config`: the settings without what changes no byte."""
    plain = {k: v for k, v in to_plain(settings).items() if k not in {"out", "workers"}}
    head = f"# univg {__version__}: univg sca synth --config THIS --out FOLDER\n"
    return (head + yaml.safe_dump(plain, sort_keys=False)).encode()
