"""Training the autoencoder of the embedded base.

In: masks and images. Out: an AutoencoderKL that brings both back, thin vessels included. The loss
is the error of pixels and of finer and coarser edges, and a weak pull of the latents towards the
unit normal distribution. No adversary and no network from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from univg.loop.task import Preview, Sample, Task
from univg.resize import resize_to

from .pictures import Picture, load_picture, turn

KL_WEIGHT = 5e-4
SQUARE_WEIGHT = 2.0
"""The absolute error alone is content with black masks for long: most of their pixels are."""
EDGE_WEIGHT = 1.0
DENSE_SHARE = 0.6
"""Share of masks that are shrunk first: masks of large pictures are dense when they come to 256."""
OVERLAY_SHARE = 0.5
"""Share of the shrunk masks that are laid over another, for denser vessels yet."""


class VaeLoss(torch.nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Sample) -> torch.Tensor:
        """Return the loss of each picture, (B,)."""
        pixels = batch["pixels"]
        latent = self.vae.encode(pixels).latent_dist
        code = latent.mean + latent.std * batch["noise"]
        back = self.vae.decode(code).sample.float()
        kl = 0.5 * (latent.mean.float() ** 2 + latent.var.float() - 1 - latent.logvar.float())
        return (
            _mean(torch.abs(back - pixels))
            + SQUARE_WEIGHT * _mean((back - pixels) ** 2)
            + EDGE_WEIGHT * edge_error(back, pixels)
            + KL_WEIGHT * _mean(kl)
        )


def edge_error(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the mean error of the differences of neighbours at three scales, (B,)."""
    error = torch.zeros(len(first), device=first.device)
    wrong = first - second
    for _ in range(3):
        across = _mean(torch.abs(wrong[..., :, 1:] - wrong[..., :, :-1]))
        down = _mean(torch.abs(wrong[..., 1:, :] - wrong[..., :-1, :]))
        error = error + (across + down) / 6
        wrong = functional.avg_pool2d(wrong, 2)
    return error


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(dim=1)


class VaeTask(Task):
    """Random crops of masks and images, as many of the one as of the other.

    What of `vae` requires gradients is trained.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        masks: Sequence[Picture],
        images: Sequence[Picture],
        held_out: Sequence[Picture],
        *,
        size_px: int,
        crop_px: int,
        name: str = "vae",
    ) -> None:
        self.name, self.module = name, VaeLoss(vae)
        self.vae, self.masks, self.images, self.held_out = vae, masks, images, held_out
        self.size_px, self.crop_px = size_px, crop_px
        self.items = 2 * max(len(masks), len(images))
        self.checks = len(held_out)

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Return a random crop of a picture, turned at random."""
        pictures = (self.masks, self.images)[item % 2]
        picture = pictures[(item // 2) % len(pictures)]
        pixels = load_picture(picture, self.size_px, "crop")
        if picture.kind == "mask" and rng.random() < DENSE_SHARE:
            pixels = self._make_dense(pixels, rng)
        pixels = turn(pixels, int(rng.integers(8)))
        top, left = rng.integers(0, len(pixels) - self.crop_px + 1, 2)
        crop = pixels[top : top + self.crop_px, left : left + self.crop_px]
        return self._sample(np.ascontiguousarray(crop), rng)

    def _make_dense(self, pixels: Preview, rng: np.random.Generator) -> Preview:
        side = int(rng.integers(self.crop_px, self.size_px + 1))
        mask = resize_to(pixels[..., 0] > 127, (side, side))
        if rng.random() < OVERLAY_SHARE:
            other = self.masks[int(rng.integers(len(self.masks)))]
            pixels = turn(load_picture(other, self.size_px, "crop"), int(rng.integers(8)))
            mask = mask | resize_to(pixels[..., 0] > 127, (side, side))
        return np.repeat((mask.astype(np.uint8) * 255)[..., None], 3, axis=2)

    def load_check(self, number: int) -> Sample:
        """Return a whole held-out picture."""
        pixels = load_picture(self.held_out[number], self.size_px, "crop")
        return self._sample(pixels, np.random.default_rng(number))

    def _sample(self, pixels: Preview, rng: np.random.Generator) -> Sample:
        side = pixels.shape[0] // 8
        shape = (self.vae.config.latent_channels, side, side)
        noise = rng.standard_normal(shape, dtype=np.float32)
        return {"pixels": to_tensor(pixels), "noise": torch.from_numpy(noise)}

    def name_items(self, items: Sequence[int]) -> list[str]:
        """Return the files behind `items`."""
        lists = (self.masks, self.images)
        chosen = [lists[item % 2][(item // 2) % len(lists[item % 2])] for item in items]
        return [str(picture.path) for picture in chosen]

    def preview(self, step: int) -> Preview | None:  # noqa: ARG002 - the same at each step
        """Return held-out pictures above what comes back."""
        shown = self.held_out[:8]
        pixels = torch.stack([self.load_check(number)["pixels"] for number in range(len(shown))])
        pixels = pixels.to(self.vae.device)
        back = self.vae.decode(self.vae.encode(pixels).latent_dist.mean).sample
        rows = [torch.cat(list(row), dim=2) for row in (pixels, back)]
        return to_pixels(torch.cat(rows, dim=1))

    def save(self, folder: Path) -> list[Path]:
        """Write the autoencoder in diffusers' layout."""
        self.vae.save_pretrained(folder / "vae")
        return [folder / "vae"]


def to_tensor(pixels: Preview) -> torch.Tensor:
    """Return uint8 (H, W, 3) as float32 (3, H, W) in -1 to 1."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)


def to_pixels(tensor: torch.Tensor) -> Preview:
    """Return float (3, H, W) in -1 to 1 as uint8 (H, W, 3)."""
    scaled = (tensor.float().clamp(-1, 1) + 1) * 127.5
    pixels: Preview = scaled.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels
