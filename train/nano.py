"""The embedded base's networks: Stable Diffusion's own classes, small enough for a laptop.

In: a seed and the prompts of the modalities. Out: fresh modules. Few channels at full resolution,
where a CPU spends its time; sixteen latent channels instead of four, because a vessel one pixel
wide must survive the way to 32 x 32 latents and back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NATIVE_PX = 256
LATENT_CHANNELS = 16
PROMPT_TOKENS = 24
TEXT_WIDTH = 96
START, END = "<|startoftext|>", "<|endoftext|>"

VAE: dict[str, Any] = {
    "block_out_channels": (16, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": NATIVE_PX,
}
UNET: dict[str, Any] = {
    "sample_size": NATIVE_PX // 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 96, 144),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,  # as in SD 1.5, this counts heads
    "norm_num_groups": 16,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    # Most of a mask is black: only a schedule that ends in noise alone draws such dark pictures.
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


def make_vae(seed: int) -> AutoencoderKL:
    """Return a fresh autoencoder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoencoderKL(**VAE)


def make_unet(seed: int) -> UNet2DConditionModel:
    """Return a fresh UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return UNet2DConditionModel(**UNET)


def make_text_encoder(seed: int, vocabulary: int) -> CLIPTextModel:
    """Return a fresh text encoder for `vocabulary` tokens, the last two of which are special."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return CLIPTextModel(config)


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule: that of SD 1.5, but predicting velocity."""
    return DDIMScheduler(**SCHEDULER)


def make_tokenizer(words: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Return a CLIP tokenizer to which each of `words` is one token and all else is letters.

    Its files are written to `folder`.
    """
    letters = list(_byte_letters())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    merges = []
    for word in sorted(set(words)):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            if merge not in merges:
                merges.append(merge)
                pieces.append("".join(merge))
            parts[:2] = ["".join(merge)]
    pieces = [*dict.fromkeys(pieces), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=PROMPT_TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _byte_letters() -> Iterable[str]:
    """Yield the 256 characters that stand for the bytes in CLIP's vocabulary, in its order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, plain)
    yield from (chr(256 + number) for number in range(256 - len(plain)))
