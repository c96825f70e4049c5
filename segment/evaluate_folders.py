"""Folders of predictions against a folder of truth, as figures.

In: folders, what to measure, a seed. Out: `Evaluation`: the figures of every image, their
summaries and, of two methods, the paired tests. The number of workers changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from univg.errors import ConfigError, DataError, Problem, ProblemReport
from univg.pairs import DEFAULT_SUFFIXES, find_masks
from univg.pool import map_in_order
from univg.progress import show_progress

from .evaluate_files import (
    Item,
    Measured,
    Measures,
    Method,
    find_items,
    find_views,
    measure_item,
    use_one_thread,
)
from .metrics import Metric, choose_metrics
from .statistics import PairedTest, Summary, compare_paired, correct_for_many, summarise

_SHOWN_PROBLEMS = 50
_LEAST_A_WORKER = 3  # images; starting a process takes as long as measuring a few


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    methods: tuple[str, ...]
    """Names: the one evaluated and, perhaps, the one it is compared with."""
    metrics: dict[str, Metric]
    measured: tuple[Measured, ...]
    """One an image, sorted by name."""
    problems: tuple[Problem, ...]
    """What is wrong with the images that were left out."""
    left_out: int
    """How many images were left out."""
    strays: int
    """Predictions that stand for no truth; they count nowhere."""
    fov: str
    """Where was judged: "whole", "inside", or a folder's name."""
    tolerance_px: float
    patch_px: int
    seed: int
    draws: int
    summaries: dict[str, dict[str, Summary]]
    """Of each method, of each metric."""
    tests: dict[str, PairedTest]
    """Of each metric; empty with one method."""
    corrected: dict[str, float | None]
    """The permutation tests' p, corrected for the number of metrics (Holm)."""

    @property
    def grey(self) -> tuple[Path, ...]:
        """Masks with a few in-between values, which were cut at half."""
        return tuple(dict.fromkeys(path for one in self.measured for path in one.grey))

    @property
    def dense(self) -> tuple[Path, ...]:
        """Masks that are more vessel than ground."""
        return tuple(dict.fromkeys(path for one in self.measured for path in one.dense))

    def values(self, method: int, metric: str) -> list[float]:
        """Return one metric of one method, a number an image."""
        return [one.values[method].get(metric, float("nan")) for one in self.measured]

    def measured_of(self, method: str) -> tuple[str, ...]:
        """Return the metrics that a method was measured with: no AUC without probabilities."""
        number = self.methods.index(method)
        return tuple(key for key in self.metrics if key in self.measured[0].values[number])

    def line(self) -> str:
        """One line for the terminal."""
        first = next(iter(self.metrics))
        told = []
        for name in self.methods:
            summary = self.summaries[name][first]
            metric = self.metrics[first]
            told.append(f"{name} {metric.show_spread(summary.mean, summary.sd)}")
        text = f"{count_things(self.measured, 'image')}, {self.metrics[first].title}: "
        text += ", ".join(told)
        if self.left_out:
            text += f"; {self.left_out} left out"
        if self.grey:
            grey = count_things(self.grey, "mask")
            text += f"; {grey} with grey levels cut at half, {self.grey[0]} first"
        if self.dense:
            dense = count_things(self.dense, "mask")
            text += f"; {dense} more than half vessel, inverted? {self.dense[0]} first"
        if self.strays:
            stray = count_things(range(self.strays), "prediction")
            text += f"; {stray} without truth not counted"
        return text


def evaluate_folders(
    truth: Path,
    methods: Sequence[Method],
    *,
    fov: str = "whole",
    metrics: Sequence[str] = (),
    tolerance_px: float = 2.0,
    patch_px: int = 64,
    strip: Sequence[str] = DEFAULT_SUFFIXES,
    skip_bad: bool = False,
    draws: int = 10_000,
    seed: int = 0,
    workers: int = 1,
) -> Evaluation:
    """Measure the predictions of one or two `methods` against the masks of `truth`.

    `fov`: "whole", "inside" (the truth's own `fov/`), or a folder. All bad files are told in one
    report; with `skip_bad`, their images are left out for all methods and counted.
    """
    chosen = check_methods(truth, methods, metrics)
    views = None if fov == "whole" else find_views(truth) if fov == "inside" else Path(fov)
    listing = find_items(truth, methods, views, strip)
    items, problems = listing.items, [*listing.problems]
    measures = Measures(metrics=tuple(metrics), tolerance_px=tolerance_px, patch_px=patch_px)
    # Before an hour of measuring, unless bad files are to be passed over.
    if problems and not skip_bad:
        problems += _find_bad_files(items, workers)
        raise _report(problems, truth)
    measured, bad = _measure_all(items, measures, workers)
    problems += bad
    if (problems and not skip_bad) or not measured:
        raise _report(problems, truth)
    measured.sort(key=lambda one: one.item.stem)
    summaries, tests = _summarise(measured, methods, list(chosen), seed, draws)
    corrected = correct_for_many([test.permutation_p for test in tests.values()])
    return Evaluation(
        methods=tuple(method.name for method in methods),
        metrics=chosen,
        measured=tuple(measured),
        problems=tuple(problems),
        left_out=listing.truths - len(measured),
        strays=listing.strays,
        fov=fov,
        tolerance_px=tolerance_px,
        patch_px=patch_px,
        seed=seed,
        draws=draws,
        summaries=summaries,
        tests=tests,
        corrected=dict(zip(tests, corrected, strict=True)),
    )


def count_things(things: Sized, name: str) -> str:
    """Return how many there are, in words: "1 image", "3 images"."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def check_methods(
    truth: Path, methods: Sequence[Method], metrics: Sequence[str]
) -> dict[str, Metric]:
    """Return the metrics to measure; refuse what cannot be meant before anything is read."""
    if not 1 <= len(methods) <= 2:
        raise ConfigError(f"{len(methods)} methods: evaluate one, or compare two")
    if len({method.name for method in methods}) < len(methods):
        raise ConfigError(f"both methods are called {methods[0].name}: name them apart")
    seen = _list_resolved(truth)
    for method in methods:
        if seen & _list_resolved(method.masks):
            raise ConfigError(f"{method.masks} is the folder of truth: give that of predictions")
    if len(methods) == 2 and _list_resolved(methods[0].masks) & _list_resolved(methods[1].masks):
        raise ConfigError(f"{methods[1].masks} is compared with itself: give another folder")
    return choose_metrics(metrics, probability=any(m.probabilities is not None for m in methods))


def _list_resolved(folder: Path) -> set[Path]:
    """Return the masks of a folder, whatever it is called by: files, not folders, are the same."""
    return {path.resolve() for path in find_masks(folder)}


def _measure_all(
    items: Sequence[Item], measures: Measures, workers: int
) -> tuple[list[Measured], list[Problem]]:
    measured: list[Measured] = []
    problems: list[Problem] = []
    work = functools.partial(measure_item, measures=measures)
    count = min(workers, max(1, len(items) // _LEAST_A_WORKER))
    with show_progress(len(items), "measure", "images") as progress:
        for found in map_in_order(work, items, count, use_one_thread):
            if isinstance(found, Measured):
                measured.append(found)
            else:
                problems += found
            progress.advance()
    return measured, problems


def _find_bad_files(items: Sequence[Item], workers: int) -> list[Problem]:
    """Return what is wrong inside the files, where their names are wrong already."""
    cheapest = Measures(metrics=("dsc",), tolerance_px=0, patch_px=64)
    return _measure_all(items, cheapest, workers)[1]


def _summarise(
    measured: Sequence[Measured],
    methods: Sequence[Method],
    metrics: Sequence[str],
    seed: int,
    draws: int,
) -> tuple[dict[str, dict[str, Summary]], dict[str, PairedTest]]:
    summaries: dict[str, dict[str, Summary]] = {}
    columns: list[dict[str, list[float]]] = []
    for number, method in enumerate(methods):
        column = {
            name: [one.values[number].get(name, float("nan")) for one in measured]
            for name in metrics
        }
        columns.append(column)
        # The same resamples for all methods and metrics, so that their intervals go together.
        summaries[method.name] = {
            name: summarise(values, seed=seed, stage="evaluate bootstrap", draws=draws)
            for name, values in column.items()
        }
    tests = {}
    if len(columns) == 2:
        tests = {
            name: compare_paired(
                columns[0][name], columns[1][name], seed=seed, stage="evaluate", draws=draws
            )
            for name in metrics
            if all(name in values for values in measured[0].values)
        }
    return summaries, tests


def _report(problems: Sequence[Problem], truth: Path) -> DataError:
    bad = count_things({problem.path for problem in problems}, "file")
    hidden = len(problems) - _SHOWN_PROBLEMS
    more = f", the first {_SHOWN_PROBLEMS} problems shown" if hidden > 0 else ""
    headline = f"{truth}: {bad} that cannot be evaluated{more}"
    return ProblemReport(
        problems[:_SHOWN_PROBLEMS], f"{headline} (--skip-bad leaves their images out)"
    )
