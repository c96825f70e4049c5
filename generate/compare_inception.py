"""Fréchet distance and Inception score over the features of an InceptionV3 that the user has.

In: pairs, a local weights file. Out: `InceptionScores` of a set, and the floor of real halves. Only
with the weights that FID is defined over are they FID and IS; `label` says which they are. The
pictures of these sets are far from what that network was trained on: the distance ranks sets, the
score says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from univg.distance import Estimate
from univg.images import ImageArray, read_image
from univg.seeds import rng_for

FloatArray = npt.NDArray[np.float64]

SIDE_PX = 299
MOST_DRAWS = 20
"""Draws of a distance: each decomposes a matrix of all features."""
_BATCH = 8
_STREAM = "generate.compare.inception"


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the network said of a set."""

    features: FloatArray  # (N, 2048)
    chances: FloatArray  # (N, classes), rows of sum 1


@dataclass(frozen=True, kw_only=True)
class InceptionScores:
    """Of one set; of the real set the distance is the floor, of half against half."""

    frechet: Estimate | None
    score: Estimate


def embed_files(paths: Sequence[Sequence[Path]], weights: Path) -> tuple[list[Embedded], str]:
    """Return what the network says of each list of images, and what its distance may be called."""
    from .compare_inception_net import load_inception

    network, fid = load_inception(weights)
    found = [_embed(each, network) for each in paths]
    return found, "FID" if fid else "Fréchet over Inception"


def prepare_image(image: ImageArray, side_px: int = SIDE_PX) -> npt.NDArray[np.float32]:
    """Return `image` as (3, S, S), -1 to 1; grey is repeated, the sides are scaled apart."""
    plain = (image if image.dtype == np.uint8 else image // 257).astype(np.uint8)
    colour = np.repeat(plain[:, :, None], 3, axis=2) if plain.ndim == 2 else plain
    how = cv2.INTER_AREA if min(plain.shape[:2]) > side_px else cv2.INTER_LINEAR
    square = np.asarray(cv2.resize(colour, (side_px, side_px), interpolation=how), np.float32)
    return np.moveaxis(square / 127.5 - 1, 2, 0)


def score_inception(
    real: Embedded, others: Sequence[Embedded], *, n: int, draws: int, seed: int
) -> list[InceptionScores]:
    """Return the scores of `real` (its floor) and of each of `others`, from draws of `n` items."""
    draws = min(draws, MOST_DRAWS)
    found = [_score_one(real, None, n, draws, seed)]
    return found + [_score_one(real, other, n, draws, seed) for other in others]


def frechet_of_features(first: FloatArray, second: FloatArray) -> float:
    """Return the squared Fréchet distance of two samples (N, D), (M, D), covariances plain.

    With A = XᵀX and B = YᵀY of centred rows, tr (AB)^½ is the sum of the singular values of XYᵀ:
    exact, and far cheaper than a root of D by D where there are fewer items than features.
    """
    centred = [
        (values - values.mean(axis=0)) / np.sqrt(max(len(values) - 1, 1))
        for values in (first, second)
    ]
    shift = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    traces = sum(float(np.square(each).sum()) for each in centred)
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False)
    return shift + traces - 2 * float(cross.sum())


def inception_score(chances: FloatArray) -> float:
    """Return exp of the mean divergence of the rows of `chances` (N, C) from their mean."""
    rows = np.maximum(chances, 1e-16)
    return float(np.exp((rows * (np.log(rows) - np.log(rows.mean(axis=0)))).sum(axis=1).mean()))


def _score_one(
    real: Embedded, other: Embedded | None, n: int, draws: int, seed: int
) -> InceptionScores:
    distances, scores = [], []
    for draw in range(draws):
        rng = rng_for(seed, _STREAM, draw)
        shuffled = rng.permutation(len(real.features))
        mine = real if other is None else other
        chosen = shuffled[n : 2 * n] if other is None else rng.permutation(len(mine.features))[:n]
        if len(chosen) == n:
            first, second = real.features[shuffled[:n]], mine.features[chosen]
            distances.append(frechet_of_features(first, second))
        taken = shuffled[:n] if other is None else chosen
        scores.append(inception_score(mine.chances[taken]))
    return InceptionScores(
        frechet=summarise_draws(distances) if distances else None, score=summarise_draws(scores)
    )


def summarise_draws(values: Sequence[float]) -> Estimate:
    """Return the mean of `values` and what holds 95 % of them."""
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(mean=float(np.mean(values)), low=float(low), high=float(high))


def _embed(paths: Sequence[Path], network: object) -> Embedded:
    import torch

    from .compare_inception_net import InceptionV3

    assert isinstance(network, InceptionV3)
    features, chances = [], []
    with torch.inference_mode():
        for start in range(0, len(paths), _BATCH):
            part = [prepare_image(read_image(path)) for path in paths[start : start + _BATCH]]
            found, logits = network(torch.from_numpy(np.stack(part)))
            features.append(found.double().numpy())
            chances.append(torch.softmax(logits.double(), 1).numpy())
    return Embedded(features=np.concatenate(features), chances=np.concatenate(chances))
