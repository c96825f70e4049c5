"""The page of a training run: how it went, and what the segmenter finds in the shots.

In: a trained task and its figures. Out: `OUT/report.html`, one file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.loop.curves import Points, draw_curves, smooth
from univg.loop.journal import METRICS
from univg.loop.options import CURVES, folder_of
from univg.report import Page, Section

from .fit_pictures import draw_case
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

    from .fit import Fit
    from .fit_data import Data
    from .fit_task import SegmentTask

Scores = tuple[float, float, list[list[float]]]
"""The threshold, mean Dice there, and Dice by threshold of each shot shown."""


def write_report(
    asked: Fit, data: Data, task: SegmentTask, outcome: Outcome, scores: Scores
) -> None:
    """Write the page."""
    lead = (
        f"Network `{asked.network}`, {outcome.steps} steps of {asked.batch}, preset "
        f"`{asked.preset}`, seed {asked.seed}; {len(data.real)} shots, {len(data.synthetic)} "
        f"synthetic pairs, {task.synthetic_count} of each batch synthetic"
        + ("." if task.synthetic_steps is None else f" up to step {task.synthetic_steps}.")
    )
    page = Page("Segmenter", kicker="UniVG training report", lead=lead)
    _show_shots(page, asked, task, scores)
    section = page.section("Course of training")
    rows = _read_rows(asked.out / METRICS)
    losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
    _show(section, "Training loss, each step's and a running mean", smooth(losses), [losses])
    dice = [(int(row["step"]), 1 - float(row["validation"])) for row in rows if "validation" in row]
    _show(section, "Dice of held-out shots, each at its best threshold", dice)
    _show_folds(section, asked)
    page.write(asked.out / "report.html")


def _show_shots(page: Page, asked: Fit, task: SegmentTask, scores: Scores) -> None:
    threshold, dice, curves = scores
    place = min(range(len(THRESHOLDS)), key=lambda k: abs(float(THRESHOLDS[k]) - threshold))
    what = "Held-out shots" if task.held_out else "Shots it was trained on"
    section = page.section(what)
    if not task.held_out:
        section.text("These were seen in training: the figures say nothing about other images.")
    section.key_figures(
        [
            (f"{dice:.4f}", "Dice, mean"),
            (f"{threshold:g}", "threshold"),
            (str(len(curves)), "shots"),
        ]
    )
    store = task.shown()
    some = itertools.islice(task.predict_shown(), asked.report_samples)
    tiles = [tile for example, found in some for tile in draw_case(example, found, threshold)]
    if tiles:
        words = (
            "A row a shot: the image, its mask, the probability of vessel, and the cut mask, with "
            "what is found, false and missed in three colours."
        )
        section.pictures(tiles, "shots with what is found in them", words, columns=4)
    rows = [
        [pair.stem, f"{curve[place]:.4f}", f"{max(curve):.4f}"]
        for pair, curve in zip(store.pairs, curves, strict=True)
    ]
    columns = ["shot", f"Dice at {threshold:g}", "Dice at its best"]
    section.table("Dice inside the field of view.", columns, rows)


def _show_folds(section: Section, asked: Fit) -> None:
    """Show what leaving each shot out in turn has found, where it was asked for."""
    path = folder_of(asked.out) / CURVES
    if asked.stop_at is None or not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    mean = _as_dice(found["mean"])
    folds = [_as_dice(fold) for fold in found["folds"]]
    words = (
        f"Leave-one-out: Dice of the shot left out, the mean of {len(folds)} runs and each of them "
        f"in grey; best at step {found['best_step']}, where this run was stopped"
    )
    _show(section, words, mean, folds)


def _as_dice(curve: dict[str, Any]) -> list[tuple[int, float]]:
    return [(int(step), 1 - float(value)) for step, value in curve.items() if int(step) > 0]


def _show(section: Section, words: str, points: Points, faint: Sequence[Points] = ()) -> None:
    if len(points) < 2:
        return
    first, last = points[0], points[-1]
    caption = f"{words}: {first[1]:.4f} at step {first[0]}, {last[1]:.4f} at step {last[0]}."
    picture = draw_curves([("", points)], faint=faint)
    section.pictures([picture], caption, caption, columns=1)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
