"""Drawing with an engine: noise to pictures, many at a time, each by its own seed.

In: a base, where masks steer a ControlNet, prompts, seeds. Out: pictures (H, W, 3). Noise is drawn
on the CPU, one generator a picture, so a picture does not depend on what is drawn beside it, but
for the rounding of larger matrix products. The steps are those of diffusers' own pipelines (which
the tests hold against this); prompts are embedded once a run instead of once a call.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from univg.errors import UserError
from univg.sd import Base, decode_latents, embed_prompts, encode_images, quiet
from univg.sd_compute import Attention, choose_precision, set_attention, set_layout

if TYPE_CHECKING:
    from diffusers import ControlNetModel

SchedulerName = Literal["ddim", "unipc", "dpm++"]
STEPS = 20
GUIDANCE = 2.0
DTYPES = {"no": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What decides a picture, beside engine, mask and seed."""

    steps: int = STEPS
    scheduler: SchedulerName = "ddim"
    guidance: float = GUIDANCE
    """How far to go beyond what the empty prompt would give; 1: not at all, twice as fast."""
    control_strength: float = 1.0
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What decides how fast it is drawn."""

    device: str = "auto"
    precision: str = "auto"
    attention: Attention = "auto"
    channels_last: bool | None = None
    compile: bool = False


class Sampler:
    """An engine that is ready to draw pictures of one size.

    Without `compute` its networks stay as they are, as they must while they are trained.
    """

    def __init__(
        self,
        base: Base,
        control: ControlNetModel | None = None,
        *,
        sampling: Sampling,
        compute: Compute | None = None,
        size_px: tuple[int, int] | None = None,
    ) -> None:
        if base.shift:
            raise UserError(f"base {base.name}: its VAE has a shift_factor, as SD 1.5's has not")
        self.base, self.control, self.sampling = base, control, sampling
        self.size_px = size_px or (base.native_px, base.native_px)
        self.unet: Any = base.unet
        self.bare_control: Any = control  # as it was before it is compiled
        if compute is not None:
            self._set_up(compute)
        self.device, self.dtype = base.unet.device, base.unet.dtype
        # A network in training may be wider than a UNet that rests in half precision.
        self.mixed = control is not None and control.dtype != self.dtype
        self.scheduler = make_scheduler(base, sampling.scheduler)
        with warnings.catch_warnings():  # diffusers' way with arrays is not that of numpy 2
            warnings.simplefilter("ignore", DeprecationWarning)
            self.scheduler.set_timesteps(sampling.steps)
        # Schedulers look into tables on the CPU: asked with times of a GPU, they wait for it.
        self.times = self.scheduler.timesteps.to(self.device)
        self._nothing = torch.nn.Identity()
        self._embedded: dict[str, torch.Tensor] = {}

    def _set_up(self, compute: Compute) -> None:
        """Bring the networks to a device, a precision, kernels and a layout."""
        device = torch.device(choose_device(compute.device))
        dtype = DTYPES[choose_precision(compute.precision)]
        self.base.to(device)
        networks: list[Any] = [self.base.unet]
        if self.control is not None:
            networks.append(self.control)
        for network in networks:
            with quiet():
                network.to(device, dtype)
            set_attention(network, compute.attention, max(self.size_px) // self.base.vae_factor)
            set_layout(network, compute.channels_last)
        if compute.compile:
            self.unet = torch.compile(self.base.unet, dynamic=False)
            if self.control is not None:
                self.control = torch.compile(self.control, dynamic=False)
        if device.type == "cuda":
            self._set_up_vae(dtype, compute)

    def _set_up_vae(self, dtype: torch.dtype, compute: Compute) -> None:
        """Have a GPU decode in bf16 where it draws in it, not cast fp32 weights each time."""
        vae: Any = self.base.vae
        with quiet():
            vae.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
        set_layout(vae, compute.channels_last)
        if compute.compile:
            vae.decoder.compile(dynamic=False)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        masks: Sequence[npt.NDArray[np.bool_]] = (),
    ) -> npt.NDArray[np.uint8]:
        """Return a picture (N, H, W, 3) a prompt and seed, with a ControlNet also a mask."""
        latents = self._draw_noise(seeds)
        text = self._embed(prompts)
        condition = self._embed_masks(masks)
        guided = self.sampling.guidance > 1
        if guided:
            empty = self._embed([self.sampling.negative_prompt] * len(prompts))
            text = torch.cat([empty, text])
            condition = None if condition is None else torch.cat([condition, condition])
        scheduler = copy.deepcopy(self.scheduler)  # multistep ones remember their last steps
        latents = latents * scheduler.init_noise_sigma
        mixed = torch.autocast(self.device.type, self.dtype, enabled=self.mixed)
        with self._masks_embedded(), mixed:
            for step, time in zip(scheduler.timesteps, self.times, strict=True):
                noisy = torch.cat([latents, latents]) if guided else latents
                noisy = scheduler.scale_model_input(noisy, step)
                found = self._predict(noisy.to(self.dtype), time, text, condition).float()
                if guided:
                    without, with_prompt = found.chunk(2)
                    found = without + self.sampling.guidance * (with_prompt - without)
                latents = scheduler.step(found, step, latents, return_dict=False)[0]
        return self._decode(latents)

    def _predict(
        self,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: torch.Tensor,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        extra: dict[str, Any] = {}
        if self.control is not None and condition is not None:
            down, middle = self.control(
                noisy,
                time,
                encoder_hidden_states=text,
                controlnet_cond=condition,
                conditioning_scale=self.sampling.control_strength,
                return_dict=False,
            )
            extra = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": middle,
            }
        found: torch.Tensor = self.unet(
            noisy, time, encoder_hidden_states=text, return_dict=False, **extra
        )[0]
        return found

    def _draw_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        factor = self.base.vae_factor
        shape = (self.base.latent_channels, self.size_px[0] // factor, self.size_px[1] // factor)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(noise).to(self.device)

    def _embed(self, prompts: Sequence[str]) -> torch.Tensor:
        missing = sorted(set(prompts) - set(self._embedded))
        for prompt in missing:  # one by one: what stands beside a prompt must not change its bits
            embedded = embed_prompts(self.base, [prompt])[0]
            self._embedded[prompt] = embedded.to(self.device, self.dtype)
        return torch.stack([self._embedded[prompt] for prompt in prompts])

    def _embed_masks(self, masks: Sequence[npt.NDArray[np.bool_]]) -> torch.Tensor | None:
        """Return what the ControlNet makes of `masks` before its first block.

        It does that at the masks' full size, so once a picture and not once a step.
        """
        if self.control is None:
            return None
        planes = torch.from_numpy(np.stack([mask.astype(np.uint8) for mask in masks]))
        planes = planes.to(self.device, self.dtype)[:, None].expand(-1, 3, -1, -1)
        with torch.autocast(self.device.type, self.dtype, enabled=self.mixed):
            embedded: torch.Tensor = self.bare_control.controlnet_cond_embedding(planes)
        return embedded

    @contextlib.contextmanager
    def _masks_embedded(self) -> Iterator[None]:
        """Within, the ControlNet takes masks that are embedded already."""
        control = self.bare_control
        if control is None:
            yield
            return
        embedding = control.controlnet_cond_embedding
        control.controlnet_cond_embedding = self._nothing
        try:
            yield
        finally:
            control.controlnet_cond_embedding = embedding

    def _decode(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        vae: Any = self.base.vae
        home = vae.device
        # In fp16 the VAE of SD 1.5 overflows.
        is_mixed = self.dtype == torch.bfloat16 and vae.dtype != torch.bfloat16
        try:
            vae.to(self.device)  # while an engine is trained, it rests outside a small GPU
            with torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed):
                return decode_latents(self.base, latents)
        finally:
            vae.to(home)


def choose_device(asked: str) -> str:
    """Return the device to draw on; auto: the GPU, where there is one."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        # Launchers of many processes number them; some show each process one GPU alone.
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        return f"cuda:{rank % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def make_scheduler(base: Base, name: SchedulerName) -> Any:
    """Return a fresh scheduler of the base's noise schedule."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    classes: dict[str, Any] = {
        "ddim": DDIMScheduler,
        "unipc": UniPCMultistepScheduler,
        "dpm++": DPMSolverMultistepScheduler,
    }
    extra = {"algorithm_type": "dpmsolver++"} if name == "dpm++" else {}
    return classes[name].from_config(base.scheduler.config, **extra)


@torch.no_grad()
def give_back(
    base: Base, pictures: Sequence[npt.NDArray[Any]], batch: int = 8
) -> list[npt.NDArray[np.uint8]]:
    """Return what the base's autoencoder makes of masks (H, W) or of pictures (H, W, 3)."""
    given: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(pictures), batch):
        planes = np.stack(pictures[start : start + batch])
        if planes.ndim == 3:
            planes = np.repeat(planes.astype(np.uint8)[..., None] * 255, 3, axis=3)
        given += list(decode_latents(base, encode_images(base, planes)))
    return given
