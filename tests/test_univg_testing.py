"""The tiny base: real classes, seeded, quick, and what it saves is a real pipeline."""

from __future__ import annotations

import time

import pytest
import torch

from univg.sd import quiet
from univg.testing import tiny_base, tiny_control, tiny_tokenizer


def parameters(base):
    return [p for part in (base.unet, base.vae, base.text_encoder) for p in part.parameters()]


def test_it_is_tiny_and_of_real_classes():
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    base = tiny_base()
    assert sum(p.numel() for p in parameters(base)) < 80_000
    assert isinstance(base.unet, UNet2DConditionModel) and isinstance(base.vae, AutoencoderKL)
    assert isinstance(base.text_encoder, CLIPTextModel)
    assert isinstance(base.tokenizer, CLIPTokenizer)
    assert isinstance(base.scheduler, DDIMScheduler)
    assert (base.native_px, base.vae_factor, base.latent_channels) == (64, 8, 4)


def test_it_is_made_quickly():
    tiny_base()  # imports
    start = time.process_time()
    tiny_base()
    assert time.process_time() - start < 2


def test_the_seed_decides_and_the_global_one_is_left_alone():
    before = torch.random.get_rng_state()
    one, same, other = tiny_base(seed=1), tiny_base(seed=1), tiny_base(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(parameters(one), parameters(same), strict=True))
    assert one.identity == same.identity != other.identity


def test_the_tokenizer_spells():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == 514
    ids = tokenizer("Fundus image", padding="max_length", max_length=77).input_ids
    assert len(ids) == 77 and ids[0] == 512 and ids[-1] == 513
    assert tokenizer.decode(ids, skip_special_tokens=True) == "fundus image"


def test_saved_it_is_a_pipeline_of_diffusers(tmp_path):
    from diffusers import StableDiffusionPipeline

    base = tiny_base(tmp_path / "tiny")
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "tiny", local_files_only=True)
    assert pipeline.safety_checker is None
    pairs = zip(base.unet.parameters(), pipeline.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("oct", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_its_control_is_seeded(seed):
    base = tiny_base()
    one, two = tiny_control(base, seed), tiny_control(base, seed)
    states = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
