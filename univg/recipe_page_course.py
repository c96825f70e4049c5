"""How a recipe went, on its page: the gate's measures, the courses of its trainings.

In: results of its steps. Out: sections with tables and charts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from univg.charts import Points, draw_lines, smooth
from univg.recipe_steps import Result
from univg.report import Page, Section

SCORES = Path("quality") / "scores.jsonl"
METRICS = Path("run") / "metrics.jsonl"
MEASURES = {
    "agreement": "Vessels found in the image lie on the mask (clDice of a line detector)",
    "density": "Share of the image that is vessel",
    "components": "Connected pieces of the mask",
    "radius": "Mean vessel radius [px at 512 px]",
    "length": "Length of all vessels [image sides]",
    "image_distance": "Distance of the image to the nearest shot",
    "mask_distance": "Distance of the mask to the nearest shot",
}
FLAGS = {"copied": "near-copies of a shot", "duplicate": "near-duplicates inside the set"}
STEERED = {"cldice": "with its mask", "cldice_chance": "with another’s: chance"}
SEGMENTERS = {"both": "with pairs", "alone": "shots alone"}


def add_gate(page: Page, gate: Result) -> None:
    """Add what was measured on the pairs."""
    facts, scores = gate.facts, _read_scores(gate.folder / SCORES)
    section = page.section(
        "The gate", "Every synthetic pair is measured against its mask, the shots and its fellows."
    )
    figures = [(str(facts["pairs"]), "pairs measured"), (str(facts["kept"]), "kept")]
    figures += [(str(count), f"dropped by {why}") for why, count in facts["dropped_by"].items()]
    figures += [
        (str(sum(bool(row.get(name)) for row in scores)), words)
        for name, words in FLAGS.items()
        if any(name in row for row in scores)
    ]
    section.key_figures(figures)
    rows = []
    for name, words in MEASURES.items():
        values = [float(row[name]) for row in scores if row.get(name) is not None]
        if values:
            low, middle, high = (f"{q:.3g}" for q in np.quantile(values, (0.05, 0.5, 0.95)))
            rows.append([words, middle, f"{low} to {high}"])
    if rows:
        section.table(
            f"Measures of {len(scores)} synthetic pairs.",
            ["Measure", "Median", "90 % lie between"],
            rows,
            note=f"Each pair, the best and the worst: `{gate.folder}/quality/report.html`.",
        )


def _read_scores(path: Path) -> list[dict[str, Any]]:
    return [dict(row.get("scores", {})) for row in _read_lines(path)]


def add_course(page: Page, results: Mapping[str, Result]) -> None:
    """Add the learning curves of engines and segmenters."""
    runs = {
        name: _read_lines(result.folder / METRICS)
        for name, result in results.items()
        if (result.folder / METRICS).is_file()
    }
    if not runs:
        return
    section = page.section("Learning curves", "Losses are running means over a twentieth.")
    shown: set[str] = set()
    for name in runs:
        alone = name.removeprefix("both") if name.startswith("both") else None
        if alone is not None and f"alone{alone}" in runs:
            names = [f"{kind}{alone}" for kind in SEGMENTERS]
            words = f"Segmenter{alone.replace('-', ' ', 1)}: training loss"
            series = [
                (SEGMENTERS[kind], _losses(runs[f"{kind}{alone}"], "loss")) for kind in SEGMENTERS
            ]
            _add_lines(section, words, series)
            shown.update(names)
    for name, rows in runs.items():
        if name in shown:
            continue
        _add_lines(section, f"{name}: training loss", [("loss", _losses(rows, "loss"))])
        steered = [(words, _points(rows, key)) for key, words in STEERED.items()]
        _add_lines(section, f"{name}: clDice of drawn vessels with a mask", steered)


def _add_lines(section: Section, words: str, series: Sequence[tuple[str, Points]]) -> None:
    series = [(name, points) for name, points in series if len(points) > 1]
    if not series:
        return
    ends = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in series)
    section.drawing(draw_lines(series, f"{words}; at the end {ends}"), f"{words}.")


def _losses(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    return smooth(_points(rows, key))


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in rows if key in row]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; a page is no place to fail for a line that is torn."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows
