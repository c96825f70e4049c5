"""Networks compared by their weights, and the layout in which the original code saves them."""

from __future__ import annotations

import re

import torch


def same(one, two):
    states = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


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
