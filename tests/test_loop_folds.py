"""Leave-one-out finds the step at which shots that were left out are drawn best."""

from __future__ import annotations

import json
import shutil

import pytest
from training_shots import QUICK, write_shots

from univg.loop.checkpoints import list_checkpoints, load_newest
from univg.loop.folds import find_best_step, read_curve
from univg.loop.options import folder_of
from univg.testing import tiny_base
from univg.train import adapt_masks
from univg.train.adapt_masks import AdaptMasks


def test_the_least_mean_decides_and_step_zero_does_not_count():
    curves = [{0: 0.0, 2: 5.0, 4: 1.0, 6: 4.0}, {0: 0.0, 2: 1.0, 4: 2.0, 6: 1.0, 8: 0.0}]
    assert find_best_step(curves) == (4, {2: 3.0, 4: 1.5, 6: 2.5})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("folds")
    tiny_base(place / "base")
    write_shots(place / "shots", count=3)
    return place


def run(place, out, **changed):
    values = {**QUICK, "max_steps": 4, "validate_every": 1, "base": str(place / "base"), **changed}
    return adapt_masks.run(
        AdaptMasks(out=out, shots=place / "shots", leave_one_out=True, learning_rate=0.02, **values)
    )


def test_each_shot_is_left_out_once_and_all_are_trained_on_to_the_best_step(place, tmp_path):
    out = tmp_path / "run"
    outcome = run(place, out, report_samples=2)
    found = json.loads((folder_of(out) / "leave-one-out.json").read_text())
    folds = [folder_of(out) / str(k) for k in (1, 2, 3)]
    curves = [read_curve(fold) for fold in folds]
    assert [list(curve) for curve in curves] == [[0, 1, 2, 3, 4]] * 3
    assert curves[0] != curves[1] != curves[2]
    best, mean = find_best_step(curves)
    assert found["best_step"] == best == outcome.steps == load_newest(out).step
    assert {int(k): v for k, v in found["mean"].items()} == mean
    assert "Leave-one-out: validation loss" in (out / "report.html").read_text()

    whole = (out / "adapter.safetensors").read_bytes()
    again = run(place, out, report_samples=2)
    assert again.first_step == best and (out / "adapter.safetensors").read_bytes() == whole


def test_folds_go_on_where_they_were_stopped(place, tmp_path):
    run(place, tmp_path / "whole")
    run(place, tmp_path / "run")
    for name in ("2", "3"):  # as if stopped in the second of them
        newest = list_checkpoints(folder_of(tmp_path / "run") / name)[-1]
        for file in newest.iterdir():
            file.unlink()
        newest.rmdir()
    (folder_of(tmp_path / "run") / "leave-one-out.json").unlink()
    shutil.rmtree(tmp_path / "run")
    run(place, tmp_path / "run")
    name = "leave-one-out.json"
    ends = [(folder_of(tmp_path / run) / name).read_bytes() for run in ("whole", "run")]
    assert ends[0] == ends[1]
