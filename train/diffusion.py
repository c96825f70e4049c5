"""The loss of all engines: how well noise is told from latent at a random time.

In: latents, their prompts, noise and timesteps, all drawn before. Out: a loss a sample. What the
UNet predicts (noise, velocity or the latent) is read from the base's scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch.nn import functional

from univg.loop.task import Sample

CHECK_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where validation looks, as shares of the noise schedule."""


@dataclass(frozen=True)
class NoiseOptions:
    """Departures from plain denoising; 0 and False are none."""

    min_snr: float = 0.0
    """Gamma of min-SNR weighting (Hang 2023)."""
    offset: float = 0.0
    """Noise that is the same all over a channel, as a share of the other (Guttenberg 2023)."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is noise alone (Lin 2023)."""


class NoiseSchedule(torch.nn.Module):
    """The base's schedule of noise, and what is drawn from it."""

    alphas: torch.Tensor

    def __init__(self, scheduler: DDIMScheduler, options: NoiseOptions) -> None:
        super().__init__()
        changed: dict[str, Any] = {}
        if options.zero_terminal_snr:
            # Lin 2023: a schedule that ends in noise alone must be sampled from there. As keywords:
            # what stands in a config but was a default there, `from_config` passes over.
            changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        plain = DDIMScheduler.from_config(scheduler.config, **changed)
        self.sampler = plain
        self.prediction = str(plain.config.prediction_type)
        self.options = options
        # Not a weight: kept out of saved state, but moved with the module.
        self.register_buffer("alphas", plain.alphas_cumprod.clone(), persistent=False)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Sample:
        """Return the noise and timestep of one sample."""
        step = int(rng.integers(len(self.alphas)))
        return self._draw_at(step, rng, shape)

    def draw_check(self, number: int, rng: np.random.Generator, shape: tuple[int, ...]) -> Sample:
        """Return the noise of one sample at the `number`th fixed time."""
        step = round(CHECK_TIMES[number] * (len(self.alphas) - 1))
        return self._draw_at(step, rng, shape)

    def _draw_at(self, step: int, rng: np.random.Generator, shape: tuple[int, ...]) -> Sample:
        noise = rng.standard_normal(shape, dtype=np.float32)
        if self.options.offset:
            channels = rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
            noise = noise + np.float32(self.options.offset) * channels
        return {"noise": torch.from_numpy(noise), "timestep": torch.tensor(step)}

    def add_noise(self, latent: torch.Tensor, batch: Sample) -> torch.Tensor:
        """Return `latent` (B, C, h, w) with the noise of its time."""
        alpha = self._alpha(batch)
        return alpha.sqrt() * latent + (1 - alpha).sqrt() * batch["noise"]

    def target(self, latent: torch.Tensor, batch: Sample) -> torch.Tensor:
        """Return what the UNet should predict."""
        if self.prediction == "epsilon":
            return batch["noise"]
        if self.prediction == "sample":
            return latent
        alpha = self._alpha(batch)
        return alpha.sqrt() * batch["noise"] - (1 - alpha).sqrt() * latent

    def weight(self, batch: Sample) -> torch.Tensor:
        """Return the weight of each sample's loss, (B,)."""
        if not self.options.min_snr:
            return torch.ones(len(batch["timestep"]), device=self.alphas.device)
        alpha = self.alphas[batch["timestep"]]
        snr = alpha / (1 - alpha)
        capped = snr.clamp(max=self.options.min_snr)
        if self.prediction == "epsilon":
            return capped / snr.clamp(min=1e-8)
        return capped if self.prediction == "sample" else capped / (snr + 1)

    def _alpha(self, batch: Sample) -> torch.Tensor:
        return self.alphas[batch["timestep"]][:, None, None, None]


class DenoisingLoss(torch.nn.Module):
    """A UNet, where wanted with its text encoder, a ControlNet or an adapter, and its loss.

    Batches hold latent, noise, timestep, and `text` (embeddings) or `tokens` (for the text
    encoder); with a ControlNet also `control`, the mask (B, 1, H, W), 0 and 1.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        schedule: NoiseSchedule,
        *,
        text_encoder: torch.nn.Module | None = None,
        control: torch.nn.Module | None = None,
        adapter: torch.nn.Module | None = None,
        vessel_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet, self.schedule = unet, schedule
        self.text_encoder, self.control = text_encoder, control
        self.vessel_weight = vessel_weight
        self.adapter = adapter  # rides on the UNet; here so that its weights are found

    def forward(self, batch: Sample) -> torch.Tensor:
        """Return the loss of each sample, (B,)."""
        noisy = self.schedule.add_noise(batch["latent"], batch)
        text = self._embed(batch)
        extra = self._steer(noisy, batch, text)
        found = self.unet(noisy, batch["timestep"], encoder_hidden_states=text, **extra).sample
        wrong = (found.float() - self.schedule.target(batch["latent"], batch)) ** 2
        if self.control is not None and self.vessel_weight:
            wrong = wrong * self._weigh(batch["control"], wrong)
        losses: torch.Tensor = wrong.flatten(1).mean(dim=1) * self.schedule.weight(batch)
        return losses

    def _weigh(self, mask: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
        """Return weights (B, 1, h, w) of mean 1, larger where there is any vessel.

        Vessels are a small and faint part of most images: without it, a ControlNet learns last
        what it is for.
        """
        shape = (wrong.shape[-2], wrong.shape[-1])
        weight = 1 + self.vessel_weight * functional.adaptive_max_pool2d(mask.float(), shape)
        return weight / weight.mean(dim=(2, 3), keepdim=True)

    def _embed(self, batch: Sample) -> torch.Tensor:
        if self.text_encoder is None:
            return batch["text"]
        embedding: torch.Tensor = self.text_encoder(batch["tokens"])[0]
        return embedding

    def _steer(self, noisy: torch.Tensor, batch: Sample, text: torch.Tensor) -> dict[str, Any]:
        if self.control is None:
            return {}
        down, middle = self.control(
            noisy,
            batch["timestep"],
            encoder_hidden_states=text,
            controlnet_cond=batch["control"].to(noisy.dtype).expand(-1, 3, -1, -1),
            return_dict=False,
        )
        return {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": middle,
        }
