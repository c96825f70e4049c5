"""Swin-UNet (Cao 2022): attention inside windows, shifted by half a window in every second block.

In: tokens (B, h, w, D) of any h and w. Out: the same shape. Tokens are padded to whole windows, and
the padding is left out of the attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .net_frame import is_exported
from .net_tokens import MakeBlocks

MASKED = -1e4
"""Finite and within bfloat16 and float16: enough to be nothing after the softmax."""


class WindowAttention(nn.Module):
    """Attention between the tokens of one window, with a learned bias for each offset."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.offsets = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.offsets, std=0.02)
        places = torch.arange(window)
        apart = places[:, None] - places[None, :] + window - 1  # 0 to 2 * window - 2
        index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
        self.index: Tensor
        self.register_buffer("index", index.reshape(window**2, window**2), persistent=False)

    def forward(self, tokens: Tensor, apart: Tensor | None) -> Tensor:
        """Take windows (B, n, w * w, D); `apart` (n, w * w, w * w) is true where none may look."""
        batch, windows, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, windows, length, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        scores = (query * self.scale) @ key.transpose(-1, -2)
        scores = scores + self.offsets[self.index].permute(2, 0, 1)
        if apart is not None:
            scores = scores.masked_fill(apart[:, None], MASKED)
        mixed = scores.softmax(-1) @ value
        out: Tensor = self.out(mixed.transpose(2, 3).reshape(batch, windows, length, channels))
        return out


class SwinBlock(nn.Module):
    """Attention in (shifted) windows, then a small perceptron; both added to what came in."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, wider: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, wider * channels),
            nn.GELU(),
            nn.Linear(wider * channels, channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm(tokens))
        out: Tensor = tokens + self.perceptron(tokens)
        return out

    def _attend(self, tokens: Tensor) -> Tensor:
        rows, columns = tokens.shape[1:3]
        window = self.window
        high = (rows + window - 1) // window * window
        wide = (columns + window - 1) // window * window
        padded = is_exported() or high != rows or wide != columns
        if padded:
            tokens = nn.functional.pad(tokens, (0, 0, 0, wide - columns, 0, high - rows))
        if self.shift:
            tokens = tokens.roll((-self.shift, -self.shift), (1, 2))
        apart = None
        if padded or self.shift:
            down = find_regions(rows, high, self.shift, tokens.device)
            across = find_regions(columns, wide, self.shift, tokens.device)
            regions = (down[:, None] * 4 + across[None, :])[None, :, :, None]
            inside = cut_windows(regions, window)[0, :, :, 0]
            apart = inside[:, :, None] != inside[:, None, :]
        mixed = join_windows(self.attention(cut_windows(tokens, window), apart), window, high, wide)
        if self.shift:
            mixed = mixed.roll((self.shift, self.shift), (1, 2))
        return mixed[:, :rows, :columns]


def find_regions(length: int, padded: int, shift: int, device: torch.device) -> Tensor:
    """Return for each place of a rolled, padded axis the region that it may look at, 0 to 3."""
    place = torch.arange(padded, device=device)
    wrapped = place >= padded - shift  # came round from the other side
    padding = place.roll(-shift, 0) >= length
    return wrapped.to(torch.int64) * 2 + padding.to(torch.int64)


def cut_windows(tokens: Tensor, window: int) -> Tensor:
    """Turn (B, h, w, D) into (B, windows, window * window, D)."""
    batch, rows, columns, channels = tokens.shape
    down, across = rows // window, columns // window
    apart = tokens.reshape(batch, down, window, across, window, channels)
    return apart.permute(0, 1, 3, 2, 4, 5).reshape(batch, down * across, window**2, channels)


def join_windows(windows: Tensor, window: int, rows: int, columns: int) -> Tensor:
    """Undo `cut_windows`."""
    batch, _, _, channels = windows.shape
    down, across = rows // window, columns // window
    apart = windows.reshape(batch, down, across, window, window, channels)
    return apart.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, channels)


def make_swin_blocks(heads: list[int], window: int, wider: int) -> MakeBlocks:
    """Return a maker of Swin blocks, every second one shifted."""

    def make_blocks(level: int, channels: int, depth: int) -> nn.Module:
        shifts = [0 if number % 2 == 0 else window // 2 for number in range(depth)]
        return nn.Sequential(
            *(SwinBlock(channels, heads[level], window, shift, wider) for shift in shifts)
        )

    return make_blocks
