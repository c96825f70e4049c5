"""What training of a segmenter starts from instead of random weights.

In: `vessels`, which comes with univg, a file that `univg segment fit` wrote, or its run folder.
Out: the file; its weights in a network, which may take another number of channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import univg

from .weights import fill_network, own_tensors, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from .net_frame import Segmenter

MODEL = "model.safetensors"
NOTHING = "none"
"""In place of weights to start from."""
EMBEDDED = {"vessels": Path(univg.__file__).parent / "assets" / "vessels" / MODEL}
"""What comes with univg, by name."""


def find_start(name: str | None) -> Path | None:
    """Return the file that `name` means, itself or in a run folder; None for none."""
    if name is None or name == NOTHING:
        return None
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    return path / MODEL if path.is_dir() else path


def start_from(network: Segmenter, path: Path) -> None:
    """Copy the weights in `path` into `network`; they may be of another number of channels."""
    wanted = own_tensors(network)
    found = {
        name: _match_channels(tensor, wanted[name]) if name in wanted else tensor
        for name, tensor in read_tensors(path).items()
    }
    fill_network(network, found, path)


def _match_channels(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Return a kernel for grey images as one for three equal channels, or the other way round."""
    shape, other = tuple(tensor.shape), tuple(wanted.shape)
    if len(shape) != 4 or shape[:1] + shape[2:] != other[:1] + other[2:]:
        return tensor
    if (shape[1], other[1]) == (3, 1):
        return tensor.sum(1, keepdim=True)
    if (shape[1], other[1]) == (1, 3):
        return tensor.expand(-1, 3, -1, -1) / 3
    return tensor
