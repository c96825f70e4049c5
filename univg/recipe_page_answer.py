"""The answer of a recipe: are segmenters better with the synthetic pairs?

In: what `univg segment evaluate` found on the test set, with and without the pairs. Out: a verdict
in words that follow the figures, whichever way they come out, with charts and test images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg.charts import Bar, Spread, draw_bars, draw_differences
from univg.errors import DataError
from univg.images import ImageArray, read_image
from univg.masks import inspect_mask
from univg.overlays import LEGEND, draw_overlay
from univg.pairs import Pair, find_masks, open_pairs
from univg.recipe import Recipe
from univg.recipe_segmenters import ALONE, BOTH, list_endings, name_network
from univg.recipe_steps import Result
from univg.report import Page, Section, shrink_mask
from univg.vesselness import shrink_image

LEAST = 6
"""Test images from which a verdict is possible: with fewer no permutation test gets below 0.05."""
SIGNIFICANT = 0.05
SHOWN = 4
TILE_PX = 256
CHARTED = {"dsc": "DSC [%]", "cldice": "clDice [%]"}
METRICS = {
    "dsc": "DSC [%] ↑",
    "cldice": "clDice [%] ↑",
    "iou": "IoU [%] ↑",
    "nsd": "NSD [%] ↑",
    "hd95": "HD95 [px] ↓",
    "betti0": "Betti 0 error ↓",
    "betti1": "Betti 1 error ↓",
    "sensitivity": "Sensitivity [%] ↑",
    "specificity": "Specificity [%] ↑",
    "auc": "AUC [%] ↑",
}
PLAIN = {"hd95", "betti0", "betti1"}
"""Those that are no shares."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found on the test set."""

    network: str
    """The segmenter's name."""
    evaluation: Mapping[str, Any]
    """As `evaluation.json` holds it."""
    truth: Path
    found: Mapping[str, Path]
    """Folders of the masks that each method found."""
    page: Path
    """Of the evaluation, with more figures."""

    def mean(self, method: str, metric: str) -> float:
        """Return a mean, NaN where the metric is not defined."""
        value = self.evaluation["summaries"][method].get(metric, {}).get("mean")
        return math.nan if value is None else float(value)

    def gains(self, metric: str) -> list[float]:
        """Return the difference of each image, with pairs less without, where both are defined."""
        rows = self.evaluation["per_image"]
        found = [row["values"] for row in rows]
        values = [(each[BOTH].get(metric), each[ALONE].get(metric)) for each in found]
        return [100 * (a - b) for a, b in values if a is not None and b is not None]


def read_answers(asked: Recipe, results: Mapping[str, Result]) -> list[Answer]:
    """Return the answers among the results of a recipe, one a network."""
    assert asked.test is not None
    return [
        _read_answer(asked.test, results, ending, name_network(asked, network))
        for ending, network in list_endings(asked).items()
    ]


def _read_answer(truth: Path, results: Mapping[str, Result], ending: str, network: str) -> Answer:
    """Return one answer; `ending` is what the steps of its network end in."""
    place = results[f"test{ending}"].folder / "evaluation"
    path = place / "evaluation.json"
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete {place.parent} and run again"
        ) from error
    return Answer(
        network=network,
        evaluation=evaluation,
        truth=truth,
        found={
            BOTH: results[f"found-both{ending}"].folder / "found",
            ALONE: results[f"found-alone{ending}"].folder / "found",
        },
        page=place / "report.html",
    )


def judge_gain(answer: Answer) -> tuple[str, str]:
    """Say whether the pairs helped: in a few words, and what they stand on.

    Interval and permutation test must agree: of few images a bootstrap makes too much.
    """
    test, rows = answer.evaluation["tests"]["dsc"], answer.evaluation["per_image"]
    before, after = (100 * answer.mean(method, "dsc") for method in (ALONE, BOTH))
    gain, count = 100 * float(test["difference"]), len(rows)
    better = sum(each > 0 for each in answer.gains("dsc"))
    change = f"From {before:.2f} to {after:.2f} DSC, a difference of {gain:+z.2f}"
    if count < LEAST or test["low"] is None:
        needed = f"{change} on {_name_images(count)}; {LEAST} are the least for a verdict."
        return "Too few test images to say", needed
    low, high = 100 * float(test["low"]), 100 * float(test["high"])
    share = f"{better} of {_name_images(count)} are better with the pairs."
    p = float(test["permutation_p"])
    between = f"(95 % interval {low:+z.2f} to {high:+z.2f}, permutation test p {_chance(p)})"
    if low <= 0 <= high:
        return "Not shown", f"{change}, but the interval holds 0 {between}. {share}"
    if p >= SIGNIFICANT:
        return "Not shown", f"{change}, which may be chance {between}. {share}"
    head = "Yes, the pairs helped" if low > 0 else "No, the pairs did harm"
    return head, f"{change} {between}. {share}"


def _name_images(count: int) -> str:
    return "1 test image" if count == 1 else f"{count} test images"


def add_answer(section: Section, answer: Answer) -> None:
    """Add verdict, figures, charts and test images."""
    section.subheading(*judge_gain(answer))
    gain = 100 * (answer.mean(BOTH, "dsc") - answer.mean(ALONE, "dsc"))
    section.key_figures(
        [
            (f"{100 * answer.mean(ALONE, 'dsc'):.2f}", "DSC, shots alone"),
            (f"{100 * answer.mean(BOTH, 'dsc'):.2f}", "DSC, with synthetic pairs"),
            (f"{gain:+z.2f}", "difference in DSC"),
            (f"{100 * answer.mean(ALONE, 'cldice'):.2f}", "clDice, shots alone"),
            (f"{100 * answer.mean(BOTH, 'cldice'):.2f}", "clDice, with synthetic pairs"),
        ]
    )
    _add_charts(section, answer)
    _add_table(section, answer)
    _add_cases(section, answer)


def _add_charts(section: Section, answer: Answer) -> None:
    groups, told = [], []
    for metric, title in CHARTED.items():
        bars = [_bar(answer, method, metric) for method in (ALONE, BOTH)]
        groups.append((title, bars))
        told += [f"{title} {bar.label} {bar.value:.1f}" for bar in bars]
    section.drawing(
        draw_bars(groups, f"Bars: {', '.join(told)}"),
        "Means over the test images; whiskers are 95 % intervals of the mean (bootstrap).",
    )
    spreads = []
    for metric, title in CHARTED.items():
        test, gains = answer.evaluation["tests"][metric], answer.gains(metric)
        if gains:
            ends = [None if test[end] is None else 100 * test[end] for end in ("low", "high")]
            spreads.append(
                Spread(label=title, values=gains, mean=100 * test["difference"],
                       low=ends[0], high=ends[1])
            )  # fmt: skip
    if not spreads:
        return
    told = [f"{each.label} {each.mean:+z.1f} on average" for each in spreads]
    section.drawing(
        draw_differences(
            spreads,
            f"Differences image by image: {', '.join(told)}",
            worse="worse with pairs",
            better="better with pairs",
        ),
        "With the pairs less without, a grey dot a test image; below the dots their mean with its "
        "95 % interval. What crosses 0 is not shown to differ.",
    )


def _bar(answer: Answer, method: str, metric: str) -> Bar:
    summary = answer.evaluation["summaries"][method][metric]
    low, high = (None if summary[k] is None else 100 * summary[k] for k in ("low", "high"))
    value = answer.mean(method, metric)
    return Bar(
        label="with pairs" if method == BOTH else "shots alone",
        value=0.0 if math.isnan(value) else 100 * value,
        low=low,
        high=high,
        strong=method == BOTH,
    )


def _add_table(section: Section, answer: Answer) -> None:
    summaries, tests = answer.evaluation["summaries"], answer.evaluation["tests"]
    rows = []
    for metric, words in METRICS.items():
        if metric not in summaries[BOTH] or metric not in summaries[ALONE]:
            continue
        scale = 1 if metric in PLAIN else 100
        test = tests.get(metric, {})
        interval = "–"
        if test.get("low") is not None:
            ends = (_show(test[end], scale, "+") for end in ("low", "high"))
            interval = " to ".join(ends)
        rows.append(
            [
                words,
                *(_spread(summaries[method][metric], scale) for method in (ALONE, BOTH)),
                _show(test.get("difference"), scale, "+"),
                interval,
                _chance(test.get("permutation_p_corrected")),
            ]
        )
    images = _name_images(len(answer.evaluation["per_image"]))
    section.table(
        f"Mean ± standard deviation over {images}, and the paired difference.",
        ["Metric", "Shots alone", "With pairs", "Difference", "95 % interval", "p"],
        rows,
        note="p: permutation test of the paired differences, corrected for the number of metrics "
        f"(Holm). Image by image, and how each is measured: `{answer.page}`.",
    )


def _spread(summary: Mapping[str, Any], scale: float) -> str:
    if summary["mean"] is None or summary["sd"] is None:
        return _show(summary["mean"], scale)
    return f"{scale * summary['mean']:.2f} ± {scale * summary['sd']:.2f}"


def _show(value: float | None, scale: float, sign: str = "") -> str:
    return "–" if value is None else f"{scale * value:{sign}z.2f}".replace("-", "−")


def _chance(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _add_cases(section: Section, answer: Answer) -> None:
    """Show test images from the largest loss to the largest gain."""
    rows = [row for row in answer.evaluation["per_image"] if _gain(row) is not None]
    rows.sort(key=lambda row: _gain(row) or 0.0)
    count = min(SHOWN, len(rows))
    places = sorted({round(k * (len(rows) - 1) / max(count - 1, 1)) for k in range(count)})
    masks = {
        method: {path.stem: path for path in find_masks(folder)}
        for method, folder in answer.found.items()
    }
    pairs = {
        pair.stem: pair
        for pair in open_pairs(answer.truth).pairs
        if all(pair.image.stem in found for found in masks.values())
    }
    chosen = [rows[k] for k in places if str(rows[k]["image"]) in pairs]
    if not chosen:
        return
    cases = [_draw_case(pairs[str(row["image"])], masks) for row in chosen]
    told = ", ".join(
        f"{row['image']} ({100 * row['values'][ALONE]['dsc']:.1f} / "
        f"{100 * row['values'][BOTH]['dsc']:.1f})"
        for row in chosen
    )
    section.comparison(
        ["Image", "Truth", "Shots alone", "With pairs"],
        cases,
        "Test images, their true vessels, and what was found without and with synthetic pairs",
        f"Test images, evenly from the one that the pairs changed most for the worse (or least for "
        f"the better) to the one they changed most for the better. {LEGEND} DSC without / with "
        f"pairs: {told}.",
    )


def _gain(row: Mapping[str, Any]) -> float | None:
    after, before = (row["values"][method].get("dsc") for method in (BOTH, ALONE))
    return None if after is None or before is None else float(after) - float(before)


def _draw_case(pair: Pair, masks: Mapping[str, Mapping[str, Path]]) -> list[ImageArray]:
    truth = inspect_mask(pair.mask).mask
    fov = None if pair.fov is None else inspect_mask(pair.fov).mask
    tiles: list[ImageArray] = [shrink_image(read_image(pair.image)), shrink_mask(truth, TILE_PX)]
    for method in (ALONE, BOTH):
        found = inspect_mask(masks[method][pair.image.stem]).mask
        tiles.append(draw_overlay(found, truth, fov, longest_px=TILE_PX))
    return tiles


def add_answers(page: Page, answers: Sequence[Answer], intro: str) -> None:
    """Add the section that a reader came for."""
    section = page.section("Did the pairs help?", intro)
    for answer in answers:
        if len(answers) > 1:
            section.subheading(f"Segmenter {answer.network}")
        add_answer(section, answer)
