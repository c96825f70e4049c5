"""VM-UNet (Ruan 2024): state-space scans over the image in four directions, in plain torch.

In: tokens (B, h, w, D). Out: the same shape. A deliberate departure: each head has one decay rate
(Dao 2024) where the paper's blocks have one a channel and state, so that the scan becomes matrix
products that a CPU does well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .net_scan import scan_states
from .net_tokens import MakeBlocks

DIRECTIONS = 4
SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1
LARGEST_RATE = 16.0


class ScanBlock(nn.Module):
    """SS2D: gate, depthwise convolution, four scans, their sum normalised; added to what came in.

    The rates and steps begin as in Mamba: spread over two decades, so that some heads remember a
    few tokens and others the whole image.
    """

    def __init__(self, channels: int, wider: int, states: int, head_width: int) -> None:
        super().__init__()
        inner = wider * channels
        self.head_width = min(head_width, inner)
        self.heads = inner // self.head_width
        self.states = states
        self.norm = nn.LayerNorm(channels)
        self.enter = nn.Linear(channels, 2 * inner, bias=False)
        self.near = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        per_place = self.heads + 2 * states
        self.select = nn.Parameter(torch.empty(DIRECTIONS, inner, per_place))
        nn.init.uniform_(self.select, -(inner**-0.5), inner**-0.5)
        low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
        steps = torch.empty(DIRECTIONS, self.heads).uniform_(low, high).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus undone
        rates = torch.empty(DIRECTIONS, self.heads).uniform_(1.0, LARGEST_RATE)
        self.log_rate = nn.Parameter(rates.log())
        self.direct = nn.Parameter(torch.ones(DIRECTIONS, self.heads))
        self.norm_out = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        content, gate = self.enter(self.norm(tokens)).chunk(2, -1)
        near = functional.silu(self.near(content.permute(0, 3, 1, 2)))
        mixed = self.norm_out(self._scan(near)) * functional.silu(gate)
        out: Tensor = tokens + self.leave(mixed)
        return out

    def _scan(self, features: Tensor) -> Tensor:
        """Take (B, D, h, w), return (B, h, w, D)."""
        batch, inner, rows, columns = features.shape
        paths = unroll(features)  # (B, 4, L, D)
        length = paths.shape[2]
        chosen = paths @ self.select
        step, write, read = torch.split(chosen, [self.heads, self.states, self.states], -1)
        step = functional.softplus(step.float() + self.step_bias[:, None])
        log_decay = -self.log_rate.exp()[:, None] * step
        heads = paths.reshape(batch, DIRECTIONS, length, self.heads, self.head_width)
        scanned = scan_states(
            (heads * step[..., None].to(heads.dtype)).flatten(0, 1),
            log_decay.flatten(0, 1),
            write.flatten(0, 1),
            read.flatten(0, 1),
        )
        mixed = roll_up(scanned.reshape(batch, DIRECTIONS, length, inner), rows, columns)
        # What each path passes on unchanged is the same at a place for all four: added up once.
        direct = self.direct.sum(0).repeat_interleave(self.head_width).to(features.dtype)
        return mixed + features.permute(0, 2, 3, 1) * direct


def unroll(features: Tensor) -> Tensor:
    """Turn (B, D, h, w) into the four sequences (B, 4, h * w, D): along rows, columns, and back."""
    along = features.flatten(2)
    down = features.transpose(2, 3).flatten(2)
    both = torch.stack([along, down], 1)  # (B, 2, D, L)
    return torch.cat([both, both.flip(-1)], 1).transpose(2, 3)


def roll_up(paths: Tensor, rows: int, columns: int) -> Tensor:
    """Bring the four sequences back to their places and add them up: (B, h, w, D)."""
    batch, _, _, inner = paths.shape
    both = paths[:, :2] + paths[:, 2:].flip(2)
    along = both[:, 0].reshape(batch, rows, columns, inner)
    down = both[:, 1].reshape(batch, columns, rows, inner)
    return along + down.transpose(1, 2)


def make_scan_blocks(wider: int, states: int, head_width: int) -> MakeBlocks:
    """Return a maker of scan blocks."""

    def make_blocks(level: int, channels: int, depth: int) -> nn.Module:  # noqa: ARG001
        return nn.Sequential(
            *(ScanBlock(channels, wider, states, head_width) for _ in range(depth))
        )

    return make_blocks
