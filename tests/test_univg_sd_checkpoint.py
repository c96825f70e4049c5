"""SD 1.5 as people have it: its real size, and single files in the original layout."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd_layouts import same, to_ldm, unet_to_ldm, vae_to_ldm

from univg.errors import DataError, UserError
from univg.sd import identify, inspect_base, load_base, make_control, save_base
from univg.sd_checkpoint import build_sd15_on_meta, read_checkpoint, sd15_configs
from univg.sd_save import save_tokenizer
from univg.testing import tiny_base


@pytest.fixture(scope="module")
def tiny():
    return tiny_base()


def test_sd15_has_its_real_size():
    models = build_sd15_on_meta()
    counts = {part: sum(p.numel() for p in m.parameters()) for part, m in models.items()}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    control = make_control(models["unet"])
    assert sum(p.numel() for p in control.parameters()) == 361_279_120
    assert sd15_configs()["vae"]["scaling_factor"] == 0.18215


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """A checkpoint in the original layout, the configs that belong to it, and a tokenizer."""
    state = to_ldm(tiny.unet, tiny.vae, tiny.text_encoder)
    save_file({k: w.contiguous() for k, w in state.items()}, tmp_path / "model.safetensors")
    save_base(tiny, tmp_path / "configs", half=False)
    shutil.copytree(tmp_path / "configs" / "tokenizer", tmp_path / "tokenizer")
    return tmp_path / "model.safetensors"


ALL = ("unet", "vae", "text_encoder")


def test_the_original_layout_has_the_key_names_of_sd15():
    models = build_sd15_on_meta()
    state = to_ldm(**models)
    assert state["model.diffusion_model.output_blocks.11.0.skip_connection.weight"].shape[0] == 320
    assert "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight" in state
    assert "model.diffusion_model.output_blocks.2.1.conv.weight" in state
    assert "model.diffusion_model.output_blocks.5.2.conv.weight" in state
    assert "first_stage_model.encoder.down.2.downsample.conv.weight" in state
    assert state["first_stage_model.decoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert len(state) == 686 + 248 + 197 + 1


def test_a_single_file_loads_without_network(tiny, checkpoint):
    loaded = read_checkpoint(checkpoint, ALL, checkpoint.parent / "configs")
    for part in ALL:
        assert same(loaded[part], getattr(tiny, part))
    assert loaded["tokenizer"]("oct").input_ids == tiny.tokenizer("oct").input_ids


def test_a_single_file_in_half_precision_loads_to_full(tiny, checkpoint):
    state = {k: w.half() if w.is_floating_point() else w for k, w in load_file(checkpoint).items()}
    save_file(state, checkpoint)
    loaded = read_checkpoint(checkpoint, ALL, checkpoint.parent / "configs")
    assert all(loaded[part].dtype == torch.float32 for part in ALL)
    assert identify(loaded["unet"]) == tiny.identity


def test_a_single_file_without_tokenizer_says_how_to_get_one(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(checkpoint.parent / "tokenizer")
    with pytest.raises(UserError, match=r"hf download openai/clip-vit-large-patch14 vocab\.json"):
        read_checkpoint(checkpoint, ALL, checkpoint.parent / "configs")


def test_a_single_file_of_another_shape_or_with_holes_is_refused(checkpoint):
    with pytest.raises(DataError, match="weights are missing or of another shape") as caught:
        load_base(str(checkpoint))
    assert "\n" not in str(caught.value)
    state = load_file(checkpoint)
    del state["model.diffusion_model.middle_block.1.proj_in.weight"]
    save_file(state, checkpoint)
    with pytest.raises(DataError, match="weights are missing"):
        read_checkpoint(checkpoint, ALL, checkpoint.parent / "configs")
    start = "cond_stage_model.transformer.text_model.encoder.layers.0"
    del state[f"{start}.layer_norm1.weight"]
    save_file(state, checkpoint)
    with pytest.raises(DataError, match=r"is not a whole|lacks 1 weights of its text_encoder"):
        read_checkpoint(checkpoint, ("text_encoder",), checkpoint.parent / "configs")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_unet_mid_block_x.lora_up.weight"], "is an adapter"),
        (["unet.conv_in.lora_A.weight"], "parts of a diffusers pipeline or an adapter"),
        (["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.x"], "SDXL"),
        (["cond_stage_model.model.ln_final.weight"], "SD 2"),
        (["model.diffusion_model.joint_blocks.0.x"], "SD 3"),
        (["double_blocks.0.x"], "Flux"),
        (["control_model.input_hint_block.0.weight"], "a ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one part of a diffusers pipeline"),
        (["decoder.conv_in.weight"], "a VAE alone"),
        (["text_model.embeddings.token_embedding.weight"], "a text encoder alone"),
        (["whatever"], "lacks its unet"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "lacks its vae"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, keys, message):
    save_file({key: torch.ones(1, 1) for key in keys}, tmp_path / "x.safetensors")
    for read in (load_base, inspect_base):
        with pytest.raises(DataError, match=message) as caught:
            read(str(tmp_path / "x.safetensors"))
        assert "\n" not in str(caught.value)


def test_a_torn_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_base(str(tmp_path / "x.safetensors"))


@pytest.mark.slow
def test_a_checkpoint_of_sd15s_real_size_loads(tiny, tmp_path):
    """Every tensor holds one value of its own, so each must arrive at its own place: 2 GB."""
    models = build_sd15_on_meta()
    state = to_ldm(**models)
    value_of = {key: 2.0 + number for number, key in enumerate(sorted(state))}
    stored = {k: torch.full(w.shape, value_of[k], dtype=torch.float16) for k, w in state.items()}
    save_file(stored, tmp_path / "model.safetensors")
    del stored
    save_tokenizer(tiny.tokenizer, tmp_path / "tokenizer")
    kinds = models["unet"].config.up_block_types
    key_of = {
        "unet": lambda name: (
            "model.diffusion_model."
            + unet_to_ldm(name, 2, lambda index: "CrossAttn" in kinds[index])
        ),
        "vae": lambda name: "first_stage_model." + vae_to_ldm(name, 4),
        "text_encoder": lambda name: (
            "cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")
        ),
    }
    for part in ALL:
        base = load_base(str(tmp_path / "model.safetensors"), parts=(part,), precision="fp16")
        for name, weight in getattr(base, part).named_parameters():
            value = value_of[key_of[part](name)]
            assert float(weight.min()) == float(weight.max()) == value, name
