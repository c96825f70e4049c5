"""Where a run is done: this process, worker processes, one shard of many, Ray, many GPUs.

In: what the user asked for and what launchers put into the environment. Out: an executor, and the
run done by it. No byte depends on any of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from univg import __version__
from univg.config import settings, to_plain
from univg.errors import ConfigError
from univg.executors import Pipeline, Processes
from univg.run_folder import Executor, Filled, Maker, fill_folder
from univg.shards import Shard, fill_shard, is_begun_whole, merge_if_last, parse_shard

DEFAULT_WORKERS = max(1, min(8, os.cpu_count() or 1))


@settings
class Placement:
    """Options that say where a run is done; they change no byte."""

    workers: Annotated[int, Ge(1), Le(4096)] = DEFAULT_WORKERS
    """Processes of engines that draw on the CPU; with --engine ray workers of the cluster."""
    shard: str | None = None
    """One portion of the run, NUMBER/OF from 0, such as 3/64: for job arrays. `univg generate
    merge` joins them."""
    engine: Literal["local", "ray"] = "local"
    """ray: on a Ray cluster, RAY_ADDRESS or one started here."""
    gpus_per_worker: Annotated[float, Ge(0), Le(16)] = 0.0
    """With ray: GPUs that each worker takes, parts of one allowed."""


FREE = {"workers", "shard", "engine", "gpus_per_worker"}


def do_run(placed: Placement, maker: Maker, folder: Path, wanted: range, config: bytes) -> Filled:
    """Bring `folder` to hold the items `wanted`, or this process's portion of them."""
    shard = _find_shard(placed)
    executor = _choose_executor(placed, maker)
    if shard is not None and placed.shard is None and is_begun_whole(folder):
        # Joined by an earlier launch, or begun by one process: the first looks after it.
        if shard.number > 0:
            return Filled(skipped=len(wanted))
        shard = None
    if shard is None:
        return fill_folder(maker, folder, wanted, executor, config=config)
    filled = fill_shard(maker, folder, wanted, executor, shard, config=config)
    if placed.shard is None:  # started by a launcher: nobody else will join the portions
        merged = merge_if_last(folder)
        if merged is not None:
            print(merged.line())  # noqa: T201
    return filled


def config_of(settings: Any, command: str, free: set[str]) -> bytes:
    """Return config.yaml, for `--config`: the settings without what changes no byte.

    Paths are absolute, so that the run can be looked at from anywhere.
    """
    import yaml

    plain = {name: value for name, value in to_plain(settings).items() if name not in free}
    for name, value in plain.items():
        if isinstance(value, str) and _is_path(name, value, getattr(settings, name)):
            plain[name] = os.path.abspath(value)  # noqa: PTH100 - links not followed
    head = f"# univg {__version__}: univg {command} --config THIS --out FOLDER\n"
    return (head + yaml.safe_dump(plain, sort_keys=False)).encode()


def _is_path(name: str, value: str, given: Any) -> bool:
    """Whether a setting, which may be a name as well, is a path here."""
    if name in {"modality", "look"}:
        return value.endswith((".yaml", ".yml"))
    named = name in {"base", "control"} and value != "nano" and Path(value).exists()
    return isinstance(given, Path) or named


def _find_shard(placed: Placement) -> Shard | None:
    """Return the portion asked for, or that of a process of `accelerate launch` or `torchrun`."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if placed.shard is not None:
        if placed.engine == "ray":
            raise ConfigError("shard and engine ray are two ways to share a run; leave one out")
        return parse_shard(placed.shard)
    return Shard(int(os.environ.get("RANK", "0")), world) if world > 1 else None


def _choose_executor(placed: Placement, maker: Maker) -> Executor:
    if placed.engine == "ray":
        from .ray_workers import RayWorkers

        return RayWorkers(placed.workers, placed.gpus_per_worker)
    return Processes(placed.workers) if maker.block == 1 else Pipeline()
