"""What the engines train on: cached latents of pictures with their prompts.

In: pictures, a latent cache, embedded prompts. Out: samples for `DenoisingLoss`: a latent drawn
from its cached mean and spread, in one of its turns, with noise, a timestep and a prompt, which
now and then is left empty so that guidance can work.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from univg.loop.task import Preview, Sample, Task
from univg.resize import Fit
from univg.sd_adapter import Adapter
from univg.seeds import rng_for

from .diffusion import CHECK_TIMES, DenoisingLoss
from .latents import LatentCache
from .pictures import Picture, load_mask, turn

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT_DROP = 0.1
"""Share of samples whose prompt is left empty."""
KEPT_MASKS, KEPT_PIXELS = 256, 2**26
"""Decoded masks that are kept at most: 64 MiB of them."""


class EngineTask(Task):
    """Denoising of cached latents.

    `groups` are lists of pictures, and `pattern` says from which group each next item comes, so
    that small groups are seen as often as large ones where that is wanted.
    """

    def __init__(
        self,
        name: str,
        module: DenoisingLoss,
        cache: LatentCache,
        text: Mapping[str, torch.Tensor],
        groups: Sequence[Sequence[Picture]],
        *,
        held_out: Sequence[Picture] = (),
        pattern: Sequence[int] = (0,),
        turns: Sequence[int] = (0,),
        text_key: str = "text",
        prompt_drop: float = PROMPT_DROP,
        saver: Callable[[Path], list[Path]] | None = None,
        previewer: Callable[[int], Preview | None] | None = None,
        measurer: Callable[[int], Mapping[str, float]] | None = None,
    ) -> None:
        self.name, self.module, self.cache, self.text = name, module, cache, text
        self.groups, self.pattern, self.turns = groups, pattern, turns
        self.held_out, self.text_key, self.prompt_drop = held_out, text_key, prompt_drop
        self.saver, self.previewer, self.measurer = saver, previewer, measurer
        most = min(KEPT_MASKS, max(1, KEPT_PIXELS // cache.size_px**2))
        read = functools.partial(_read_control, size_px=cache.size_px, fit=cache.fit)
        self.read_control = functools.lru_cache(most)(read)
        self.schedule, self.steered = module.schedule, module.control is not None
        self.items = len(pattern) * max(len(group) for group in groups)
        self.checks = len(held_out) * len(CHECK_TIMES)
        # On a CPU one at a time is slow; on a GPU there may be no room for more.
        on_cpu = module.schedule.alphas.device.type == "cpu"
        self.checks_at_once = len(CHECK_TIMES) if on_cpu else 1
        trained = {picture.path for group in groups for picture in group}
        self.is_held_out = bool(held_out) and not any(p.path in trained for p in held_out)

    def picture_of(self, item: int) -> Picture:
        """Return the picture behind `item`."""
        group = self.groups[self.pattern[item % len(self.pattern)]]
        return group[(item // len(self.pattern)) % len(group)]

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        """Return a sample of the picture behind `item`."""
        picture = self.picture_of(item)
        k = int(self.turns[int(rng.integers(len(self.turns)))])
        prompt = "" if rng.random() < self.prompt_drop else picture.prompt
        latent = self._draw_latent(picture, k, rng)
        drawn = self.schedule.draw(rng, tuple(latent.shape))
        return self._sample(picture, k, prompt, latent, drawn)

    def load_check(self, number: int) -> Sample:
        """Return a held-out picture at a fixed time with fixed noise."""
        place, time = divmod(number, len(CHECK_TIMES))
        picture = self.held_out[place]
        rng = rng_for(0, "check", number)
        latent = self._draw_latent(picture, 0, rng)
        drawn = self.schedule.draw_check(time, rng, tuple(latent.shape))
        return self._sample(picture, 0, picture.prompt, latent, drawn)

    def _draw_latent(self, picture: Picture, k: int, rng: np.random.Generator) -> torch.Tensor:
        mean, std = self.cache.get(picture, k)
        noise = rng.standard_normal(tuple(mean.shape), dtype=np.float32)
        return self.cache.sample(mean, std, torch.from_numpy(noise))

    def _sample(
        self, picture: Picture, k: int, prompt: str, latent: torch.Tensor, drawn: Sample
    ) -> Sample:
        sample = {"latent": latent, self.text_key: self.text[prompt], **drawn}
        if self.steered:
            assert picture.mask_path is not None
            sample["control"] = self.read_control(picture.mask_path, k)
        return sample

    def held(self) -> AbstractContextManager[None]:
        """Within, no weight changes: the adapter's changes are made once."""
        adapter = self.module.adapter
        return adapter.held() if isinstance(adapter, Adapter) else nullcontext()

    def name_items(self, items: Sequence[int]) -> list[str]:
        """Return the files behind `items`."""
        return [str(self.picture_of(item).path) for item in items]

    def preview(self, step: int) -> Preview | None:
        """Return a picture, where the command draws one."""
        return self.previewer(step) if self.previewer else None

    def measure(self, step: int) -> Mapping[str, float]:
        """Return figures of what is drawn, where the command measures it."""
        return self.measurer(step) if self.measurer else {}

    def save(self, folder: Path) -> list[Path]:
        """Write what the command saves."""
        return self.saver(folder) if self.saver else []


def _read_control(path: Path, k: int, *, size_px: int, fit: Fit) -> torch.Tensor:
    return control_of(np.ascontiguousarray(turn(load_mask(path, size_px, fit), k)))


def control_of(mask: np.ndarray) -> torch.Tensor:
    """Return a bool mask (H, W) as one plane of bytes; the loss makes of it what it needs."""
    return torch.from_numpy(mask.astype(np.uint8))[None]
