"""What every segmentation network stands in: any size of image in, one map of logits out.

In: images (B, C, H, W) of any height and width. Out: logits (B, 1, H, W). While training, a
network with deep supervision gives (B, K, H, W), the real output first and what only the loss looks
at behind it; the other networks give K = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from univg.errors import DataError

USUAL_MULTIPLE_PX = 32
"""Sides that nearly all networks take; for those that do not say what they need."""


class Segmenter(nn.Module):
    """A network, its name and options, and the padding that lets it take any size.

    The body may have three attributes: `multiple_px`, which its sides must be a multiple of;
    `output_weights`, how much the loss looks at each of its K outputs; and `forward` may return
    (B, K, H, W) or a list of K maps (B, 1, H, W), each of the size of its input.
    """

    def __init__(
        self,
        body: nn.Module,
        name: str,
        channels_in: int,
        options: Mapping[str, Any],
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.name = name
        self.channels_in = channels_in
        self.options = dict(options)
        self.size = size
        self.multiple_px = int(getattr(body, "multiple_px", USUAL_MULTIPLE_PX))
        weights = getattr(body, "output_weights", (1.0,))
        self.output_weights = tuple(float(weight) for weight in weights)

    def forward(self, image: Tensor) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.channels_in:
            raise DataError(
                f"the network {self.name} takes images (batch, {self.channels_in}, height, width), "
                f"not {tuple(image.shape)}; convert them to {self.channels_in} channel(s) first"
            )
        height, width = image.shape[2:]
        rows, top = _pad_places(height, self.multiple_px, image.device)
        columns, left = _pad_places(width, self.multiple_px, image.device)
        if is_exported() or rows.shape[0] != height or columns.shape[0] != width:
            image = image.index_select(2, rows).index_select(3, columns)
        logits = self.run_body(image)
        if not self.training:
            logits = logits[:, :1]
        result: Tensor = logits[:, :, top : top + height, left : left + width]
        return result

    def run_body(self, image: Tensor) -> Tensor:
        """Return all maps of the body for an image whose sides it takes."""
        outputs = self.body(image)
        maps: Tensor = torch.cat(list(outputs), 1) if isinstance(outputs, list | tuple) else outputs
        return maps


def is_exported() -> bool:
    """Return whether the forward is being written down for any size, not run for one."""
    jit: Any = torch.jit  # torch does not say what it exports
    return bool(jit.is_tracing() or torch.compiler.is_exporting())


def _pad_places(length: int, multiple: int, device: torch.device) -> tuple[Tensor, int]:
    """Return which row stands at each row of the padded image, and how many stand before the first.

    Reflection, again and again where the image is smaller than its margin: `nn.functional.pad`
    refuses that.
    """
    steps = (length + multiple - 1) // multiple
    # At least two: statistics over a single pixel at the bottom are undefined. Integer arithmetic,
    # as `max` would fix the size of an exported network.
    steps = steps + 2 // (steps + 1)
    before = (steps * multiple - length) // 2
    places = torch.arange(steps * multiple, device=device) - before
    period = 2 * (length - 1) + 1 // length  # 1 for a single row
    places = places.abs() % period
    return torch.minimum(places, (period - places).abs()).clamp(max=length - 1), before
