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
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from univg.errors import UserError
from univg.progress import show_progress

from .checkpoints import State, flatten, load_newest, save_state, unflatten
from .journal import Journal
from .optim import make_average, make_optimizer, make_schedule
from .options import Training
from .order import Order, share_of
from .stopping import StopRequest
from .task import Sample, Task, stack_samples

LOOK_EVERY_ON_GPU = 10  # reading the loss waits for the GPU
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
    files: list[Path] = field(default_factory=list)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint."""


def train(task: Task, asked: Training, accelerator: Accelerator) -> Outcome:
    """Train `task` as `asked`, going on from the newest checkpoint of its folder."""
    return _Run(task, asked, accelerator).run()


class _Run:
    """The state of one run."""

    def __init__(self, task: Task, asked: Training, accelerator: Accelerator) -> None:
        assert asked.max_steps is not None
        assert asked.batch is not None
        self.task, self.asked, self.accelerator = task, asked, accelerator
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
        self.step = 0
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
        # The schedule counts our steps; accelerate's wrapper would count those of all processes.
        self.schedule = make_schedule(asked, self.optimizer.optimizer)
        self.average = make_average(asked, weights)
        if self.average is not None:
            self.average.to(self.accelerator.device)

    def run(self) -> Outcome:
        self._restore()
        self.outcome.first_step = self.step
        start = time.monotonic()
        self.journal = Journal(self.accelerator, self.asked.out, self.asked.tracker, self.step)
        try:
            with StopRequest() as stop:
                self._train_until_done(stop)
        finally:
            self.journal.close()
        self.outcome.steps = self.step
        self.outcome.samples = self.step * self.batch
        self.outcome.seconds = time.monotonic() - start
        self._finish()
        return self.outcome

    def _train_until_done(self, stop: StopRequest) -> None:
        if self.step == 0:
            self._preview()
            self._validate()
        with (
            ThreadPoolExecutor(1, "load") as loader,
            self._progress() as bar,
        ):
            self._fit_first_step()
            waiting = loader.submit(self._load, self.step)
            losses = _Losses(self)
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
                    _cancel(waiting)
                    losses.look()
                    self._save()
                    raise Stopped(f"stopped after step {self.step}")
            losses.look()

    def _after_step(self, losses: _Losses) -> None:
        asked, last = self.asked, self.step == self.steps
        losses.look_if_due()
        if asked.validate_every and (self.step % asked.validate_every == 0 or last):
            self._validate()
        if asked.preview_every and (self.step % asked.preview_every == 0 or last):
            self._preview()
        if asked.save_every and (self.step % asked.save_every == 0 or last):
            losses.look()  # never keep a checkpoint of weights that are not numbers
            self._save()

    def _progress(self) -> Any:
        if not self.accelerator.is_main_process:
            return contextlib.nullcontext(_Silent())
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
        if self.accelerator.device.type != "cuda":
            return
        samples = self._load(self.step)
        while True:
            try:
                batch = self._to_device(stack_samples(samples[: self.micro_batch]))
                with self.accelerator.no_sync(self.network):
                    self.accelerator.backward(self.network(batch).float().sum() * 0.0)
                break
            except torch.OutOfMemoryError as error:
                if self.micro_batch == 1:
                    raise UserError(
                        "out of GPU memory with one sample at a time; take a smaller --size-px, "
                        "--gradient-checkpointing True, or --precision bf16"
                    ) from error
                self.micro_batch = math.ceil(self.micro_batch / 2)
                parts = math.ceil(len(samples) / self.micro_batch)
                warnings.warn(
                    f"out of GPU memory: micro-batch lowered to {self.micro_batch}, {parts} of "
                    "them a step; results stay the same",
                    stacklevel=2,
                )
            finally:
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

    def _someone_asked(self, stop: StopRequest) -> bool:
        if self.world == 1:
            return stop.asked
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
                losses.append(self.network(batch).float().sum())
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
            tensors = {name: value.detach().cpu().clone() for name, value in self.trained.items()}
        write_atomic(self.asked.out / BEST, save(tensors, {"step": str(self.step)}))

    def _preview(self) -> None:
        """Draw a preview; nothing that goes wrong in it ends the run."""
        if not self.asked.preview_every or not self.accelerator.is_main_process:
            return
        state = torch.get_rng_state()
        self.network.eval()
        try:
            with self._averaged(), torch.no_grad():
                picture = self.task.preview(self.step)
            if picture is not None:
                self.journal.show(self.step, picture)
        except Exception as error:
            warnings.warn(f"no preview at step {self.step}: {error}", stacklevel=2)
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
        finally:
            self.network.train()
            torch.set_rng_state(state)

    # State ------------------------------------------------------------------------------------

    def _save(self) -> None:
        randomness = self._gather_randomness()
        if self.accelerator.is_main_process:
            tensors, rest = flatten(self._state(), "state")
            tensors |= {f"rng/{rank}": state for rank, state in enumerate(randomness)}
            values = {"rest": rest, "best": [self.outcome.best_step, self.outcome.best_check]}
            save_state(self.asked.out, State(self.step, tensors, values), self.asked.keep_checkpoints)
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
        """Return the state of torch's own generator on each process (for dropout and the like)."""
        here = torch.get_rng_state().to(self.accelerator.device)
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
            torch.set_rng_state(state.tensors[f"rng/{self.rank}"].cpu())
        self.step = state.step
        self.outcome.best_step, self.outcome.best_check = state.values["best"]

    def _finish(self) -> None:
        if self.accelerator.is_main_process:
            with self._averaged():
                self.outcome.files = self.task.save(self.asked.out)
        self.accelerator.wait_for_everyone()


class _Losses:
    """Losses since the last look: fetched rarely on a GPU, checked for not being numbers."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.every = LOOK_EVERY_ON_GPU if run.accelerator.device.type == "cuda" else 1
        self.waiting: list[torch.Tensor] = []
        self.smooth = math.nan
        self.start = time.monotonic()

    @property
    def note(self) -> str:
        """The running mean, for the bar."""
        return f"loss {self.smooth:.4f}" if math.isfinite(self.smooth) else ""

    def add(self, loss: torch.Tensor) -> None:
        self.waiting.append(loss)

    def look_if_due(self) -> None:
        if self.run.step % self.every == 0:
            self.look()

    def look(self) -> None:
        """Fetch, check and note what is waiting."""
        if not self.waiting:
            return
        run, count = self.run, len(self.waiting)
        losses = torch.stack(self.waiting)
        if run.world > 1:
            losses = run.accelerator.reduce(losses, "mean")
        values = losses.tolist()
        self.waiting = []
        for number, value in enumerate(values):
            if not math.isfinite(value):
                _refuse_nan(run, run.step - count + number)
        mean = sum(values) / count
        self.smooth = mean if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * mean
        seconds = time.monotonic() - self.start
        self.start = time.monotonic()
        rate = count * run.batch / max(seconds, 1e-9)
        learning_rate = run.schedule.get_last_lr()[0]
        figures = {"loss": mean, "lr": learning_rate, "samples_per_s": round(rate, 3)}
        run.journal.write(run.step, figures)


def _refuse_nan(run: _Run, step: int) -> None:
    positions = range(step * run.batch, (step + 1) * run.batch)
    items = [run.order.item_at(position) for position in positions]
    files = ", ".join(dict.fromkeys(run.task.name_items(items)))
    kept = [path.name for path in sorted((run.asked.out / "checkpoints").glob("step-*"))]
    last = kept[-1] if kept else "none"
    raise UserError(
        f"the loss of step {step + 1} is not a number; its batch: {files}; last good checkpoint: "
        f"{last}; try a lower --learning-rate, or --precision no"
    )


def _cancel(waiting: Future[Any]) -> None:
    waiting.cancel()


class _Silent:
    """Progress of a process that shows none."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Show nothing."""
