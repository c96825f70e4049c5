"""An engine's training step written plainly, as diffusers' example scripts write it.

In: a `Setup`, an engine, a `Variant`, a batch. Out: seconds a step, memory and the number of
trained parameters. Pictures and prompts are encoded in every step, the loss is read back in every
step. LoRA is peft's, LoHa lycoris', each on the same modules as ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from engine_steps import (
    Figures,
    Setup,
    Variant,
    build_base,
    compute_dtype,
    make_pictures,
    make_settings,
    peak_of,
    reset_peak,
    tokenize,
)


def run_plain(setup: Setup, engine: str, variant: Variant, batch: int) -> Figures:
    """Take the steps as diffusers' example scripts do."""
    from univg.loop.device import make_accelerator

    accelerator = make_accelerator(make_settings(setup, variant, batch))
    base = build_base(setup.base, setup.device, setup.seed)
    step, trained = _make_plain_step(setup, engine, variant, base, accelerator)
    batches = _plain_batches(setup, engine, base, batch)
    reset_peak(setup)
    for _ in range(setup.warmup_steps):
        step(next(batches))
    seconds = []
    for _ in range(setup.steps // setup.window_steps):
        start = time.perf_counter()
        for _ in range(setup.window_steps):
            step(next(batches))  # ends by reading the loss, which waits for the GPU
        seconds.append((time.perf_counter() - start) / setup.window_steps)
    return {"step_s": seconds, "trained": trained, **peak_of(setup)}


def _plain_batches(setup: Setup, engine: str, base: Any, batch: int) -> Iterator[Figures]:
    import torch

    from univg.train.pictures import load_mask, load_picture

    pictures = make_pictures(setup.folder / engine, setup.size_px, setup.seed, engine)
    pixels = [torch.from_numpy(load_picture(p, setup.size_px, "stretch")) for p in pictures]
    pixels = [one.permute(2, 0, 1).float() / 127.5 - 1 for one in pixels]
    tokens = tokenize(base, pictures[0].prompt)
    controls = []
    if engine == "control":
        masks = [load_mask(p.mask_path, setup.size_px, "stretch") for p in pictures]
        controls = [torch.from_numpy(mask).float().expand(3, -1, -1) for mask in masks]
    place = 0
    while True:
        chosen = [(place + number) % len(pictures) for number in range(batch)]
        place += batch
        made = {"pixels": torch.stack([pixels[i] for i in chosen])}
        made["tokens"] = torch.stack([tokens for _ in chosen])
        if controls:
            made["control"] = torch.stack([controls[i] for i in chosen])
        yield {name: value.to(setup.device) for name, value in made.items()}


def _make_plain_step(
    setup: Setup, engine: str, variant: Variant, base: Any, accelerator: Any
) -> tuple[Callable[[Figures], float], int]:
    """Return the step and how many parameters it trains."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from torch.nn import functional

    dtype = compute_dtype(setup) if variant.half_base else torch.float32
    unet, vae, text_encoder = base.unet, base.vae, base.text_encoder
    control, moving = _wrap_plainly(engine, base, dtype, setup)
    moving.to(setup.device)
    trained = [weight for weight in moving.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01)
    moving, optimizer = accelerator.prepare(moving, optimizer)
    rates = get_scheduler("constant", optimizer=optimizer)
    noises = DDPMScheduler.from_config(base.scheduler.config)
    generator = torch.Generator(setup.device).manual_seed(setup.seed)
    moving.train()
    bare = control is not None and variant.half_base  # the scripts' frozen UNet needs no autocast

    def steer(noisy: Any, times: Any, text: Any, batch: Figures) -> Figures:
        if control is None:
            return {}
        with accelerator.autocast():
            down, middle = control(
                noisy, times, text, controlnet_cond=batch["control"], return_dict=False
            )
        return {
            "down_block_additional_residuals": [one.to(dtype) for one in down],
            "mid_block_additional_residual": middle.to(dtype),
        }

    def step(batch: Figures) -> float:
        with torch.no_grad(), accelerator.autocast():
            spread = vae.encode(batch["pixels"].to(dtype)).latent_dist
            latent = spread.sample(generator) * base.scaling
            text = text_encoder(batch["tokens"], return_dict=False)[0]
        noise = torch.randn(latent.shape, generator=generator, device=latent.device).to(latent)
        times = torch.randint(0, 1000, (len(latent),), generator=generator, device=latent.device)
        noisy = noises.add_noise(latent, noise, times)
        extra = steer(noisy, times, text, batch)
        with contextlib.nullcontext() if bare else accelerator.autocast():
            found = unet(noisy, times, text, return_dict=False, **extra)[0]
        loss = functional.mse_loss(found.float(), noise.float(), reduction="mean")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        return float(loss.detach().item())

    return step, sum(weight.numel() for weight in trained)


def _wrap_plainly(engine: str, base: Any, dtype: Any, setup: Setup) -> tuple[Any, Any]:
    """Put what `engine` trains on the UNet; return its ControlNet and the module that moves."""
    from univg.sd import make_control
    from univg.train.adapters import LORA, find_targets

    unet = base.unet
    control = make_control(unet, vae_factor=base.vae_factor) if engine == "control" else None
    for part in (unet, base.vae, base.text_encoder):
        part.to(setup.device, dtype).requires_grad_(False)
    if control is not None:
        return control, control.requires_grad_(True)
    if engine == "lora":
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig

        wanted = {id(module) for module in find_targets(unet, LORA).values()}
        paths = [path for path, module in unet.named_modules() if id(module) in wanted]
        unet.add_adapter(LoraConfig(r=32, lora_alpha=32, target_modules=paths))
        cast_training_params(unet)
        return None, unet
    from lycoris import create_lycoris
    from lycoris.logging import logger

    logger.setLevel("ERROR")  # it prints to standard output
    network = create_lycoris(
        unet, 1.0, linear_dim=32, linear_alpha=32, algo="loha", conv_dim=4, conv_alpha=4
    )
    network.apply_to()
    unet.train()
    return None, network.float()
