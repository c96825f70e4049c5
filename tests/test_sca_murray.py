"""Murray's law on drawn bifurcations, and its command."""

from __future__ import annotations

import numpy as np
import pytest
from test_sca_descriptors import polyline

from univg.cli import main
from univg.masks import write_mask
from univg.sca.murray import (
    compliance,
    fit_exponent,
    format_murray,
    measure_radii,
    murray_ratio,
    summarise_murray,
)
from univg.skeleton import skeleton_graph

SIZE = 512


def fork(parent_px: int, daughters_px: tuple[int, int]) -> np.ndarray:
    centre = np.array([256.0, 256.0])
    mask = polyline(np.array([[40.0, 256.0], centre]), parent_px)
    for end, width in zip(([460.0, 120.0], [460.0, 400.0]), daughters_px, strict=True):
        mask |= polyline(np.array([centre, end]), width)
    return mask


def test_radii_are_read_off_a_fork():
    radii = measure_radii(skeleton_graph(fork(29, (21, 15))))
    assert radii.shape == (1, 3)
    assert radii[0] == pytest.approx([15, 11, 8], abs=1)


def test_compliance_is_full_where_the_law_holds():
    lawful = np.array([[5.0, 4.0, 3.0], [13.0, 12.0, 5.0]])  # r0² = r1² + r2²
    assert murray_ratio(lawful) == pytest.approx([1, 1])
    assert compliance(lawful) == pytest.approx(100)
    assert compliance(np.array([[1.0, 1.0, 1.0]])) == pytest.approx(50)  # MR = 2
    assert compliance(np.zeros((0, 3))) is None


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_the_exponent_is_found_again(exponent):
    rng = np.random.default_rng(0)
    share = rng.uniform(0.2, 0.8, 50)
    radii = np.stack([np.ones(50), share, (1 - share**exponent) ** (1 / exponent)], axis=1)
    assert fit_exponent(radii) == pytest.approx(exponent, abs=1e-6)


def test_there_is_no_exponent_for_branches_all_alike():
    assert fit_exponent(np.ones((5, 3))) is None
    assert fit_exponent(np.zeros((0, 3))) is None


def test_a_set_is_summed_up_over_its_masks():
    sets = [np.array([[5.0, 4.0, 3.0]]), np.array([[1.0, 1.0, 1.0]]), np.zeros((0, 3))]
    summary = summarise_murray(sets)
    assert (summary.masks, summary.bifurcations) == (2, 2)
    assert summary.mean == pytest.approx(75) and summary.sd == pytest.approx(25)
    assert format_murray(summary) == "75.0 ± 25.0"
    assert format_murray(summarise_murray([np.zeros((0, 3))])) == "no bifurcation"


def test_short_branches_do_not_count():
    canvas = fork(5, (5, 5))
    assert len(measure_radii(skeleton_graph(canvas))) == 1
    stub = np.zeros((SIZE, SIZE), bool)
    stub[256, 100:400] = True
    stub[253:256, 250] = True  # a side branch of three pixels
    assert len(measure_radii(skeleton_graph(stub, spur_radii=0))) == 0


def test_the_command_prints_and_writes_each_mask(tmp_path, capsys):
    (tmp_path / "synth").mkdir()
    write_mask(tmp_path / "synth" / "a,1.png", fork(29, (21, 15)))
    write_mask(tmp_path / "synth" / "b.png", np.zeros((64, 64), bool))
    csv = tmp_path / "out" / "murray.csv"
    assert main(["sca", "murray", str(tmp_path / "synth"), "--csv", str(csv)]) == 0
    rows = csv.read_text().splitlines()
    assert rows[0] == "set,mask,bifurcations,compliance"
    assert rows[1].startswith('masks,"a,1.png",1,') and rows[2] == "masks,b.png,0,"
    assert "exponent 2" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["sca", "murray", str(tmp_path / "gone")]) == 2
    shown = capsys.readouterr().err
    assert "gone" in shown and shown.count("\n") == 1
