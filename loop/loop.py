"""The one training loop: any task, one or many processes, exact to resume.

In: a `Task`, settings, an Accelerator. Out: a run folder with checkpoints, figures, previews and
what the task saves. A step is `batch` samples over all processes and micro-batches; which samples,
and all that is random in them, follows from their position alone (`order`), so processes,
micro-batches and interruptions change nothing but rounding.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from univg.errors import UserError
from univg.progress import show_progress
from univg.seeds import seed_for

from .checkpoints import State, flatten, load_newest, save_state, unflatten
from .device import get_randomness, seed_randomness, set_randomness
from .journal import Journal, Silent, describe_time
from .losses import Losses, refuse_nan
from .memory import Memory, fit_micro_batch, is_out_of_memory, release
from .optim import make_average, make_optimizer, make_schedule
from .options import Training
from .order import Order, share_of
from .stopping import StopRequest
from .task import Sample, Task, stack_samples

LOOK_EVERY_ON_GPU = 10  # reading from a GPU waits for all it has still to do
BEST = "best.safetensors"


@dataclass
class Outcome:
    """How a run ended."""

    steps: int
    samples: int
    first_step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_check: float = math.inf
    micro_batch: int = 0
    files: list[Path] = field(default_factory=list)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint."""


def train(
    task: Task, asked: Training, accelerator: Accelerator, say: Callable[[str], None] | None = None
) -> Outcome:
    """Train `task` as `asked`, going on from the newest checkpoint of its folder.

    Afterwards its network has the weights that were saved: with an average, the average. `say`
    is told, in a line, where the run begins and how long it may take.
    """
    return _Run(task, asked, accelerator, say or (lambda _: None)).run()


class _Run:
    """The state of one run."""

    def __init__(
        self, task: Task, asked: Training, accelerator: Accelerator, say: Callable[[str], None]
    ) -> None:
        assert asked.max_steps is not None
        assert asked.batch is not None
        self.task, self.asked, self.accelerator, self.say = task, asked, accelerator, say
        self.steps = min(asked.max_steps, asked.stop_at or asked.max_steps)
        self.batch = asked.batch
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        if self.batch % self.world:
            raise UserError(
                f"--batch {self.batch} cannot be shared by {self.world} processes; "
                f"take {math.ceil(self.batch / self.world) * self.world}"
            )
        self.order = Order(asked.seed, task.name, task.items)
        self.trained = task.trained()
        self.step, self.saved_step = 0, -1
        self.on_gpu = accelerator.device.type == "cuda"
        self.look_every = LOOK_EVERY_ON_GPU if self.on_gpu else 1
        self.outcome = Outcome(0, 0)
        self._prepare()

    def _prepare(self) -> None:
        asked, weights = self.asked, list(self.trained.values())
        if not weights:
            raise AssertionError(f"{self.task.name}: nothing to train")
        optimizer = make_optimizer(asked, weights)
        self.micro_batch = min(asked.micro_batch or self.batch, self.batch // self.world)
        network = torch.compile(self.task.module) if asked.compile else self.task.module
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        # Without the wrapper that waits for the other processes in each call.
        shared = isinstance(self.network, torch.nn.parallel.DistributedDataParallel)
        self.alone: torch.nn.Module = self.network.module if shared else self.network
        # The schedule counts our steps; accelerate's wrapper would count those of all processes.
        self.schedule = make_schedule(asked, self.optimizer.optimizer)
        self.average = make_average(asked, weights)
        if self.average is not None:
            self.average.to(self.accelerator.device)

    def run(self) -> Outcome:
        before = get_randomness()
        seed_randomness(seed_for(self.asked.seed, f"torch {self.task.name}", self.rank))
        try:
            return self._run()
        finally:
            set_randomness(before)

    def _run(self) -> Outcome:
        self._restore()
        self.outcome.first_step = self.step
        start = time.monotonic()
        self.journal = Journal(self.accelerator, self.asked.out, self.asked.tracker, self.step)
        try:
            with StopRequest() as stop:
                self._train_until_done(stop)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(self._memory().describe_end(self.step + 1)) from error
        finally:
            self.journal.close()
        self.outcome.steps = self.step
        self.outcome.samples = self.step * self.batch
        self.outcome.seconds = time.monotonic() - start
        self.outcome.micro_batch = self.micro_batch
        self._finish()
        return self.outcome

    def _train_until_done(self, stop: StopRequest) -> None:
        if self.step >= self.steps:
            self.say(f"{self.asked.out} is trained already: {self.step} steps of {self.steps}")
            return
        if self.step:
            self.say(f"going on after step {self.step} of {self.steps}")
        else:
            self._preview()
            self._validate()
        with ThreadPoolExecutor(1, "load") as loader, self._progress() as bar:
            self._fit_first_step()
            waiting = loader.submit(self._load, self.step)
            losses = Losses(self)
            self.network.train()
            while self.step < self.steps:
                samples = waiting.result()
                if self.step + 1 < self.steps:
                    waiting = loader.submit(self._load, self.step + 1)
                losses.add(self._update(samples))
                self.step += 1
                bar.advance(self.batch, note=losses.note)
                self._after_step(losses)
                if self._someone_asked(stop) and self.step < self.steps:
                    waiting.cancel()
                    losses.look()
                    self._save()
                    raise Stopped(
                        f"stopped after step {self.step} of {self.steps}, checkpoint written; "
                        f"the same command goes on in {self.asked.out}"
                    )
            losses.look()
            self._save()

    def _after_step(self, losses: Losses) -> None:
        # Not at --stop-at: a run that is stopped and gone on with looks when another would.
        asked, last = self.asked, self.step == self.asked.max_steps
        if self.step % self.look_every == 0:
            losses.look()
        if asked.validate_every and (self.step % asked.validate_every == 0 or last):
            self._validate()
        if asked.preview_every and (self.step % asked.preview_every == 0 or last):
            self._preview()
        if asked.save_every and (self.step % asked.save_every == 0 or self.step == self.steps):
            losses.look()  # never keep a checkpoint of weights that are not numbers
            self._save()

    def _progress(self) -> Any:
        if not self.accelerator.is_main_process:
            return contextlib.nullcontext(Silent())
        total, done = self.steps * self.batch, self.step * self.batch
        return show_progress(total, self.task.name, "samples", done)

    # One step ---------------------------------------------------------------------------------

    def _load(self, step: int) -> list[Sample]:
        """Return this process's samples of `step`, in order."""
        positions = share_of(step, self.batch, self.rank, self.world)
        return [
            self.task.load(self.order.item_at(position), self.order.rng_at(position))
            for position in positions
        ]

    def _update(self, samples: list[Sample]) -> torch.Tensor:
        """Take one optimizer step on `samples`; return their mean loss."""
        total = torch.zeros((), device=self.accelerator.device)
        starts = range(0, len(samples), self.micro_batch)
        for start in starts:
            part = samples[start : start + self.micro_batch]
            batch = self._to_device(stack_samples(part))
            is_last = start == starts[-1]
            waits = contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.network)
            with waits:
                loss = self.network(batch).float().sum() / len(samples)
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.asked.clip_norm:
            self.accelerator.clip_grad_norm_(self.trained.values(), self.asked.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.step(self.trained.values())
        return total

    def _to_device(self, batch: Sample) -> Sample:
        device = self.accelerator.device
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def _fit_first_step(self) -> None:
        """Lower the micro-batch until one forward and backward pass fits into memory."""
        samples, asked = self._load(self.step), self.micro_batch
        self.network.train()

        def attempt(count: int) -> None:
            try:
                batch = self._to_device(stack_samples(samples[:count]))
                self.accelerator.backward(self.alone(batch).float().sum() * 0.0)
            finally:
                self.optimizer.zero_grad(set_to_none=True)

        start, state = time.monotonic(), get_randomness()
        fitted = fit_micro_batch(attempt, asked, self._memory())
        set_randomness(state)
        if self.world > 1:
            here = torch.tensor([fitted], device=self.accelerator.device)
            fitted = int(self.accelerator.gather(here).min())
        self.micro_batch = fitted
        parts = math.ceil(len(samples) / fitted)
        if fitted < asked and self.accelerator.is_main_process:
            warnings.warn(self._memory().describe_fit(fitted, parts), stacklevel=2)
        left = (time.monotonic() - start) * parts * (self.steps - self.step)
        self.say(f"by its first step, about {describe_time(left)} to go")

    def _memory(self) -> Memory:
        return Memory("GPU memory" if self.on_gpu else "memory")

    def _someone_asked(self, stop: StopRequest) -> bool:
        if self.world == 1:
            return stop.asked
        if self.step % self.look_every:
            return False
        flag = torch.tensor([float(stop.asked)], device=self.accelerator.device)
        summed = self.accelerator.reduce(flag, "sum")
        return bool(summed.item() > 0)

    # Looking ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the weights are their moving average, which is what will be saved."""
        if self.average is None:
            yield
            return
        weights = list(self.trained.values())
        self.average.store(weights)
        self.average.copy_to(weights)
        try:
            yield
        finally:
            self.average.restore(weights)

    def _validate(self) -> None:
        if not self.asked.validate_every or not self.task.checks:
            return
        losses = []
        self.network.eval()
        with self._averaged(), torch.no_grad():
            for number in range(self.rank, self.task.checks, self.world):
                batch = self._to_device(stack_samples([self.task.load_check(number)]))
                losses.append(self.alone(batch).float().sum())
        self.network.train()
        here = torch.zeros(2, device=self.accelerator.device, dtype=torch.float64)
        if losses:
            here[0], here[1] = torch.stack(losses).double().sum(), len(losses)
        summed = here if self.world == 1 else self.accelerator.reduce(here, "sum")
        found = float(summed[0] / summed[1])
        self.journal.write(self.step, {"validation": found})
        if found < self.outcome.best_check and self.step:
            self.outcome.best_check, self.outcome.best_step = found, self.step
            if self.accelerator.is_main_process:
                self._save_best()

    def _save_best(self) -> None:
        from safetensors.torch import save

        from univg.files import write_atomic

        with self._averaged():
            tensors = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in self.trained.items()
            }
        write_atomic(self.asked.out / BEST, save(tensors, {"step": str(self.step)}))

    def _preview(self) -> None:
        """Draw a preview and measure it; nothing that goes wrong in it ends the run."""
        if not self.asked.preview_every or not self.accelerator.is_main_process:
            return
        state = get_randomness()
        self.network.eval()
        try:
            with self._averaged(), torch.no_grad():
                picture = self.task.preview(self.step)
                figures = self.task.measure(self.step)
            if picture is not None:
                self.journal.show(self.step, picture)
            if figures:
                self.journal.write(self.step, figures)
        except Exception as error:
            reason = "out of memory" if is_out_of_memory(error) else " ".join(str(error).split())
            warnings.warn(
                f"no preview at step {self.step}, training goes on: {reason}", stacklevel=2
            )
            release()
        finally:
            self.network.train()
            set_randomness(state)

    # State ------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.saved_step == self.step:
            return
        weights = list(self.trained.values())
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            refuse_nan(self, self.step - 1, "a weight")
        randomness = self._gather_randomness()
        if self.accelerator.is_main_process:
            tensors, rest = flatten(self._state(), "state")
            tensors |= {f"rng/{rank}": state for rank, state in enumerate(randomness)}
            values = {"rest": rest, "best": [self.outcome.best_step, self.outcome.best_check]}
            save_state(
                self.asked.out, State(self.step, tensors, values), self.asked.keep_checkpoints
            )
        self.saved_step = self.step
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "weights": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def _gather_randomness(self) -> list[torch.Tensor]:
        """Return the state of torch's own generators on each process (for dropout and the like)."""
        here = get_randomness().to(self.accelerator.device)
        everywhere = self.accelerator.gather(here) if self.world > 1 else here
        return list(everywhere.cpu().reshape(self.world, -1))

    def _restore(self) -> None:
        state = load_newest(self.asked.out)
        if state is None:
            return
        whole = unflatten(state.values["rest"], state.tensors)
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(whole["weights"][name])
        self.optimizer.optimizer.load_state_dict(whole["optimizer"])
        self.schedule.load_state_dict(whole["schedule"])
        if self.average is not None:
            self.average.load_state_dict(whole["average"])
            self.average.to(self.accelerator.device)
        if self.accelerator.scaler and whole["scaler"]:
            self.accelerator.scaler.load_state_dict(whole["scaler"])
        if f"rng/{self.rank}" in state.tensors:
            set_randomness(state.tensors[f"rng/{self.rank}"].cpu())
        self.step = self.saved_step = state.step
        self.outcome.best_step, self.outcome.best_check = state.values["best"]

    def _finish(self) -> None:
        if self.average is not None:
            self.average.copy_to(list(self.trained.values()))
        if self.accelerator.is_main_process:
            self.outcome.files = self.task.save(self.asked.out)
        self.accelerator.wait_for_everyone()
