"""How real synthetic masks look: distances, the descriptors that are off, copies, Murray's law.

In: a folder of real masks and one of synthetic ones. Out: a `ScoreResult`, printed as tables and
written as JSON. Every distance stands beside its floor, the distance that two real sets of the
same size have.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from univg.config import settings
from univg.errors import DataError
from univg.files import make_folder, write_atomic

if TYPE_CHECKING:
    from univg.skeleton import BoolArray, FloatArray

    from .copies import CopyOverlap
    from .distance import Comparison, Difference, Estimate
    from .measure import Measured
    from .murray import MurraySummary

_SHOWN_DIFFERENCES = 8


@settings
class Score:
    """Measure how far synthetic masks are from real ones, and in what."""

    real: Path
    """Folder of real masks, or a folder of pairs or a run that holds one."""
    synth: Path
    """Folder of synthetic masks, likewise."""
    floor: Path | None = None
    """A second folder of real masks (other patients): the distance that real sets have. Without
    it the floor is the distance between halves of `real`."""
    conditioned_on: Path | None = None
    """The real masks that the synthetic ones were made from, to find copies; default: `real`."""
    size: Annotated[int, Ge(64), Le(4096)] = 512
    """Longest side [px] that all masks are scaled to before they are measured."""
    n: Annotated[int, Ge(2)] | None = None
    """Masks of each set in a draw; default: half of the smallest set."""
    draws: Annotated[int, Ge(10), Le(100_000)] = 200
    """Subsamples for the intervals."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the subsamples."""
    out: Path | None = None
    """Write the scores to this JSON file."""
    workers: Annotated[int, Ge(1)] = 1
    """Processes that measure masks."""


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """The scores of a synthetic set. Shares and overlaps are 0 to 1, compliance 0 to 100."""

    real_count: int
    synth_count: int
    comparison: Comparison
    differences: tuple[Difference, ...]
    """Every descriptor, the worst first."""
    copies: CopyOverlap
    copies_baseline: CopyOverlap
    """The same between real masks: what overlap means nothing."""
    murray_real: MurraySummary
    murray_synth: MurraySummary

    def to_plain(self) -> dict[str, Any]:
        """Return the scores as plain JSON values."""
        return dataclasses.asdict(self)


def plan(settings: Score) -> str:
    """Say what a run would write."""
    return f"Writes {settings.out}." if settings.out else "Reads only; writes nothing."


def run(settings: Score) -> ScoreResult:
    """Score the folders, print the tables, write the JSON; return the scores."""
    from .distance import LEAST_MASKS
    from .measure import measure_folders

    named = {
        "real": settings.real,
        "synth": settings.synth,
        "floor": settings.floor,
        "conditioned_on": settings.conditioned_on,
    }
    folders = {name: folder for name, folder in named.items() if folder is not None}
    if settings.out is not None:
        make_folder(settings.out.parent)  # before the work, not after it
    sets = measure_folders(folders, size_px=settings.size, workers=settings.workers)
    for name, measured in sets.items():
        if name != "conditioned_on" and len(measured) < LEAST_MASKS:
            raise DataError(
                f"{folders[name]}: --{name} holds {len(measured)} masks, too few for a distance; "
                f"give at least {LEAST_MASKS}"
            )
    result = score_measured(
        sets["real"],
        sets["synth"],
        floor=sets.get("floor"),
        conditioned_on=sets.get("conditioned_on"),
        n=settings.n,
        draws=settings.draws,
        seed=settings.seed,
    )
    if settings.out is not None:
        _write_scores(settings.out, settings, result)
    print_scores(result)
    return result


def score_masks(
    real: Sequence[BoolArray],
    synth: Sequence[BoolArray],
    *,
    floor: Sequence[BoolArray] | None = None,
    conditioned_on: Sequence[BoolArray] | None = None,
    size_px: int = 512,
    n: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> ScoreResult:
    """Score `synth` against `real`, both bool masks (H, W) of any size; see `Score`."""
    from .measure import measure_mask

    def measure(masks: Sequence[BoolArray] | None) -> list[Measured] | None:
        if masks is None:
            return None
        return [measure_mask(m, size_px=size_px, name=str(k)) for k, m in enumerate(masks)]

    return score_measured(
        measure(real) or [],
        measure(synth) or [],
        floor=measure(floor),
        conditioned_on=measure(conditioned_on),
        n=n,
        draws=draws,
        seed=seed,
    )


def score_measured(
    real: Sequence[Measured],
    synth: Sequence[Measured],
    *,
    floor: Sequence[Measured] | None = None,
    conditioned_on: Sequence[Measured] | None = None,
    n: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> ScoreResult:
    """Score masks that are measured already, all at the same size."""
    from .descriptors import DESCRIPTOR_GROUPS, DESCRIPTOR_NAMES, DESCRIPTORS
    from .distance import compare, rank_differences
    from .murray import summarise_murray

    resolution = [descriptor.resolution for descriptor in DESCRIPTORS]
    comparison = compare(
        _stack_descriptors(real),
        _stack_descriptors(synth),
        floor=None if floor is None else _stack_descriptors(floor),
        n=n,
        draws=draws,
        seed=seed,
        resolution=resolution,
        groups=DESCRIPTOR_GROUPS,
    )
    differences = rank_differences(
        _stack_descriptors(real), _stack_descriptors(synth), DESCRIPTOR_NAMES, resolution
    )
    sources = real if conditioned_on is None else conditioned_on
    return ScoreResult(
        real_count=len(real),
        synth_count=len(synth),
        comparison=comparison,
        differences=tuple(differences),
        copies=_find_copies(synth, sources),
        copies_baseline=_find_copies(real, sources, skip_equal=True),
        murray_real=summarise_murray([one.radii for one in real]),
        murray_synth=summarise_murray([one.radii for one in synth]),
    )


def _stack_descriptors(measured: Sequence[Measured]) -> FloatArray:
    import numpy as np

    from .descriptors import DESCRIPTORS

    vectors = np.array([one.descriptors for one in measured], dtype=np.float64)
    return vectors.reshape(len(measured), len(DESCRIPTORS))


def _find_copies(
    masks: Sequence[Measured], sources: Sequence[Measured], *, skip_equal: bool = False
) -> CopyOverlap:
    import numpy as np

    from .copies import summarise_copies

    thumbnails, of_sources = (np.array([m.thumbnail for m in each]) for each in (masks, sources))
    names = [one.name for one in masks]
    return summarise_copies(thumbnails, of_sources, names, skip_equal=skip_equal)


def _write_scores(path: Path, settings: Score, result: ScoreResult) -> None:
    from univg import __version__
    from univg.config import to_plain

    document = {"version": __version__, "settings": to_plain(settings), **result.to_plain()}
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def print_scores(result: ScoreResult) -> None:
    """Print the scores as tables: the distances, the worst descriptors, copies and Murray's law."""
    _print_distances(result)
    _print_differences(result)
    _print_copies_and_murray(result)


def _print_distances(result: ScoreResult) -> None:
    from .tables import print_table

    found = result.comparison
    counts = f"{result.synth_count} synthetic, {result.real_count} real masks"
    title = f"Distance: {counts}; {found.draws} draws of {found.n}, 95 % of them in brackets"
    ratio = "no floor" if found.ratio is None else f"{found.ratio:.2f} x floor"
    above = "" if found.above_floor is None else f"above floor in {found.above_floor:.0%}"
    rows = [
        ("Fréchet", _show(found.frechet), _show(found.frechet_floor), ratio),
        ("energy", _show(found.energy), _show(found.energy_floor), above),
    ]
    print_table(title, ["distance", "synthetic to real", "real to real (floor)", "note"], rows)


def _print_differences(result: ScoreResult) -> None:
    from .tables import print_table

    rows = [
        (d.name, f"{d.real:.4g}", f"{d.synth:.4g}", f"{d.shift:+.2f}", f"{d.ks:.2f}")
        for d in result.differences[:_SHOWN_DIFFERENCES]
    ]
    print_table("Worst descriptors", ["name", "real", "synthetic", "shift (real sd)", "KS"], rows)


def _print_copies_and_murray(result: ScoreResult) -> None:
    from .murray import format_exponent, format_murray
    from .tables import print_table

    copies, baseline = result.copies, result.copies_baseline
    murray = (result.murray_synth, result.murray_real)
    rows = [
        (
            f"overlap with the nearest source, {name}",
            *(f"{getattr(each, name):.3f}" for each in (copies, baseline)),
        )
        for name in ("mean", "p95", "max")
    ]
    rows.append(("Murray compliance", *(format_murray(each) for each in murray)))
    rows.append(("Murray exponent fitted", *(format_exponent(each) for each in murray)))
    print_table("Copies and Murray's law", ["measure", "synthetic", "real"], rows)


def _show(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
