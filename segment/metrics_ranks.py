"""The area under the ROC curve, exactly: every pixel is a threshold, ties count half.

In: grey levels or probabilities and the truth. Out: the share of (vessel, background) pairs of
pixels that are in the right order, which is that area.
"""

from __future__ import annotations

import math

import numpy as np

from univg.errors import DataError
from univg.masks import BoolMask

from .metrics_masks import Probability


def measure_auc(probability: Probability, truth: BoolMask, fov: BoolMask | None = None) -> float:
    """Return the area under the ROC curve inside `fov`; NaN where all pixels are of one kind."""
    values = probability[fov] if fov is not None else probability.ravel()
    labels = truth[fov] if fov is not None else truth.ravel()
    if values.dtype not in (np.uint8, np.uint16):
        if not np.isfinite(values).all():
            raise DataError("the probabilities are not all finite numbers; predict again")
        values = np.unique(values, return_inverse=True)[1]
    levels = int(values.max()) + 1
    vessel = np.bincount(values[labels], minlength=levels)
    ground = np.bincount(values[~labels], minlength=levels)
    all_pairs = int(vessel.sum()) * int(ground.sum())
    if not all_pairs:
        return math.nan
    below = np.cumsum(ground) - ground
    # Whole numbers up to here, so the order of adding cannot matter.
    return int((vessel * (2 * below + ground)).sum()) / (2 * all_pairs)
