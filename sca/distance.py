"""How far two sets of masks are apart, and in which descriptors.

In: arrays (N, D) and (M, D) of descriptors. Out: distances with intervals, and the floor that real
sets have. The arithmetic is the core's (`univg.distance`), shared with that of images.
"""

from __future__ import annotations

from univg.distance import (
    LEAST_ITEMS,
    Comparison,
    Difference,
    Estimate,
    Scaling,
    compare,
    energy_distance,
    fit_scaling,
    frechet_distance,
    frechet_of_gaussians,
    rank_differences,
    shrink_covariance,
)

LEAST_MASKS = LEAST_ITEMS

__all__ = [
    "LEAST_MASKS",
    "Comparison",
    "Difference",
    "Estimate",
    "Scaling",
    "compare",
    "energy_distance",
    "fit_scaling",
    "frechet_distance",
    "frechet_of_gaussians",
    "rank_differences",
    "shrink_covariance",
]
