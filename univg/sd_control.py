"""ControlNets: made from a UNet, loaded and checked against a base.

In: a UNet, or a folder in diffusers layout. Out: a `ControlNetModel` whose fresh output is zero, so
that a UNet with it draws what it drew without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import DataError, UserError
from univg.sd_source import EMBEDDED, find_weights
from univg.seeds import seed_for

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

    from univg.sd import Base

FULL_EMBEDDING = (16, 32, 96, 256)
"""Channels that the condition passes through in the ControlNets of SD 1.5, 8 px a latent pixel."""
MUST_FIT = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "down_block_types",
)


def make_control(
    unet: UNet2DConditionModel, *, vae_factor: int = 8, seed: int = 0
) -> ControlNetModel:
    """Return a ControlNet with the weights of `unet` and zero convolutions at its ends.

    `vae_factor` is the number of image pixels along one latent pixel: the condition, an RGB image
    of 0 to 1, is brought down by it. On the meta device if `unet` is.
    """
    import torch
    from diffusers import ControlNetModel

    channels = _embedding_channels(int(unet.config.block_out_channels[0]), vae_factor)
    with torch.random.fork_rng(devices=[]), torch.device(unet.device):
        control = ControlNetModel.from_unet(
            unet, conditioning_channels=3, conditioning_embedding_out_channels=channels
        )
    if control.dtype != unet.dtype:
        control = control.to(unet.dtype)
    if unet.device.type != "meta":
        _draw_embedding(control, seed_for(seed, "sd/control"))
    return control


def load_control(name: str | Path, base: Base) -> ControlNetModel:
    """Load the ControlNet in the folder `name` ("nano": the embedded one); refuse a misfit."""
    import torch
    from diffusers import ControlNetModel

    from univg.sd import quiet

    folder = find_control(name)
    _, variant = find_weights(folder)
    try:
        with quiet():
            control, told = ControlNetModel.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                output_loading_info=True,
                torch_dtype=torch.float32,
            )
    except MemoryError:
        raise
    except Exception as error:  # the libraries have kinds of errors of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{folder}: cannot be loaded as a ControlNet ({reason}); copy it again"
        ) from error
    if told["missing_keys"]:
        raise DataError(f"{folder}: lacks weights ({min(told['missing_keys'])}); copy it again")
    bad = next((n for n, w in control.named_parameters() if not w.isfinite().all()), None)
    if bad is not None:
        raise DataError(f"{folder}: holds weights that are no numbers ({bad}); copy it again")
    check_control(control, base, str(folder))
    with quiet():
        return control.to(base.unet.device, base.dtype).eval().requires_grad_(False)


def find_control(name: str | Path) -> Path:
    """Return the folder of the ControlNet `name`: itself, or its subfolder `controlnet`."""
    folder = EMBEDDED.get(str(name), Path(name).expanduser())
    if str(name) in EMBEDDED or (folder / "model_index.json").is_file():
        folder = folder / "controlnet"
    if not folder.is_dir():
        what = "this installation embeds none" if str(name) in EMBEDDED else "no such folder"
        raise UserError(
            f"ControlNet {name}: {what} ({folder}); give the folder that holds its config.json"
        )
    return folder


def check_control(control: ControlNetModel, base: Base, source: str) -> None:
    """Refuse a ControlNet whose shape is not that of the base's UNet."""
    unet: Any = base.unet.config
    for field in MUST_FIT:
        ours, theirs = unet[field], control.config[field]
        ours, theirs = (tuple(v) if isinstance(v, list) else v for v in (ours, theirs))
        if ours != theirs:
            raise DataError(
                f"{source}: this ControlNet does not fit base {base.name}: its {field} is "
                f"{theirs}, the base's {ours}; take one that was trained on this base"
            )
    steps = len(control.config.conditioning_embedding_out_channels) - 1
    if 2**steps != base.vae_factor:
        raise DataError(
            f"{source}: this ControlNet does not fit base {base.name}: it brings its condition "
            f"down {2**steps} times, the base's VAE {base.vae_factor} times"
        )


def _embedding_channels(width: int, vae_factor: int) -> tuple[int, ...]:
    """Return SD's channels for a UNet as wide as SD's, fewer for a smaller one."""
    steps = vae_factor.bit_length() - 1
    if width >= 256 and steps == 3:
        return FULL_EMBEDDING
    first = max(4, width // 4)
    return tuple(min(first * 2**i, max(first, width * 3 // 2)) for i in range(steps + 1))


def _draw_embedding(control: ControlNetModel, seed: int) -> None:
    """Draw the new convolutions again from `seed`, as torch does, but not from the global state."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embedding = control.controlnet_cond_embedding
    with torch.no_grad():
        for convolution in (embedding.conv_in, *embedding.blocks):
            bound = convolution.weight[0].numel() ** -0.5
            for weight in (convolution.weight, convolution.bias):
                drawn = torch.rand(weight.shape, generator=generator) * 2 - 1
                weight.copy_(drawn * bound)
