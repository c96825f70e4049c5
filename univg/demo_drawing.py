"""What a base draws before it is adapted, of the same noise as the adapted engines.

In: a base, a prompt, for images the masks to draw for. Out: numbered PNGs. Seeds are those of
`univg generate`, so picture k is what the recipe's picture k would be without its shots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.files import make_folder, write_all_atomic
from univg.sd_source import find_base
from univg.seeds import seed_for

if TYPE_CHECKING:
    from univg.masks import BoolMask
    from univg.sd import Base

MASK_STAGE, IMAGE_STAGE = "generate/masks", "generate/diffusion"
BLOCK = 8
Say = Callable[[str], None]


def draw_masks_before(
    folder: Path, base: str, prompt: str, modality: str, *,
    count: int, seed: int, size_px: int, say: Say,
) -> None:  # fmt: skip
    """Draw masks with the base alone, unless they are there."""
    if _is_whole(folder, count):
        return
    from univg.binarise import Cut, cut_mask
    from univg.masks import encode_mask
    from univg.sd import load_base

    say(f"drawing {count} masks without adaptation")
    seeds = [seed_for(seed, f"{MASK_STAGE}/{modality}", k) for k in range(count)]
    drawn = _draw(load_base(base), None, prompt, seeds, (), size_px)
    _write(folder, [encode_mask(cut_mask(picture, Cut())) for picture in drawn])


def draw_images_before(
    folder: Path, base: str, prompt: str, modality: str, masks: Path, *,
    count: int, seed: int, size_px: int, say: Say,
) -> None:  # fmt: skip
    """Draw images for the first `masks` with the ControlNet that adaptation starts from."""
    if _is_whole(folder, count):
        return
    from univg.images import encode_image
    from univg.sd import load_base

    say(f"drawing {count} images without adaptation")
    seeds = [seed_for(seed, f"{IMAGE_STAGE}/{modality}", k) for k in range(count)]
    loaded = load_base(base)
    control = _load_control(base, loaded, seed)
    drawn = _draw(loaded, control, prompt, seeds, read_masks(masks, count), size_px)
    _write(folder, [encode_image(picture) for picture in drawn])


def read_masks(folder: Path, count: int | None = None) -> list[BoolMask]:
    """Return the first masks of `folder` in the order of their names."""
    from univg.masks import read_mask
    from univg.pairs import find_masks

    return [read_mask(path) for path in find_masks(folder)[:count]]


def _load_control(name: str, base: Base, seed: int) -> Any:
    """Return the ControlNet that adaptation starts from: the embedded one, else a fresh one."""
    from univg.sd import load_control, make_control

    if name == "nano" and (find_base(name).path / "controlnet").is_dir():
        return load_control(name, base)
    return make_control(base.unet, vae_factor=base.vae_factor, seed=seed)


def _draw(
    base: Base, control: Any, prompt: str, seeds: Sequence[int],
    masks: Sequence[BoolMask], size_px: int,
) -> list[Any]:  # fmt: skip
    """Return pictures (S, S, 3), drawn as `univg generate` draws them."""
    from univg.sd_sample import Compute, Sampler, Sampling

    sampler = Sampler(
        base, control, sampling=Sampling(), compute=Compute(), size_px=(size_px, size_px)
    )
    pictures: list[Any] = []
    for start in range(0, len(seeds), BLOCK):
        part = seeds[start : start + BLOCK]
        pictures += list(sampler.draw([prompt] * len(part), part, masks[start : start + BLOCK]))
    return pictures


def _is_whole(folder: Path, count: int) -> bool:
    return len(list(folder.glob("*.png"))) == count


def _write(folder: Path, files: Sequence[bytes]) -> None:
    make_folder(folder)
    write_all_atomic({folder / f"{k:06d}.png": data for k, data in enumerate(files)})
