"""Bases: saving, loading, refusing; prompts, latents and pipelines; ControlNets; SD 1.5."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from univg import sd_source
from univg.errors import DataError, UserError
from univg.sd import (
    build_pipeline,
    decode_latents,
    embed_prompts,
    encode_images,
    encode_moments,
    identify,
    inspect_base,
    load_base,
    load_control,
    make_control,
    save_base,
    save_control,
)
from univg.sd_checkpoint import build_sd15_on_meta, read_checkpoint, sd15_configs
from univg.sd_save import save_tokenizer
from univg.sd_source import find_base
from univg.testing import fill_weights, tiny_base, tiny_control


@pytest.fixture(scope="module")
def tiny():
    return tiny_base()


@pytest.fixture
def folder(tiny, tmp_path):
    save_base(tiny, tmp_path / "base", half=False)
    return tmp_path / "base"


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


def same(one, two):
    states = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


# --- folders --------------------------------------------------------------------------------


def test_save_and_load_are_exact(tiny, folder):
    loaded = load_base(str(folder))
    for part in ("unet", "vae", "text_encoder"):
        assert same(getattr(loaded, part), getattr(tiny, part))
    assert embed_prompts(loaded, ["oct"]).equal(embed_prompts(tiny, ["oct"]))
    stored = {k: v for k, v in loaded.scheduler.config.items() if not k.startswith("_")}
    assert stored.items() <= dict(tiny.scheduler.config).items()
    assert loaded.identity == tiny.identity
    assert not any(p.requires_grad for p in loaded.unet.parameters())


def test_half_precision_keeps_the_identity(tiny, tmp_path):
    save_base(tiny, tmp_path / "half")
    stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    loaded = load_base(str(tmp_path / "half"))
    assert loaded.dtype == torch.float32
    assert loaded.identity == tiny.identity
    assert load_base(str(tmp_path / "half"), precision="bf16").dtype == torch.bfloat16
    assert load_base(str(tmp_path / "half"), precision="bf16").identity == tiny.identity


def test_the_identity_sees_one_changed_module(tiny):
    other = tiny_base()
    assert identify(other.unet) == tiny.identity
    with torch.no_grad():
        other.unet.mid_block.attentions[0].proj_in.weight.add_(0.01)
    assert identify(other.unet) != tiny.identity


def test_the_identity_of_large_tensors_stays_inside_them():
    """Places counted in fp32 would round past the end here, as in SD 1.5's tensors."""
    large = torch.nn.ParameterList([torch.zeros(2**24 + 4, dtype=torch.half)])
    before = identify(large)
    with torch.no_grad():
        large[0][-1] = 1
    assert identify(large) != before


def test_only_the_parts_asked_for_are_loaded(folder):
    base = load_base(str(folder), parts=("vae",))
    assert base.vae is not None and base.unet is None and base.text_encoder is None
    assert base.latent_channels == 4


def test_save_replaces_a_base_and_nothing_else(tiny, folder, tmp_path):
    other = tiny_base(seed=4)
    save_base(other, folder, half=False)
    assert load_base(str(folder)).identity == other.identity
    assert [p.name for p in tmp_path.iterdir()] == ["base"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        save_base(tiny, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_save_that_fails_leaves_the_old_base(tiny, folder, monkeypatch):
    from univg import sd_save

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sd_save, "_save_text_encoder", fail)
    with pytest.raises(UserError, match="no space left"):
        save_base(tiny_base(seed=4), folder)
    assert load_base(str(folder)).identity == tiny.identity
    assert [p.name for p in folder.parent.iterdir()] == ["base"]


def test_older_readers_find_what_they_ask_for(folder):
    """transformers 4 wants `text_model.` before the keys, and vocab.json with merges.txt."""
    assert all(
        k.startswith("text_model.") for k in load_file(folder / "text_encoder/model.safetensors")
    )
    assert (folder / "tokenizer/vocab.json").is_file()
    assert (folder / "tokenizer/merges.txt").is_file()


def test_a_saved_base_does_not_say_where_it_came_from(tiny, folder, tmp_path):
    base = load_base(str(folder))
    save_base(base, tmp_path / "again")
    save_control(tiny_control(tiny), tmp_path / "one")
    save_control(load_control(tmp_path / "one", base), tmp_path / "two")
    for path in (*(tmp_path / "again").rglob("*.json"), *(tmp_path / "two").rglob("*.json")):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path


def test_inspect_reads_no_weights(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"not weights")
    info = inspect_base(str(folder))
    assert (info.native_px, info.latent_channels, info.prediction_type) == (64, 4, "epsilon")
    assert info.parameters == {"unet": 18464, "vae": 14291, "text_encoder": 36064}


def test_a_folder_that_was_downloaded_as_fp16_loads(tiny, folder):
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert same(load_base(str(folder)).unet, tiny.unet)


def test_a_scheduler_of_another_class_becomes_ddim(folder):
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    config.update(_class_name="PNDMScheduler", skip_prk_steps=True, prediction_type="v_prediction")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    scheduler = load_base(str(folder)).scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds no model_index.json"),
        (
            lambda f: [shutil.rmtree(f / part) for part in ("vae", "tokenizer")],
            "vae/, tokenizer/ missing",
        ),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(
                f / "unet/diffusion_pytorch_model.bin"
            ),
            r"only pickled weights \(\.bin\)",
        ),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "vae/config.json").unlink(), "no config.json"),
        (lambda f: (f / "unet/config.json").write_text("{"), "cannot be loaded"),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            "cannot be loaded",
        ),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "cannot be read"),
        (
            lambda f: [p.unlink() for p in (f / "tokenizer").iterdir()],
            "knows 2 words, the text encoder 514",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_base(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- names ------------------------------------------------------------------------------------


def test_an_absent_embedded_base_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sd_source.EMBEDDED, "nano", tmp_path / "nano")
    with pytest.raises(UserError, match="holds no embedded base"):
        load_base("nano")


def test_the_embedded_base_loads_by_its_name(monkeypatch, tiny, tmp_path):
    monkeypatch.setitem(sd_source.EMBEDDED, "nano", tmp_path / "nano")
    save_base(tiny, tmp_path / "nano")
    save_control(tiny_control(tiny), tmp_path / "nano" / "controlnet")
    base = load_base("nano")
    assert (base.name, base.identity, base.dtype) == ("nano", tiny.identity, torch.float32)
    assert load_control("nano", base).dtype == torch.float32


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match="pickled checkpoint"):
        find_base(str(tmp_path / f"model{suffix}"))


@pytest.mark.parametrize("name", ["nothing", "./no/folder", "a/b/c", "x.safetensors"])
def test_a_name_that_leads_nowhere_is_told_what_a_base_is(name):
    with pytest.raises(UserError, match="a base is nano"):
        find_base(name)


@pytest.mark.parametrize("offline", ["1", "0"])
def test_the_hub_is_only_asked_for_its_ids_and_its_absence_explained(
    monkeypatch, tmp_path, offline
):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def refuse(name, local_files_only=False, **_):
        asked.append(local_files_only)
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", refuse)  # the network is not ours to use
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match="run `hf download owner/model` beforehand") as caught:
        load_base("owner/model")
    assert "\n" not in str(caught.value)
    assert asked == ([True] if offline == "1" else [True, False])


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


# --- SD 1.5 ------------------------------------------------------------------------------------


def test_sd15_has_its_real_size():
    models = build_sd15_on_meta()
    counts = {part: sum(p.numel() for p in m.parameters()) for part, m in models.items()}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    control = make_control(models["unet"])
    assert sum(p.numel() for p in control.parameters()) == 361_279_120
    assert sd15_configs()["vae"]["scaling_factor"] == 0.18215


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_to_ldm(name, layers, has_attention):
    """Return the key that the original code has for a key of diffusers' UNet."""
    for ours, theirs in TOP.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    block, rest = name.split(".", 1)
    if block == "mid_block":
        kind, number, inner = rest.split(".", 2)
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    else:
        index, kind, number, inner = rest.split(".", 3)
        first = int(index) * (layers + 1)
        if block == "down_blocks":
            if kind == "downsamplers":
                return f"input_blocks.{1 + first + layers}.0.op.{inner.removeprefix('conv.')}"
            place = f"input_blocks.{1 + first + int(number)}.{int(kind == 'attentions')}"
        elif kind == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + has_attention(int(index))}.{inner}"
        else:
            place = f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}"
    if kind == "resnets":
        part, tail = inner.rsplit(".", 1)
        return f"{place}.{RESNET[part]}.{tail}"
    return f"{place}.{inner}"


def vae_to_ldm(name, blocks):
    import re

    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"resnets\.(\d+)", r"block.\1", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    for ours, theirs in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def to_ldm(unet, vae, text_encoder):
    """Return the state of a checkpoint as the original code would have saved it."""
    kinds = unet.config.up_block_types
    layers = unet.config.layers_per_block
    state = {}
    for name, weight in unet.state_dict().items():
        key = unet_to_ldm(name, layers, lambda index: "CrossAttn" in kinds[index])
        state[f"model.diffusion_model.{key}"] = weight
    for name, weight in vae.state_dict().items():
        key = vae_to_ldm(name, len(vae.config.block_out_channels))
        as_convolution = "attn_1" in key and weight.ndim == 2
        state[f"first_stage_model.{key}"] = weight[..., None, None] if as_convolution else weight
    start = "cond_stage_model.transformer.text_model"
    for name, weight in text_encoder.state_dict().items():
        state[f"{start}.{name.removeprefix('text_model.')}"] = weight
    state[f"{start}.embeddings.position_ids"] = torch.arange(77)[None]
    state["alphas_cumprod"] = torch.ones(1000)
    return state


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
