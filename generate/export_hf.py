"""Hugging Face parquet: data/SPLIT-00000-of-00003.parquet with image columns, and a dataset card.

In: items. Out: a folder that `datasets.load_dataset` opens, locally or on the hub. The files are
written row group by row group with pyarrow; their schema says, as `datasets` itself writes it, that
the columns are images.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from univg.errors import ConfigError, UserError

from .export_card import write_card
from .export_folders import flatten_record
from .export_index import Item, Totals
from .export_layout import STATE, Exporter, Shard, Whole, describe, write_form, write_stream

GROUP_PAIRS = 100
GROUP_BYTES = 32 * 2**20
"""A row group is what a reader holds at a time, and so do we."""
TEXT_COLUMNS = ("id", "modality", "engine", "source", "origin", "provenance")


@dataclass(frozen=True, kw_only=True)
class Parquet(Exporter):
    """A parquet file a shard."""

    with_fov: bool = False
    overhead_bytes: ClassVar[int] = 400

    def fit(self, totals: Totals) -> Parquet:
        """Have a column of fields of view if any pair has one."""
        _require_pyarrow()
        return dataclasses.replace(self, with_fov=totals.fovs > 0)

    def names(self, shard: Shard, items: Iterable[Item]) -> Iterator[str]:
        """Yield the name of the parquet file."""
        del items
        yield parquet_name(shard)

    def write(self, place: Path, shard: Shard, items: Iterable[Item]) -> int:
        """Write the file, a row group at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = place / parquet_name(shard)
        path.parent.mkdir(exist_ok=True)
        schema = schema_of(self.roles)
        with (
            write_stream(path) as stream,
            # PNG does not shrink, and no two are alike; the text is nothing beside it.
            pq.ParquetWriter(
                stream, schema, compression="none", use_dictionary=list(TEXT_COLUMNS)
            ) as writer,
        ):
            for rows in self._groups(items):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), len(rows))
        return path.stat().st_size

    def finish(self, whole: Whole) -> None:
        """Write the card."""
        sizes = dict.fromkeys(whole.summary.splits, 0)
        for shard in whole.shards:
            sizes[shard.split] += (whole.place / parquet_name(shard)).stat().st_size
        write_card(whole.place, whole.summary, self.licence, sizes)

    def advice(self, whole: Whole) -> str:
        """Name the reader."""
        first = next(iter(whole.summary.splits))
        return f'datasets.load_dataset("{whole.place}", split="{first}")'

    @property
    def roles(self) -> tuple[str, ...]:
        """The image columns."""
        return ("image", "mask", "fov") if self.with_fov else ("image", "mask")

    def _groups(self, items: Iterable[Item]) -> Iterator[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        size = 0
        for item in items:
            row: dict[str, Any] = dict.fromkeys(self.roles)
            for role in [role for role in self.roles if role in item.files]:
                data, _ = write_form(item, role, self.encoding)
                suffix = self.encoding.suffix if role == "image" else ".png"
                row[role] = {"bytes": data, "path": f"{item.key}{suffix}"}
                size += len(data)
            rows.append({**row, **flatten_record(describe(item, self.modality))})
            if len(rows) == GROUP_PAIRS or size >= GROUP_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows


def parquet_name(shard: Shard) -> str:
    """Return the name of a shard's file, as the hub has it."""
    return f"data/{shard.split}-{shard.part:05d}-of-{shard.parts:05d}.parquet"


def schema_of(roles: Iterable[str]) -> Any:
    """Return the arrow schema with the note that makes `datasets` decode the images."""
    import pyarrow as pa

    roles = tuple(roles)
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    fields = [(role, picture) for role in roles] + [(name, pa.string()) for name in TEXT_COLUMNS]
    features = {role: {"_type": "Image"} for role in roles}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in TEXT_COLUMNS}
    note = json.dumps({"info": {"features": features}})
    return pa.schema(fields).with_metadata({"huggingface": note})


def push_folder(place: Path, repository: str) -> str:
    """Upload a finished export to the hub, private unless the repository is there already."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("--push needs huggingface_hub: pip install 'univg[export]'") from error
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=place, repo_type="dataset",
            ignore_patterns=[f"{STATE}/*", ".univg-*", "run.json"],
            commit_message="Pairs exported by univg",
        )  # fmt: skip
    # The hub's client raises errors of several libraries: no network, no token, no such right.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--push {repository}: {reason}; the export in {place} is complete: run "
            "`hf auth login` or check the network, and repeat the command"
        ) from error
    return f"https://huggingface.co/datasets/{repository}"


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError("--to hf needs pyarrow: pip install 'univg[export]'") from error
