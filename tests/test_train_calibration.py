"""Drawn masks are brought nearer to the shots where they differ, else left alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from training_shots import QUICK, write_shots
from vessel_pictures import draw_lines

from univg.binarise import Cut, cut_mask
from univg.sd_engine import read_card
from univg.spurs import count_tips
from univg.testing import tiny_base
from univg.train import adapt_masks
from univg.train.adapt_masks import AdaptMasks
from univg.train.calibration import calibrate_cut, list_changes

CUT = Cut(threshold=0.5)


def lines(seed: int) -> np.ndarray:
    return draw_lines(seed, 128, count=3, width=5)


def draw(mask: np.ndarray) -> np.ndarray:
    grey = cv2.GaussianBlur(mask.astype(np.float32) * 255, (0, 0), 0.8)
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def fray(mask: np.ndarray, seed: int) -> np.ndarray:
    """Return `mask` with many twigs."""
    rng = np.random.default_rng(seed)
    frayed = mask.astype(np.uint8)
    places = np.argwhere(mask)
    for row, column in places[rng.choice(len(places), 30, replace=False)]:
        angle = rng.uniform(0, 2 * np.pi)
        end = (int(column + 11 * np.cos(angle)), int(row + 11 * np.sin(angle)))
        cv2.line(frayed, (int(column), int(row)), end, 1, 2)
    return frayed.astype(bool)


def test_frayed_masks_are_pruned_to_the_shots_tips():
    shots = [lines(seed) for seed in range(5)]
    drawn = [draw(fray(lines(seed), seed)) for seed in range(10, 22)]
    cut = calibrate_cut(CUT, drawn, shots)
    assert cut.twig > 0
    tips = [np.mean([count_tips(cut_mask(p, c)) for p in drawn]) for c in (CUT, cut)]
    wanted = np.mean([count_tips(mask) for mask in shots])
    assert abs(tips[1] - wanted) < 0.5 * abs(tips[0] - wanted)


def test_masks_like_the_shots_are_left_alone():
    shots = [lines(seed) for seed in range(5)]
    same = [np.repeat(mask[..., None] * np.uint8(255), 3, axis=2) for mask in shots]
    assert calibrate_cut(CUT, same, shots) == CUT


def test_ragged_masks_are_smoothed():
    shots = [lines(seed) for seed in range(5)]
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 90, (128, 128, 1)) for _ in range(12)]
    drawn = [draw(lines(seed)) + each for seed, each in zip(range(10, 22), noise, strict=True)]
    ragged = [np.clip(each, 0, 255).astype(np.uint8) for each in drawn]
    assert calibrate_cut(CUT, ragged, shots).smooth > 0


def test_fragments_go_where_shots_are_whole():
    mask = draw_lines(1, 128, count=1, width=5)
    dotted = mask.copy()
    dotted[2:6, 2:10] = True
    assert not mask[:16, :20].any()
    assert (cut_mask(draw(dotted), replace(CUT, speck=0, fragment=0.1))[:12, :16] == 0).all()
    assert cut_mask(draw(dotted), replace(CUT, speck=0))[:12, :16].any()


@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.9])
def test_every_value_that_is_tried_is_a_cut(threshold):
    changes = list_changes(replace(CUT, threshold=threshold), [lines(0)])
    for change in (each for several in changes for each in several):
        assert 0 < replace(CUT, **change).threshold < 1


def test_empty_drawings_change_nothing():
    black = [np.zeros((128, 128, 3), np.uint8)] * 4
    assert calibrate_cut(CUT, black, [lines(0)]) == CUT


def test_an_adaptation_calibrates_its_cut_and_repeats_it(tmp_path):
    tiny_base(tmp_path / "base")
    write_shots(tmp_path / "shots")
    values = {**QUICK, "base": str(tmp_path / "base"), "shots": tmp_path / "shots", "max_steps": 2}
    cards = []
    for name, count in (("a", 3), ("b", 3), ("c", 0)):
        adapt_masks.run(AdaptMasks(out=tmp_path / name, calibrate=count, **values))
        cards.append(read_card(tmp_path / name, "masks"))
    assert cards[0].cut == cards[1].cut
    assert (cards[2].cut.twig, cards[2].cut.smooth, cards[2].cut.fragment) == (0, 0, 0)
