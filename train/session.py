"""What every training command does around the loop: claim the folder, load the base, fill caches.

In: settings of a command. Out: a `Session` with processes, folder, base and caches ready; at the
end `result.json`. The run folder is locked against a second run and refuses settings that would
give another result; all that is cheap to check is checked before the base is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import UserError
from univg.files import make_folder, remove_temporaries
from univg.loop import run_files
from univg.manifest import lock_folder
from univg.progress import show_progress

from .options import Engine

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from diffusers import ControlNetModel, UNet2DConditionModel

    from univg.loop.loop import Outcome
    from univg.sd import Base

    from .engine_task import EngineTask
    from .latents import LatentCache
    from .pictures import Picture
    from .planning import Kind

FREE = frozenset({"cache", "base", "attention", "data", "adapter"})
"""Settings that change nothing that comes out, besides those of every run; base, data and adapters
stand by their checksums, wherever they lie."""
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "lycoris-lora")


@dataclass
class Session:
    """A run that is set up."""

    asked: Engine
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

    def open_cache(self) -> LatentCache:
        """Return the cache of latents, to be filled; what encodes is on the device for it."""
        from .latents import LatentCache

        accelerator = self.accelerator
        self.wake_encoders()
        return LatentCache(
            self.asked.cache or self.out / "cache",
            self.base,
            size_px=self.size_px,
            fit=self.asked.fit,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
        )

    def fill_cache(
        self,
        cache: LatentCache,
        pictures: Sequence[Picture],
        turns: Sequence[int],
        skip_bad: bool = False,
    ) -> list[Picture]:
        """Encode what is missing of `pictures`; return those that can be used."""
        if not pictures:
            return []
        missing = cache.count_missing(pictures, turns)
        share = -(-missing // self.accelerator.num_processes)
        bar = show_progress(share, "latents", "pictures") if self.is_first else _no_progress()
        with bar as progress:
            return cache.prepare(pictures, turns, progress=progress, skip_bad=skip_bad)

    def wake_encoders(self) -> None:
        """Bring autoencoder and text encoder to the device."""
        for part in (self.base.vae, self.base.text_encoder):
            part.to(self.accelerator.device)

    def rest_encoders(self) -> None:
        """Free a GPU's memory of what a step does not need; who draws brings it back."""
        from univg.loop.memory import release

        if self.accelerator.device.type == "cuda":
            for part in (self.base.vae, self.base.text_encoder):
                part.to("cpu")
            release()

    def place_networks(self, module: torch.nn.Module) -> None:
        """Bring `module`, the UNet in it, to the device.

        On a GPU a UNet that does not move is kept in the precision that is computed in.
        """
        import torch

        from univg.sd import quiet

        halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = halves.get(self.accelerator.mixed_precision)
        unet = self.base.unet
        moves = any(weight.requires_grad for weight in unet.parameters())
        if dtype is not None and not moves and self.accelerator.device.type == "cuda":
            with quiet():
                unet.to(dtype)
        module.to(self.accelerator.device)

    def embed(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the embedding of each prompt and of the empty one."""
        from .latents import PromptCache

        with self.accelerator.main_process_first():
            return PromptCache(self.asked.cache or self.out / "cache").embed(self.base, prompts)


def _no_progress() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def open_session(
    asked: Engine, command: str, data: Mapping[str, Any], *, base_name: str | None = None
) -> Iterator[Session]:
    """Set up the run `command`; `data` names what it learns from, by checksum."""
    from univg.loop.device import make_accelerator
    from univg.loop.memory import release
    from univg.sd import load_base

    check_packages(asked)
    make_folder(asked.out)
    release()  # of a run before this one, as a fold is
    accelerator = make_accelerator(asked)
    accelerator.wait_for_everyone()  # no process is still writing to the folder
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(asked.out))
            remove_temporaries(asked.out)
        base = load_base(base_name or asked.base)
        if accelerator.is_main_process:
            identity = run_files.identify_run(
                asked, f"train {command}", FREE, base=base.identity, data=dict(data)
            )
            run_files.claim_run(asked, identity)
        accelerator.wait_for_everyone()
        size_px = asked.size_px or base.native_px
        if size_px % (8 * base.vae_factor):
            raise UserError(
                f"--size-px {size_px} does not fit base {base.name}: take a multiple of "
                f"{8 * base.vae_factor}"
            )
        prepare_network(base.unet, asked, size_px // base.vae_factor)
        session = Session(asked, accelerator, base, size_px)
        if session.is_first:
            run_files.write_environment(asked.out, accelerator, LIBRARIES, base=base.name)
        yield session


def check_packages(asked: Engine) -> None:
    """Refuse what this machine has no packages or kernels for, before anything is loaded."""
    import torch

    if asked.attention == "xformers" and not (torch.cuda.is_available() and _has("xformers")):
        missing = "the package xformers" if torch.cuda.is_available() else "a GPU"
        raise UserError(
            f"--attention xformers needs {missing}, which is not here; take --attention sdpa"
        )
    run_files.check_tracker(asked)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def prepare_network(
    network: UNet2DConditionModel | ControlNetModel, asked: Engine, side: int
) -> None:
    """Set attention, memory layout and checkpointing of a network as asked.

    `side` is that of its latents [px].
    """
    from univg.sd_compute import set_attention, set_layout

    set_attention(network, asked.attention, side)
    set_layout(network, asked.channels_last)
    if asked.gradient_checkpointing:
        network.enable_gradient_checkpointing()


def run_loop(session: Session, task: EngineTask) -> Outcome:
    """Train `task`, say how it goes, and note it in `result.json`."""
    from univg.loop.loop import train

    asked = session.asked
    session.say(describe_start(session, task))
    outcome = train(task, asked, session.accelerator, session.say)
    session.accelerator.free_memory()  # the optimizer's state is not needed to draw
    session.wake_encoders()
    if task.is_held_out and (outcome.best_step or outcome.steps) < outcome.steps:
        outcome.files += run_files.save_best(session.out, task) if session.is_first else []
    if session.is_first:
        write_result(session, outcome)
    session.say(describe_end(session, task, outcome))
    return outcome


def describe_start(session: Session, task: EngineTask) -> str:
    """Return what is trained, how long and with what memory, in a line or two."""
    from .planning import bytes_of_frozen, describe_memory, estimate_bytes, free_bytes

    asked, accelerator = session.asked, session.accelerator
    trained = sum(weight.numel() for weight in task.trained().values())
    whole = sum(weight.numel() for weight in task.module.parameters())
    precision = accelerator.mixed_precision
    kind: Kind = "control" if task.steered else "adapter" if trained < whole / 2 else "unet"
    frozen, config = bytes_of_frozen(precision), session.base.unet.config
    need = estimate_bytes(config, whole, trained, asked, session.size_px, kind, frozen)
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    text = (
        f"{task.name} on base {session.base.name}: {trained / 1e6:,.2f} M of {whole / 1e6:,.2f} M "
        f"weights, {asked.max_steps} steps of {asked.batch} at {session.size_px} px on "
        f"{accelerator.device}{processes}, precision {'fp32' if precision == 'no' else precision}; "
        f"{describe_memory(need, *free_bytes())}"
    )
    if asked.validate_every and task.checks and not task.is_held_out:
        text += (
            "\nvalidation looks at the training shots themselves; --hold-out or --leave-one-out "
            "shows overtraining"
        )
    return text


def describe_end(session: Session, task: EngineTask, outcome: Outcome) -> str:
    """Return how it went, in a line."""
    text = run_files.describe_speed(session.asked, outcome)
    if outcome.best_step is not None and task.is_held_out:
        text += f"; best validation {outcome.best_check:.4f} at step {outcome.best_step}"
    return f"{text}; {', '.join(map(str, outcome.files))}"


def write_result(session: Session, outcome: Outcome, **more: Any) -> None:
    """Write `result.json`: what came out."""
    found = {"best_validation": run_files.best_of(outcome), **more}
    run_files.write_result(session.asked, outcome, found)
