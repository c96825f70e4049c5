"""The losses: what they are worth on cases done by hand, and what they must not look at."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import pytest
import torch
from skimage.morphology import skeletonize
from torch.nn import functional

from univg.errors import ConfigError
from univg.segment.losses import LOSSES, compute_loss, score_centerlines, thin_softly


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draw_tree(seed, width_px, side_px=128):
    """Return a mask of a few curved strokes, bool (side, side)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    canvas = np.zeros((side_px, side_px), np.uint8)
    for _ in range(4):
        points = np.cumsum(rng.normal(0, 14, (6, 2)), 0) + rng.uniform(30, 98, 2)
        cv2.polylines(canvas, [points.astype(np.int32)], False, 1, width_px)
    return canvas > 0


def as_maps(mask):
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def score_hard(found, mask):
    """clDice of two bool masks by true skeletons (Shit 2021)."""
    line_found, line_true = skeletonize(found), skeletonize(mask)
    precision = (line_found & mask).sum() / line_found.sum()
    recall = (line_true & found).sum() / line_true.sum()
    return 2 * precision * recall / (precision + recall)


@pytest.fixture
def batch():
    """Logits and masks (2, 1, 24, 24), and weights that leave the right half out."""
    logits = noise(2, 1, 24, 24) * 6 - 3
    masks = (noise(2, 1, 24, 24, seed=1) > 0.7).float()
    weights = torch.ones(2, 1, 24, 24)
    weights[..., 12:] = 0.0
    return logits, masks, weights


# What all inherit


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_is_near_zero_and_wrong_is_not(name):
    mask = as_maps(draw_tree(0, 4))
    right = compute_loss(name, mask * 40 - 20, mask)
    wrong = compute_loss(name, 20 - mask * 40, mask)
    assert right < 1e-3
    assert wrong > 0.6


@pytest.mark.parametrize("name", LOSSES)
def test_it_falls_when_followed(name, batch):
    logits, masks, weights = batch
    logits = logits.requires_grad_()
    before = compute_loss(name, logits, masks, weights)
    (gradient,) = torch.autograd.grad(before, logits)
    assert torch.isfinite(gradient).all()
    after = compute_loss(name, logits - 0.01 * gradient / gradient.norm(), masks, weights)
    assert after < before


@pytest.mark.parametrize("name", LOSSES)
def test_what_has_no_weight_has_no_say(name):
    mask = as_maps(draw_tree(1, 3, 96))
    weights = torch.ones_like(mask)
    weights[..., 40:] = 0.0
    logits = (noise(1, 1, 96, 96) * 4 - 2).requires_grad_()
    loss = compute_loss(name, logits, mask, weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    # Thinning looks a few pixels over the border, and no further.
    reach = 16 if name == "soft-cldice" else 0
    assert gradient[..., 40 + reach :].abs().max() == 0
    assert gradient[..., :40].abs().max() > 0
    other = torch.where(torch.arange(96) >= 40 + reach, torch.full_like(logits, 9.0), logits)
    assert torch.equal(compute_loss(name, other, mask, weights), loss)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_change_nothing(name, batch):
    logits, masks, weights = batch
    plain = compute_loss(name, logits, masks)
    torch.testing.assert_close(compute_loss(name, logits, masks, torch.ones_like(weights)), plain)


@pytest.mark.parametrize("name", LOSSES)
def test_empty_masks_and_no_weight_at_all_are_defined(name, batch):
    logits, masks, weights = batch
    silent = torch.full_like(logits, -20.0)
    assert compute_loss(name, silent, torch.zeros_like(masks)) < 1e-3
    logits = logits.requires_grad_()
    nothing = compute_loss(name, logits, masks, torch.zeros_like(weights))
    nothing.backward()
    assert nothing.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_several_maps_are_a_weighted_mean(name, batch):
    logits, masks, weights = batch
    other = logits.flip(-1)
    one, two = (compute_loss(name, found, masks, weights) for found in (logits, other))
    both = torch.cat([logits, other], 1)
    torch.testing.assert_close(compute_loss(name, both, masks, weights), (one + two) / 2)
    torch.testing.assert_close(
        compute_loss(name, both, masks, weights, (3.0, 1.0)), (3 * one + two) / 4
    )
    # In eval mode there is one map, whatever the network's weights for more.
    torch.testing.assert_close(compute_loss(name, logits, masks, weights, (3.0, 1.0)), one)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_left(name, batch):
    logits, masks, weights = batch
    half = logits.bfloat16()
    loss = compute_loss(name, half, masks.bool(), weights.bool())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, compute_loss(name, half.float(), masks, weights))


def test_an_unknown_loss_is_told():
    with pytest.raises(ConfigError, match="known: bce, dice"):
        compute_loss("focal", torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


# Each against another source


def test_cross_entropy_is_torchs_over_the_pixels_that_count(batch):
    logits, masks, weights = batch
    plain = functional.binary_cross_entropy_with_logits(logits, masks)
    torch.testing.assert_close(compute_loss("bce", logits, masks), plain)
    inside = weights > 0
    part = functional.binary_cross_entropy_with_logits(logits[inside], masks[inside])
    torch.testing.assert_close(compute_loss("bce", logits, masks, weights), part)


def test_dice_is_that_of_the_whole_batch():
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, :2] = 1.0  # 8 pixels; found: 4 of them and 4 of the other image
    logits = torch.full((2, 1, 4, 4), -30.0)
    logits[0, 0, 0] = logits[1, 0, 0] = 30.0
    assert compute_loss("dice", logits, masks).item() == pytest.approx(1 - (2 * 4 + 1) / (16 + 1))


def test_both_are_their_sum(batch):
    parts = [compute_loss(name, *batch) for name in ("bce", "dice")]
    torch.testing.assert_close(compute_loss("bce+dice", *batch), sum(parts))


@pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="MONAI is not installed")
def test_dice_equals_monais(batch):
    from monai.losses import DiceLoss

    logits, masks, _ = batch
    theirs = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, masks)
    torch.testing.assert_close(compute_loss("dice", logits, masks), theirs)


# Centerlines


@pytest.mark.parametrize("width_px", [2, 3, 5, 7])
def test_soft_cldice_of_masks_is_near_the_hard_one(width_px):
    apart = []
    for seed in range(6):
        mask = draw_tree(seed, width_px)
        cases = {
            "same": mask,
            "shifted": np.roll(mask, (2, 1), (0, 1)),
            "thicker": cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0,
            "half": mask & (np.arange(128) < 64),
            "more": mask | draw_tree(seed + 50, width_px),
        }
        for case, found in cases.items():
            soft = score_centerlines(as_maps(found), as_maps(mask)).item()
            assert soft == pytest.approx(score_hard(found, mask), abs=0.1), (case, seed)
            apart.append(abs(soft - score_hard(found, mask)))
    # Soft skeletons are thick where a width is even, and have gaps at bends.
    assert np.mean(apart) < 0.03


def test_the_soft_skeleton_of_a_bar_is_its_middle():
    bar = torch.zeros(1, 1, 15, 41)
    bar[..., 4:11, 3:38] = 1.0
    skeleton = thin_softly(bar, 10)[0, 0]
    assert skeleton[7, 8:33].eq(1).all()
    assert skeleton[:6, 8:33].eq(0).all()
    assert skeleton[9:, 8:33].eq(0).all()


def test_a_gap_costs_more_on_the_line_than_in_area():
    mask = torch.zeros(1, 1, 32, 96)
    mask[..., 6:26, 2:94] = 1.0  # one wide vessel
    mask[..., 29:31, 2:94] = 1.0  # one thin
    lost = mask.clone()
    lost[..., 28:, :] = 0.0
    area = 1 - compute_loss("dice", lost * 60 - 30, mask).item()
    line = score_centerlines(lost, mask).item()
    assert line < 0.75 < 0.9 < area


def test_following_soft_cldice_closes_a_gap():
    mask = torch.zeros(1, 1, 24, 48)
    mask[..., 10:14, :] = 1.0
    start = mask.clone()
    start[..., 22:27] = 0.4
    logits = torch.logit(start.clamp(0.02, 0.98)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    before = score_centerlines(logits.detach().sigmoid(), mask).item()
    for _ in range(20):
        optimizer.zero_grad()
        compute_loss("soft-cldice", logits, mask).backward()
        optimizer.step()
    assert score_centerlines(logits.detach().sigmoid(), mask).item() > before
    assert (logits.detach()[..., 10:14, 22:27] > 0).all()
