"""`univg segment fit --leave-one-out`: steps and threshold by shots left out in turn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_segment_fit import place as place  # a fixture
from test_segment_fit import settings_for

from univg.errors import ResumeError
from univg.loop.checkpoints import load_newest
from univg.segment import fit
from univg.segment.fit_run import read_threshold
from univg.segment.thresholds import THRESHOLDS, choose_threshold
from univg.segment.weights import read_card


def read_fold(fold, step):
    rows = [json.loads(line) for line in (fold / "metrics.jsonl").read_text().splitlines()]
    (curve,) = [row["dice_by_threshold"] for row in rows
                if row["step"] == step and "validation" in row]  # fmt: skip
    return np.array(curve)


def test_the_threshold_of_leave_one_out_is_that_of_its_step(place, tmp_path):
    """The last weights of a fold are not those that the final run stops at."""
    folds = tmp_path / "folds"
    early, late = (np.exp(-(((THRESHOLDS - at) / 0.1) ** 2)).tolist() for at in (0.3, 0.8))
    for k in (1, 2):
        (folds / str(k)).mkdir(parents=True)
        rows = [{"step": step, "validation": 0.5, "dice_by_threshold": curve}
                for step, curve in ((2, early), (4, late))]  # fmt: skip
        lines = [json.dumps(row) + "\n" for row in [{"step": 2, "loss": 1.0}, *rows]]
        (folds / str(k) / "metrics.jsonl").write_text("".join(lines))
    assert read_threshold(folds, 2, 2) == pytest.approx(0.3, abs=0.01)
    assert read_threshold(folds, 2, 4) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ResumeError, match="delete"):
        read_threshold(folds, 2, 3)
    # A fold notes at its last step what its result tells.
    asked = settings_for(place, tmp_path / "out", left_out=1, max_steps=4, validate_every=2)
    fit.run(asked)
    told = json.loads((asked.out / "result.json").read_text())["dice_by_threshold"]
    assert read_fold(asked.out, 4) == pytest.approx(np.array(told[0]), abs=1e-5)
    assert read_fold(asked.out, 2).shape == read_fold(asked.out, 4).shape


def test_leave_one_out_finds_steps_and_threshold(place, tmp_path):
    asked = settings_for(
        place, tmp_path / "out", leave_one_out=True, synthetic=(), wanted=2, max_steps=4,
        validate_every=2,
    )  # fmt: skip
    fit.run(asked)
    folds = tmp_path / "out-folds"
    found = json.loads((folds / "leave-one-out.json").read_text())
    state = load_newest(asked.out)
    assert state is not None and state.step == found["best_step"]
    curves = [read_fold(folds / str(k), found["best_step"]) for k in (1, 2)]
    card = read_card(asked.out / "model.safetensors")
    assert card.threshold == choose_threshold(curves)[0]
    assert card.facts["threshold"] == {"on": "shots left out in turn"}
    assert len(card.facts["training"]["shots"]) == 2
    assert "Leave-one-out" in (asked.out / "report.html").read_text()
