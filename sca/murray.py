"""Murray's law: r0^γ = r1^γ + r2^γ where a vessel of radius r0 splits in two.

In: masks, or a folder of them. Out: compliance 100 / (1 + |MR - 1|) with
MR = (r1^γ + r2^γ) / r0^γ, the mean over the bifurcations of a mask, and the exponent that the
masks themselves follow. γ is 3 for minimal work in a volume, near 2 in masks of retinal vessels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import tyro
from annotated_types import Ge, Gt, Le

from univg.config import settings
from univg.files import make_folder, write_atomic

if TYPE_CHECKING:
    from univg.skeleton import SkeletonGraph

    from .measure import Measured

FloatArray = npt.NDArray[np.float64]

LEAST_BRANCH_PX = 5
_EXPONENTS = (0.25, 8.0)  # where the exponent is looked for


@dataclass(frozen=True, kw_only=True)
class MurraySummary:
    """Compliance of a set of masks; None where no mask has a bifurcation to measure."""

    mean: float | None
    sd: float | None
    masks: int
    """Masks with a bifurcation to measure."""
    bifurcations: int
    exponent: float | None
    """The γ at which the median bifurcation keeps the law exactly; None if there is none."""


def measure_radii(graph: SkeletonGraph) -> FloatArray:
    """Return the radii (M, 3) of the branches at each bifurcation, in px, the largest first.

    The radius of a branch is the median of the distance transform along it. Bifurcations where a
    branch has fewer than five pixels are left out.
    """
    from .paths import branch_radii, find_bifurcations

    long_enough = graph.pixels >= LEAST_BRANCH_PX
    branches, _ = find_bifurcations(graph, np.stack([long_enough, long_enough], axis=1))
    radii: FloatArray = -np.sort(-branch_radii(graph)[branches], axis=1)
    return radii.reshape(-1, 3)


def murray_ratio(radii: FloatArray, exponent: float = 2.0) -> FloatArray:
    """Return (r1^γ + r2^γ) / r0^γ of each row of `radii` (M, 3); 1 is the law."""
    relative = radii[:, 1:] / radii[:, :1]
    ratio: FloatArray = (relative**exponent).sum(axis=1)
    return ratio


def compliance(radii: FloatArray, exponent: float = 2.0) -> float | None:
    """Return the mean compliance (0 to 100) over the bifurcations of a mask, if it has any."""
    if len(radii) == 0:
        return None
    return float(np.mean(100 / (1 + np.abs(murray_ratio(radii, exponent) - 1))))


def fit_exponent(radii: FloatArray) -> float | None:
    """Return the γ at which the median of the ratio is 1.

    None where there is no such γ: in masks so coarse that most parents are no wider than their
    daughters, the ratio is above 1 for every exponent.
    """
    low, high = _EXPONENTS
    if len(radii) == 0 or np.median(murray_ratio(radii, high)) > 1:
        return None
    if np.median(murray_ratio(radii, low)) < 1:
        return None
    for _ in range(50):  # the ratio falls with the exponent
        middle = (low + high) / 2
        if np.median(murray_ratio(radii, middle)) > 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def summarise_murray(radii: Sequence[FloatArray], exponent: float = 2.0) -> MurraySummary:
    """Return the compliance of a set of masks from the radii (M, 3) of each of them."""
    found = [value for value in (compliance(each, exponent) for each in radii) if value is not None]
    pooled = np.concatenate([np.zeros((0, 3)), *radii])
    return MurraySummary(
        mean=float(np.mean(found)) if found else None,
        sd=float(np.std(found)) if found else None,
        masks=len(found),
        bifurcations=len(pooled),
        exponent=fit_exponent(pooled),
    )


def format_murray(summary: MurraySummary) -> str:
    """Return the compliance as text: mean ± sd."""
    if summary.mean is None or summary.sd is None:
        return "no bifurcation"
    return f"{summary.mean:.1f} ± {summary.sd:.1f}"


def format_exponent(summary: MurraySummary) -> str:
    """Return the exponent fitted as text."""
    return "none" if summary.exponent is None else f"{summary.exponent:.2f}"


@settings
class Murray:
    """Compliance of masks with Murray's law, at their own resolution."""

    folder: tyro.conf.Positional[Path]
    """Folder of masks, or a folder of pairs or a run that holds one."""
    real: Path | None = None
    """A second folder, of real masks, to set beside it."""
    exponent: Annotated[float, Gt(0), Le(10)] = 2.0
    """γ in the law."""
    csv: Path | None = None
    """Write the compliance of each mask to this file."""
    workers: Annotated[int, Ge(1)] = 1
    """Processes that measure masks."""


def plan(settings: Murray) -> str:
    """Say what a run would write."""
    return f"Writes {settings.csv}." if settings.csv else "Reads only; writes nothing."


def run(settings: Murray) -> dict[str, MurraySummary]:
    """Measure the folders, print a table, write the CSV; return a summary of each folder."""
    from .measure import measure_folders

    if settings.csv is not None:
        make_folder(settings.csv.parent)  # before the work, not after it
    folders = {"masks": settings.folder}
    if settings.real is not None:
        folders["real"] = settings.real
    sets = measure_folders(folders, size_px=None, workers=settings.workers)
    radii = {name: [m.radii for m in measured] for name, measured in sets.items()}
    summaries = {name: summarise_murray(r, settings.exponent) for name, r in radii.items()}
    if settings.csv is not None:
        _write_csv(settings.csv, sets, settings.exponent)
    _print_summaries(summaries, settings.exponent)
    return summaries


def _write_csv(path: Path, sets: Mapping[str, Sequence[Measured]], exponent: float) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "mask", "bifurcations", "compliance"])
    for name, measured in sets.items():
        for one in measured:
            value = compliance(one.radii, exponent)
            shown = "" if value is None else f"{value:.3f}"
            writer.writerow([name, one.name, len(one.radii), shown])
    write_atomic(path, text.getvalue().encode())


def _print_summaries(summaries: Mapping[str, MurraySummary], exponent: float) -> None:
    from .tables import print_table

    columns = ["set", "compliance", "masks", "bifurcations", "exponent fitted"]
    rows = [
        (name, format_murray(each), str(each.masks), str(each.bifurcations), format_exponent(each))
        for name, each in summaries.items()
    ]
    print_table(f"Murray's law, exponent {exponent:g}", columns, rows)
