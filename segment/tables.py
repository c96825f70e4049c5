"""An evaluation as files that other programs and papers take.

In: an `Evaluation`. Out: CSV (a row an image and method; a row a method and metric), Markdown,
LaTeX (booktabs), plain values for JSON. CSV and JSON hold full numbers, the other two percent.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .evaluate_folders import Evaluation, count_things
from .metrics import Metric

SIGNIFICANT = 0.05
LATEX_SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "|": "\\textbar{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "\n": " ",
}
"""Text as LaTeX prints it, in its default encoding too."""


def list_images(found: Evaluation) -> str:
    """Return the figures of every image as CSV; what is not defined is an empty cell."""
    head = ["method", "image", "width_px", "height_px", "judged_px", *found.metrics]
    rows = [
        [name, one.item.stem, one.width_px, one.height_px, one.area_px]
        + [_cell(one.values[number].get(metric)) for metric in found.metrics]
        for number, name in enumerate(found.methods)
        for one in found.measured
    ]
    return _csv([head, *rows])


def list_summaries(found: Evaluation) -> str:
    """Return the summaries as CSV, a row a method and metric."""
    fields = ["count", "undefined", "mean", "sd", "low", "high", "median", "minimum", "maximum"]
    rows = [
        [name, metric] + [_cell(getattr(summary, field)) for field in fields]
        for name, of_method in found.summaries.items()
        for metric, summary in of_method.items()
    ]
    return _csv([["method", "metric", *fields], *rows])


def to_json(found: Evaluation) -> dict[str, Any]:
    """Return the evaluation as plain JSON values; what is not defined is null."""
    rules = {
        name: {
            "title": metric.title,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "both_empty": metric.both_empty,
            "one_empty": metric.one_empty,
        }
        for name, metric in found.metrics.items()
    }
    tests = {
        name: _nulls({**dataclasses.asdict(test), "permutation_p_corrected": found.corrected[name]})
        for name, test in found.tests.items()
    }
    return {
        "methods": list(found.methods),
        "images": len(found.measured),
        "left_out": found.left_out,
        "problems": [problem.line() for problem in found.problems],
        "grey_masks": [str(path) for path in found.grey],
        "predictions_without_truth": found.strays,
        "fov": found.fov,
        "tolerance_px": found.tolerance_px,
        "patch_px": found.patch_px,
        "bootstrap_draws": found.draws,
        "seed": found.seed,
        "metrics": rules,
        "summaries": {
            name: {metric: _nulls(dataclasses.asdict(one)) for metric, one in of_method.items()}
            for name, of_method in found.summaries.items()
        },
        "tests": tests,
        "per_image": [
            {
                "image": one.item.stem,
                "width_px": one.width_px,
                "height_px": one.height_px,
                "judged_px": one.area_px,
                "values": {
                    name: {metric: _null(values.get(metric)) for metric in found.metrics}
                    for name, values in zip(found.methods, one.values, strict=True)
                },
            }
            for one in found.measured
        ],
    }


def summary_rows(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the main table: a row a metric, its columns a method."""
    head = ["Metric"]
    for name in found.methods:
        head += [name, "95 % interval"]
    rows = []
    for key, metric in found.metrics.items():
        row = [metric.heading]
        for name in found.methods:
            summary = found.summaries[name][key]
            spread = metric.show_spread(summary.mean, summary.sd)
            row += [spread, _range(metric, summary.low, summary.high)]
        rows.append(row)
    return head, rows


def comparison_rows(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the table of paired tests."""
    head = ["Metric", "difference", "95 % interval", "Wilcoxon p", "permutation p"]
    head += ["p corrected", "effect d", "rank-biserial"]
    rows = []
    for key, test in found.tests.items():
        metric = found.metrics[key]
        rows.append(
            [
                metric.heading,
                metric.show(test.difference, "+"),
                _range(metric, test.low, test.high, "+"),
                show_chance(test.wilcoxon_p),
                show_chance(test.permutation_p),
                show_chance(found.corrected[key]),
                _show(test.effect_size),
                _show(test.rank_biserial),
            ]
        )
    return head, rows


def write_markdown(found: Evaluation) -> str:
    """Return all tables as Markdown: methods as rows, as papers have it, then `write_text`."""
    wide = [["Method", *(metric.heading for metric in found.metrics.values())]]
    wide += [
        [name, *(_spread(found, name, key) for key in found.metrics)] for name in found.methods
    ]
    return f"{_markdown_table(wide)}\n{write_text(found)}"


def write_text(found: Evaluation) -> str:
    """Return the tables that fit a terminal: metrics as rows, and the tests."""
    head, rows = summary_rows(found)
    parts = [_markdown_table([head, *rows])]
    if found.tests:
        head, rows = comparison_rows(found)
        first, second = found.methods
        names = f"{_plain_markdown(first)} minus {_plain_markdown(second)}"
        parts.append(f"{names}, the same images:\n")
        parts.append(_markdown_table([head, *rows]))
    return "\n".join([*parts, describe(found)])


def write_latex(found: Evaluation) -> str:
    """Return the table as LaTeX (needs booktabs): methods as rows, mean and standard deviation.

    With two methods the better mean is bold; a dagger marks a corrected p below 0.05.
    """
    columns = " ".join("c" * len(found.metrics))
    head = " & ".join(["Method", *(_latex(m.heading) for m in found.metrics.values())])
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{l {columns}}}", "\\toprule"]
    lines += [f"{head} \\\\", "\\midrule"]
    for name in found.methods:
        cells = [_latex_cell(found, name, key) for key in found.metrics]
        # A name in brackets would be taken for an option of the line before.
        guard = "{}" if name[:1] in {"[", "*"} else ""
        lines.append(" & ".join([guard + _latex(name), *cells]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {line}" for line in describe(found).splitlines()]
    return "\n".join(lines) + "\n"


def describe(found: Evaluation) -> str:
    """Return what a reader must know about the figures, in sentences."""
    place = {"whole": "the whole picture", "inside": "the field of view of the truth"}
    judged = place.get(found.fov, f"the fields of view of {found.fov}")
    text = (
        f"{count_things(found.measured, 'image')}, judged over {judged}. Mean and sample standard "
        f"deviation over images; interval of the mean by bootstrap ({found.draws} draws, "
        f"percentiles). Tolerance of surface metrics {found.tolerance_px:g} px."
    )
    if found.left_out:
        left_out = count_things(range(found.left_out), "image")
        text += f" {left_out} left out because of bad files."
    if found.grey:
        text += f" {count_things(found.grey, 'mask')} with grey levels, cut at half."
    undefined = [
        f"{metric.title} of {name} on {found.summaries[name][key].undefined}"
        for name in found.methods
        for key, metric in found.metrics.items()
        if found.summaries[name][key].undefined and key in found.measured_of(name)
    ]
    if undefined:
        text += f" Not defined, and left out of the means: {', '.join(undefined)}."
    if found.tests:
        text += (
            " Tests are two-sided and paired; the corrected p is that of the permutation test, "
            "for the number of metrics (Holm)."
        )
    return text + "\n"


def show_chance(p: float | None) -> str:
    """Return a p value as papers print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spread(found: Evaluation, method: str, key: str) -> str:
    metric, summary = found.metrics[key], found.summaries[method][key]
    return metric.show_spread(summary.mean, summary.sd)


def _latex_cell(found: Evaluation, method: str, key: str) -> str:
    metric, summary = found.metrics[key], found.summaries[method][key]
    if summary.mean is None:
        return "--"
    mean = metric.show(summary.mean)
    known = [of_method[key].mean for of_method in found.summaries.values()]
    # What reads the same is no better.
    others = [value for value in known if value is not None and metric.show(value) != mean]
    better = [value < summary.mean for value in others]
    if better and all(better) == metric.higher_is_better and len(set(better)) == 1:
        mean = f"\\mathbf{{{mean}}}"
    spread = "" if summary.sd is None else f" \\pm {metric.show(summary.sd)}"
    p = found.corrected.get(key)
    mark = "^{\\dagger}" if method == found.methods[0] and p is not None and p < SIGNIFICANT else ""
    return f"${mean}{spread}{mark}$"


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; the first row is the heading, the first column text."""
    rows = [[_plain_markdown(cell) for cell in row] for row in rows]
    widths = [max(2, *(len(row[k]) for row in rows)) for k in range(len(rows[0]))]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plain_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in one line; `_` within words needs nothing."""
    return re.sub(r"([\\|*`<>$])", r"\\\1", " ".join(text.split("\n")))


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def _range(metric: Metric, low: float | None, high: float | None, sign: str = "") -> str:
    return "–" if low is None else f"{metric.show(low, sign)} to {metric.show(high, sign)}"


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:+z.2f}"


def _null(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _null(v) if isinstance(v, float) else v for key, v in values.items()}


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
