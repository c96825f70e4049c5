"""What every training command does around the loop: claim the folder, load the base, fill caches.

In: settings of a command. Out: a `Session` with processes, folder, base and caches ready; at the
end `result.json`. The run folder is locked against a second run and refuses settings that would
give another result; all that is cheap to check is checked before the base is loaded.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg import __version__
from univg.config import to_plain, to_yaml
from univg.errors import UserError
from univg.files import make_folder, write_atomic
from univg.manifest import claim_folder, lock_folder
from univg.progress import show_progress

from .options import Engine, Training

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from univg.sd import Base

    from .latents import LatentCache
    from .loop import Outcome
    from .pictures import Picture
    from .task import Task

FREE = {
    "out", "save_every", "keep_checkpoints", "preview_every", "validate_every", "cache", "tracker",
    "micro_batch", "gradient_checkpointing", "base", "preset", "report_samples",
}  # fmt: skip
"""Settings that do not change what comes out, but for rounding; the base stands by its weights."""
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "lycoris-lora")


@dataclass
class Session:
    """A run that is set up."""

    asked: Training
    accelerator: Accelerator
    base: Base
    size_px: int

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.asked.out

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def say(self, text: str) -> None:
        """Print `text` once, whatever the number of processes."""
        if self.is_first:
            print(text, flush=True)  # noqa: T201

    def fill_cache(self, pictures: Sequence[Picture], turns: Sequence[int]) -> LatentCache:
        """Return a cache that holds the latents of `pictures`."""
        from .latents import LatentCache

        accelerator = self.accelerator
        cache = LatentCache(
            self.asked.cache or self.out / "cache",
            self.base,
            size_px=self.size_px,
            fit=self.asked.fit,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
        )
        self.base.vae.to(accelerator.device)
        missing = cache.count_missing(pictures, turns)
        share = -(-missing // accelerator.num_processes)
        with show_progress(share, "latents", "pictures") as progress:
            cache.prepare(pictures, turns, progress=progress if self.is_first else None)
        return cache

    def embed(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the embedding of each prompt and of the empty one."""
        from .latents import PromptCache

        with self.accelerator.main_process_first():
            return PromptCache(self.asked.cache or self.out / "cache").embed(self.base, prompts)


@contextlib.contextmanager
def open_session(
    asked: Training, command: str, data: Mapping[str, Any], *, base_name: str | None = None
) -> Iterator[Session]:
    """Set up the run `command`; `data` names what it learns from, by checksum."""
    from univg.sd import load_base

    from .device import make_accelerator

    make_folder(asked.out)
    accelerator = make_accelerator(asked)
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(asked.out))
        base = load_base(base_name or asked.base)
        if accelerator.is_main_process:
            identity = describe_run(asked, command, data, base.identity)
            claim_folder(asked.out, identity)
            write_atomic(asked.out / "config.yaml", to_yaml(asked).encode())
        accelerator.wait_for_everyone()
        size_px = asked.size_px or base.native_px
        if size_px % (8 * base.vae_factor):
            raise UserError(
                f"--size-px {size_px} does not fit base {base.name}: take a multiple of "
                f"{8 * base.vae_factor}"
            )
        prepare_unet(base, asked)
        session = Session(asked, accelerator, base, size_px)
        try:
            yield session
        except KeyboardInterrupt:
            session.say(f"stopped; {asked.out} goes on with the same command")
            raise


def describe_run(
    asked: Training, command: str, data: Mapping[str, Any], base_identity: str
) -> dict[str, Any]:
    """Return what a resumed run must share with the first."""
    settings = {name: value for name, value in to_plain(asked).items() if name not in FREE}
    if asked.schedule in {"constant", "constant_with_warmup"}:
        settings.pop("max_steps")  # such a run may be made longer
    return {
        "stage": f"train {command}",
        "version": __version__,
        "settings": settings,
        "base": base_identity,
        "data": dict(data),
    }


def prepare_unet(base: Base, asked: Training) -> None:
    """Set attention, memory layout and checkpointing of the UNet as asked."""
    import torch

    unet = base.unet
    if asked.attention == "xformers":
        try:
            unet.enable_xformers_memory_efficient_attention()
        except (ImportError, ModuleNotFoundError, ValueError) as error:
            raise UserError(
                "--attention xformers: not usable here (needs the package xformers and a GPU); "
                "take --attention sdpa"
            ) from error
    if asked.channels_last or (asked.channels_last is None and torch.cuda.is_available()):
        unet.to(memory_format=torch.channels_last)
    if asked.gradient_checkpointing:
        unet.enable_gradient_checkpointing()


def run_loop(session: Session, task: Task) -> Outcome:
    """Train `task` and note how it went in `result.json`."""
    from .loop import train

    asked = session.asked
    assert isinstance(asked, Engine)
    outcome = train(task, asked, session.accelerator)
    if session.is_first:
        write_result(session, outcome)
    return outcome


def write_result(session: Session, outcome: Outcome, **more: Any) -> None:
    """Write `result.json`: what came out, on which machine, with which versions."""
    path = session.out / "result.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {
        "steps": outcome.steps,
        "samples": outcome.samples,
        "seconds": round(outcome.seconds, 2),
        "files": [str(file.relative_to(session.out)) for file in outcome.files],
        "best_step": outcome.best_step,
        "processes": session.accelerator.num_processes,
        "device": str(session.accelerator.device),
        "precision": session.accelerator.mixed_precision,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        **more,
    }
    text = json.dumps({**before, **found}, indent=1, sort_keys=True)
    write_atomic(path, (text + "\n").encode())
