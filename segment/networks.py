"""The segmentation networks by name.

In: a name, the channels of the image, options. Out: a `Segmenter` that takes images (B, C, H, W)
of any size and gives logits (B, 1, H, W). Names are those of `NETWORKS`, `monai:CLASS` for a
network of MONAI, and `package.module:function` for a user's own. Nothing here imports torch before
a network is built.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, validate_call

from univg.errors import ConfigError
from univg.plugins import load_function

if TYPE_CHECKING:
    from torch import nn

    from .net_frame import Segmenter

Size = tuple[int, int]
"""Height and width."""

Count = Annotated[int, Field(ge=1)]
Levels = Annotated[int, Field(ge=2, le=8)]
Norm = Literal["batch", "instance", "group", "none"]
Up = Literal["transposed", "bilinear"]

MONAI = "monai"
PROBE_PX = 64
PROBED = 2
"""Images: statistics of one alone may not be defined."""


@validate_call
def build_unet(
    channels_in: Count,
    *,
    channels: Count = 64,
    depth: Levels = 5,
    norm: Norm = "batch",
    up: Up = "transposed",
) -> Any:
    """UNet of the paper: depth 5, 64 channels and twice as many each level."""
    from .net_unet import UNet

    return UNet(channels_in, [channels * 2**level for level in range(depth)], norm, up)


@validate_call
def build_unet_small(
    channels_in: Count,
    *,
    channels: Count = 16,
    depth: Levels = 5,
    norm: Norm = "instance",
    up: Up = "bilinear",
) -> Any:
    """UNet for a CPU: a sixteenth of the paper's weights.

    Its normalisation is an image's own: five shots do not say how images differ.
    """
    from .net_unet import UNet

    return UNet(channels_in, [channels * 2**level for level in range(depth)], norm, up)


@validate_call
def build_iternet(
    channels_in: Count,
    *,
    channels: Count = 32,
    depth: Levels = 5,
    iterations: Count = 3,
    norm: Norm = "batch",
    up: Up = "transposed",
) -> Any:
    """IterNet: a UNet, then mini-UNets with shared weights that mend what it found."""
    from .net_iternet import IterNet

    widths = [channels * 2**level for level in range(depth)]
    return IterNet(channels_in, widths, iterations, norm, up)


@validate_call
def build_swin_unet(
    channels_in: Count,
    *,
    channels: Count = 96,
    depths: Annotated[list[Count], Field(min_length=2)] = [2, 2, 2, 2],  # noqa: B006 - not changed
    heads: Annotated[list[Count], Field(min_length=2)] = [3, 6, 12, 24],  # noqa: B006
    window: Annotated[int, Field(ge=2)] = 8,
    patch: Count = 4,
    wider: Count = 4,
) -> Any:
    """Swin-UNet: attention in shifted windows, no convolution but the first."""
    if len(heads) != len(depths):
        raise ConfigError(f"heads is {heads}, depths is {depths}: one number a level in both")
    wrong = [h for level, h in enumerate(heads) if channels * 2**level % h]
    if wrong:
        raise ConfigError(f"heads is {heads}: {wrong[0]} does not divide the channels of its level")
    from .net_swin import make_swin_blocks
    from .net_tokens import TokenUNet

    blocks = make_swin_blocks(heads, window, wider)
    return TokenUNet(
        channels_in, blocks, channels=channels, depths=depths, patch=patch, add_skips=False
    )


@validate_call
def build_vm_unet(
    channels_in: Count,
    *,
    channels: Count = 96,
    depths: Annotated[list[Count], Field(min_length=2)] = [2, 2, 2, 2],  # noqa: B006 - not changed
    states: Count = 16,
    head_width: Count = 64,
    patch: Count = 4,
    wider: Count = 2,
) -> Any:
    """VM-UNet: state-space scans in four directions, in plain torch."""
    for level in range(len(depths)):
        inner = wider * channels * 2**level
        if inner % min(head_width, inner):
            raise ConfigError(
                f"head_width is {head_width}: it must divide wider x channels, {inner} at level "
                f"{level}"
            )
    from .net_tokens import TokenUNet
    from .net_vm import make_scan_blocks

    blocks = make_scan_blocks(wider, states, head_width)
    return TokenUNet(
        channels_in, blocks, channels=channels, depths=depths, patch=patch, add_skips=True
    )


@validate_call
def build_nnunet_like(
    channels_in: Count,
    *,
    channels: Count = 32,
    depth: Annotated[int, Field(ge=3, le=8)] = 6,
    widest: Count = 512,
    supervised: Annotated[int, Field(ge=0)] = 0,
    residual: bool = False,
) -> Any:
    """nnU-Net's plain 2D network, by MONAI (needs `univg[segment]`)."""
    if supervised > depth - 2:
        raise ConfigError(f"supervised is {supervised}: at most depth - 2 = {depth - 2}")
    from .net_monai import NNUNetLike

    widths = [min(channels * 2**level, widest) for level in range(depth)]
    return NNUNetLike(channels_in, widths, supervised, residual)


NETWORKS: dict[str, Callable[..., Any]] = {
    "unet": build_unet,
    "unet-small": build_unet_small,
    "swin-unet": build_swin_unet,
    "vm-unet": build_vm_unet,
    "iternet": build_iternet,
    "nnunet-like": build_nnunet_like,
}

TINY_OPTIONS: dict[str, dict[str, Any]] = {
    "unet": {"channels": 4, "depth": 3},
    "unet-small": {"channels": 4, "depth": 3},
    "swin-unet": {"channels": 8, "depths": [2, 2], "heads": [2, 2], "window": 4, "patch": 2},
    "vm-unet": {"channels": 8, "depths": [1, 1], "states": 4, "head_width": 8, "patch": 2},
    "iternet": {"channels": 4, "depth": 3, "iterations": 2},
    "nnunet-like": {"channels": 4, "depth": 3},
}
"""Each network at its smallest, for tests and rehearsals."""


def build_network(
    name: str, channels_in: int, size: Size | None = None, *, seed: int = 0, **options: Any
) -> Segmenter:
    """Return the network `name`, its weights drawn from `seed`, in training mode on the CPU.

    `size` (height, width) is for networks that work at one size only; those in `NETWORKS` take any.
    """
    check_network(name, options)
    import torch

    from .net_frame import Segmenter

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        body = _build_body(name, channels_in, size, options)
        network = Segmenter(body, name, channels_in, fill_options(name, options), size)
    if name not in NETWORKS:
        _probe(network)
    return network


def check_network(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a name that is none and, for the networks in `NETWORKS`, an option they lack.

    Imports nothing: a user's `package.module:function` is looked for when it is built.
    """
    if ":" in name and all(name.split(":", 1)):
        return
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"network is '{name}': {hint}known: {', '.join(NETWORKS)}, monai:CLASS, "
            "package.module:function"
        )
    known = _option_names(NETWORKS[name])
    unknown = [option for option in options or {} if option not in known]
    if unknown:
        raise ConfigError(
            f"network {name} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )


def fill_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` and the defaults of those that a network in `NETWORKS` has besides.

    A file names them all, so that another default one day does not change what is in it.
    """
    if name not in NETWORKS:
        return dict(options)
    known = inspect.signature(NETWORKS[name]).parameters
    defaults = {each: known[each].default for each in _option_names(NETWORKS[name])}
    return {**defaults, **options}


def describe_network(network: Segmenter) -> dict[str, Any]:
    """Return name, channels, options, size, number of weights, and what its sides are padded to."""
    return {
        "network": network.name,
        "channels_in": network.channels_in,
        "options": dict(network.options),
        "size": list(network.size) if network.size else None,
        "weights": sum(p.numel() for p in network.parameters()),
        "multiple_px": network.multiple_px,
        "outputs_in_training": len(network.output_weights),
    }


def summarize_networks() -> dict[str, str]:
    """Return a line about each network in `NETWORKS`."""
    return {
        name: (inspect.getdoc(build) or "").partition("\n")[0] for name, build in NETWORKS.items()
    }


def _option_names(builder: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(builder).parameters if name != "channels_in"]


def _build_body(
    name: str, channels_in: int, size: Size | None, options: Mapping[str, Any]
) -> nn.Module:
    package, _, inside = name.partition(":")
    if package == MONAI:
        from .net_monai import build_by_name

        return build_by_name(inside, channels_in, size, options)
    if inside:
        return _build_own(package, inside, channels_in, size, options)
    try:
        body: nn.Module = NETWORKS[name](channels_in=channels_in, **options)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, p['loc']))} is {p['input']!r}: {p['msg']}" for p in error.errors()
        )
        raise ConfigError(f"network {name}: {wrong}") from error
    return body


def _build_own(
    module: str, function: str, channels_in: int, size: Size | None, options: Mapping[str, Any]
) -> nn.Module:
    """Call a user's function with the channels and options, and the size if it asks for it."""
    from torch import nn

    name = f"{module}:{function}"
    build = load_function(name, "network")
    given = dict(options)
    if "size" in inspect.signature(build).parameters:
        given.setdefault("size", size)
    try:
        inspect.signature(build).bind(channels_in, **given)
    except TypeError as error:
        raise ConfigError(
            f"network {name}: {error}; it is called with channels_in and {list(given)}"
        ) from error
    try:
        body = build(channels_in, **given)
    except Exception as error:  # it may fail in any way, and is theirs to mend
        raise ConfigError(f"network {name}: fails when it is built: {_reason(error)}") from error
    if not isinstance(body, nn.Module):
        raise ConfigError(f"network {name}: returned a {type(body).__name__}, not a torch Module")
    return body


def _probe(network: Segmenter) -> None:
    """Run a network that is not ours once: a wrong shape is told now, not after an epoch."""
    import torch

    high, wide = network.size or (PROBE_PX, PROBE_PX)
    image = torch.zeros(PROBED, network.channels_in, high, wide)
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for training in (False, True):
            network.train(training)
            try:
                shape = tuple(network.run_body(image).shape)
            except Exception as error:  # it may fail in any way, and is theirs to mend
                raise ConfigError(
                    f"network {network.name}: fails on an image of {high} x {wide} pixels with "
                    f"{network.channels_in} channel(s){', in training' if training else ''}: "
                    f"{_reason(error)}"
                ) from error
            # Maps that only the loss looks at may be left out when it is used.
            counts = {len(network.output_weights)} | (set() if training else {1})
            if shape not in {(PROBED, count, high, wide) for count in counts}:
                raise ConfigError(
                    f"network {network.name}: gives {shape} for {PROBED} images of {high} x {wide} "
                    "pixels; it must give one map of logits each, "
                    f"{(PROBED, len(network.output_weights), high, wide)}"
                )
        for name, buffer in network.named_buffers():  # statistics that it took of this image
            buffer.copy_(kept[name])
    network.train()
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ConfigError(f"network {network.name}: has no weight that can be trained")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
