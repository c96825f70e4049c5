"""Metrics by name, each with what it gives for empty masks.

In: a predicted mask and its truth, bool (H, W); if there are, a field of view and probabilities.
Out: a number a metric. With a field of view, both masks are cut to it first, so its rim bounds
both alike. A number that is not defined is NaN: summaries leave it out and count it.

P is the prediction, L the truth, S( ) the skeleton, ∂ the boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from univg.errors import ConfigError, DataError
from univg.masks import BoolMask
from univg.plugins import load_function

from .metrics_masks import Distances, MaskFacts, MaskPair, Probability
from .metrics_ranks import measure_auc
from .metrics_topology import compare_holes, compare_pieces, cut_patches


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: how it is measured, read and shown."""

    title: str
    measure: Callable[[MaskPair], float]
    both_empty: str
    """What two empty masks give, in words."""
    one_empty: str
    """What one empty mask gives, in words."""
    higher_is_better: bool = True
    percent: bool = True
    """Shown times 100."""
    unit: str = ""
    digits: int = 2
    """Places after the point, where it is shown."""
    needs_probability: bool = False
    on_request: bool = False
    """Not among those measured where none are named."""

    @property
    def heading(self) -> str:
        """Title, unit and which way is better."""
        unit = "%" if self.percent else self.unit
        arrow = "↑" if self.higher_is_better else "↓"
        return f"{self.title} [{unit}] {arrow}" if unit else f"{self.title} {arrow}"

    def show(self, value: float | None, sign: str = "") -> str:
        """Return `value` as it stands in a table; a dash where it is not defined."""
        if value is None or math.isnan(value):
            return "–"
        return f"{value * (100 if self.percent else 1):{sign}z.{self.digits}f}"

    def show_spread(self, mean: float | None, sd: float | None) -> str:
        """Return mean and standard deviation as they stand in a table."""
        return self.show(mean) if sd is None else f"{self.show(mean)} ± {self.show(sd)}"


def measure_dsc(pair: MaskPair) -> float:
    """Return 2 |P ∩ L| / (|P| + |L|), as `univg.agreement.dice`."""
    total = pair.prediction.area_px + pair.truth.area_px
    return 2 * pair.hit_px / total if total else 1.0


def measure_iou(pair: MaskPair) -> float:
    """Return |P ∩ L| / |P ∪ L|."""
    union = pair.hit_px + pair.false_px + pair.missed_px
    return pair.hit_px / union if union else 1.0


def measure_cldice(pair: MaskPair) -> float:
    """Return the harmonic mean of |S(P) ∩ L| / |S(P)| and |S(L) ∩ P| / |S(L)|.

    As `univg.agreement.cldice`, with the skeletons kept for a second method on the same truth.
    """
    if pair.both_empty or pair.one_empty:
        return float(pair.both_empty)
    precision = _share(pair.prediction.skeleton, pair.truth.mask)
    sensitivity = _share(pair.truth.skeleton, pair.prediction.mask)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total > 0 else 0.0


def measure_nsd(pair: MaskPair) -> float:
    """Return the share of both boundaries that is within the tolerance of the other boundary."""
    if pair.both_empty or pair.one_empty:
        return float(pair.both_empty)
    return _share_near(pair.boundary_distances_px, pair.tolerance_px)


def measure_nsd_paper(pair: MaskPair) -> float:
    """Return what the paper's code calls NSD: the distance is to the other mask, filled.

    All of a boundary that lies inside the other mask counts as near, however far from its edge, so
    the figure is flattering: of a mask far too thick, half of the boundaries still count.
    """
    if pair.both_empty or pair.one_empty:
        return float(pair.both_empty)
    return _share_near(pair.rim_distances_px, pair.tolerance_px)


def measure_hd95(pair: MaskPair) -> float:
    """Return the larger of the two 95th percentiles of the distances between boundaries, in px.

    One empty mask gives the diagonal of the picture, the largest distance there can be: left out,
    it would reward the method that predicts nothing.
    """
    if pair.both_empty:
        return 0.0
    if pair.one_empty:
        return math.hypot(*pair.shape)
    return max(float(np.percentile(found, 95)) for found in pair.boundary_distances_px)


def measure_sensitivity(pair: MaskPair) -> float:
    """Return |P ∩ L| / |L|; NaN where the truth is empty."""
    return pair.hit_px / pair.truth.area_px if pair.truth.area_px else math.nan


def measure_specificity(pair: MaskPair) -> float:
    """Return the share of the background that is predicted as such; NaN where there is none."""
    ground = pair.area_px - pair.truth.area_px
    return (ground - pair.false_px) / ground if ground else math.nan


def measure_pair_auc(pair: MaskPair) -> float:
    """Return the area under the ROC curve; NaN where all pixels of the truth are of one kind."""
    if pair.probability is None:
        raise DataError("auc needs probabilities, of the size of the masks")
    return measure_auc(pair.probability, pair.truth.mask, pair.fov)


def measure_betti0(pair: MaskPair) -> float:
    """Return the difference in the number of connected pieces."""
    return compare_pieces(pair.prediction.mask, pair.truth.mask)


def measure_betti1(pair: MaskPair) -> float:
    """Return the difference in the number of holes."""
    return compare_holes(pair.prediction.mask, pair.truth.mask)


def measure_betti0_patches(pair: MaskPair) -> float:
    """Return the mean of the difference in pieces over patches."""
    return _mean_over_patches(pair, compare_pieces)


def measure_betti1_patches(pair: MaskPair) -> float:
    """Return the mean of the difference in holes over patches."""
    return _mean_over_patches(pair, compare_holes)


def _overlap(title: str, measure: Callable[[MaskPair], float]) -> Metric:
    return Metric(title=title, measure=measure, both_empty="1", one_empty="0")


def _difference(
    title: str, measure: Callable[[MaskPair], float], *, on_request: bool = False
) -> Metric:
    return Metric(
        title=title,
        measure=measure,
        both_empty="0",
        one_empty="the count of the other",
        higher_is_better=False,
        percent=False,
        on_request=on_request,
    )


METRICS: dict[str, Metric] = {
    "dsc": _overlap("DSC", measure_dsc),
    "cldice": _overlap("clDice", measure_cldice),
    "iou": _overlap("IoU", measure_iou),
    "nsd": _overlap("NSD", measure_nsd),
    "nsd_paper": _overlap("NSD to mask", measure_nsd_paper),
    "hd95": Metric(
        title="HD95",
        measure=measure_hd95,
        both_empty="0",
        one_empty="the diagonal of the picture",
        higher_is_better=False,
        percent=False,
        unit="px",
    ),
    "betti0": _difference("Betti 0 error", measure_betti0),
    "betti1": _difference("Betti 1 error", measure_betti1),
    "betti0_patches": _difference(
        "Betti 0 error, patches", measure_betti0_patches, on_request=True
    ),
    "betti1_patches": _difference(
        "Betti 1 error, patches", measure_betti1_patches, on_request=True
    ),
    "sensitivity": Metric(
        title="Sensitivity",
        measure=measure_sensitivity,
        both_empty="not defined",
        one_empty="0 if the prediction is empty, not defined if the truth is",
    ),
    "specificity": Metric(
        title="Specificity",
        measure=measure_specificity,
        both_empty="1",
        one_empty="1 if the prediction is empty, else counted; not defined if the truth is all",
    ),
    "auc": Metric(
        title="AUC",
        measure=measure_pair_auc,
        both_empty="not defined",
        one_empty="counted from the probabilities; not defined if the truth is empty or all",
        needs_probability=True,
    ),
}


def choose_metrics(names: Sequence[str] = (), *, probability: bool = False) -> dict[str, Metric]:
    """Return the metrics called `names`, own ones as package.module:function; default: the usual.

    A function of one's own takes two bool masks (H, W), prediction and truth, cut to the field of
    view, and returns a number, the larger the better unless its attribute `higher_is_better` is
    False.
    """
    if not names:
        return {
            name: metric
            for name, metric in METRICS.items()
            if not metric.on_request and (probability or not metric.needs_probability)
        }
    chosen: dict[str, Metric] = {}
    for name in names:
        key, metric = (name, METRICS[name]) if name in METRICS else _load_metric(name)
        if key in chosen:
            raise ConfigError(f"metrics has {key} twice")
        if metric.needs_probability and not probability:
            raise ConfigError(f"metrics asks for {key}: give the folder of --probabilities")
        chosen[key] = metric
    return chosen


def measure_pair(
    prediction: BoolMask | MaskFacts,
    truth: BoolMask | MaskFacts,
    *,
    fov: BoolMask | None = None,
    probability: Probability | None = None,
    metrics: Sequence[str] | Mapping[str, Metric] = (),
    tolerance_px: float = 2.0,
    patch_px: int = 64,
) -> dict[str, float]:
    """Return the `metrics` (default: all usual ones) of a prediction against its truth."""
    if not isinstance(metrics, Mapping):
        metrics = choose_metrics(metrics, probability=probability is not None)
    pair = MaskPair(
        prediction,
        truth,
        fov=fov,
        probability=probability,
        tolerance_px=tolerance_px,
        patch_px=patch_px,
    )
    return {name: float(metric.measure(pair)) for name, metric in metrics.items()}


def _load_metric(name: str) -> tuple[str, Metric]:
    function = load_function(name, "metrics", ", ".join(METRICS))
    function_name = name.rpartition(":")[2]

    def measure(pair: MaskPair) -> float:
        # Copies: whatever it does to them, other metrics see the masks as they are.
        masks = pair.prediction.mask.copy(), pair.truth.mask.copy()
        try:
            return float(function(*masks))
        except (Exception, SystemExit) as error:  # it may fail in any way, and is theirs to mend
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(
                f"metrics is {name!r}: {function_name} fails with {reason}"
            ) from error

    return function_name, Metric(
        title=function_name,
        measure=measure,
        higher_is_better=bool(getattr(function, "higher_is_better", True)),
        percent=False,
        digits=4,
        both_empty="as its author wrote it",
        one_empty="as its author wrote it",
    )


def _share(skeleton: BoolMask, mask: BoolMask) -> float:
    return int(np.count_nonzero(skeleton & mask)) / max(int(np.count_nonzero(skeleton)), 1)


def _share_near(distances: tuple[Distances, Distances], tolerance_px: float) -> float:
    count = sum(len(found) for found in distances)
    near = sum(int(np.count_nonzero(found <= tolerance_px)) for found in distances)
    return near / count if count else 1.0  # two masks that fill the picture have no rim


def _mean_over_patches(pair: MaskPair, compare: Callable[[BoolMask, BoolMask], float]) -> float:
    found = [
        compare(pair.prediction.mask[patch], pair.truth.mask[patch])
        for patch in cut_patches(pair.shape, pair.patch_px, pair.fov)
    ]
    return float(np.mean(found))
