"""What an autoencoder loses along vessels, learned on the shots and put back where the mask says.

In: a drawn picture, the mask that it was drawn for. Out: the picture with vessels as sharp as the
shots have them, and the camera's field with their edge. An autoencoder of 8 pixels a latent pixel
blurs what is thinner than that; where it lay, the mask knows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from univg.errors import DataError
from univg.field_edge import mend_edge
from univg.files import write_atomic
from univg.masks import BoolMask, find_fov
from univg.resize import resize_to
from univg.vesselness import find_field

FORMAT = "univg-refiner-1"
WIDTH = 32
PLANES = 5
"""A picture's colours, the mask, the camera's field."""
LARGEST_STEP = 16
"""The network's coarsest pixel [px]."""
SAME_FIELD = 0.85
"""Overlap (IoU) from which a drawn field is taken for that of a shot, and gets its edge."""

Pixels = npt.NDArray[np.uint8]


class Refiner(torch.nn.Module):
    """A small U-net over pictures of any size; what it finds is added to the picture.

    Normalised pixel by pixel: what it does at one place depends on nothing far from there.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.enter = _Block(4 * PLANES, width)
        self.down = torch.nn.ModuleList([_Block(width, 2 * width), _Block(2 * width, 2 * width)])
        self.bottom = _Block(2 * width, 2 * width)
        self.up = torch.nn.ModuleList([_Block(4 * width, 2 * width), _Block(4 * width, width)])
        self.leave = _Block(2 * width, width)
        self.last = torch.nn.Conv2d(width, 12, 1)
        torch.nn.init.zeros_(self.last.weight)
        torch.nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return what to add (B, 3, H, W) to the picture in `planes` (B, 5, H, W)."""
        x = self.enter(functional.pixel_unshuffle(planes, 2))
        passed = [x]
        for block in self.down:
            x = block(functional.avg_pool2d(x, 2))
            passed.append(x)
        x = self.bottom(functional.avg_pool2d(x, 2))
        for block in self.up:
            x = block(torch.cat([passed.pop(), _double(x)], dim=1))
        x = self.leave(torch.cat([passed.pop(), _double(x)], dim=1))
        found: torch.Tensor = functional.pixel_shuffle(self.last(x), 2)
        return found


class _Block(torch.nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            torch.nn.Conv2d(before, after, 3, padding=1), _Norm(after),
            torch.nn.Conv2d(after, after, 3, padding=1), torch.nn.SiLU(),
        )  # fmt: skip


class _Norm(torch.nn.Module):
    """Each pixel's channels brought to unit size: of no crop and no picture as a whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = torch.nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        size = centred.square().mean(dim=1, keepdim=True).add(1e-5).rsqrt()
        return functional.silu(centred * size * self.gain + self.shift)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Convolutions in full precision round by how many threads share them; pictures must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _double(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def stack_planes(picture: Pixels, mask: BoolMask, field: BoolMask) -> npt.NDArray[np.float32]:
    """Return what the network sees (5, H, W): colours of -1 to 1, mask and field of 0 and 1."""
    colours = picture.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    return np.concatenate([colours, mask[None].astype(np.float32), field[None].astype(np.float32)])


class Finisher:
    """A trained refiner with the fields of its shots, ready for drawn pictures."""

    def __init__(self, refiner: Refiner, fields: Sequence[BoolMask]) -> None:
        self.refiner, self.fields = refiner.eval(), list(fields)

    @torch.no_grad()
    def refine(
        self, pictures: Sequence[Pixels], masks: Sequence[BoolMask], strength: float = 1.0
    ) -> list[Pixels]:
        """Return `pictures` (H, W, 3), all of one size, refined; each by itself."""
        with one_thread():
            pairs = zip(pictures, masks, strict=True)
            return [self._refine(picture, mask, strength) for picture, mask in pairs]

    def _refine(self, picture: Pixels, mask: BoolMask, strength: float) -> Pixels:
        """Return `picture` refined."""
        field = self.choose_field(picture)
        planes = stack_planes(mend_edge(picture, field), mask, field)
        height, width = mask.shape
        weight = self.refiner.last.weight
        x = torch.from_numpy(planes)[None].to(weight.device, weight.dtype)
        padding = (0, -width % LARGEST_STEP, 0, -height % LARGEST_STEP)
        x = functional.pad(x, padding, mode="replicate")
        added = self.refiner(x)[0, :, :height, :width].float().cpu().numpy()
        pixels = np.clip(np.rint((planes[:3] + strength * added + 1) * 127.5), 0, 255)
        return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))

    def choose_field(self, picture: Pixels) -> BoolMask:
        """Return the shots' field that is most like that of `picture`; if none is, its own."""
        shape = (picture.shape[0], picture.shape[1])
        fields = [resize_to(field, shape) for field in self.fields]
        if all(field.all() for field in fields):
            return np.ones(shape, np.bool_)
        own = find_fov(picture)
        overlaps = [float((field & own).sum() / (field | own).sum()) for field in fields]
        best = int(np.argmax(overlaps))
        return fields[best] if overlaps[best] >= SAME_FIELD else find_field(picture)


def save_finisher(finisher: Finisher, path: Path) -> None:
    """Write weights and fields as safetensors."""
    from safetensors.torch import save

    state = {
        f"refiner.{name}": value.detach().float().cpu().contiguous()
        for name, value in finisher.refiner.state_dict().items()
    }
    fields = np.stack(finisher.fields).astype(np.uint8)
    # One entry: with several, their order in the file is another each time.
    about = {FORMAT: json.dumps({"width": finisher.refiner.width})}
    write_atomic(path, save({**state, "fields": torch.from_numpy(fields)}, about))


def load_finisher(path: Path) -> Finisher:
    """Read what `save_finisher` wrote; anything else is an error in one line."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if FORMAT not in about:
                raise DataError(f"{path}: is no refiner of this version of univg")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields = tensors.pop("fields").numpy().astype(bool)
        refiner = Refiner(int(json.loads(about[FORMAT])["width"]))
        refiner.load_state_dict({n.removeprefix("refiner."): v for n, v in tensors.items()})
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: is a damaged refiner ({error}); train it again") from error
    return Finisher(refiner, list(fields))
