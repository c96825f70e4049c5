"""Many features brought to a plane: t-SNE, exact, and the same each time.

In: features (N, D), N up to about a thousand. Out: places (N, 2) where neighbours of the features
stand together. It begins at the principal components, so nothing is drawn by chance. Distances
between far groups and the sizes of groups mean nothing in such a picture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MOST_POINTS = 1000
PERPLEXITY = 30.0
STEPS = 500
_EXAGGERATION = 12.0
_EXAGGERATED_STEPS = 125
_SEARCH_STEPS = 60
_TINY = 1e-12


def project_components(values: FloatArray, width: int = 2) -> FloatArray:
    """Return the first `width` principal components (N, width) of `values` (N, D).

    The sign of each is chosen so that its largest loading is positive.
    """
    centred = values - values.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:width]
    largest = np.abs(axes).argmax(axis=1)
    signs = np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)
    found = centred @ (axes * signs[:, None]).T
    return np.pad(found, ((0, 0), (0, width - found.shape[1])))


def embed_points(
    values: FloatArray, *, perplexity: float = PERPLEXITY, steps: int = STEPS
) -> FloatArray:
    """Return places (N, 2) of `values` (N, D) by exact t-SNE (van der Maaten and Hinton 2008).

    The perplexity is at most a third of the points; of fewer than five points the principal
    components are returned.
    """
    start = project_components(values)
    if len(values) < 5:
        return start
    affinities = _match_perplexity(_square_distances(values), min(perplexity, len(values) / 3))
    spread = float(start[:, 0].std())
    return _descend(affinities, start * (1e-4 / spread) if spread > 0 else start, steps)


def _square_distances(values: FloatArray) -> FloatArray:
    squares = np.square(values).sum(axis=1)
    between: FloatArray = squares[:, None] + squares[None, :] - 2 * values @ values.T
    np.fill_diagonal(between, 0.0)
    return np.maximum(between, 0.0)


def _match_perplexity(squares: FloatArray, perplexity: float) -> FloatArray:
    """Return symmetric affinities (N, N) of sum 1; each row's entropy is log(perplexity)."""
    count = len(squares)
    own = np.eye(count, dtype=np.bool_)
    others = np.where(own, np.inf, squares)
    near = np.where(own, 0.0, squares - others.min(axis=1)[:, None])  # less: exp stays in range
    scale = max(float(np.median(near)), _TINY)
    low, high = np.full(count, 1e-6 / scale), np.full(count, 1e6 / scale)
    shares = np.zeros_like(squares)
    for _ in range(_SEARCH_STEPS):  # by halving, in the logarithm of the precision
        precision = np.sqrt(low * high)
        shares = np.where(own, 0.0, np.exp(-near * precision[:, None]))
        shares /= shares.sum(axis=1)[:, None]
        entropy = -(shares * np.log(np.maximum(shares, _TINY))).sum(axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
    both: FloatArray = (shares + shares.T) / (2 * count)
    return np.maximum(both, _TINY)


def _descend(affinities: FloatArray, places: FloatArray, steps: int) -> FloatArray:
    """Return the places after gradient descent with momentum and a gain for each coordinate."""
    rate = max(len(places) / _EXAGGERATION / 4, 50.0)
    velocity, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(steps):
        early = step < min(_EXAGGERATED_STEPS, steps // 2)
        kernel = 1 / (1 + _square_distances(places))
        np.fill_diagonal(kernel, 0.0)
        # Eq. 5 of the paper: 4 Σ_j (p_ij - q_ij)(y_i - y_j) / (1 + |y_i - y_j|²)
        pull = affinities * (_EXAGGERATION if early else 1.0) - kernel / kernel.sum()
        pull *= kernel
        gradient = 4 * (pull.sum(axis=1)[:, None] * places - pull @ places)
        against = np.sign(gradient) != np.sign(velocity)
        gains = np.maximum(np.where(against, gains + 0.2, gains * 0.8), 0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        places = places + velocity
        places -= places.mean(axis=0)
    return places
