"""Stable Diffusion bases: the only place that loads or saves one, or a ControlNet of one.

In: what the user wrote after `--base` (see `univg.sd_source`). Out: a `Base` of real diffusers and
transformers objects, its prompts as embeddings, its images as latents, and the pipelines that
sample from it. Files are read and written through `univg.sd_source`, `univg.sd_checkpoint` (single
files) and `univg.sd_save`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from univg.errors import DataError, UserError
from univg.sd_checkpoint import (
    build_on_meta,
    check_checkpoint,
    check_tokenizer,
    read_checkpoint,
    refuse_nan,
    sd15_configs,
)
from univg.sd_control import load_control, make_control
from univg.sd_save import save_base, save_control
from univg.sd_source import PARTS, Source, find_base, find_weights, refuse_mismatch

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        StableDiffusionControlNetPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "Base",
    "BaseInfo",
    "Precision",
    "build_pipeline",
    "decode_latents",
    "embed_prompts",
    "encode_images",
    "encode_moments",
    "identify",
    "inspect_base",
    "load_base",
    "load_control",
    "make_control",
    "quiet",
    "save_base",
    "save_control",
]

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODED_AT_ONCE = 2
"""Pictures that a GPU decodes at once: the decoder's widest layers need more than all the steps."""
SAMPLED_VALUES = 64
"""Values of each tensor that the identity of a base is made of."""


@dataclass(kw_only=True)
class Base:
    """A base in memory. Parts that were not asked for are None."""

    name: str
    """What the user wrote."""
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler
    identity: str
    """Of the UNet as loaded; adapters carry it. The same whether stored in fp32 or fp16."""

    @property
    def vae_factor(self) -> int:
        """Pixels along one side of a latent pixel."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def native_px(self) -> int:
        """Side of the images that the UNet was made for [px]."""
        return int(self.unet.config.sample_size) * self.vae_factor

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def scaling(self) -> float:
        """What a latent, less `shift`, is multiplied by before the UNet sees it."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift(self) -> float:
        """What is taken from a latent before it is scaled."""
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    def to(self, device: torch.device | str) -> Base:
        """Move every part to `device`; return self."""
        for part in (self.unet, self.vae, self.text_encoder):
            if part is not None:
                part.to(device)
        return self


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What a base is, found out without its weights."""

    name: str
    path: Path
    native_px: int
    latent_channels: int
    prediction_type: str
    parameters: dict[str, int]
    """Number of parameters of each part."""
    configs: dict[str, dict[str, Any]]


def load_base(
    name: str,
    *,
    precision: Precision = "fp32",
    parts: Sequence[str] = ("unet", "vae", "text_encoder"),
) -> Base:
    """Load the base called `name` to the CPU in `precision`; the scheduler becomes DDIM."""
    source = find_base(name)
    with quiet():
        loaded = read_checkpoint(source.path, parts) if source.kind == "file" else None
        loaded = loaded or _read_folder(source, parts)
    refuse_nan(loaded, source.path)
    unet = loaded.get("unet")
    identity = identify(unet) if unet is not None else ""  # before the cast: one for all precisions
    with quiet():
        for part in ("unet", "vae", "text_encoder"):
            if loaded.get(part) is not None:
                loaded[part].to(DTYPES[precision]).eval().requires_grad_(False)
    return Base(name=name, identity=identity, **{**dict.fromkeys((*PARTS, "scheduler")), **loaded})


def inspect_base(name: str) -> BaseInfo:
    """Return what the base called `name` is; no weights are read into memory."""
    source = find_base(name)
    if source.kind == "file":
        check_checkpoint(source.path)
        configs = sd15_configs()
    else:
        configs = {part: _read_config(source.path / part / "config.json") for part in PARTS[:3]}
        configs["scheduler"] = _read_config(source.path / "scheduler" / "scheduler_config.json")
    try:
        return _describe_base(source, configs)
    except (
        LookupError,
        ArithmeticError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{source.path}: is not a Stable Diffusion 1.x by its config.json files ({reason}); "
            "copy it again"
        ) from error


def _describe_base(source: Source, configs: dict[str, dict[str, Any]]) -> BaseInfo:
    refuse_mismatch(configs, source.path)
    unet, vae = configs["unet"], configs["vae"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return BaseInfo(
        name=source.name,
        path=source.path,
        native_px=int(unet["sample_size"]) * factor,
        latent_channels=int(vae.get("latent_channels", 4)),
        prediction_type=str(configs["scheduler"].get("prediction_type", "epsilon")),
        parameters={part: count_parameters(part, configs[part]) for part in PARTS[:3]},
        configs=configs,
    )


def count_parameters(part: str, config: dict[str, Any]) -> int:
    """Return how many parameters the `config` of a part makes, built on the meta device."""
    return sum(weight.numel() for weight in build_on_meta(part, config).parameters())


def identify(module: torch.nn.Module) -> str:
    """Return 12 hex digits that name the weights of `module`.

    Made of every tensor's name, shape and 64 values spread over it, rounded to fp16, so that a
    base and its half-precision copy are the same.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.detach().reshape(-1)
        count = min(SAMPLED_VALUES, flat.numel())
        # Whole numbers: in fp32, places in SD 1.5's large tensors would round past their ends.
        places = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
        sample = flat[places.to(flat.device)].to("cpu", torch.float32).half()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def embed_prompts(base: Base, prompts: Sequence[str]) -> torch.Tensor:
    """Return the text encoder's embedding of each prompt, (N, 77, D); "" is the unconditional."""
    device = base.text_encoder.device
    tokens = base.tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=base.tokenizer.model_max_length,
        return_tensors="pt",
    )
    embedding: torch.Tensor = base.text_encoder(tokens.input_ids.to(device))[0]
    return embedding


@torch.no_grad()
def encode_moments(base: Base, images: npt.NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the latents of `images` (N, H, W, 3), scaled."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images are (N, H, W, 3) uint8, not {images.shape} {images.dtype}")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    pixels = pixels.to(base.vae.device, torch.float32) / 127.5 - 1
    posterior = base.vae.encode(pixels.to(base.vae.dtype)).latent_dist
    return (posterior.mean - base.shift) * base.scaling, posterior.std * base.scaling


def encode_images(
    base: Base, images: npt.NDArray[np.uint8], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return latents (N, C, h, w) of `images`: drawn with `generator`, else their means."""
    mean, std = encode_moments(base, images)
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device)
    return mean + std * noise.to(mean)


@torch.no_grad()
def decode_latents(base: Base, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return the images (N, H, W, 3) uint8 of scaled `latents` (N, C, h, w)."""
    device, dtype = base.vae.device, base.vae.dtype
    unscaled = (latents.to(device).float() / base.scaling + base.shift).to(dtype)
    # On a CPU all at once: there the size of a batch decides how products are rounded.
    together = DECODED_AT_ONCE if device.type == "cuda" else len(latents)
    planes = []
    for start in range(0, len(unscaled), together):
        pixels = base.vae.decode(unscaled[start : start + together]).sample
        planes.append(((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    images: npt.NDArray[np.uint8] = torch.cat(planes).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images


def build_pipeline(
    base: Base, control: ControlNetModel | None = None
) -> StableDiffusionPipeline | StableDiffusionControlNetPipeline:
    """Return the diffusers pipeline of `base`, DDIM, no safety checker, no progress bar."""
    if base.shift:
        raise UserError(
            f"base {base.name}: its VAE has shift_factor {base.shift}, which the pipelines of "
            "Stable Diffusion ignore; use a base without one"
        )
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    with quiet():
        from diffusers import (
            DDIMScheduler,
            StableDiffusionControlNetPipeline,
            StableDiffusionPipeline,
        )

        # A copy: sampling sets timesteps on it.
        parts["scheduler"] = DDIMScheduler.from_config(base.scheduler.config)
        if control is None:
            pipeline = StableDiffusionPipeline(**parts)
        else:
            pipeline = StableDiffusionControlNetPipeline(controlnet=control, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from printing bars and remarks while files are read."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    levels = [library.get_verbosity() for library in libraries]
    bar = of_transformers.is_progress_bar_enabled()
    try:
        for library in libraries:
            library.set_verbosity_error()
        of_transformers.disable_progress_bar()
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bar:
            of_transformers.enable_progress_bar()


def _read_folder(source: Source, parts: Sequence[str]) -> dict[str, Any]:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    loaded: dict[str, Any] = {}
    for part in parts:
        folder = source.path / part
        _, variant = find_weights(folder)
        dtype = "torch_dtype" if part != "text_encoder" else "dtype"
        try:
            loaded[part], told = classes[part].from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                output_loading_info=True,
                **{dtype: torch.float32},
            )
        except MemoryError:
            raise
        except Exception as error:  # the libraries have kinds of errors of their own
            raise _not_loaded(folder, error) from error
        if told["missing_keys"]:  # the libraries would make them up
            raise DataError(f"{folder}: lacks weights ({min(told['missing_keys'])}); copy it again")
    if "text_encoder" in parts:
        folder = source.path / "tokenizer"
        try:
            loaded["tokenizer"] = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            raise _not_loaded(folder, error) from error
        check_tokenizer(loaded["tokenizer"], loaded["text_encoder"], folder)
    path = source.path / "scheduler" / "scheduler_config.json"
    config = _read_config(path)
    if "beta_schedule" not in config:  # diffusers would take one of its own
        raise DataError(f"{path}: names no noise schedule (beta_schedule); copy the base again")
    try:
        loaded["scheduler"] = DDIMScheduler.from_config(config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _not_loaded(path, error) from error
    return loaded


def _not_loaded(place: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{place}: cannot be loaded ({reason}); copy it again")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise DataError(f"{path}: cannot be read ({reason}); copy the base again") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: must hold a JSON object; copy the base again")
    return config
