"""The metrics equal MONAI's and scipy's on random masks to 1e-6; skipped where MONAI is absent."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from univg.segment.metrics import measure_pair

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("monai")
    import torch
    from monai.metrics import (
        DiceHelper,
        compute_hausdorff_distance,
        compute_iou,
        compute_roc_auc,
        compute_surface_dice,
        get_confusion_matrix,
    )

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
SIZES = ((64, 64), (97, 131), (256, 200), (512, 512))


def random_pair(number):
    """Return a prediction and a truth of an odd size: noise, blobs or lines."""
    rng = np.random.default_rng(number)
    shape = SIZES[number % len(SIZES)]
    if number % 3 == 0:
        truth = rng.random(shape) < rng.choice([0.01, 0.2, 0.6])
        return truth ^ (rng.random(shape) < 0.1), truth
    masks = []
    for _ in range(2):
        noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 2 if number % 3 == 1 else 6)
        masks.append(
            noise > 0.3 * noise.std() if number % 3 == 1 else abs(noise) < 0.2 * noise.std()
        )
    return masks[0], masks[1]


def channels(mask):
    """Return (1, 2, H, W): background and vessel."""
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


@pytest.mark.parametrize("number", range(16))
def test_equal_to_monai(number):
    prediction, truth = random_pair(number)
    ours = measure_pair(prediction, truth, tolerance_px=2.0)
    pair = channels(prediction), channels(truth)
    helper = DiceHelper(include_background=False, reduction="mean", get_not_nans=False)
    theirs = {
        "dsc": helper(*pair),
        "iou": compute_iou(*pair, include_background=False),
        "nsd": compute_surface_dice(*pair, class_thresholds=[2.0]),
        "hd95": compute_hausdorff_distance(*pair, percentile=95),
    }
    hits, falses, negatives, misses = get_confusion_matrix(*pair, include_background=False)[0, 0]
    theirs["sensitivity"] = hits / (hits + misses)
    theirs["specificity"] = negatives / (negatives + falses)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("tolerance_px", [0.0, 1.0, 3.5])
def test_nsd_equals_monai_at_other_tolerances(tolerance_px):
    prediction, truth = random_pair(1)
    pair = channels(prediction), channels(truth)
    theirs = float(compute_surface_dice(*pair, class_thresholds=[tolerance_px]))
    ours = measure_pair(prediction, truth, metrics=["nsd"], tolerance_px=tolerance_px)
    assert ours["nsd"] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("number", range(8))
def test_auc_equals_the_rank_statistic_and_monai(number):
    rng = np.random.default_rng(number)
    truth = rng.random((80, 60)) < 0.2
    levels = np.clip(rng.normal(100 + 40 * truth, 30), 0, 255).astype(np.uint8)
    rank = mannwhitneyu(levels[truth].astype(float), levels[~truth].astype(float)).statistic
    ours = measure_pair(truth, truth, probability=levels, metrics=["auc"])["auc"]
    assert ours == pytest.approx(rank / (truth.sum() * (~truth).sum()), abs=1e-12)
    smooth = rng.normal(truth.astype(float))  # MONAI counts pairs without ties
    theirs = compute_roc_auc(
        torch.from_numpy(smooth.ravel()), torch.from_numpy(truth.ravel()).int()
    )
    ours = measure_pair(truth, truth, probability=smooth, metrics=["auc"])["auc"]
    assert ours == pytest.approx(float(theirs), abs=1e-6)
