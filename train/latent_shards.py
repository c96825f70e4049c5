"""Shards of the latent cache: many small tensors in few safetensors files, found by their keys.

In: keys with pairs of tensors. Out: files that are whole or absent, and reads by key. What a shard
holds stands in its own header, so no index can disagree with it; one that cannot be read in full
is dropped, and its items are simply missing again.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from univg.errors import DataError
from univg.files import TEMPORARY_PREFIX, make_folder, sha256_hex, write_atomic

SUFFIX = ".safetensors"
MOST_OPEN = 64
"""Shards held open at a time; each is a file descriptor and a mapping, not a copy in memory."""
STALE_S = 3600.0
"""A temporary file older than this was left by a killed run."""

Moments = tuple[torch.Tensor, torch.Tensor]


class ShardFolder:
    """The shards of one folder, all of one `space`: what else they were made with is the same."""

    def __init__(self, folder: Path, space: str) -> None:
        self.folder = folder
        self.space = space
        self._places: dict[str, tuple[Path, int, int]] = {}  # key -> shard, row, checksum
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def scan(self) -> list[Path]:
        """Read the headers of all shards anew; drop the damaged ones, and return them."""
        self.close()
        self._places.clear()
        damaged = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                with safe_open(path, framework="pt") as shard:
                    rows = _read_header(shard, self.space)
            except FileNotFoundError:  # another process dropped it
                continue
            except (SafetensorError, ValueError, KeyError, TypeError):
                damaged.append(path)
                path.unlink(missing_ok=True)
                continue
            for row, (key, checksum) in enumerate(rows):
                self._places.setdefault(key, (path, row, checksum))
        return damaged

    def remove_leftovers(self) -> None:
        """Delete the temporary files of killed runs, not those of one under way."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def write(self, items: Mapping[str, Moments]) -> Path:
        """Write `items` as one shard, whole or not at all; it is found after the next `scan`."""
        keys = list(items)
        means = torch.stack([items[key][0] for key in keys])
        stds = torch.stack([items[key][1] for key in keys])
        checksums = [_checksum(mean, std) for mean, std in zip(means, stds, strict=True)]
        rows = json.dumps(list(zip(keys, checksums, strict=True)))
        data = save({"mean": means, "std": stds}, metadata={"space": self.space, "rows": rows})
        path = make_folder(self.folder) / f"{sha256_hex(''.join(keys).encode())[:24]}{SUFFIX}"
        write_atomic(path, data)
        return path

    def read(self, key: str) -> Moments:
        """Return the tensors of `key` as they were stored."""
        path, row, checksum = self._places[key]
        try:
            shard = self._shard(path)
            mean, std = shard.get_slice("mean")[row], shard.get_slice("std")[row]
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: was removed or damaged while it was in use; run the same command again"
            ) from error
        if _checksum(mean, std) != checksum:
            raise DataError(
                f"{path}: its content differs from what was written (a failing disk?); delete it "
                "and run the same command again"
            )
        return mean, std

    def close(self) -> None:
        """Let go of all files."""
        while self._open:
            self._open.popitem()[1].__exit__(None, None, None)

    def _shard(self, path: Path) -> Any:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        shard: Any = safe_open(path, framework="pt")
        self._open[path] = shard
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].__exit__(None, None, None)
        return shard


def _read_header(shard: Any, space: str) -> Iterator[tuple[str, int]]:
    """Return the keys and checksums of a shard's rows, if it is one of ours and complete."""
    metadata = shard.metadata() or {}
    if metadata["space"] != space:
        raise ValueError("made with something else")
    rows = [(str(key), int(checksum)) for key, checksum in json.loads(metadata["rows"])]
    if any(shard.get_slice(name).get_shape()[0] != len(rows) for name in ("mean", "std")):
        raise ValueError("rows and tensors differ in number")
    return iter(rows)


def _checksum(mean: torch.Tensor, std: torch.Tensor) -> int:
    first = zlib.crc32(mean.contiguous().numpy().tobytes())
    return zlib.crc32(std.contiguous().numpy().tobytes(), first)
