"""A Stable Diffusion of real classes that is tiny: for tests and dry runs, no download.

In: a seed. Out: a `Base` of about 69,000 parameters (UNet, VAE, CLIP text model and tokenizer, DDIM
scheduler), native size 64 px, and a ControlNet that fits it. The weights are random, so what it
draws means nothing; every shape, call and file is that of the real thing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from univg.sd import Base, identify, load_base, make_control, save_base
from univg.seeds import seed_for

if TYPE_CHECKING:
    from diffusers import ControlNetModel

TINY_NAME = "tiny"
CROSS_ATTENTION = 32
TOKENS = 77

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": CROSS_ATTENTION,
    "attention_head_dim": 2,
    "norm_num_groups": 1,
}
VAE_CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (4, 4, 4, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 1,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tiny_base(folder: Path | None = None, seed: int = 0) -> Base:
    """Return the tiny base; with `folder`, saved there in full precision and loaded back."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are replaced below
        unet = UNet2DConditionModel(**UNET_CONFIG)
        vae = AutoencoderKL(**VAE_CONFIG)
        text_encoder = CLIPTextModel(_text_config())
    for name, module in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        fill_weights(module, seed_for(seed, f"testing/{name}"))
        module.eval().requires_grad_(False)
    base = Base(
        name=TINY_NAME,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer(),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        identity=identify(unet),
    )
    if folder is None:
        return base
    save_base(base, folder, half=False)
    return load_base(str(folder))


def tiny_control(base: Base, seed: int = 0) -> ControlNetModel:
    """Return a fresh ControlNet for `base`: its output is zero until it is trained."""
    return make_control(base.unet, vae_factor=base.vae_factor, seed=seed)


def tiny_tokenizer() -> Any:
    """Return a CLIP tokenizer of 514 tokens: 256 byte characters, each also as a word's end."""
    from transformers import CLIPTokenizer

    characters = _byte_characters()
    words = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def fill_weights(module: torch.nn.Module, seed: int) -> None:
    """Set all weights from `seed`: matrices by their fan-in, vectors near one or zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                fan_in = weight[0].numel()
                weight.copy_(noise / math.sqrt(fan_in))
            elif name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.1 * noise)


def _text_config() -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=CROSS_ATTENTION,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=CROSS_ATTENTION,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def _byte_characters() -> list[str]:
    """Return the printable character that CLIP's byte-level BPE writes for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(hidden))]
