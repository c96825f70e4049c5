"""The chain on a GPU, at tiny size: `pytest -m gpu`. Speed and memory are for the benchmarks.

`UNIVG_GPU_TESTS=cpu` runs the same on a CPU, to see that the tests themselves are whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from training_shots import QUICK, write_shots

from univg.cli import main
from univg.images import read_image
from univg.loop.checkpoints import load_newest
from univg.masks import read_mask
from univg.pairs import open_pairs
from univg.segment import fit
from univg.segment.fit import Fit
from univg.testing import tiny_base
from univg.train import adapt_images, adapt_masks, images, masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import AdaptMasks
from univg.train.images import TrainImages
from univg.train.masks import TrainMasks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("UNIVG_GPU_TESTS") != "cpu",
        reason="no GPU here",
    ),
]

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "loha": (adapt_masks, AdaptMasks, {}),
    "control": (adapt_images, AdaptImages, {"channels_last": True}),
    "look": (adapt_images, AdaptImages, {"unet": "lora", "look_dim": 2, "vessel_weight": 4.0}),
    "free": (adapt_images, AdaptImages, {"unet": "free"}),
    "unet": (images, TrainImages, {"channels_last": True, "ema": 0.9}),
    "lora": (masks, TrainMasks, {"gradient_checkpointing": True}),
}
ON_GPU = {"precision": "auto", "preview_every": 3, "report_samples": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the tiny base and shots."""
    place = tmp_path_factory.mktemp("gpu")
    tiny_base(place / "base")
    write_shots(place / "shots")
    return place


def train(place: Path, kind: str, out: Path, **changed: Any) -> Path:
    module, settings, options = KINDS[kind]
    source = {"shots": place / "shots"}
    if kind in {"unet", "lora"}:
        source = {"data": (place / "shots",)}
    given = {**QUICK, **ON_GPU, **options, **source, "base": str(place / "base"), "out": out}
    module.run(settings(**{**given, **changed}))
    return out


def losses_of(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def engines(place) -> dict[str, Path]:
    return {kind: train(place, kind, place / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_each_command_trains_and_previews(engines, kind):
    losses = losses_of(engines[kind])
    assert losses
    assert all(torch.isfinite(torch.tensor(losses)))
    assert list((engines[kind] / "previews").glob("*.png"))


def test_an_adapter_lies_over_another(place, engines, tmp_path):
    out = train(
        place, "loha", tmp_path / "over", adapter=(str(engines["lora"] / "adapter.safetensors"),)
    )
    assert losses_of(out)


@pytest.mark.parametrize("kind", ["control", "unet"])
def test_a_run_goes_on_in_another_memory_layout(place, engines, tmp_path, kind):
    out = train(place, kind, tmp_path / kind, max_steps=3, schedule="constant", preview_every=0)
    train(place, kind, out, max_steps=6, schedule="constant", preview_every=0)
    whole = train(place, kind, tmp_path / "whole", schedule="constant", preview_every=0)
    resumed, straight = load_newest(out), load_newest(whole)
    assert resumed is not None
    assert straight is not None
    for name, weight in straight.tensors.items():
        if name.startswith("state/weights"):
            # GPUs add in no fixed order; moments laid wrongly would be off by whole steps
            torch.testing.assert_close(resumed.tensors[name], weight, atol=2e-4, rtol=2e-2)


def test_pairs_are_drawn_and_any_of_them_again(engines, tmp_path):
    masks_of = ["generate", "masks", "--engine-dir", engines["loha"], "--count", "3"]
    words = ["--out", str(tmp_path / "masks"), "--steps", "2", "--threshold", "0.5"]
    assert main([*map(str, masks_of), *words]) == 0
    words = ["--masks", tmp_path / "masks", "--engine-dir", engines["look"], "--steps", "2"]
    out = tmp_path / "pairs"
    assert main(["generate", "images", *map(str, words), "--out", str(out), "--batch", "2"]) == 0
    pairs = open_pairs(out).pairs
    assert len(pairs) == 3
    for pair in pairs:
        assert read_image(pair.image).shape[:2] == read_mask(pair.mask).shape
    for pair in pairs:
        assert main(["generate", "one", "--manifest", str(out), "--id", pair.image.stem]) == 0


def test_a_segmenter_learns_goes_on_and_finds(place, tmp_path):
    given: dict[str, Any] = {
        "shots": place / "shots", "network": "unet-small", "patch_px": 32, "batch": 4,
        "network_options": ("channels=4", "depth=3"), "tracker": "none", "preview_every": 0,
        "channels_last": True, "schedule": "constant", "validate_every": 0, "report_samples": 1,
    }  # fmt: skip
    fit.run(Fit(out=tmp_path / "run", max_steps=4, **given))
    fit.run(Fit(out=tmp_path / "run", max_steps=8, **given))
    images = place / "shots" / "images"
    words = [str(tmp_path / "run"), str(images), "--out", str(tmp_path / "found")]
    assert main(["segment", "predict", *words]) == 0
    assert len(list((tmp_path / "found").rglob("*.png"))) >= 5
