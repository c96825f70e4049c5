"""What a base is asked for: embeddings, latents, pictures; and ControlNets beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sd_layouts import same

from univg.errors import DataError, UserError
from univg.sd import (
    build_pipeline,
    decode_latents,
    embed_prompts,
    encode_images,
    encode_moments,
    load_control,
    make_control,
    save_control,
)
from univg.testing import fill_weights, tiny_base, tiny_control


@pytest.fixture(scope="module")
def tiny():
    return tiny_base()


def unet_output(base, control=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 77, 32, generator=generator)
    steps = torch.tensor([10, 700])
    more = {}
    with torch.no_grad():
        if control is not None:
            mask = torch.rand(2, 3, 64, 64, generator=generator)
            down, mid = control(x, steps, words, mask, return_dict=False)
            more = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": mid,
            }
        return base.unet(x, steps, words, **more).sample


# --- prompts, latents, pipelines --------------------------------------------------------------


def test_prompts_become_embeddings_one_by_one(tiny):
    both = embed_prompts(tiny, ["fundus image", ""])
    assert both.shape == (2, 77, 32)
    assert torch.allclose(both[1:], embed_prompts(tiny, [""]), atol=1e-6)
    assert embed_prompts(tiny, ["word " * 200]).shape == (1, 77, 32)


def test_latents_are_what_diffusers_makes(tiny):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    mean, std = encode_moments(tiny, images)
    assert mean.shape == std.shape == (2, 4, 8, 8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = tiny.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, posterior.mean * 0.18215)
    assert torch.equal(encode_images(tiny, images), mean)
    drawn = [encode_images(tiny, images, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    decoded = decode_latents(tiny, mean)
    assert decoded.shape == images.shape and decoded.dtype == np.uint8
    with pytest.raises(ValueError, match="uint8"):
        encode_images(tiny, images.astype(np.float32))


def test_a_shift_is_undone_by_decoding_and_refused_by_pipelines(tiny):
    base = tiny_base()
    base.vae.register_to_config(shift_factor=0.3)
    images = np.full((1, 64, 64, 3), 90, np.uint8)
    assert torch.allclose(
        encode_images(base, images), encode_images(tiny, images) - 0.3 * 0.18215, atol=1e-6
    )
    ours = decode_latents(base, encode_images(base, images)).astype(int)
    theirs = decode_latents(tiny, encode_images(tiny, images)).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    with pytest.raises(UserError, match="shift_factor"):
        build_pipeline(base)


def draw(pipeline, **more):
    generator = torch.Generator().manual_seed(0)
    wanted = {"num_inference_steps": 2, "output_type": "np", "generator": generator, **more}
    return pipeline("fundus image", **wanted).images


def test_the_pipeline_is_quiet_and_seeded(tiny, capfd):
    pipeline = build_pipeline(tiny)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert np.array_equal(draw(pipeline), draw(build_pipeline(tiny)))
    assert capfd.readouterr() == ("", "")


# --- ControlNet -------------------------------------------------------------------------------


def test_a_fresh_control_changes_nothing(tiny):
    control = tiny_control(tiny)
    assert torch.equal(unet_output(tiny, control), unet_output(tiny))
    mask = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    plain = draw(build_pipeline(tiny))
    assert np.allclose(draw(build_pipeline(tiny, control), image=mask), plain, atol=1e-5)


def test_a_trained_control_changes_something_and_saves_exactly(tiny, tmp_path):
    control = tiny_control(tiny)
    fill_weights(control, 3)
    changed = unet_output(tiny, control)
    assert not torch.allclose(changed, unet_output(tiny), atol=1e-2)
    save_control(control, tmp_path / "control", half=False)
    loaded = load_control(tmp_path / "control", tiny)
    assert same(loaded, control)
    assert torch.equal(unet_output(tiny, loaded), changed)


def test_control_starts_from_the_unets_weights(tiny):
    control = tiny_control(tiny)
    assert same(control.down_blocks, tiny.unet.down_blocks)
    assert same(control.mid_block, tiny.unet.mid_block)
    assert not any(w.any() for w in control.controlnet_mid_block.parameters())


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_control_follows_the_vaes_factor(tiny, factor):
    control = make_control(tiny.unet, vae_factor=factor)
    x = torch.zeros(1, 4, 8, 8)
    mask = torch.zeros(1, 3, 8 * factor, 8 * factor)
    with torch.no_grad():
        control(x, torch.tensor([1]), torch.zeros(1, 77, 32), mask, return_dict=False)
    if factor != 8:
        with pytest.raises(DataError, match="brings its condition down"):
            from univg.sd_control import check_control

            check_control(control, tiny, "here")


def test_a_control_of_another_base_is_refused(tiny, tmp_path):
    from diffusers import UNet2DConditionModel

    config = {**tiny.unet.config, "block_out_channels": (4, 16)}
    save_control(make_control(UNet2DConditionModel.from_config(config)), tmp_path / "control")
    with pytest.raises(DataError, match=r"does not fit base tiny: its block_out_channels"):
        load_control(tmp_path / "control", tiny)
    with pytest.raises(UserError, match="no such folder"):
        load_control(tmp_path / "none", tiny)
