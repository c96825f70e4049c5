"""InceptionV3 in plain torch, its weights named as torchvision names them.

In: a .safetensors file, torchvision's `inception_v3` or the weights that FID is defined over (the
same names, 1,008 classes, other pooling). Out: features (N, 2048) and class logits of images.
Nothing is ever downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from univg.errors import DataError

FEATURES = 2048
FID_CLASSES = 1008
_HEAD, _SPARE, _COUNTER = "fc.weight", "AuxLogits.", "num_batches_tracked"
_EPSILON = 0.001
Pooling = Literal["average", "average inside", "largest", "largest, halved"]
Size = int | tuple[int, int]


class Layer(NamedTuple):
    """A convolution of a block: its name, channels, kernel and stride."""

    name: str
    channels: int
    kernel: Size = 1
    stride: int = 1


Chain = tuple[Layer | tuple[Layer, ...], ...]
"""Convolutions one after the other; those in a tuple stand beside each other, at the end."""


class Conv(nn.Module):
    """A convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, channels: int, kernel: Size, stride: int, pad: Size) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, h, w)."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A block of chains side by side, and a pooled one; their answers are joined."""

    def __init__(self, inputs: int, chains: tuple[Chain, ...], pooled: int, pool: Pooling) -> None:
        super().__init__()
        self.chains, self.pool, self.outputs = chains, pool, 0
        for chain in chains:
            width = inputs
            for step in chain:
                for layer in _list_beside(step):
                    self.add_module(layer.name, _make_conv(width, layer))
                width = sum(layer.channels for layer in _list_beside(step))
            self.outputs += width
        self.branch_pool = _make_conv(inputs, Layer("branch_pool", pooled)) if pooled else None
        self.outputs += pooled or inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, h, w)."""
        found = [self._follow(chain, x) for chain in self.chains]
        rest = _pool(x, self.pool)
        found.append(rest if self.branch_pool is None else self.branch_pool(rest))
        return torch.cat(found, 1)

    def _follow(self, chain: Chain, x: Tensor) -> Tensor:
        for step in chain:
            x = torch.cat([self.get_submodule(layer.name)(x) for layer in _list_beside(step)], 1)
        return x


class InceptionV3(nn.Module):
    """The network; `fid` pools as the one that FID is defined over."""

    def __init__(self, classes: int = FID_CLASSES, *, fid: bool = True) -> None:
        super().__init__()
        inside: Pooling = "average inside" if fid else "average"
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, 0)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, 1, 0)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1, 1, 0)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, 1, 0)
        width, self.blocks = 192, []
        for name, chains, pooled, pool in _list_blocks(inside, "largest" if fid else inside):
            block = Mixed(width, chains, pooled, pool)
            self.add_module(name, block)
            self.blocks.append(name)
            width = block.outputs
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 2048) and logits of `images` (N, 3, S, S), -1 to 1."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, self.fc(features)


def load_inception(path: Path) -> tuple[InceptionV3, bool]:
    """Return the network with the weights of `path`, and whether they are those of FID."""
    weights = _read_weights(path)
    head = weights.get(_HEAD)
    if head is None or head.ndim != 2:
        raise DataError(_explain(path, f"has no `{_HEAD}`"))
    fid = head.shape[0] == FID_CLASSES
    with torch.device("meta"):  # no memory, and no draw from the global generator
        network = InceptionV3(head.shape[0], fid=fid)
    wanted = network.state_dict()
    kept = {name: value for name, value in weights.items() if not name.startswith(_SPARE)}
    for name, like in wanted.items():
        if name.endswith(_COUNTER):
            kept[name] = torch.zeros((), dtype=torch.int64)
        elif name not in kept:
            raise DataError(_explain(path, f"lacks `{name}`"))
        elif kept[name].shape != like.shape:
            shapes = f"{tuple(kept[name].shape)}, not {tuple(like.shape)}"
            raise DataError(_explain(path, f"has `{name}` of shape {shapes}"))
        elif not torch.isfinite(kept[name]).all():
            raise DataError(_explain(path, f"holds values that are no numbers in `{name}`"))
    strange = sorted(set(kept) - set(wanted))
    if strange:
        raise DataError(_explain(path, f"holds `{strange[0]}`, which is no part of it"))
    network.load_state_dict(kept, assign=True)
    return network.eval().requires_grad_(False), fid


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix.lower() != ".safetensors":
        raise DataError(
            f"{path}: is not a .safetensors file; univg reads no pickles: save it as safetensors"
        )
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give InceptionV3 weights that you have")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise DataError(
            f"{path}: is not a whole safetensors file ({error}); copy or make it again"
        ) from error
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}


def _explain(path: Path, what: str) -> str:
    return f"{path}: {what}: no InceptionV3; give torchvision's inception_v3 or the weights of FID"


def _list_beside(step: Layer | tuple[Layer, ...]) -> tuple[Layer, ...]:
    return (step,) if isinstance(step, Layer) else step


def _make_conv(inputs: int, layer: Layer) -> Conv:
    """What halves the picture has no padding, what does not keeps its size."""
    size = layer.kernel if isinstance(layer.kernel, tuple) else (layer.kernel, layer.kernel)
    pad = (size[0] // 2, size[1] // 2) if layer.stride == 1 else (0, 0)
    return Conv(inputs, layer.channels, layer.kernel, layer.stride, pad)


def _pool(x: Tensor, pool: Pooling) -> Tensor:
    if pool == "largest, halved":
        return F.max_pool2d(x, 3, 2)
    if pool == "largest":
        return F.max_pool2d(x, 3, 1, 1)
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=pool == "average")


def _list_blocks(average: Pooling, last: Pooling) -> list[tuple[Any, ...]]:
    """Return name, chains, channels of the pooled branch and pooling of each block, in order."""
    halved: Pooling = "largest, halved"
    blocks: list[tuple[Any, ...]] = [
        ("Mixed_5b", _CHAINS_A, 32, average),
        ("Mixed_5c", _CHAINS_A, 64, average),
        ("Mixed_5d", _CHAINS_A, 64, average),
        ("Mixed_6a", _CHAINS_B, 0, halved),
    ]
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        blocks.append((f"Mixed_{name}", _make_chains_c(width), 192, average))
    blocks.append(("Mixed_7a", _CHAINS_D, 0, halved))
    blocks.append(("Mixed_7b", _CHAINS_E, 192, average))
    blocks.append(("Mixed_7c", _CHAINS_E, 192, last))
    return blocks


def _make_chains_c(width: int) -> tuple[Chain, ...]:
    double = "branch7x7dbl_"
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", width),
            Layer("branch7x7_2", width, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer(f"{double}1", width),
            Layer(f"{double}2", width, (7, 1)),
            Layer(f"{double}3", width, (1, 7)),
            Layer(f"{double}4", width, (7, 1)),
            Layer(f"{double}5", 192, (1, 7)),
        ),
    )


_CHAINS_A: tuple[Chain, ...] = (
    (Layer("branch1x1", 64),),
    (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5)),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, 3),
        Layer("branch3x3dbl_3", 96, 3),
    ),
)
_CHAINS_B: tuple[Chain, ...] = (
    (Layer("branch3x3", 384, 3, 2),),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, 3),
        Layer("branch3x3dbl_3", 96, 3, 2),
    ),
)
_CHAINS_D: tuple[Chain, ...] = (
    (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, 3, 2)),
    (
        Layer("branch7x7x3_1", 192),
        Layer("branch7x7x3_2", 192, (1, 7)),
        Layer("branch7x7x3_3", 192, (7, 1)),
        Layer("branch7x7x3_4", 192, 3, 2),
    ),
)
_CHAINS_E: tuple[Chain, ...] = (
    (Layer("branch1x1", 320),),
    (
        Layer("branch3x3_1", 384),
        (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
    ),
    (
        Layer("branch3x3dbl_1", 448),
        Layer("branch3x3dbl_2", 384, 3),
        (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
    ),
)
