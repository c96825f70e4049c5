"""Weights of one byte each, for a network that is shipped: a quarter of the file.

In: tensors. Out: kernels as whole numbers from -127 to 127 with a scale for each output channel,
all else at half precision; and the way back, as near as that allows. Meant to start training from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SCALE = ".univg_scale"
"""Ending of the name of a kernel's scales."""
MOST = 127


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` in little space."""
    import torch

    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif tensor.ndim < 2:
            packed[name] = tensor.to(torch.float16)
        else:
            rest = tuple(range(1, tensor.ndim))
            scale = (tensor.abs().amax(rest, keepdim=True) / MOST).clamp_min(1e-7).half()
            steps = (tensor / scale.float()).round().clamp(-MOST, MOST)
            packed[name], packed[name + SCALE] = steps.to(torch.int8), scale
    return packed


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `pack` was given, nearly; tensors that are not packed stay as they are."""
    import torch

    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if name + SCALE in tensors:
            found[name] = tensor.float() * tensors[name + SCALE].float()
        elif tensor.dtype == torch.float16:
            found[name] = tensor.float()
        else:
            found[name] = tensor
    return found
