"""What a segmenter trains on and how it is judged, as a task of the training loop.

In: a network, stores of real and of synthetic examples, how samples are cut. Out: samples, a loss a
sample, one minus Dice of held-out shots, previews, and the file of weights.

A step's samples are numbered, and the first numbers are synthetic: so each batch holds exactly the
share that was asked for, whatever processes and micro-batches it is spread over. Which picture a
sample shows, and how, is drawn from the sample's own generator, which follows from its position.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from univg.loop.task import Preview, Sample, Task, stack_samples
from univg.seeds import rng_for

from .data import Example
from .data_store import Store
from .fit_pictures import draw_case
from .losses import compute_loss
from .net_frame import Segmenter
from .patches import Cut, Sampled, cut_sample, draw_sample
from .predict_tiles import predict_probability
from .thresholds import choose_threshold, score_thresholds
from .weights import save_network

MODEL = "model.safetensors"
DICE_BY_THRESHOLD = "dice_by_threshold"
STATISTICS_SAMPLES = 48
PREVIEWED = 3
MOST_KNOWN = 8
"""Of so many shots what was found is kept as long as the weights stay."""
RECENT_STEPS = 3
WITH_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How whole images go through the network."""

    tile_px: int
    fixed: bool = False
    """The network takes tiles of this size only."""


class Judged(nn.Module):
    """A network with its loss: while training a loss a sample, else one minus the best Dice.

    Running statistics of batch normalisation are not kept while training. They are measured anew,
    on the same samples each time, when the network is first used after its weights have moved: so
    they belong to the weights at hand (a moving average's too), and a resumed run needs none.
    """

    def __init__(
        self,
        network: Segmenter,
        loss: str,
        tiling: Tiling,
        batches: Callable[[], Iterator[Tensor]],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.tiling, self.batches = network, loss, tiling, batches
        self.channels_last = channels_last
        self.stale = True
        self.last_curve: list[float] = []
        """Dice by threshold of the image that was last judged."""
        self.normalisers = [m for m in network.modules() if isinstance(m, WITH_STATISTICS)]

    def forward(self, batch: Sample) -> Tensor:
        if not self.training:
            error: Tensor = self.measure_error(batch)
            return error
        logits = self.network(self.lay_out(batch["image"]))
        value: Tensor = compute_loss(
            self.loss, logits, batch["mask"], batch["weight"], self.network.output_weights
        )
        # The loop takes the mean over samples; some losses are of the batch as a whole.
        return value.expand(len(batch["image"]))

    def train(self, mode: bool = True) -> Judged:
        self.stale = True
        super().train(mode)
        return self

    def lay_out(self, image: Tensor) -> Tensor:
        """Return `image` in the layout of the weights."""
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def measure_error(self, batch: Sample) -> Tensor:
        """Return one minus Dice at its best threshold of one whole image, (1,)."""
        curve = score_thresholds(
            self.predict(batch["image"][0].cpu().numpy()),
            batch["mask"][0, 0].cpu().numpy() > 0,
            batch["weight"][0, 0].cpu().numpy() > 0,
        )
        self.last_curve = [round(float(value), 5) for value in curve]
        return batch["image"].new_tensor([1.0 - float(curve.max())])

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def predict(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the probability (H, W) of a prepared image (C, H, W)."""
        self.refresh_statistics()
        return predict_probability(
            image, self._run, tile_px=self.tiling.tile_px, fixed=self.tiling.fixed
        )

    def refresh_statistics(self) -> None:
        """Measure the statistics of batch normalisation for the weights as they are now."""
        if not self.stale:
            return
        self.network.eval()
        self.stale = False
        if not self.normalisers:
            return
        kept = [layer.momentum for layer in self.normalisers]
        for layer in self.normalisers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over all batches
            layer.train()
        with torch.no_grad():
            for images in self.batches():
                self.network(self.lay_out(images.to(self._device)))
        for layer, momentum in zip(self.normalisers, kept, strict=True):
            layer.momentum = momentum
            layer.eval()

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _run(self, tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            found = self.network(self.lay_out(torch.from_numpy(tiles).to(self._device)))
        logits: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return logits


class SegmentTask(Task):
    """Segmentation of vessels in real and synthetic pairs."""

    name = "segment"
    sees_batches = True  # by batch normalisation, and by losses that are ratios of sums
    module: Judged

    def __init__(
        self,
        network: Segmenter,
        loss: str,
        real: Store,
        synthetic: Store | None,
        *,
        batch: int,
        synthetic_count: int,
        synthetic_steps: int | None = None,
        cut: Cut,
        tiling: Tiling,
        seed: int,
        held_out: Store | None = None,
        channels_last: bool = False,
        loaders: int = 1,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.loaders = loaders
        self.real, self.synthetic, self.held_out = real, synthetic, held_out
        self.items, self.synthetic_count = batch, synthetic_count if synthetic else 0
        self.synthetic_steps = synthetic_steps
        """After so many steps all samples are real; None: never."""
        self.cut, self.seed, self.facts = cut, seed, dict(facts or {})
        self.checks = len(held_out) if held_out else 0
        self.module = Judged(network, loss, tiling, self._draw_statistics, channels_last)
        self.network = network
        self.fixed_threshold: float | None = None
        """Found by leave-one-out; None: found on the shots at hand."""
        self._known_weights = b""
        self._known: dict[int, npt.NDArray[np.float32]] = {}
        self._recent: collections.deque[str] = collections.deque(maxlen=RECENT_STEPS * batch)

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Return sample number `item` of a step."""
        return as_tensors(self.draw(item, rng))

    def load_in_step(self, step: int, item: int, rng: np.random.Generator) -> Sample:
        """Return sample number `item` of `step`; all are real where synthetic ones come no more."""
        if self.synthetic_steps is not None and step >= self.synthetic_steps:
            item = max(item, self.synthetic_count)
        return self.load(item, rng)

    def draw(self, item: int, rng: np.random.Generator) -> Sampled:
        """Return sample number `item` of a step as arrays."""
        store = self.real
        if item < self.synthetic_count:
            assert self.synthetic is not None
            store = self.synthetic
        number = int(rng.integers(len(store)))
        self._recent.append(str(store.pairs[number].image))
        example = store.get(number)
        return cut_sample(example, draw_sample(rng, example, self.cut), self.cut.side_px)

    def load_check(self, number: int) -> Sample:
        """Return held-out shot `number`, whole and as it is."""
        assert self.held_out is not None
        return whole_sample(self.held_out.get(number))

    def name_items(self, items: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Return the pictures that came last, in any order: numbers of a step tell no pictures."""
        return list(dict.fromkeys(self._recent))

    def _draw_statistics(self) -> Iterator[Tensor]:
        """Yield images for the statistics of batch normalisation, as the last steps have them."""
        last = -1 if self.synthetic_steps is None else self.synthetic_steps
        count = max(1, STATISTICS_SAMPLES // self.items)
        for step in range(count):
            samples = [
                self.load_in_step(
                    last, item, rng_for(self.seed, "segment statistics", step * self.items + item)
                )
                for item in range(self.items)
            ]
            yield stack_samples(samples)["image"]

    def predict(self, example: Example) -> npt.NDArray[np.float32]:
        """Return the probability of vessel of a whole example, 0 outside its field of view."""
        found: npt.NDArray[np.float32] = self.module.predict(example.image.whole())
        return np.where(example.image.fov, found, np.float32(0.0))

    def predict_shown(self) -> Iterator[tuple[Example, npt.NDArray[np.float32]]]:
        """Yield the shots that the model is judged by, with what it finds; once for its weights."""
        store, weights = self.shown(), fingerprint(self.network)
        if weights != self._known_weights:
            self._known_weights, self._known = weights, {}
        for number in range(len(store)):
            example = store.get(number)
            found = self._known.get(number)
            if found is None:
                found = self.predict(example)
                if number < MOST_KNOWN:
                    self._known[number] = found
            yield example, found

    def shown(self) -> Store:
        """Return the shots that the model is judged by: held out if there are any."""
        return self.held_out if self.held_out else self.real

    def preview(self, step: int) -> Preview | None:  # noqa: ARG002
        """Return a few shots with what is found in them."""
        some = itertools.islice(self.predict_shown(), PREVIEWED)
        rows = [np.concatenate(draw_case(example, found, 0.5), axis=1) for example, found in some]
        return np.concatenate(rows, axis=0)

    def score(self) -> tuple[float, float, list[list[float]]]:
        """Return the threshold, the mean Dice there, and Dice by threshold of each shot shown."""
        shown = self.predict_shown()
        curves = [score_thresholds(found, e.mask, e.image.fov) for e, found in shown]
        threshold, dice = choose_threshold(curves)
        return threshold, dice, [[round(float(v), 5) for v in curve] for curve in curves]

    def noted(self) -> dict[str, Any]:
        """Return Dice by threshold of a shot left out, by which a threshold is chosen later."""
        return {DICE_BY_THRESHOLD: self.module.last_curve} if self.checks == 1 else {}

    def save(self, folder: Path) -> list[Path]:
        """Write the network with its threshold and all that prediction needs."""
        self.module.stale = True
        threshold, dice, _ = self.score()
        found = {"dice": round(dice, 5), "on": "held-out shots" if self.held_out else "its shots"}
        if self.fixed_threshold is not None:
            threshold, found = self.fixed_threshold, {"on": "shots left out in turn"}
        facts = {**self.facts, "threshold": found}
        return [save_network(self.network, folder / MODEL, threshold=threshold, facts=facts)]


def fingerprint(network: torch.nn.Module) -> bytes:
    """Return a checksum of the weights that are trained."""
    total = hashlib.sha256()
    for weight in network.parameters():
        total.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return total.digest()


def whole_sample(example: Example) -> Sample:
    """Return a whole example as a sample."""
    return as_tensors(
        {
            "image": example.image.whole(),
            "mask": example.mask[None].astype(np.float32),
            "weight": example.image.fov[None].astype(np.float32),
        }
    )


def as_tensors(sample: Sampled) -> Sample:
    """Return arrays as tensors."""
    return {name: torch.from_numpy(values) for name, values in sample.items()}
