"""The frame of Swin-UNet and VM-UNet: a UNet whose pixels are small patches and whose blocks vary.

In: images (B, C, H, W), and a maker of blocks that keep (B, h, w, D). Out: logits (B, 1, H, W).
Patches are merged two by two on the way down and expanded on the way up, by linear layers
(Cao 2022); no convolution but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MakeBlocks = Callable[[int, int, int], nn.Module]
"""Takes level, channels and depth; returns the blocks of that level."""


def spread_pixels(tokens: Tensor, times: int) -> Tensor:
    """Turn (B, h, w, times * times * D) into (B, times * h, times * w, D)."""
    batch, rows, columns, wide = tokens.shape
    width = wide // times**2
    apart = tokens.reshape(batch, rows, columns, times, times, width)
    return apart.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * times, columns * times, width)


class Embed(nn.Module):
    """Cut the image into patches and bring each to `channels` numbers."""

    def __init__(self, channels_in: int, channels: int, patch: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(channels_in, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.cut(image).permute(0, 2, 3, 1))
        return tokens


class Merge(nn.Module):
    """Half the sides, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, rows, columns, width = tokens.shape
        apart = tokens.reshape(batch, rows // 2, 2, columns // 2, 2, width)
        four = apart.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, 4 * width)
        merged: Tensor = self.reduce(self.norm(four))
        return merged


class Expand(nn.Module):
    """`times` the sides, channels divided by `shrink`."""

    def __init__(self, channels: int, times: int, shrink: int) -> None:
        super().__init__()
        self.times = times
        self.spread = nn.Linear(channels, times**2 * channels // shrink, bias=False)
        self.norm = nn.LayerNorm(channels // shrink)

    def forward(self, tokens: Tensor) -> Tensor:
        expanded: Tensor = self.norm(spread_pixels(self.spread(tokens), self.times))
        return expanded


class TokenUNet(nn.Module):
    """Encoder, bottom, decoder. Skips are joined by a linear layer, or added (`add_skips`)."""

    def __init__(
        self,
        channels_in: int,
        make_blocks: MakeBlocks,
        *,
        channels: int,
        depths: Sequence[int],
        patch: int,
        add_skips: bool,
    ) -> None:
        super().__init__()
        levels = len(depths)
        widths = [channels * 2**level for level in range(levels)]
        self.multiple_px = patch * 2 ** (levels - 1)
        self.embed = Embed(channels_in, channels, patch)
        self.encoder = nn.ModuleList(make_blocks(k, widths[k], depths[k]) for k in range(levels))
        self.merges = nn.ModuleList(Merge(width) for width in widths[:-1])
        self.expands = nn.ModuleList(Expand(width, 2, 2) for width in widths[1:])
        self.joins = nn.ModuleList(
            nn.Identity() if add_skips else nn.Linear(2 * width, width) for width in widths[:-1]
        )
        self.add_skips = add_skips
        self.decoder = nn.ModuleList(
            make_blocks(k, widths[k], depths[k]) for k in range(levels - 1)
        )
        self.norm = nn.LayerNorm(channels)
        self.final = Expand(channels, patch, 1)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            if level:
                tokens = self.merges[level - 1](tokens)
            tokens = blocks(tokens)
            skips.append(tokens)
        for level in reversed(range(len(self.decoder))):
            tokens = self.expands[level](tokens)
            if self.add_skips:
                tokens = tokens + skips[level]
            else:
                tokens = self.joins[level](torch.cat([tokens, skips[level]], -1))
            tokens = self.decoder[level](tokens)
        fine = self.final(self.norm(tokens)).permute(0, 3, 1, 2)
        logits: Tensor = self.head(fine)
        return logits
