"""`univg segment evaluate`: matching, bad files, tables, statistics, the page."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil

import cv2
import numpy as np
import pytest
import yaml
from scipy.stats import wilcoxon

from univg.cli import main
from univg.errors import ConfigError, DataError, ProblemReport
from univg.images import encode_image
from univg.masks import read_mask, write_mask
from univg.overlays import FALSE, FOUND, MISSED, OUTSIDE, draw_overlay
from univg.segment.evaluate import FILES, Evaluate, plan, run
from univg.segment.evaluate_files import Method
from univg.segment.evaluate_folders import evaluate_folders
from univg.segment.metrics import METRICS, measure_pair
from univg.segment.statistics import (
    bootstrap_mean,
    compare_paired,
    correct_for_many,
    permute_signs,
    summarise,
)
from univg.segment.tables import write_latex, write_markdown

COUNT = 6


def draw(number, shape):
    """Return a mask of a few thick lines."""
    rng = np.random.default_rng(number)
    canvas = np.zeros(shape, np.uint8)
    for _ in range(4):
        ends = rng.integers(0, min(shape), (2, 2)).tolist()
        cv2.line(canvas, ends[0], ends[1], 1, int(rng.integers(2, 6)))
    return canvas > 0


def spoil(mask, number, share):
    """Return `mask` with `share` of its pixels turned over."""
    return mask ^ (np.random.default_rng(number).random(mask.shape) < share)


@pytest.fixture
def sets(tmp_path):
    """Return a folder with truth/ (images, masks, fov), good/ (with probabilities) and poor/."""
    for place in ("truth/images", "truth/masks", "truth/fov", "good/masks", "poor"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "good" / "probabilities").mkdir()
    for number in range(COUNT):
        shape = (70 + 3 * number, 90 + number)  # every image another size
        mask, stem = draw(number, shape), f"eye-{number}"
        fov = np.zeros(shape, np.bool_)
        fov[8:-8, 8:-8] = True
        rng = np.random.default_rng(number)
        levels = np.clip(rng.normal(90 + 80 * mask, 30), 0, 255).astype(np.uint8)
        (tmp_path / "truth" / "images" / f"{stem}.png").write_bytes(encode_image(levels))
        write_mask(tmp_path / "truth" / "masks" / f"{stem}_manual1.png", mask)
        write_mask(tmp_path / "truth" / "fov" / f"{stem}_mask.png", fov)
        write_mask(tmp_path / "good" / "masks" / f"{stem}.png", spoil(mask, number, 0.02))
        (tmp_path / "good" / "probabilities" / f"{stem}.png").write_bytes(encode_image(levels))
        write_mask(tmp_path / "poor" / f"{stem}.png", spoil(mask, number + 50, 0.15))
    return tmp_path


def settings_for(sets, **changes):
    given = {"truth": sets / "truth", "predicted": sets / "good", "out": sets / "out"}
    return Evaluate(**{**given, "workers": 1, "draws": 500, **changes})


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_run_writes_figures_that_are_those_of_the_arrays(sets, capsys):
    found = run(settings_for(sets))
    assert sorted(p.name for p in (sets / "out").iterdir()) == sorted(FILES)
    rows = read(sets / "out" / "per_image.csv")
    assert [row["image"] for row in rows] == [f"eye-{k}" for k in range(COUNT)]
    mask = draw(2, (76, 92))
    wanted = measure_pair(spoil(mask, 2, 0.02), mask)
    assert {name: float(rows[2][name]) for name in wanted} == wanted
    assert float(rows[2]["auc"]) > 0.9  # from good/probabilities, without being told
    summary = {row["metric"]: row for row in read(sets / "out" / "summary.csv")}
    values = [float(row["dsc"]) for row in rows]
    assert float(summary["dsc"]["mean"]) == pytest.approx(np.mean(values), abs=1e-12)
    assert float(summary["dsc"]["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    document = json.loads((sets / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["summaries"]["good"]["dsc"]["mean"] == pytest.approx(np.mean(values))
    assert "| DSC [%] ↑" in capsys.readouterr().out
    assert found.line().startswith("6 images, DSC: good ")


def test_probabilities_are_not_asked_for_where_no_metric_reads_them(sets):
    (sets / "good" / "probabilities" / "eye-0.png").unlink()
    (sets / "good" / "probabilities" / "eye-1.png").write_bytes(b"no picture")
    found = run(settings_for(sets, metrics=("dsc", "cldice")))
    assert len(found.measured) == COUNT and not found.problems
    with pytest.raises(ProblemReport, match="no probabilities"):
        run(settings_for(sets, metrics=("dsc", "auc")))


@pytest.mark.parametrize("name", ["image", "width_px", "[12] *", "*"])
def test_any_name_of_a_method_is_told_apart(sets, name):
    run(settings_for(sets, name=name, metrics=("dsc",)))
    document = json.loads((sets / "out" / "evaluation.json").read_text(encoding="utf-8"))
    first = document["per_image"][0]
    assert first["image"] == "eye-0" and first["width_px"] == 90
    assert list(first["values"]) == [name] and 0 < first["values"][name]["dsc"] < 1
    # LaTeX takes [ and * after the end of a line for its options.
    assert not any(
        line.startswith(("[", "*"))
        for line in (sets / "out" / "table.tex").read_text().splitlines()
    )


def test_two_methods_are_compared_on_the_same_images(sets):
    found = run(settings_for(sets, against=sets / "poor", metrics=("dsc", "hd95", "auc")))
    ours, theirs = found.values(0, "dsc"), found.values(1, "dsc")
    test = found.tests["dsc"]
    assert test.difference == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
    assert test.wilcoxon_p == pytest.approx(wilcoxon(ours, theirs).pvalue)
    assert test.permutation_p == 2 / 2**COUNT  # all in favour: the least that six images allow
    assert test.rank_biserial == 1.0
    assert "auc" not in found.tests  # the second method has no probabilities
    table = (sets / "out" / "table.md").read_text(encoding="utf-8")
    assert "good minus poor, the same images" in table
    rows = read(sets / "out" / "per_image.csv")
    assert len(rows) == 2 * COUNT
    assert {row["auc"] for row in rows if row["method"] == "poor"} == {""}


def test_the_number_of_workers_changes_no_byte(sets):
    run(settings_for(sets, out=sets / "one"))
    run(settings_for(sets, out=sets / "one", workers=2))
    before = {name: (sets / "one" / name).read_bytes() for name in FILES}
    run(settings_for(sets, out=sets / "one", workers=1))
    assert before == {name: (sets / "one" / name).read_bytes() for name in FILES}
    assert yaml.safe_load(before["config.yaml"])["truth"] == str(sets / "truth")


def test_inside_the_field_of_view(sets):
    whole = run(settings_for(sets))
    inside = run(settings_for(sets, fov="inside"))
    named = run(settings_for(sets, fov=str(sets / "truth" / "fov")))
    assert inside.measured[0].area_px == (70 - 16) * (90 - 16)
    assert whole.measured[0].area_px == 70 * 90
    assert [one.values for one in inside.measured] == [one.values for one in named.measured]
    assert inside.values(0, "hd95") != whole.values(0, "hd95")


def test_inside_needs_fields_of_view(sets):
    with pytest.raises(DataError, match=r"has no fov/ .*--fov whole"):
        run(settings_for(sets, truth=sets / "truth" / "images", fov="inside"))


def test_all_bad_files_are_told_at_once_and_nothing_is_written(sets, capsys):
    good = sets / "good" / "masks"
    (good / "eye-0.png").unlink()
    write_mask(good / "eye-1.png", np.ones((5, 6), np.bool_))
    (good / "eye-2.png").write_bytes(b"no picture")
    levels = np.random.default_rng(0).integers(0, 256, (79, 93)).astype(np.uint8)
    (good / "eye-3.png").write_bytes(encode_image(levels))
    words = ["--truth", sets / "truth", "--predicted", sets / "good", "--out", sets / "out"]
    words = [str(word) for word in (*words, "--workers", 1)]
    assert main(["segment", "evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert "eye-0_manual1.png: has no prediction in" in said
    assert "eye-1.png: is 6x5 px, its truth 91x73 px" in said
    assert "eye-2.png" in said and "not a picture" in said
    assert "eye-3.png" in said and "--probabilities" in said
    assert "4 files that cannot be evaluated" in said
    assert not (sets / "out").exists()
    assert main(["segment", "evaluate", *words, "--skip-bad"]) == 0
    assert "2 images, DSC" in (said := capsys.readouterr().out) and "4 left out" in said
    page = (sets / "out" / "report.html").read_text(encoding="utf-8")
    assert "For all methods: 4 images." in page


def test_a_bad_file_of_one_method_leaves_the_image_out_for_both(sets):
    (sets / "poor" / "eye-4.png").unlink()
    found = run(settings_for(sets, against=sets / "poor", skip_bad=True, metrics=("dsc",)))
    assert len(found.measured) == COUNT - 1
    assert found.summaries["good"]["dsc"].count == COUNT - 1


def test_names_that_stand_for_two_images_are_refused(sets):
    write_mask(sets / "good" / "masks" / "eye-0_mask.png", draw(0, (70, 90)))
    (sets / "good" / "masks" / "eye-0.png").rename(sets / "good" / "masks" / "eye-0_fov.png")
    with pytest.raises(ProblemReport, match="2 files stand for one image"):
        run(settings_for(sets))


def test_predictions_without_truth_are_counted_only(sets):
    write_mask(sets / "good" / "masks" / "other.png", draw(9, (20, 20)))
    found = run(settings_for(sets, metrics=("dsc",)))
    assert found.strays == 1 and len(found.measured) == COUNT
    assert "1 prediction without truth not counted" in found.line()


def test_what_cannot_be_meant_is_refused(sets):
    with pytest.raises(ConfigError, match="is the folder of truth"):
        run(settings_for(sets, predicted=sets / "truth"))
    with pytest.raises(ConfigError, match="compared with itself"):
        run(settings_for(sets, against=sets / "good"))
    with pytest.raises(ConfigError, match="is the folder of truth"):
        run(settings_for(sets, predicted=sets / "truth" / "masks"))
    with pytest.raises(ConfigError, match="compared with itself"):
        run(settings_for(sets, against=sets / "good" / "masks"))
    with pytest.raises(ConfigError, match="both methods are called a"):
        run(settings_for(sets, against=sets / "poor", name="a", against_name="a"))
    with pytest.raises(ConfigError, match="a folder that is measured"):
        run(settings_for(sets, out=sets / "good"))
    for place in ("good/masks", "good/probabilities", "truth/fov", "truth/images"):
        for attempt in (run, plan):
            with pytest.raises(ConfigError, match="a folder that is measured"):
                attempt(settings_for(sets, out=sets / place, fov="inside"))
    (sets / "file").write_text("")
    with pytest.raises(ConfigError, match="which is a file"):
        run(settings_for(sets, out=sets / "file"))
    with pytest.raises(ConfigError, match="auc"):
        run(settings_for(sets, predicted=sets / "poor", metrics=("auc",)))
    with pytest.raises(DataError, match="does not exist"):
        run(settings_for(sets, truth=sets / "nothing"))


def test_empty_masks_are_measured_by_the_rules(sets):
    for place, stem in (("truth/masks", "eye-0_manual1"), ("good/masks", "eye-1")):
        shape = (70, 90) if stem.startswith("eye-0") else (73, 91)
        write_mask(sets / place / f"{stem}.png", np.zeros(shape, np.bool_))
    found = run(settings_for(sets, metrics=("dsc", "sensitivity", "hd95")))
    assert found.values(0, "dsc")[:2] == [0.0, 0.0]
    assert math.isnan(found.values(0, "sensitivity")[0])
    assert found.summaries["good"]["sensitivity"].undefined == 1
    assert found.values(0, "hd95")[1] == math.hypot(73, 91)
    rows = read(sets / "out" / "per_image.csv")
    assert rows[0]["sensitivity"] == "" and rows[1]["sensitivity"] == "0.0"
    document = json.loads((sets / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["per_image"][0]["values"]["good"]["sensitivity"] is None
    assert "Sensitivity of good on 1" in (sets / "out" / "table.md").read_text(encoding="utf-8")


def test_inverted_masks_are_told(sets):
    path = sets / "good" / "masks" / "eye-1.png"
    assert "inverted" not in run(settings_for(sets, metrics=("dsc",))).line()
    write_mask(path, ~read_mask(path))
    told = run(settings_for(sets, metrics=("dsc",))).line()
    assert f"1 mask more than half vessel, inverted? {path} first" in told


def test_masks_with_a_few_grey_pixels_are_cut_and_told(sets):
    mask = spoil(draw(1, (73, 91)), 1, 0.02)
    levels = mask.astype(np.uint8) * 255
    levels[0, :9], levels[1, :9] = 200, 50
    (sets / "good" / "masks" / "eye-1.png").write_bytes(encode_image(levels))
    mask[0, :9], mask[1, :9] = True, False
    found = run(settings_for(sets, metrics=("dsc",)))
    assert found.values(0, "dsc")[1] == measure_pair(mask, draw(1, (73, 91)))["dsc"]
    assert [path.name for path in found.grey] == ["eye-1.png"]
    assert "1 mask with grey levels" in found.line()


def test_a_truth_with_a_manifest_counts_what_it_names(sets):
    rows = [
        {"id": f"eye-{k}", "mask": f"masks/eye-{k}_manual1.png", "fov": f"fov/eye-{k}_mask.png"}
        for k in (1, 3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (sets / "truth" / "manifest.jsonl").write_text(text, encoding="utf-8")
    found = run(settings_for(sets, metrics=("dsc",), fov="inside"))
    assert [one.item.stem for one in found.measured] == ["eye-1", "eye-3"]
    assert found.measured[0].area_px == (73 - 16) * (91 - 16)
    assert found.strays == COUNT - 2


def test_one_image_is_enough(sets):
    for number in range(1, COUNT):
        (sets / "truth" / "masks" / f"eye-{number}_manual1.png").unlink()
    found = run(settings_for(sets, against=sets / "poor", metrics=("dsc",)))
    summary = found.summaries["good"]["dsc"]
    assert summary.sd is None and summary.low is None and summary.mean is not None
    assert found.tests["dsc"].permutation_p == 1.0


def test_the_plan_writes_nothing(sets):
    said = plan(settings_for(sets, metrics=("dsc", "hd95")))
    assert said.startswith("Would measure dsc, hd95 on 6 images (0 problems with names)")
    assert not (sets / "out").exists()


def test_the_page_stands_alone_and_shows_the_extremes(sets):
    found = run(settings_for(sets, against=sets / "poor", show=2, fov="inside"))
    page = (sets / "out" / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    order = sorted(range(COUNT), key=lambda k: found.values(0, "dsc")[k])
    for name, which in (("worst", order[:2]), ("best", order[::-1][:2])):
        first, second = (f"eye-{k}" for k in which)
        caption = page.split(f"The {name} by DSC", 1)[1]
        assert caption.index(first) < caption.index(second)
    assert page.count("data:image/png") == 2 * 2 * 3  # image and two overlays, four times


def test_overlays_tell_found_false_and_missed_apart():
    prediction, truth, fov = (np.zeros((16, 16), np.bool_) for _ in range(3))
    prediction[:, 0:8], truth[:, 4:12], fov[:, :14] = True, True, True
    picture = draw_overlay(prediction, truth, fov, longest_px=16)
    for column, colour in (
        (1, FALSE),
        (6, FOUND),
        (10, MISSED),
        (13, (0,) * 3),
        (15, (OUTSIDE,) * 3),
    ):
        np.testing.assert_allclose(picture[8, column].astype(int), colour, atol=8)


def test_latex_is_balanced_and_escaped(sets):
    found = evaluate_folders(
        sets / "truth",
        [
            Method(name="five_shots & more", masks=sets / "good"),
            Method(name="b", masks=sets / "poor"),
        ],
        metrics=("dsc", "hd95"),
        draws=200,
    )
    text = write_latex(found)
    assert "five\\_shots \\& more" in text and "DSC [\\%] $\\uparrow$" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {row.replace("\\&", "").count("&") for row in rows} == {2}
    assert "$\\mathbf{" in rows[1] and "$\\mathbf{" not in rows[2]
    assert text.count("{") == text.count("}")


def test_names_are_shown_as_they_are_and_equal_figures_alike(sets):
    odd = r"a|b_c <i> *d* \e"
    shutil.copytree(sets / "good", sets / "same")
    found = evaluate_folders(
        sets / "truth",
        [Method(name=odd, masks=sets / "good"), Method(name="b", masks=sets / "same")],
        metrics=("dsc",),
        draws=200,
    )
    text = write_latex(found)
    shown = r"a\textbar{}b\_c \textless{}i\textgreater{} *d* \textbackslash{}e"
    assert shown in text and "mathbf" not in text
    assert r"a\|b_c \<i\> \*d\* \\e" in write_markdown(found)


def test_every_metric_says_what_empty_masks_give():
    assert all(metric.both_empty and metric.one_empty for metric in METRICS.values())


def test_summaries_leave_out_what_is_not_defined():
    found = summarise([0.5, math.nan, 0.7])
    assert (found.count, found.undefined, found.mean) == (2, 1, pytest.approx(0.6))
    nothing = summarise([math.nan])
    assert nothing.mean is None and nothing.undefined == 1


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(200):
        low, high = bootstrap_mean(rng.normal(3, 1, 30), seed=k, stage="t", draws=400)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(0).random(20)
    first = bootstrap_mean(values, seed=1, stage="t", draws=300)
    assert first == bootstrap_mean(values, seed=1, stage="t", draws=300)
    assert first != bootstrap_mean(values, seed=2, stage="t", draws=300)


@pytest.mark.parametrize("number", range(6))
def test_the_permutation_test_equals_trying_all_signs(number):
    gaps = np.random.default_rng(number).normal(0.4, 1, 7)
    gaps[3] = 0.0
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product((-1, 1), repeat=7)]
    wanted = np.mean(np.array(sums) >= abs(gaps.sum()) - 1e-9)
    assert permute_signs(gaps, seed=0, stage="t", draws=100) == pytest.approx(wanted, abs=1e-12)


def test_the_drawn_permutation_test_comes_near_the_exact_one():
    gaps = np.random.default_rng(3).normal(0.35, 1, 14)
    patterns = np.arange(2**14)[:, None] >> np.arange(14) & 1
    exact = np.mean(np.abs((2 * patterns - 1) @ gaps) >= abs(gaps.sum()) - 1e-9)
    assert permute_signs(gaps, seed=0, stage="t", draws=20_000) == pytest.approx(exact, abs=0.015)


def test_equal_methods_do_not_differ():
    values = [0.5, 0.6, math.nan, 0.7]
    found = compare_paired(values, values)
    assert (found.count, found.difference) == (3, 0.0)
    assert found.wilcoxon_p == found.permutation_p == 1.0
    assert found.effect_size is None and found.rank_biserial == 0.0


def test_signs_of_a_comparison():
    found = compare_paired([0.9, 0.8, 0.7], [0.5, 0.6, 0.8])
    assert found.difference == pytest.approx(0.5 / 3)
    gaps = np.array([0.4, 0.2, -0.1])
    assert found.effect_size == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    assert found.rank_biserial == pytest.approx((3 + 2 - 1) / 6)
    with pytest.raises(DataError, match="3 and 2 figures"):
        compare_paired([1, 2, 3], [1, 2])


def test_correction_for_many_is_holms():
    assert correct_for_many([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert correct_for_many([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("value", "shown"), [(-0.00001, "+0.00"), (-0.0001, "-0.01")])
def test_nothing_has_no_minus(value, shown):
    assert METRICS["dsc"].show(value, "+") == shown
