"""IterNet (Li 2020): a UNet, then a mini-UNet run again and again over what it found.

In: images (B, C, H, W). Out: a list of maps of logits (B, 1, H, W), that of the last iteration
first; all are compared with the mask while training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .net_unet import UNetBody, make_convolution

MINI_LEVELS = 3
"""The mini-UNet halves the sides twice."""


class IterNet(nn.Module):
    """The iterations share the mini-UNet; each has its own 1 x 1 convolutions before and after.

    Every iteration sees the features of the UNet's first block and those of all passes before it
    (the paper's dense connections), which is why the convolutions before it differ in width.
    """

    def __init__(
        self, channels_in: int, widths: list[int], iterations: int, norm: str, up: str
    ) -> None:
        super().__init__()
        width = widths[0]
        mini = [width * 2**level for level in range(MINI_LEVELS)]
        self.multiple_px = 2 ** max(len(widths) - 1, MINI_LEVELS - 1)
        self.output_weights = (1.0,) * (iterations + 1)
        self.first = UNetBody(channels_in, widths, norm, up)
        self.mini = UNetBody(width, mini, norm, up)
        self.mixes = nn.ModuleList(
            make_convolution(width * (2 + number), width, norm, side=1)
            for number in range(iterations)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(iterations + 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        features, early = self.first(image)
        passes = [features]
        for mix in self.mixes:
            passes.append(self.mini(mix(torch.cat([early, *passes], 1)))[0])
        if not self.training:
            return [self.heads[-1](passes[-1])]
        maps = [head(found) for head, found in zip(self.heads, passes, strict=True)]
        return maps[::-1]
