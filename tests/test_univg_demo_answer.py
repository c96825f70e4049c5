"""The answer on a page: words that follow the figures, whichever way they come out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_univg_report import assert_stands_alone

from univg.charts import (
    Bar,
    Spread,
    draw_bars,
    draw_differences,
    draw_lines,
    smooth,
)
from univg.overlays import FALSE, FOUND, MISSED, draw_overlay
from univg.recipe_page_answer import Answer, add_answer, judge_gain
from univg.recipe_segmenters import ALONE, BOTH
from univg.report import Page
from univg.segment.statistics import compare_paired, summarise


def answer_of(alone: list[float], both: list[float]) -> Answer:
    """Return an answer with the statistics of an evaluation, for such DSC an image."""
    values = {ALONE: alone, BOTH: both}
    rows = [
        {"image": f"i{k}", "values": {name: {"dsc": each[k], "cldice": each[k]} for name, each in
                                      values.items()}}
        for k in range(len(alone))
    ]  # fmt: skip
    one = {name: vars(summarise(each, draws=200)) for name, each in values.items()}
    test = vars(compare_paired(both, alone, draws=200))
    evaluation = {
        "per_image": rows,
        "summaries": {name: {"dsc": each, "cldice": each} for name, each in one.items()},
        "tests": {name: {**test, "permutation_p_corrected": 0.01} for name in ("dsc", "cldice")},
    }
    return Answer(
        network="unet-small", evaluation=evaluation, truth=Path("truth"), found={},
        page=Path("report.html"),
    )  # fmt: skip


BEFORE = [0.5, 0.6, 0.7, 0.55, 0.65, 0.6]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            [0.1, 0.12, 0.09, 0.11, 0.1, 0.08],
            "Yes, the pairs helped. From 60.00 to 70.00 DSC, a difference of",
        ),
        ([-0.1, -0.1, -0.12, -0.08, -0.1, -0.1], "No, the pairs did harm. From 60.00 to 50.00 DSC"),
        ([0.1, -0.1, 0.05, -0.05, 0.02, -0.02], "Not shown. From 60.00 to 60.00 DSC"),
        ([0.0] * 6, "Not shown"),
    ],
)
def test_the_verdict_is_that_of_the_interval(gains, said):
    answer = answer_of(BEFORE, [b + g for b, g in zip(BEFORE, gains, strict=True)])
    told = ". ".join(judge_gain(answer))
    assert told.startswith(said)
    assert f"{sum(g > 0 for g in gains)} of 6 test images are better" in told


def test_a_verdict_needs_interval_and_permutation_test():
    """Six images of which all but one lie a little lower: the interval leaves 0 out, p is 0.06."""
    gains = [-0.004, -0.003, -0.002, -0.004, -0.001, 0.0002]
    head, told = judge_gain(answer_of(BEFORE, [b + g for b, g in zip(BEFORE, gains, strict=True)]))
    assert head == "Not shown" and "which may be chance" in told and "p 0.0" in told
    assert "(95 % interval -" in told and " to -" in told


def test_no_difference_has_no_minus():
    answer = answer_of(BEFORE, [b - 1e-6 for b in BEFORE])
    assert "a difference of +0.00" in judge_gain(answer)[1]


def test_few_test_images_get_no_verdict():
    head, told = judge_gain(answer_of([0.5], [0.9]))
    assert head == "Too few test images to say" and told.startswith("From 50.00 to 90.00 DSC")
    assert "on 3 test images" in judge_gain(answer_of([0.5] * 3, [0.9, 0.8, 0.7]))[1]


def test_figures_of_the_answer_stand_on_the_page(monkeypatch):
    answer = answer_of(BEFORE, [0.7] * 6)
    monkeypatch.setattr("univg.recipe_page_answer._add_cases", lambda *_: None)
    page = Page("t")
    add_answer(page.section("Did the pairs help?"), answer)
    text = page.html()
    assert_stands_alone(text)
    assert "<dd>60.00</dd>" in text and "<dd>70.00</dd>" in text and "<dd>+10.00</dd>" in text
    assert text.count("<circle") == 2 * (6 + 1) and text.count("<rect") == 4


def numbers(svg: str, what: str) -> list[float]:
    return [float(found) for found in re.findall(f'{what}="([-0-9.]+)"', svg)]


def test_bars_are_as_long_as_their_values():
    bars = [Bar(label="a", value=50, low=40, high=60), Bar(label="b", value=100), Bar(label="c",
            value=0)]  # fmt: skip
    svg = draw_bars([("DSC & co", bars)], 'a "quoted" alt')
    wide = numbers(svg, " width")
    assert wide[0] * 2 == pytest.approx(wide[1]) and wide[2] == 0
    assert "DSC &amp; co" in svg and "&quot;quoted&quot;" in svg


def test_differences_lie_on_their_side_of_zero():
    spread = Spread(label="x", values=[-2.0, 1.0, 4.0], mean=1.0, low=-0.5, high=2.5)
    places = numbers(draw_differences([spread], "alt", worse="w", better="b"), "cx")
    assert places[0] < 180 < places[1] < places[2] <= 360
    assert places[3] == pytest.approx(places[1])
    still = draw_differences([Spread(label="x", values=[0, 0], mean=0)], "alt", worse="", better="")
    assert numbers(still, "cx") == [180, 180, 180]


def test_curves_keep_inside_their_frame():
    series = [("a", [(1.0, 5.0), (100.0, 1.0)]), ("b", [(50.0, 3.0)])]
    svg = draw_lines(series, "alt")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[-0-9.]+,[-0-9.]+", svg)]
    height = float(re.findall(r'viewBox="0 0 360 ([0-9.]+)"', svg)[0])
    assert len(points) == 3 and all(0 <= x <= 360 and 0 <= y <= height for x, y in points)
    assert points[0][1] < points[2][1] < points[1][1], "large values are at the top"
    assert draw_lines([("flat", [(1.0, 2.0), (2.0, 2.0)])], "alt")


def test_running_means_are_means():
    points = [(float(k), float(k)) for k in range(100)]
    found = smooth(points)
    assert found[0] == (4.0, 2.0) and found[-1] == (99.0, 97.0)
    assert len(smooth([(float(k), 0.0) for k in range(5000)])) <= 201
    assert smooth([]) == [] and smooth([(1.0, 3.0)]) == [(1.0, 3.0)]


def test_a_chart_is_a_numbered_figure():
    page = Page("t")
    section = page.section("s")
    section.pictures([np.zeros((4, 4), np.uint8)], "alt", "One.")
    section.drawing(draw_lines([("a", [(0, 1), (1, 2)])], "alt"), "Two `x`.")
    text = page.html()
    outline = assert_stands_alone(text)
    assert "<b>Figure 2.</b> Two <code>x</code>." in text
    (svg,) = outline.all("svg")
    assert svg["role"] == "img" and svg["aria-label"] == "alt"


def test_an_overlay_tells_found_false_and_missed():
    truth, found = np.zeros((32, 32), np.bool_), np.zeros((32, 32), np.bool_)
    truth[:16], found[8:24] = True, True
    picture = draw_overlay(found, truth, longest_px=32)
    near = [np.abs(picture[row, 0].astype(int) - colour).max() for row, colour in
            ((2, MISSED), (12, FOUND), (20, FALSE), (30, (0, 0, 0)))]  # fmt: skip
    assert max(near) <= 8
    field = np.zeros((32, 32), np.bool_)
    field[:, :16] = True
    inside = draw_overlay(found, truth, field, longest_px=32)
    assert (inside[12, 24] == inside[30, 24]).all() and (inside[12, 2] == picture[12, 2]).all()
