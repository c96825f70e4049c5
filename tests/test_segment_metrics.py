"""Metrics against slow, plain implementations on tiny masks, and their rules for empty ones."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from univg.agreement import cldice, dice
from univg.errors import ConfigError, DataError
from univg.segment.metrics import METRICS, choose_metrics, measure_pair
from univg.segment.metrics_masks import MaskFacts, measure_distances

FOUR = ((-1, 0), (1, 0), (0, -1), (0, 1))
EIGHT = (*FOUR, (-1, -1), (-1, 1), (1, -1), (1, 1))
PLAIN = [name for name, metric in METRICS.items() if not metric.needs_probability]


def random_pair(number):
    """Return a prediction and a truth of an odd size, alike and never empty."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(3, 14, 2)
    truth = rng.random((height, width)) < rng.choice([0.1, 0.4, 0.8])
    prediction = truth ^ (rng.random((height, width)) < rng.choice([0.05, 0.3]))
    for mask in (truth, prediction):
        mask[rng.integers(height), rng.integers(width)] = True
    return prediction, truth


def vessels(number, side=96):
    """Return a mask of crossing bands, a few pixels wide."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, :side]
    mask = np.zeros((side, side), np.bool_)
    for _ in range(6):
        angle, offset, half = rng.uniform(0, math.pi), rng.uniform(0, side), rng.uniform(0.6, 3)
        mask |= np.abs(rows * math.cos(angle) + columns * math.sin(angle) - offset) < half
    return mask


def neighbours(mask, row, column, steps):
    """Return the values of the neighbours; beyond the picture is background."""
    inside = [
        (row + down, column + right)
        for down, right in steps
        if 0 <= row + down < mask.shape[0] and 0 <= column + right < mask.shape[1]
    ]
    return [bool(mask[place]) for place in inside] + [False] * (len(steps) - len(inside))


def edge_points(mask):
    return [p for p in zip(*np.nonzero(mask), strict=True) if not all(neighbours(mask, *p, FOUR))]


def nearest(points, targets):
    return [min(math.hypot(r - y, c - x) for y, x in targets) for r, c in points]


def percentile(values, share):
    """Return the percentile, straight between the two nearest."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def count_regions(mask, steps):
    """Count connected regions by flooding."""
    left = set(zip(*np.nonzero(mask), strict=True))
    count = 0
    while left:
        count += 1
        border = [left.pop()]
        while border:
            row, column = border.pop()
            for step in steps:
                place = (row + step[0], column + step[1])
                if place in left:
                    left.remove(place)
                    border.append(place)
    return count


def betti(mask):
    return count_regions(mask, EIGHT), count_regions(
        np.pad(~mask, 1, constant_values=True), FOUR
    ) - 1


@pytest.mark.parametrize("number", range(40))
def test_equal_to_plain_counting(number):
    prediction, truth = random_pair(number)
    found = measure_pair(prediction, truth, tolerance_px=1.0)
    places = list(itertools.product(*map(range, truth.shape)))
    hit = sum(bool(prediction[p] and truth[p]) for p in places)
    false = sum(bool(prediction[p] and not truth[p]) for p in places)
    missed = sum(bool(truth[p] and not prediction[p]) for p in places)
    rest = len(places) - hit - false - missed
    assert found["dsc"] == pytest.approx(2 * hit / (2 * hit + false + missed), abs=1e-12)
    assert found["iou"] == pytest.approx(hit / (hit + false + missed), abs=1e-12)
    assert found["sensitivity"] == pytest.approx(hit / (hit + missed), abs=1e-12)
    if rest + false:
        assert found["specificity"] == pytest.approx(rest / (rest + false), abs=1e-12)


@pytest.mark.parametrize("number", range(40))
def test_surfaces_equal_to_all_distances(number):
    prediction, truth = random_pair(number)
    found = measure_pair(prediction, truth, tolerance_px=1.0)
    ours, theirs = edge_points(prediction), edge_points(truth)
    there, back = nearest(ours, theirs), nearest(theirs, ours)
    near = sum(d <= 1.0 for d in (*there, *back))
    assert found["nsd"] == pytest.approx(near / (len(ours) + len(theirs)), abs=1e-9)
    wanted = max(percentile(there, 0.95), percentile(back, 0.95))
    assert found["hd95"] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("number", range(40))
def test_betti_errors_equal_to_flooding(number):
    prediction, truth = random_pair(number)
    found = measure_pair(prediction, truth, metrics=["betti0", "betti1"])
    (ours_0, ours_1), (theirs_0, theirs_1) = betti(prediction), betti(truth)
    assert found == {"betti0": abs(ours_0 - theirs_0), "betti1": abs(ours_1 - theirs_1)}


def test_betti_errors_in_patches_are_means_over_a_grid():
    prediction, truth = vessels(1, 50), vessels(2, 50)
    names = ["betti0_patches", "betti1_patches"]
    found = measure_pair(prediction, truth, metrics=names, patch_px=16)
    corners = list(itertools.product(range(0, 50, 16), repeat=2))
    gaps = []
    for top, left in corners:
        patch = (slice(top, top + 16), slice(left, left + 16))
        gaps.append(np.abs(np.subtract(betti(prediction[patch]), betti(truth[patch]))))
    assert [found[name] for name in names] == pytest.approx(np.mean(gaps, axis=0), abs=1e-12)


@pytest.mark.parametrize("number", range(20))
def test_auc_is_the_share_of_pairs_in_order(number):
    rng = np.random.default_rng(number)
    truth = rng.random((6, 7)) < 0.4
    truth[0, :2] = True, False
    levels = rng.integers(0, 6, (6, 7)) + 2 * truth
    above = levels[truth][:, None] > levels[~truth]
    equal = levels[truth][:, None] == levels[~truth]
    wanted = (above + equal / 2).mean()
    for kind in (np.uint8, np.uint16, np.float32, np.float64):
        scaled = (levels / 8).astype(kind) if kind in (np.float32, np.float64) else levels
        given = scaled.astype(kind)
        assert measure_pair(truth, truth, probability=given)["auc"] == pytest.approx(
            wanted, abs=1e-12
        )


def test_the_papers_nsd_is_the_distance_to_the_filled_mask():
    """As the paper's code has it: rims of the distance transform, distances to the mask."""
    for number in range(12):
        prediction, truth = vessels(number), vessels(number + 100)
        rims = [(d > 0) & (d < 1.5) for d in map(distance_transform_edt, (prediction, truth))]
        near = (rims[0] & (distance_transform_edt(~truth) <= 2)).sum()
        near += (rims[1] & (distance_transform_edt(~prediction) <= 2)).sum()
        wanted = near / (rims[0].sum() + rims[1].sum())
        found = measure_pair(prediction, truth)
        assert found["nsd_paper"] == pytest.approx(wanted, abs=1e-12)


def test_a_mask_that_is_far_too_thick_is_told_by_nsd_only():
    truth = np.zeros((64, 64), np.bool_)
    truth[30:33] = True
    thick = np.zeros_like(truth)
    thick[20:43] = True
    found = measure_pair(thick, truth)
    assert found["nsd"] < 0.1  # the ends at the edge of the picture
    assert found["nsd_paper"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("number", range(12))
def test_overlap_and_cldice_are_those_of_the_core(number):
    prediction, truth = vessels(number), vessels(number + 50)
    prediction[:20], truth[:, :11] = False, False  # an empty margin is cut before thinning
    found = measure_pair(prediction, truth, metrics=["dsc", "cldice"])
    assert found["dsc"] == dice(prediction, truth)
    assert found["cldice"] == cldice(prediction, truth)


def test_distances_are_exact_far_away():
    target = np.zeros((1500, 1400), np.bool_)
    target[3, 5] = True
    points = np.zeros_like(target)
    points[1490, 1390] = points[700, 20] = True
    wanted = distance_transform_edt(~target)[points]
    np.testing.assert_allclose(measure_distances(points, target), wanted, rtol=0, atol=1e-9)


EMPTY, SOME = np.zeros((6, 8), np.bool_), np.zeros((6, 8), np.bool_)
SOME[2:4, 3:6] = True
FULL = np.ones((6, 8), np.bool_)


def test_rules_where_both_are_empty():
    found = measure_pair(EMPTY, EMPTY, metrics=PLAIN)
    ones = ("dsc", "cldice", "iou", "nsd", "nsd_paper", "specificity")
    assert [found.pop(name) for name in ones] == [1.0] * len(ones)
    assert math.isnan(found.pop("sensitivity"))
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("missed", [True, False])
def test_rules_where_one_is_empty(missed):
    pair = (EMPTY, SOME) if missed else (SOME, EMPTY)
    found = measure_pair(*pair, metrics=PLAIN)
    for name in ("dsc", "cldice", "iou", "nsd", "nsd_paper"):
        assert found[name] == 0.0
    assert found["hd95"] == 10.0  # the diagonal of 6 by 8
    assert found["betti0"] == 1.0
    assert found["specificity"] == (1.0 if missed else 1 - 6 / 48)
    assert found["sensitivity"] == 0.0 if missed else math.isnan(found["sensitivity"])


def test_rules_where_all_is_vessel():
    found = measure_pair(FULL, FULL, metrics=PLAIN)
    assert math.isnan(found["specificity"])
    assert found["dsc"] == found["nsd"] == found["nsd_paper"] == 1.0
    assert math.isnan(measure_pair(FULL, FULL, probability=FULL.astype(np.uint8))["auc"])
    assert math.isnan(measure_pair(EMPTY, EMPTY, probability=FULL.astype(np.uint8))["auc"])


def test_outside_the_field_of_view_nothing_counts():
    fov = np.zeros((96, 96), np.bool_)
    fov[20:70, 10:80] = True
    prediction, truth = vessels(3), vessels(4)
    levels = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    names = ["dsc", "hd95", "nsd", "specificity", "auc", "cldice", "betti1", "betti0_patches"]
    found = measure_pair(prediction, truth, fov=fov, probability=levels, metrics=names)
    noisy = prediction ^ (~fov & vessels(9))
    assert found == measure_pair(noisy, truth, fov=fov, probability=levels, metrics=names)
    inside = (slice(20, 70), slice(10, 80))
    alone = measure_pair(prediction[inside], truth[inside], probability=levels[inside])
    for name in ("dsc", "hd95", "nsd", "specificity", "auc", "cldice", "betti1"):
        assert found[name] == pytest.approx(alone[name], abs=1e-12)


def test_patches_outside_the_field_of_view_are_not_averaged():
    prediction = np.zeros((64, 64), np.bool_)
    prediction[4, 4] = prediction[10, 10] = True
    fov = np.zeros_like(prediction)
    fov[:16, :16] = True
    names = ["betti0_patches"]
    nothing = np.zeros_like(prediction)
    assert measure_pair(prediction, nothing, metrics=names, patch_px=16)["betti0_patches"] == 2 / 16
    inside = measure_pair(prediction, nothing, metrics=names, patch_px=16, fov=fov)
    assert inside["betti0_patches"] == 2.0


def test_facts_of_a_truth_serve_two_methods():
    truth = vessels(5)
    facts = MaskFacts(truth)
    for number in (6, 7):
        assert measure_pair(vessels(number), facts) == measure_pair(vessels(number), truth)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="give one size"):
        measure_pair(SOME[:3], SOME)
    with pytest.raises(DataError, match="bool of height x width, not float64"):
        measure_pair(SOME.astype(float), SOME)
    with pytest.raises(DataError, match="the size of the mask"):
        measure_pair(SOME, SOME, fov=FULL[:3])
    with pytest.raises(DataError, match="field of view is empty"):
        measure_pair(SOME, SOME, fov=EMPTY)
    with pytest.raises(DataError, match="probability is"):
        measure_pair(SOME, SOME, probability=np.zeros((3, 3)))
    with pytest.raises(DataError, match="finite"):
        measure_pair(SOME, SOME, probability=np.full(SOME.shape, np.nan))


def test_metrics_are_chosen_by_name():
    assert "auc" not in choose_metrics() and "betti0_patches" not in choose_metrics()
    assert "auc" in choose_metrics(probability=True)
    assert list(choose_metrics(["hd95", "dsc"])) == ["hd95", "dsc"]
    with pytest.raises(ConfigError, match="give the folder of --probabilities"):
        choose_metrics(["auc"])
    with pytest.raises(ConfigError, match="dsc twice"):
        choose_metrics(["dsc", "dsc"])
    with pytest.raises(ConfigError, match=r"use dsc, cldice, .*or package.module:function"):
        choose_metrics(["dice"])
    with pytest.raises(ConfigError, match="cannot be imported"):
        choose_metrics(["not_there_at_all:f"])
    with pytest.raises(ConfigError, match="has no function nothing"):
        choose_metrics(["math:nothing"])


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    text = "def extra(prediction, truth):\n    return prediction.sum() - truth.sum()\n"
    text += "extra.higher_is_better = False\n"
    (tmp_path / "own_metric.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    chosen = choose_metrics(["own_metric:extra"])
    assert not chosen["extra"].higher_is_better
    assert measure_pair(SOME, EMPTY, metrics=["own_metric:extra"]) == {"extra": 6.0}
