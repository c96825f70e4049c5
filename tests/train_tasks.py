"""A task that trains in milliseconds, and settings for it: what tests of the loop share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from univg.loop.checkpoints import load_newest
from univg.loop.device import make_accelerator
from univg.loop.loop import Outcome, train
from univg.loop.options import Training
from univg.loop.task import Sample, Task

WIDTH = 6


class Net(torch.nn.Module):
    """Two layers with dropout; the loss a sample."""

    def __init__(self, seed: int, most: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
        )
        self.most = most
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)

    def forward(self, batch: Sample) -> torch.Tensor:
        if len(batch["x"]) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(batch['x'])} samples")
        return (self.layers(batch["x"]) - batch["y"]).pow(2).mean(dim=1)


class NetTask(Task):
    """Learn a function of a few items by heart; the items held out follow another one."""

    name = "net"

    def __init__(
        self,
        *,
        seed: int = 0,
        dropout: float = 0.2,
        most: int = 1000,
        items: int = 7,
        bad_item: int | None = None,
        at: dict[int, Callable[[], None]] | None = None,
        previewer: Callable[[int], Any] | None = None,
    ) -> None:
        self.module = Net(seed, most)
        self.module.layers[2].p = dropout
        self.items, self.checks, self.bad_item = items, 4, bad_item
        self.at, self.previewer = at or {}, previewer
        self.seen: list[tuple[int, float]] = []

    def load(self, item: int, rng: np.random.Generator) -> Sample:
        if action := self.at.pop(len(self.seen), None):
            action()
        x = rng.standard_normal(WIDTH).astype(np.float32)
        y = np.float32(np.inf if item == self.bad_item else item / 3 + 0.1 * x[0])
        self.seen.append((item, float(x[0])))
        return {"x": torch.from_numpy(x), "y": torch.tensor([y])}

    def load_check(self, number: int) -> Sample:
        x = np.random.default_rng(number).standard_normal(WIDTH).astype(np.float32)
        return {"x": torch.from_numpy(x), "y": torch.tensor([0.2 * number])}

    def name_items(self, items: Sequence[int]) -> list[str]:
        return [f"item-{item}.png" for item in items]

    def preview(self, step: int) -> Any:
        return self.previewer(step) if self.previewer else None

    def save(self, folder: Path) -> list[Path]:
        from safetensors.torch import save_file

        tensors = {name: weight.detach().clone() for name, weight in self.trained().items()}
        save_file(tensors, folder / "net.safetensors")
        return [folder / "net.safetensors"]


def settings_for(out: Path, **changed: Any) -> Training:
    """Return settings with everything in them that a state could forget."""
    values: dict[str, Any] = {
        "out": out,
        "max_steps": 12,
        "batch": 4,
        "micro_batch": 2,
        "learning_rate": 0.02,
        "schedule": "cosine",
        "warmup_steps": 3,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "ema": 0.9,
        "precision": "no",
        "save_every": 3,
        "validate_every": 2,
        "preview_every": 0,
        "tracker": "none",
    }
    return Training(**{**values, **changed})


def train_net(task: NetTask, asked: Training) -> Outcome:
    """Train `task` as a command would."""
    asked.out.mkdir(parents=True, exist_ok=True)
    return train(task, asked, make_accelerator(asked))


def state_of(out: Path) -> dict[str, Any]:
    """Return all that the newest checkpoint of `out` holds, as plain comparable values."""
    state = load_newest(out)
    assert state is not None
    tensors = {name: tensor.tolist() for name, tensor in state.tensors.items()}
    return {"step": state.step, "values": state.values, **tensors}
