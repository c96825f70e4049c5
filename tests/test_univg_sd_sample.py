"""Drawing with an engine, held against diffusers' own pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vessel_pictures import draw_lines

from univg.sd import build_pipeline
from univg.sd_compute import choose_precision, resolve_attention
from univg.sd_sample import (
    Compute,
    Sampler,
    Sampling,
    choose_device,
    give_back,
    make_scheduler,
)
from univg.testing import fill_weights, tiny_base, tiny_control

PROMPTS = ["vessels", "an eye", "vessels"]
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def engine():
    base = tiny_base()
    control = tiny_control(base)
    fill_weights(control, 5)  # fresh, it would add nothing
    masks = [draw_lines(k, 64, count=3, width=3) for k in range(3)]
    return base, control, masks


def by_pipeline(base, control, masks, name, guidance, strength=0.8):
    pipeline = build_pipeline(base, control)
    pipeline.scheduler = make_scheduler(base, name)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    options = {}
    if control is not None:
        planes = torch.from_numpy(np.stack(masks).astype(np.float32))[:, None].repeat(1, 3, 1, 1)
        options = {"image": planes, "controlnet_conditioning_scale": strength}
    found = pipeline(
        prompt=PROMPTS, generator=generators, num_inference_steps=5, guidance_scale=guidance,
        height=64, width=64, output_type="np", **options,
    ).images  # fmt: skip
    return (found * 255).round().astype(np.int16)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["ddim", "unipc", "dpm++"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steered", [True, False])
def test_pictures_are_those_of_the_pipelines(engine, name, guidance, steered):
    base, control, masks = engine
    control = control if steered else None
    sampling = Sampling(steps=5, scheduler=name, guidance=guidance, control_strength=0.8)
    sampler = Sampler(base, control, sampling=sampling, size_px=(64, 64))
    ours = sampler.draw(PROMPTS, SEEDS, masks if steered else ())
    assert ours.shape == (3, 64, 64, 3) and ours.dtype == np.uint8
    assert ours.std() > 1
    theirs = by_pipeline(base, control, masks, name, guidance)
    assert np.abs(ours.astype(np.int16) - theirs).max() <= 1


def test_the_mask_steers_and_the_strength_counts(engine):
    base, control, masks = engine

    def draw(strength, masks):
        sampling = Sampling(steps=3, control_strength=strength)
        return Sampler(base, control, sampling=sampling, size_px=(64, 64)).draw(
            PROMPTS, SEEDS, masks
        )

    assert (draw(1.0, masks) != draw(1.0, masks[::-1])).any()
    assert (draw(1.0, masks) != draw(0.2, masks)).any()


def test_a_picture_depends_on_its_own_seed_and_mask_alone(engine):
    """In the same place of blocks of one shape, to the bit; elsewhere, to rounding."""
    base, control, masks = engine
    sampler = Sampler(base, control, sampling=Sampling(steps=4), size_px=(64, 64))
    whole = sampler.draw(PROMPTS, SEEDS, masks)
    other = sampler.draw(["", "an eye", "vessels"], [5, 6, 13], [masks[1], masks[0], masks[2]])
    assert (other[2] == whole[2]).all()
    alone = sampler.draw(["vessels"], [13], [masks[2]])
    assert np.abs(alone[0].astype(int) - whole[2]).max() <= 2


def test_without_compute_the_networks_stay_as_they_are():
    base = tiny_base()
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    kinds = [type(each) for each in base.unet.attn_processors.values()]
    Sampler(base, sampling=Sampling(steps=1), size_px=(64, 64)).draw(["a"], [1])
    assert [type(each) for each in base.unet.attn_processors.values()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in base.unet.state_dict().items())


def test_a_precision_and_kernels_are_taken():
    base = tiny_base()
    compute = Compute(device="cpu", precision="bf16", attention="plain")
    sampler = Sampler(base, sampling=Sampling(steps=2), compute=compute, size_px=(64, 64))
    assert base.unet.dtype == torch.bfloat16
    assert sampler.draw(["a"], [1]).shape == (1, 64, 64, 3)


def test_masks_come_back_through_the_autoencoder(engine):
    base, _, masks = engine
    back = give_back(base, masks, batch=2)
    assert len(back) == 3 and back[0].shape == (64, 64, 3)


def test_a_control_net_in_training_may_be_wider_than_the_unet():
    base = tiny_base()
    control = tiny_control(base)
    fill_weights(control, 5)
    masks = [draw_lines(0, 64, count=3, width=3)]

    def draw():
        sampler = Sampler(base, control, sampling=Sampling(steps=3), size_px=(64, 64))
        return sampler.draw(["a"], [1], masks).astype(int)

    wide = draw()
    base.unet.to(torch.bfloat16)
    assert control.dtype == torch.float32
    assert np.abs(draw() - wide).mean() < 3


def test_prompts_come_to_the_device_of_the_unet():
    """The text encoder may rest elsewhere; the meta device stands in for a GPU."""
    base = tiny_base()
    base.unet.to("meta")
    sampler = Sampler(base, sampling=Sampling(steps=2), size_px=(64, 64))
    assert sampler._embed(["a", ""]).is_meta
    assert sampler.times.is_meta
    assert sampler.scheduler.timesteps.device.type == "cpu"  # else each step waits for the GPU


def test_an_autoencoder_in_bf16_decodes_as_one_in_fp32():
    def draw(bf16):
        base = tiny_base()
        sampler = Sampler(base, sampling=Sampling(steps=2), size_px=(64, 64))
        if bf16:
            sampler._set_up_vae(torch.bfloat16, Compute(channels_last=True))
            assert base.vae.dtype == torch.bfloat16
        return sampler.draw(["a"], [1]).astype(int)

    exact, rounded = draw(False), draw(True)
    assert np.abs(exact - rounded).max() > 0 and np.abs(exact - rounded).mean() < 3


def test_processes_share_the_gpus_that_each_can_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = []
    for rank, count in ((0, 1), (3, 4), (3, 1), (5, 4)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        found.append(choose_device("auto"))
    assert found == ["cuda:0", "cuda:3", "cuda:0", "cuda:1"]


def test_a_gpu_that_only_emulates_bf16_computes_in_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert choose_precision("auto") == "fp16"
    assert choose_precision("bf16") == "bf16"
    assert resolve_attention("auto", 8) == "sdpa"
