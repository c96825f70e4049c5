"""Estimates of memory are plausible for SD 1.5, whose needs are known; they are said to be such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from univg.sd import inspect_base
from univg.sd_checkpoint import build_on_meta, sd15_configs
from univg.train import adapt_images, adapt_masks, masks
from univg.train.adapt_images import AdaptImages
from univg.train.adapt_masks import PRESETS, AdaptMasks
from univg.train.adapters import attach, count_weights, spec_of
from univg.train.masks import TrainMasks
from univg.train.options import fill_in
from univg.train.planning import GIB, SHARES, describe_memory, estimate_bytes

UNET, REST = 859.5e6, 206.7e6
ADAPTERS = {"lora": 13.6e6, "loha": 37.1e6}


def need(kind: str, **changed: Any) -> float:
    asked = fill_in(AdaptMasks(out=Path("o"), shots=Path("s"), preset="paper", **changed), PRESETS)
    trained = ADAPTERS.get(kind) or SHARES[kind] * UNET
    whole = UNET + REST + (0 if kind == "unet" else trained)
    load = "adapter" if kind in ADAPTERS else kind
    return estimate_bytes(sd15_configs()["unet"], whole, trained, asked, 512, load) / GIB


def test_sd15_needs_what_is_known_of_it():
    """Full fine-tuning fills 16 to 24 GB, an adapter fits into 8, both in fp32 at batch 1."""
    assert 15 < need("unet") < 24
    assert 4.5 < need("loha") < 8 and 4.5 < need("lora") < 8
    assert need("lora") < need("control") < need("unet")


def test_what_saves_memory_lowers_the_estimate():
    assert need("unet", optimizer="adamw8bit") < need("unet") < need("unet", ema=0.9)
    assert need("lora", gradient_checkpointing=True) < need("lora") < need("lora", batch=8)
    assert need("lora", batch=8, micro_batch=1) == need("lora")


def test_the_preset_for_8_gb_fits_into_8_gb():
    """The base in half precision, all but UNet and ControlNet outside."""
    asked = AdaptImages(out=Path("o"), shots=Path("s"), base="some/sd15", preset="gpu-8gb")
    asked = fill_in(asked, adapt_images.PRESETS)
    trained = SHARES["control"] * UNET
    config = sd15_configs()["unet"]
    needs = [
        estimate_bytes(config, UNET + trained, trained, asked, 512, "control", frozen) / GIB
        for frozen in (2, 4)
    ]
    assert needs[0] < 6.5 < 7 < needs[1]


def test_the_estimate_is_said_to_be_one_beside_what_is_free():
    text = describe_memory(6 * GIB, 4 * GIB, "the CPU")
    assert text.startswith("memory, estimated: 6.0 GiB of 4.0 GiB free on the CPU, may not fit")
    assert describe_memory(1 * GIB, 4 * GIB, "a GPU").endswith("fits")


@pytest.mark.slow
def test_the_control_net_s_share_is_that_of_the_real_one():
    import torch
    from diffusers import ControlNetModel

    unet = build_on_meta("unet", sd15_configs()["unet"])
    with torch.device("meta"):
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    weights = sum(weight.numel() for weight in control.parameters())
    assert weights / UNET == pytest.approx(SHARES["control"], abs=0.01)


@pytest.mark.parametrize(("command", "settings"), [(masks, TrainMasks), (adapt_masks, AdaptMasks)])
def test_the_weights_of_an_adapter_are_counted(tmp_path, command, settings):
    data = {"data": (tmp_path,)} if settings is TrainMasks else {"shots": tmp_path}
    asked = settings(out=tmp_path / "out", dim=8, **data)
    spec = spec_of(fill_in(asked, command.PRESETS))
    unet = build_on_meta("unet", inspect_base("nano").configs["unet"])
    real = attach(unet.to_empty(device="cpu"), spec)
    count = sum(weight.numel() for weight in real.parameters())
    assert count_weights(unet, spec) == count
    assert f"Trains about {count / 1e6:.2g} M weights" in command.plan(asked)
