"""The UNet, and the blocks it shares with its relatives.

In: images (B, C, H, W), sides a multiple of `multiple_px`. Out: logits (B, 1, H, W).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP_CHANNELS = 16
"""Channels that share their statistics with `norm: group`."""


class InstanceNorm(nn.GroupNorm):
    """Each channel of each image for itself.

    Torch's `InstanceNorm2d` does the same, but is slower on a CPU and refuses maps of one pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.group_norm(features, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(kind: str, channels: int) -> nn.Module:
    """Return the normalisation `kind` for `channels` channels."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "group":
        groups = max(1, channels // GROUP_CHANNELS)
        return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)
    return nn.Identity()


def make_convolution(
    channels_in: int, channels_out: int, norm: str, side: int = 3
) -> nn.Sequential:
    """Return a convolution of side x side, normalisation, ReLU."""
    return nn.Sequential(
        # A bias before a normalisation is taken off again by it.
        nn.Conv2d(channels_in, channels_out, side, padding=side // 2, bias=norm == "none"),
        make_norm(norm, channels_out),
        nn.ReLU(inplace=True),
    )


def make_block(channels_in: int, channels_out: int, norm: str, layers: int = 2) -> nn.Sequential:
    """Return `layers` convolutions, one after another."""
    widths = [channels_in] + [channels_out] * layers
    return nn.Sequential(*(make_convolution(a, b, norm) for a, b in pairwise(widths)))


class Grow(nn.Module):
    """Twice the sides, other channels: a transposed convolution, or bilinear and 1 x 1."""

    def __init__(self, channels_in: int, channels_out: int, up: str) -> None:
        super().__init__()
        self.bilinear = up == "bilinear"
        self.convolution: nn.Module
        if self.bilinear:
            self.convolution = nn.Conv2d(channels_in, channels_out, 1)
        else:
            self.convolution = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        # The 1 x 1 first: it commutes with the interpolation and is four times cheaper there.
        grown: Tensor = self.convolution(features)
        if self.bilinear:
            grown = functional.interpolate(grown, scale_factor=2.0, mode="bilinear")
        return grown


class UNetBody(nn.Module):
    """A UNet without its head: features of the last block, and those of the first."""

    def __init__(
        self, channels_in: int, widths: list[int], norm: str, up: str, layers: int = 2
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            make_block(a, b, norm, layers)
            for a, b in zip([channels_in, *widths[:-1]], widths, strict=True)
        )
        self.grow = nn.ModuleList(Grow(b, a, up) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(make_block(2 * a, a, norm, layers) for a in widths[:-1])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = image
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                features = functional.max_pool2d(features, 2)
            features = block(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            grown = self.grow[level](features)
            features = self.decoder[level](torch.cat([skips[level], grown], 1))
        return features, skips[0]


class UNet(nn.Module):
    """Ronneberger 2015, with normalisation, and padding in place of the shrinking borders."""

    def __init__(
        self, channels_in: int, widths: list[int], norm: str, up: str, layers: int = 2
    ) -> None:
        super().__init__()
        self.multiple_px = 2 ** (len(widths) - 1)
        self.body = UNetBody(channels_in, widths, norm, up, layers)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(image)[0])
        return logits
