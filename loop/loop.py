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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from univg.errors import UserError
from univg.progress import show_progress
from univg.seeds import seed_for

from .device import get_randomness, seed_randomness, set_randomness
from .journal import Journal, Silent, describe_time
from .loading import Loader
from .looking import is_hurried, look
from .losses import Losses
from .memory import Memory, fit_micro_batch, is_out_of_memory
from .optim import make_average, make_optimizer, make_schedule
from .options import Training
from .order import Order, share_of
from .state import restore_run, save_run
from .stopping import StopRequest
from .task import Sample, Task, stack_samples

LOOK_EVERY_ON_GPU = 10  # reading from a GPU waits for all it has still to do


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
        self.looked, self.stop = True, StopRequest()
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
        module = self.task.module
        # Validation goes one by one, training in batches: a graph for each, no vague one for both.
        network = torch.compile(module, dynamic=False) if asked.compile else module
        # Before accelerate takes hold of the optimizer's step, which the schedule watches. It
        # counts our steps; accelerate's wrapper would count those of all processes.
        self.schedule = make_schedule(asked, optimizer)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        # Without the wrapper that waits for the other processes in each call.
        shared = isinstance(self.network, torch.nn.parallel.DistributedDataParallel)
        self.alone: torch.nn.Module = self.network.module if shared else self.network
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
        self.journal = Journal(
            self.accelerator, self.asked.out, self.asked.tracker, self.step, self.looked
        )
        try:
            with self.stop:
                self._train_until_done()
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

    def _train_until_done(self) -> None:
        if self.step >= self.steps:
            self.say(f"{self.asked.out} is trained already: {self.step} steps of {self.steps}")
            return
        if self.step:
            self.say(f"going on after step {self.step} of {self.steps}")
        if not self.step or not self.looked:
            self.looked = look(self)
        self._fit_first_step()
        if self._someone_asked():
            raise Stopped(f"stopped before step {self.step + 1}; the same command goes on")
        steps, threads = range(self.step, self.steps), self.task.loaders
        losses = Losses(self)
        with Loader(self._load_one, self._share, steps, threads) as loader, self._progress() as bar:
            self.network.train()
            while self.step < self.steps:
                losses.add(self._update(loader.take()))
                self.step += 1
                bar.advance(self.batch, note=losses.note)
                self._after_step(losses)

    def _after_step(self, losses: Losses) -> None:
        asked, last = self.asked, self.step == self.steps
        if self.step % self.look_every == 0:
            losses.look()
        stopping = self._someone_asked() and not last
        # Looking may take longer than the time that is left: whoever goes on will look first.
        self.looked = not stopping and look(self)
        if last or (self.looked and asked.save_every and self.step % asked.save_every == 0):
            losses.look()  # never keep a checkpoint of weights that are not numbers
            self._save()
        if stopping or is_hurried(self):
            losses.look()
            self._save()
            raise Stopped(
                f"stopped after step {self.step} of {self.steps}, checkpoint written; "
                "the same command goes on"
            )

    def _progress(self) -> Any:
        if not self.accelerator.is_main_process:
            return contextlib.nullcontext(Silent())
        total, done = self.steps * self.batch, self.step * self.batch
        return show_progress(total, self.task.name, "samples", done)

    # One step ---------------------------------------------------------------------------------

    def _share(self, step: int) -> range:
        """Return the positions of this process's samples of `step`."""
        return share_of(step, self.batch, self.rank, self.world)

    def _load_one(self, position: int) -> Sample:
        item, rng = self.order.item_at(position), self.order.rng_at(position)
        return self.task.load_in_step(position // self.batch, item, rng)

    def _update(self, samples: list[Sample]) -> torch.Tensor:
        """Take one optimizer step on `samples`; return their mean loss."""
        total = torch.zeros((), device=self.accelerator.device)
        starts = range(0, len(samples), self.micro_batch)
        for start in starts:
            part = samples[start : start + self.micro_batch]
            batch = self.to_device(stack_samples(part))
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

    def to_device(self, batch: Sample) -> Sample:
        """Return `batch` where the network is."""
        device = self.accelerator.device
        if self.on_gpu:  # a copy from pageable memory would wait for all that the GPU has to do
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def _fit_first_step(self) -> None:
        """Lower the micro-batch until one forward and backward pass fits into memory."""
        samples = [self._load_one(position) for position in self._share(self.step)]
        asked = self.micro_batch
        self.network.train()

        def attempt(count: int) -> None:
            place = self._place_of_moments()
            try:
                batch = self.to_device(stack_samples(samples[:count]))
                self.accelerator.backward(self.alone(batch).float().sum() * 0.0)
            finally:
                del place
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
            told = self._memory().describe_fit(fitted, parts, self.task.sees_batches)
            warnings.warn(told, stacklevel=2)
        left = (time.monotonic() - start) * parts * (self.steps - self.step)
        self.say(f"by its first step, about {describe_time(left)} to go")

    def _place_of_moments(self) -> torch.Tensor | None:
        """Return as much GPU memory as the optimizer will take at its first step."""
        if not self.on_gpu or self.optimizer.optimizer.state:
            return None
        size = 2 if self.asked.optimizer == "adamw8bit" else 8
        count = size * sum(weight.numel() for weight in self.trained.values())
        return torch.empty(count, dtype=torch.uint8, device=self.accelerator.device)

    def _memory(self) -> Memory:
        return Memory("GPU memory" if self.on_gpu else "memory")

    def _someone_asked(self) -> bool:
        if self.world == 1:
            return self.stop.asked
        if self.step % self.look_every:
            return False
        flag = torch.tensor([float(self.stop.asked)], device=self.accelerator.device)
        summed = self.accelerator.reduce(flag, "sum")
        return bool(summed.item() > 0)

    # State ------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.saved_step != self.step:
            save_run(self)
            self.saved_step = self.step

    def _restore(self) -> None:
        if restore_run(self):
            self.saved_step = self.step

    def _finish(self) -> None:
        if self.average is not None:
            self.average.copy_to(list(self.trained.values()))
        if self.accelerator.is_main_process:
            self.outcome.files = self.task.save(self.asked.out)
        self.accelerator.wait_for_everyone()
