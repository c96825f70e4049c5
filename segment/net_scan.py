"""The state-space scan, without a loop over places and without a compiled kernel.

In: inputs, decays and the two projections of each place of a sequence. Out: what the recurrence
would give. Within a chunk it is a product of small matrices, between chunks another, so that a CPU
does it at the speed of matrix products (Dao 2024, "SSD"; one decay a head and place).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 32
"""Places a chunk: work within chunks grows with it, work between chunks falls."""


def scan_states(
    inputs: Tensor, log_decay: Tensor, write: Tensor, read: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Run h[t] = exp(log_decay[t]) h[t-1] + inputs[t] write[t]', out[t] = h[t] read[t], h[-1] = 0.

    `inputs` (B, L, H, P), `log_decay` (B, L, H), not positive, `write` and `read` (B, L, N), which
    all heads share. Returns (B, L, H, P).
    """
    batch, length, heads, width = inputs.shape
    kind = inputs.dtype
    chunks = (length + chunk - 1) // chunk
    rest = chunks * chunk - length  # zeros at the end change nothing before them
    wide = heads * width
    x = functional.pad(inputs, (0, 0, 0, 0, 0, rest)).reshape(batch, chunks, chunk, heads, width)
    decays = functional.pad(log_decay.float(), (0, 0, 0, rest))
    total = decays.reshape(batch, chunks, chunk, heads).cumsum(2)  # (B, C, Q, H)
    write = functional.pad(write, (0, 0, 0, rest)).reshape(batch, chunks, chunk, -1)
    read = functional.pad(read, (0, 0, 0, rest)).reshape(batch, chunks, chunk, -1)

    tall = total.transpose(2, 3)  # (B, C, H, Q)
    kept = _exp_below(tall[..., :, None] - tall[..., None, :], diagonal=1).to(kind)
    seen = (read @ write.transpose(-1, -2))[:, :, None]  # (B, C, 1, Q, Q)
    inside = ((seen * kept) @ x.transpose(2, 3)).transpose(2, 3)  # (B, C, Q, H, P)

    # Heads stand beside each other in these products: as a batch they would be copied.
    to_end = (total[:, :, -1:] - total).exp().to(kind)[..., None]
    made = (x * to_end).reshape(batch, chunks, chunk, wide).transpose(-1, -2) @ write
    entering = _carry(made.reshape(batch, chunks, heads, -1), total[:, :, -1])
    entering = entering.reshape(batch, chunks, wide, -1).transpose(-1, -2)
    carried = (read @ entering).reshape(batch, chunks, chunk, heads, width)
    out = inside + carried * total.exp().to(kind)[..., None]
    return out.reshape(batch, chunks * chunk, heads, width)[:, :length]


def _carry(made: Tensor, last: Tensor) -> Tensor:
    """Return the states with which the chunks begin, from what each adds, (B, C, H, states)."""
    last = last.transpose(1, 2)  # (B, H, C)
    summed = last.cumsum(-1)
    kept = _exp_below((summed - last)[..., :, None] - summed[..., None, :], diagonal=0)
    return (kept.to(made.dtype) @ made.transpose(1, 2)).transpose(1, 2)


def _exp_below(gaps: Tensor, diagonal: int) -> Tensor:
    """Return exp(gaps), zero from `diagonal` up: the future, whose exponents could overflow."""
    places = torch.arange(gaps.shape[-1], device=gaps.device)
    future = places[None, :] - places[:, None] >= diagonal
    return gaps.masked_fill(future, -torch.inf).exp()
