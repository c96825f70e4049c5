"""The losses of segmentation by name.

In: logits (B, K, H, W), masks (B, 1, H, W) of 0 and 1, and where given weights (B, 1, H, W), zero
outside the field of view. Out: one number. K is 1, or more with deep supervision; then
`output_weights` says how much each map counts. Half precision is left here: sums over many pixels
lose too much in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from univg.errors import ConfigError

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes logits (B, K, H, W), masks and weights; returns (K,), a value for each map."""

SMOOTH = 1.0
"""Pixels added above and below: two empty masks then agree."""
SKELETON_STEPS = 10
"""Thins vessels up to 20 px wide to a line; wider ones keep a core, in both masks alike."""
CENTERLINE_SHARE = 0.5


def compute_loss(
    name: str,
    logits: Tensor,
    masks: Tensor,
    weights: Tensor | None = None,
    output_weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the loss `name`, the weighted mean over the K maps of the network."""
    values = find_loss(name)(logits.float(), masks.float(), _as_float(weights))
    if output_weights is None or len(output_weights) != values.shape[0]:
        return values.mean()  # a network with one output, or one in eval mode
    shares = values.new_tensor(list(output_weights))
    return (values * shares).sum() / shares.sum()


def find_loss(name: str) -> Loss:
    """Return the loss called `name`."""
    if name not in LOSSES:
        raise ConfigError(f"loss is '{name}': known: {', '.join(LOSSES)}")
    return LOSSES[name]


def cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Binary cross-entropy, the mean over the pixels that count (the paper's loss)."""
    each = functional.binary_cross_entropy_with_logits(
        logits, masks.expand_as(logits), reduction="none"
    )
    if weights is None:
        return each.mean((0, 2, 3))
    return _sum(each * weights) / weights.sum().clamp(min=1.0)


def dice(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """One minus soft Dice over the whole batch: a patch with hardly a vessel has no say of its own.

    Milletari 2016 without squares.
    """
    return _dice_of(logits.sigmoid(), masks, weights)


def cross_entropy_and_dice(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of both, as nnU-Net takes it."""
    return cross_entropy(logits, masks, weights) + dice(logits, masks, weights)


def soft_cldice(
    logits: Tensor,
    masks: Tensor,
    weights: Tensor | None,
    steps: int = SKELETON_STEPS,
    share: float = CENTERLINE_SHARE,
) -> Tensor:
    """(1 - share) soft Dice + share soft clDice, both as losses (Shit 2021, Eq. 4)."""
    found = logits.sigmoid()
    lines = 1.0 - score_centerlines(found, masks, weights, steps)
    return (1.0 - share) * _dice_of(found, masks, weights) + share * lines


def score_centerlines(
    found: Tensor, masks: Tensor, weights: Tensor | None = None, steps: int = SKELETON_STEPS
) -> Tensor:
    """Return soft clDice of probabilities (B, K, H, W) against masks, (K,) over the batch."""
    masks = masks.expand_as(found)
    with torch.no_grad():
        line_true = thin_softly(masks, steps)
    line_found = thin_softly(found, steps)
    # Weighed after thinning: the border of the field of view must not look like a vessel's end.
    line_true, line_found = _weigh(line_true, weights), _weigh(line_found, weights)
    precision = (_sum(line_found * masks) + SMOOTH) / (_sum(line_found) + SMOOTH)
    recall = (_sum(line_true * found) + SMOOTH) / (_sum(line_true) + SMOOTH)
    return 2.0 * precision * recall / (precision + recall)


def thin_softly(shape: Tensor, steps: int) -> Tensor:
    """Return the soft skeleton of values from 0 to 1 (Shit 2021, Alg. 1)."""
    eroded = _erode(shape)
    skeleton = functional.relu(shape - _dilate(eroded))
    for _ in range(steps):
        # What the opening eroded is the next, thinner shape: half the erosions of the paper's code.
        shape, eroded = eroded, _erode(eroded)
        found = functional.relu(shape - _dilate(eroded))
        skeleton = skeleton + functional.relu(found - skeleton * found)
    return skeleton


def _erode(shape: Tensor) -> Tensor:
    """Minimum over the plus of five pixels."""
    down = -functional.max_pool2d(-shape, (3, 1), 1, (1, 0))
    across = -functional.max_pool2d(-shape, (1, 3), 1, (0, 1))
    return torch.minimum(down, across)


def _dilate(shape: Tensor) -> Tensor:
    """Maximum over three by three pixels."""
    return functional.max_pool2d(shape, 3, 1, 1)


def _dice_of(found: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    found, masks = _weigh(found, weights), _weigh(masks, weights).expand_as(found)
    return 1.0 - (2.0 * _sum(found * masks) + SMOOTH) / (_sum(found) + _sum(masks) + SMOOTH)


def _weigh(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def _as_float(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.float()


def _sum(values: Tensor) -> Tensor:
    """Sum over batch and pixels, (K,)."""
    return values.sum((0, 2, 3))


LOSSES: dict[str, Loss] = {
    "bce": cross_entropy,
    "dice": dice,
    "bce+dice": cross_entropy_and_dice,
    "soft-cldice": soft_cldice,
}
