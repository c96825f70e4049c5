"""`univg sca synth`: any number of vessel masks of any modality, each reproducible alone.

In: a modality card, a count, a seed, a size and, for R-SCA, a folder of real masks. Out: a folder
with `masks/*.png`, `manifest.jsonl` (a row a mask: seed, parameters, hash), `run.json` (what
decides the bytes) and `config.yaml`; for several modalities a folder each. Run again, it goes on
where it stopped; the number of workers and interruptions change no byte.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

from univg import __version__
from univg.config import check, settings, to_plain
from univg.errors import ConfigError, DataError
from univg.modalities import Modality, find_modality, modality_names

if TYPE_CHECKING:
    from .params import Growth
    from .template import Template

CHUNK = 32  # masks between two looks at the manifest; more would lose more to a kill
DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))
STAGE = "sca"
ALGORITHM = 1  # raise with every change that changes masks: older runs are then not resumed


@settings
class Synth:
    """Synthesize vessel masks by space colonization.

    Writes OUT/masks/NAME-000000.png and so on, 8-bit, exactly 0 and 255, with OUT/manifest.jsonl;
    for several modalities OUT/NAME/masks/…. The same command goes on after an interruption.
    """

    out: Path
    """Folder to write; new, empty, or of the same run."""
    modality: Annotated[tuple[str, ...], MinLen(1)] = ("fundus",)
    """Names (fundus, octa, oct, coronary, brain), `all` for these five, or paths of cards."""
    count: Annotated[int, Ge(1), Le(10_000_000)] = 100
    """Masks of each modality."""
    first: Annotated[int, Ge(0)] = 0
    """Index of the first mask; makes single masks again, or a part of a larger run."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Seed of the run."""
    size: tuple[Annotated[int, Ge(16), Le(16384)], Annotated[int, Ge(16), Le(16384)]] = (512, 512)
    """Height and width [px]; any aspect."""
    real: Path | None = None
    """Folder of real masks to condition on (R-SCA); its courses are recombined, not copied."""
    strength: Annotated[float, Ge(0), Le(1)] | None = None
    """With --real: share of the real vessels that is followed, 0 to 1; default: the card's."""
    exponent: Annotated[float, Gt(0.5), Le(10)] | None = None
    """Murray's exponent of the radii; default: the card's."""
    layers: tuple[str, ...] = ()
    """Optional growth rounds of the card to add (octa: capillaries)."""
    strict: bool = False
    """Refuse real masks with grey levels instead of thresholding them."""
    workers: Annotated[int, Ge(1), Le(256)] = DEFAULT_WORKERS
    """Processes; changes no byte."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides the masks of one modality, resolved and checked."""

    modality: Modality
    growth: Growth
    size: tuple[int, int]
    seed: int
    templates: tuple[Template, ...]
    real_hashes: dict[str, str]

    @property
    def name(self) -> str:
        """Short name of the modality."""
        return self.modality.name

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the first."""
        return {
            "stage": "sca synth",
            "version": __version__,
            "algorithm": ALGORITHM,
            "seed": self.seed,
            "size_px": list(self.size),
            "modality": self.name,
            "growth": to_plain(self.growth),
            "real": self.real_hashes,
        }


@dataclass
class SynthResult:
    """What a run made: masks, nodes and seconds of worker time by part."""

    masks: int = 0
    skipped: int = 0
    nodes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    folders: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """One line for the terminal."""
        kept = f", {self.skipped} were there already" if self.skipped else ""
        rate = f" ({self.masks / self.wall_s:.0f} masks/s)" if self.masks and self.wall_s else ""
        return f"{self.masks} masks written in {self.wall_s:.1f} s{rate}{kept}"


def prepare_jobs(settings: Synth) -> list[Job]:
    """Resolve and check all that the run needs, before anything is written."""
    from univg.images import MAX_PIXELS

    height, width = settings.size
    if height * width > MAX_PIXELS:
        raise ConfigError(f"size is {height} × {width}: more than the {MAX_PIXELS} px univg reads")
    names = list(settings.modality)
    if "all" in names:
        names = [*modality_names(), *(n for n in names if n != "all" and n.endswith("ml"))]
    modalities = [find_modality(name) for name in names]
    shown = [modality.name for modality in modalities]
    if len(set(shown)) != len(shown):
        raise ConfigError(f"modality: {', '.join(shown)}: each may be asked for once only")
    if settings.strength is not None and settings.real is None:
        raise ConfigError("strength needs --real, a folder of real masks to follow")
    return [prepare_job(modality, settings) for modality in modalities]


def prepare_job(modality: Modality, settings: Synth) -> Job:
    """Resolve one modality: the card with this run's overrides, and the real templates."""
    growth = override(modality, settings)
    templates: tuple[Template, ...] = ()
    hashes: dict[str, str] = {}
    if settings.real is not None:
        templates, hashes = read_templates(settings.real, growth, settings.strict)
    elif not growth.guides and not growth.roots:
        raise ConfigError(
            f"modality {modality.name}: has neither guides nor roots, so nothing can grow without "
            "real masks; add --real, or guides to the card"
        )
    return Job(
        modality=modality, growth=growth, size=settings.size, seed=settings.seed,
        templates=templates, real_hashes=hashes,
    )  # fmt: skip


def override(modality: Modality, settings: Synth) -> Growth:
    """Return the card's growth with this run's exponent, strength and layers."""
    from .params import growth_of

    growth = growth_of(modality)
    if settings.exponent is not None:
        widths = dataclasses.replace(growth.widths, exponent=settings.exponent)
        growth = dataclasses.replace(growth, widths=widths)
    if settings.strength is not None:
        real = dataclasses.replace(growth.real, strength=settings.strength)
        growth = dataclasses.replace(growth, real=real)
    known = sorted({stage.layer for stage in growth.stages if stage.layer})
    unknown = [layer for layer in settings.layers if layer not in known]
    if unknown:
        raise ConfigError(
            f"layers: {', '.join(unknown)}: modality {modality.name} has "
            + (f"only {', '.join(known)}" if known else "none")
        )
    stages = tuple(s for s in growth.stages if not s.layer or s.layer in settings.layers)
    return dataclasses.replace(growth, stages=stages)


def read_templates(
    folder: Path, growth: Growth, strict: bool
) -> tuple[tuple[Template, ...], dict[str, str]]:
    """Trace the real masks of `folder`; all bad ones are told in one report."""
    from univg.errors import Problem, ProblemReport
    from univg.files import sha256_of_file
    from univg.masks import check_mask, read_mask
    from univg.pairs import find_masks

    from .template import trace_template

    paths = find_masks(folder)
    problems: list[Problem] = [p for path in paths for p in check_mask(path, strict=strict)]
    if problems:
        raise ProblemReport(problems, f"{folder}: real masks that cannot be followed")
    templates = tuple(
        trace_template(
            read_mask(path, strict=strict), path.stem, growth.real.roots,
            growth.real.min_component_px,
        )
        for path in paths
    )  # fmt: skip
    if not any(template.branch_count for template in templates):
        raise DataError(f"{folder}: no vessel long enough to follow in any of the masks")
    return templates, {path.name: sha256_of_file(path) for path in paths}


def plan(settings: Synth) -> str:
    """Say what would be written."""
    jobs = prepare_jobs(settings)
    height, width = settings.size
    lines = [f"Would write {settings.count} masks of {height} × {width} px for each of:"]
    for job in jobs:
        on = f", on {len(job.templates)} real masks" if job.templates else ""
        lines.append(f"  {job.name}: {folder_of(settings, job, jobs) / 'masks'}{on}")
    total = settings.count * len(jobs)
    lines.append(
        f"About {total * height * width * 0.02 / 1e6:.1f} MB of PNG, in chunks of {CHUNK}, "
        f"{settings.workers} workers of about 200 MB each."
    )
    return "\n".join(lines)


def folder_of(settings: Synth, job: Job, jobs: Sequence[Job]) -> Path:
    """OUT itself for one modality, OUT/NAME for several."""
    return settings.out / job.name if len(jobs) > 1 else settings.out


def run(settings: Synth) -> SynthResult:
    """Write the masks; go on where an earlier run stopped."""
    from .writing import write_jobs

    settings = check(settings)
    jobs = prepare_jobs(settings)
    result = SynthResult()
    start = time.perf_counter()
    write_jobs(jobs, settings, result)
    result.wall_s = time.perf_counter() - start
    print(result.line())  # noqa: T201
    print("\n".join(str(folder) for folder in result.folders))  # noqa: T201
    return result
