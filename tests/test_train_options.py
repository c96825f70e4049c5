"""Presets resolve to the paper's values; what the user names wins; nothing stays open."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from univg.errors import ConfigError
from univg.train import adapt_images, adapt_masks, images, masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import AdaptMasks
from univg.train.images import TrainImages
from univg.train.masks import TrainMasks
from univg.train.options import fill_in

COMMANDS: dict[str, Any] = {
    "masks": (TrainMasks, masks.PRESETS, {"data": (Path("d"),)}),
    "adapt-masks": (AdaptMasks, adapt_masks.PRESETS, {"shots": Path("s")}),
    "images": (TrainImages, images.PRESETS, {"data": (Path("d"),)}),
    "adapt-images": (AdaptImages, adapt_images.PRESETS, {"shots": Path("s")}),
}
PAPER: dict[str, dict[str, Any]] = {
    "masks": {"dim": 32, "alpha": 32, "learning_rate": 1e-4, "optimizer": "adam"},
    "adapt-masks": {
        "dim": 32, "alpha": 32, "conv_dim": 4, "conv_alpha": 4, "batch": 1, "max_steps": 1500,
        "schedule": "cosine", "learning_rate": 1e-4, "optimizer": "adam", "strength": 0.7,
        "kind": "loha", "turns": "none",
    },
    "images": {"batch": 8, "learning_rate": 1e-4, "max_steps": 141_000, "optimizer": "adam"},
    "adapt-images": {
        "batch": 2, "learning_rate": 1e-5, "turns": "all", "unet": "locked", "vessel_weight": 0.0,
    },
}  # fmt: skip
"""Sec. 3.2, 3.3 and 4.3 of the paper."""


def resolve(command: str, **changed: Any) -> Any:
    settings, presets, source = COMMANDS[command]
    return fill_in(settings(out=Path("o"), **source, **changed), presets)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_paper_preset_has_the_papers_values(command):
    found = resolve(command, preset="paper")
    assert {name: getattr(found, name) for name in PAPER[command]} == PAPER[command]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("preset", ["paper", "laptop", "gpu-8gb", "gpu-24gb"])
def test_no_preset_leaves_anything_open(command, preset):
    if (command, preset) == ("images", "gpu-8gb"):  # the whole UNet does not fit
        with pytest.raises(ConfigError, match="not offered here"):
            resolve(command, preset=preset)
        return
    found = resolve(command, preset=preset)
    free = {"micro_batch", "size_px", "channels_last", "cache", "stop_at", "modality", "prompt",
            "wanted", "left_out", "from_"}  # fmt: skip
    left = {f.name for f in dataclasses.fields(found) if getattr(found, f.name) is None}
    assert left <= free


@pytest.mark.parametrize("command", COMMANDS)
def test_the_preset_follows_the_base(command):
    assert resolve(command).preset == "laptop"
    assert resolve(command, base="some/sd15").preset == "paper"
    assert resolve(command, preset="paper").preset == "paper"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_user_names_wins(command):
    named = {"max_steps": 7, "batch": 3, "learning_rate": 0.5, "ema": 0.5, "preview_every": 0}
    found = resolve(command, preset="laptop", **named)
    assert {name: getattr(found, name) for name in named} == named
    assert found.save_every == 1 and found.validate_every == 20  # and at the end


def test_events_are_spread_over_the_run():
    found = resolve("adapt-masks", preset="paper")
    assert (found.save_every, found.preview_every, found.validate_every) == (150, 300, 75)


def test_a_preset_that_is_not_offered_is_one_line(capsys):
    with pytest.raises(ConfigError) as caught:
        fill_in(
            AdaptMasks(out=Path("o"), shots=Path("s"), preset="gpu-24gb"),
            {"paper": {"max_steps": 1}},
        )
    assert str(caught.value) == "preset `gpu-24gb` is not offered here; there are: paper"
    from univg.cli import main

    assert main(["train", "masks", "--data", "d", "--out", "o", "--preset", "fast"]) == 2
    assert "fast" in capsys.readouterr().err


def test_values_out_of_range_are_told():
    with pytest.raises(ConfigError, match="batch"):
        resolve("masks", batch=0)
