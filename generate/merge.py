"""`univg generate merge`: join the shards of a run.

In: a run folder whose shards are done. Out: its manifest, as one process would have written it;
or what is missing, doubled or damaged, and which shards to run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from univg.config import settings
from univg.shards import Merged, merge_parts, read_plan


@settings
class Merge:
    """Join the shards of a run folder; tell what is missing."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Run folder in which `--shard` runs have worked."""
    verify: bool = False
    """Also compare every file with its checksum."""


def plan(settings: Merge) -> str:
    """Say what would be joined."""
    found = read_plan(settings.folder)
    return f"Would join {found['shards']} shards of {found['count']} items in {settings.folder}."


def run(settings: Merge) -> Merged:
    """Join the shards."""
    merged = merge_parts(settings.folder, verify=settings.verify)
    print(merged.line())  # noqa: T201
    return merged
