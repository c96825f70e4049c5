"""The steps that `engine_speed.py` and `latent_cache.py` measure: univg's own.

In: a `Setup`, an engine (lora, loha, control), a `Variant`, a batch. Out: seconds a step, memory
and the number of trained parameters. They run in the loop of `univg train`, on the task that its
commands run. The plain step to compare with is in `plain_steps.py`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

POOL = 8
"""Pictures that are made up to train on."""
SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 32, "block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 96,
        "attention_head_dim": 4,
    },
    "vae": {"sample_size": 256, "block_out_channels": [16, 32, 64, 64], "norm_num_groups": 16},
    "text_encoder": {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4},
}  # fmt: skip
"""What `small` changes in SD 1.5: about a tenth of its channels, all of its layers."""


@dataclass(frozen=True)
class Variant:
    """One way to take the step."""

    name: str
    ours: bool = True
    cache: bool = True
    half_base: bool = False
    """Keep the weights that do not move in the computing precision."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `univg.train.options.Engine`."""


@dataclass(frozen=True)
class Setup:
    """What all measurements of a run share."""

    base: str
    device: str
    precision: str
    size_px: int
    steps: int
    warmup_steps: int
    seed: int
    folder: Path

    @property
    def window_steps(self) -> int:
        """Steps over which the time is taken: between two looks of the loop at its loss."""
        from univg.loop.loop import LOOK_EVERY_ON_GPU

        return LOOK_EVERY_ON_GPU if self.device == "cuda" else 1


@dataclass
class Parts:
    """A base in memory with what one engine trains on it."""

    base: Any
    control: Any = None
    adapter: Any = None


def build_base(name: str, device: str, seed: int) -> Any:
    """Return a frozen base; `sd15` and `small` with random weights, made on `device`."""
    from univg.sd import load_base
    from univg.testing import tiny_base

    if name == "tiny":
        return tiny_base(seed=seed)
    return load_base("nano") if name == "nano" else _build_random(name, device, seed)


def _build_random(name: str, device: str, seed: int) -> Any:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from univg.sd import Base, identify
    from univg.sd_checkpoint import sd15_configs
    from univg.testing import tiny_tokenizer

    configs = sd15_configs()
    for part, changes in (SMALL if name == "small" else {}).items():
        configs[part] |= changes
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    for module in (unet, vae, text_encoder):
        module.eval().requires_grad_(False)
    return Base(
        name=name,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer(),  # the words do not matter, their number (77) is CLIP's
        scheduler=DDIMScheduler.from_config(configs["scheduler"]),
        identity=identify(unet),
    )


def make_pictures(folder: Path, size_px: int, seed: int, engine: str) -> list[Any]:
    """Write smooth random masks and images; return what `engine` trains on."""
    import cv2
    import numpy as np

    from univg.files import sha256_of_file
    from univg.images import encode_image
    from univg.masks import write_mask
    from univg.seeds import rng_for
    from univg.train.pictures import Picture

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number in range(POOL):
        rng = rng_for(seed, "benchmark pictures", number)
        coarse = rng.integers(0, 256, (size_px // 8, size_px // 8, 3)).astype(np.uint8)
        pixels = cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        mask_path, path = folder / f"mask-{number}.png", folder / f"image-{number}.png"
        write_mask(mask_path, pixels[:, :, 0] > 160)
        path.write_bytes(encode_image(pixels))
        if engine == "control":
            sha256 = sha256_of_file(path)
            pictures.append(Picture(path, "image", "vessel image", sha256, "", mask_path))
        else:
            sha256 = sha256_of_file(mask_path)
            pictures.append(Picture(mask_path, "mask", "mask of vessels", sha256))
    return pictures


def compute_dtype(setup: Setup) -> Any:
    """Return what the step computes in."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(setup.precision, torch.float32)


def make_settings(setup: Setup, variant: Variant, batch: int) -> Any:
    from univg.train.options import Engine

    values = {
        "out": Path(tempfile.mkdtemp(prefix="run-", dir=setup.folder)),
        "base": setup.base,
        "seed": setup.seed,
        "max_steps": setup.warmup_steps + setup.steps,
        "batch": batch,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "weight_decay": 0.01,
        "precision": setup.precision,
        "channels_last": setup.device == "cuda",
        "preview_every": 0,
        "validate_every": 0,
        "tracker": "none",
    }
    return Engine(**(values | variant.settings))


# Ours ---------------------------------------------------------------------------------------------


def run_ours(setup: Setup, engine: str, variant: Variant, batch: int) -> Figures:
    """Take the steps in the loop of `univg train`; the time is what it notes itself."""
    from univg.loop.device import make_accelerator
    from univg.loop.loop import train
    from univg.train.session import prepare_network

    asked = make_settings(setup, variant, batch)
    accelerator = make_accelerator(asked)
    parts = _build_ours(setup, engine, variant)
    for network in (parts.base.unet, parts.control):
        if network is not None:
            prepare_network(network, asked, setup.size_px // parts.base.vae_factor)
    pictures = make_pictures(setup.folder / engine, setup.size_px, setup.seed, engine)
    make = _make_cached if variant.cache else _make_encoding
    task, filled = make(setup, parts, pictures)
    reset_peak(setup)
    train(task, asked, accelerator)
    lines = (asked.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    seconds = [batch / row["samples_per_s"] for row in rows if row["step"] > setup.warmup_steps]
    trained = sum(weight.numel() for weight in task.trained().values())
    return {"step_s": seconds, "trained": trained, **filled, **peak_of(setup)}


def _build_ours(setup: Setup, engine: str, variant: Variant) -> Parts:
    from univg.sd import make_control
    from univg.train.adapters import LOHA, LORA, attach

    parts = Parts(build_base(setup.base, setup.device, setup.seed))
    base = parts.base
    if engine == "control":
        parts.control = make_control(base.unet, vae_factor=base.vae_factor, seed=setup.seed)
        parts.control.requires_grad_(True)
    if variant.half_base and setup.device == "cuda":  # as `univg train` does
        base.unet.to(compute_dtype(setup))
    if engine != "control":
        parts.adapter = attach(base.unet, LOHA if engine == "loha" else LORA, setup.seed)
    return parts


def _make_loss(parts: Parts, text_encoder: Any = None) -> Any:
    from univg.train.diffusion import DenoisingLoss, NoiseOptions, NoiseSchedule

    return DenoisingLoss(
        parts.base.unet,
        NoiseSchedule(parts.base.scheduler, NoiseOptions()),
        text_encoder=text_encoder,
        control=parts.control,
        adapter=parts.adapter,
    )


def _make_cached(setup: Setup, parts: Parts, pictures: Sequence[Any]) -> tuple[Any, Figures]:
    """Return the task that `univg train` runs, and what filling its cache took, where it did."""
    from univg.train.engine_task import EngineTask
    from univg.train.latents import LatentCache, PromptCache

    base = parts.base
    for part in (base.unet, base.text_encoder, parts.control, parts.adapter):
        if part is not None:
            part.to("cpu")  # where they are while `univg train` encodes
    base.vae.to(setup.device)
    cache = LatentCache(setup.folder / "cache", base, size_px=setup.size_px, fit="stretch")
    missing = cache.count_missing(pictures)
    reset_peak(setup)
    start = time.perf_counter()
    cache.prepare(pictures)
    seconds = time.perf_counter() - start
    filled: Figures = {}
    if missing:
        peak = peak_of(setup).get("peak_mib")
        filled = {"fill_s": seconds, "filled": missing, "fill_peak_mib": peak}
    text = PromptCache(setup.folder / "cache").embed(base, [pictures[0].prompt])
    return EngineTask("speed", _make_loss(parts), cache, text, [pictures]), filled


def _make_encoding(setup: Setup, parts: Parts, pictures: Sequence[Any]) -> tuple[Any, Figures]:
    """Return the same task with pictures and prompts encoded in every step."""
    import torch

    from univg.loop.task import Sample, Task
    from univg.train.engine_task import control_of
    from univg.train.pictures import load_mask, load_picture

    base, dtype = parts.base, compute_dtype(setup)
    base.vae.to(setup.device, dtype)
    base.text_encoder.to(setup.device, dtype)
    tokens = tokenize(base, pictures[0].prompt)
    side_px = setup.size_px // base.vae_factor
    shape = (base.latent_channels, side_px, side_px)

    class EncodingLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae, self.inner = base.vae, _make_loss(parts, base.text_encoder)

        def forward(self, batch: Sample) -> torch.Tensor:
            with torch.no_grad():
                spread = self.vae.encode(batch["pixels"].to(dtype)).latent_dist
                latent = spread.mean + spread.std * batch["spread"]
                latent = (latent.float() - base.shift) * base.scaling
            loss: torch.Tensor = self.inner({**batch, "latent": latent})
            return loss

    class EncodingTask(Task):
        name, items, module = "speed", len(pictures), EncodingLoss()

        def load(self, item: int, rng: Any) -> Sample:
            picture = pictures[item]
            pixels = torch.from_numpy(load_picture(picture, setup.size_px, "stretch"))
            sample = {
                "pixels": pixels.permute(2, 0, 1).float() / 127.5 - 1,
                "spread": torch.from_numpy(rng.standard_normal(shape, dtype="float32")),
                "tokens": tokens,
                **self.module.inner.schedule.draw(rng, shape),
            }
            if parts.control is not None:
                mask = load_mask(picture.mask_path, setup.size_px, "stretch")
                sample["control"] = control_of(mask)
            return sample

        def save(self, folder: Path) -> list[Path]:  # noqa: ARG002
            return []

    return EncodingTask(), {}


def tokenize(base: Any, prompt: str) -> Any:
    """Return the prompt's tokens, (77,)."""
    length = base.tokenizer.model_max_length
    return base.tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids[0]


def reset_peak(setup: Setup) -> None:
    """Start to watch the memory of a GPU."""
    if setup.device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_of(setup: Setup) -> Figures:
    """Return the most GPU memory in use since; of a CPU's nothing is said."""
    if setup.device != "cuda":
        return {}
    import torch

    return {
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
        "reserved_mib": torch.cuda.max_memory_reserved() / 2**20,
    }
