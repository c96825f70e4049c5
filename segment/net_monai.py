"""Networks of MONAI, where it is installed: its dynamic UNet as nnU-Net builds it, and others.

In: a name and options. Out: a module that takes (B, C, H, W) and gives logits, or one line that
says what is missing.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from univg.errors import ConfigError, UserError

KERNEL = 3
SLOPE = 0.01


def import_networks() -> Any:
    """Return MONAI's module of networks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that MONAI could use and does not find
            nets = importlib.import_module("monai.networks.nets")
    except ImportError as error:
        raise UserError(
            f"this network comes from MONAI, which is not installed ({error}); "
            "pip install 'univg[segment]', or choose unet, which is much alike"
        ) from error
    return nets


class NNUNetLike(nn.Module):
    """The plain 2D network of nnU-Net: strided convolutions, instance norm, leaky ReLU.

    `supervised` maps of coarser levels are looked at by the loss, each half as much as the finer
    one before it.
    """

    def __init__(
        self, channels_in: int, widths: list[int], supervised: int, residual: bool
    ) -> None:
        super().__init__()
        levels = len(widths)
        self.multiple_px = 2 ** (levels - 1)
        halves = [0.5**level for level in range(supervised + 1)]
        self.output_weights = tuple(half / sum(halves) for half in halves)
        self.body: nn.Module = import_networks().DynUNet(
            spatial_dims=2,
            in_channels=channels_in,
            out_channels=1,
            kernel_size=[KERNEL] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=widths,
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": SLOPE}),
            deep_supervision=supervised > 0,
            deep_supr_num=max(1, supervised),
            res_block=residual,
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        # While training with supervision MONAI stacks the maps: (B, K, 1, H, W).
        return logits.flatten(1, 2) if logits.ndim == 5 else logits


def build_by_name(
    name: str, channels_in: int, size: tuple[int, int] | None, options: Mapping[str, Any]
) -> nn.Module:
    """Return MONAI's network `name` for 2D images and one output."""
    nets = import_networks()
    maker = getattr(nets, name, None)
    if not (inspect.isclass(maker) and issubclass(maker, nn.Module)):
        known = [n for n, found in vars(nets).items() if inspect.isclass(found)]
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or "BasicUNet, SegResNet"
        raise ConfigError(f"network monai:{name}: MONAI has no such network; near: {near}")
    takes = inspect.signature(maker).parameters
    given = dict(options)
    given.setdefault("in_channels", channels_in)
    given.setdefault("out_channels", 1)
    if "spatial_dims" in takes:
        given.setdefault("spatial_dims", 2)
    if "img_size" in takes and size is not None:
        given.setdefault("img_size", size)
    try:
        inspect.signature(maker).bind(**given)
        network: nn.Module = maker(**given)
    except (TypeError, ValueError, AssertionError) as error:
        names = ", ".join(takes)
        raise ConfigError(
            f"network monai:{name} with {dict(options)}: {error}; its options: {names}"
        ) from error
    return network
