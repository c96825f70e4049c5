"""What a build has found, taken in and left out, source by source.

In: the survey of the sources and the rows of the finished shards. Out: the content of
`report.json`, and a table for people; rows and reports that were damaged are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from univg.errors import DataError
from univg.manifest import MANIFEST_NAME, Row, read_rows

from .build_sources import SourceFolder, Survey

_ROW_FIELDS = {"shard": int, "rows": int, "until": int, "inputs_sha256": str}
_DROP_FIELDS = {"source": str, "image": str, "why": str, "detail": str}
_SHARD_FIELDS = {"name": str, "rows": int, "sha256": str}


def read_shard_rows(out: Path) -> list[Row]:
    """Return the rows of the finished shards; refuse what no build has written."""
    rows = read_rows(out)
    until = 0
    for number, row in enumerate(rows, start=1):
        if not _is_shard_row(row) or row["shard"] != number - 1 or row["until"] < until:
            raise DataError(
                f"{out / MANIFEST_NAME}: line {number} is not the row of shard {number - 1}; the "
                f"file was edited or damaged: restore it, or delete {out} and run again"
            )
        until = row["until"]
    return rows


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a finished build's `report.json`; refuse a damaged one."""
    try:
        report = json.loads(path.read_bytes())
    except ValueError:
        report = None
    if not _has(report, {"images": int, "shards": list}) or not all(
        _has(shard, _SHARD_FIELDS) for shard in report["shards"]
    ):
        raise DataError(f"{path}: was edited or damaged; delete this file and run again")
    return dict(report)


def _is_shard_row(row: Row) -> bool:
    if not _has(row, _ROW_FIELDS | {"taken": dict, "dropped": list}):
        return False
    if row["rows"] and not _has(row, {"sha256": str}):
        return False
    counts = all(type(count) is int for count in row["taken"].values())
    return counts and all(_has(drop, _DROP_FIELDS) for drop in row["dropped"])


def _has(thing: Any, fields: Mapping[str, type]) -> bool:
    """Whether `thing` is an object with these fields of these types."""
    return isinstance(thing, dict) and all(type(thing.get(k)) is kind for k, kind in fields.items())


def make_report(
    shown: Mapping[str, Any], survey: Survey, rows: Sequence[Row], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the content of `report.json`; `rows` are those of the finished shards."""
    taken: Counter[str] = Counter()
    for row in rows:
        taken.update(row["taken"])
    dropped = [drop for row in rows for drop in row["dropped"]]
    sources = [_count_source(s, taken, dropped) for s in survey.sources if s.numbers.pretraining]
    return {
        **shown,
        "images": sum(taken.values()),
        "expected": sum(source["expected"] for source in sources),
        "sources": sources,
        "ignored_folders": survey.strangers,
        "shards": shards,
        "dropped": dropped,
    }


def _count_source(
    source: SourceFolder, taken: Counter[str], dropped: Sequence[dict[str, str]]
) -> dict[str, Any]:
    name, found = source.card.name, len(source.candidates) + len(source.listed)
    why = Counter(drop["why"] for drop in dropped if drop["source"] == name)
    return {
        "source": name,
        "modality": source.card.modality,
        "expected": source.numbers.pretraining,
        "found": found,
        "missing": max(0, source.numbers.pretraining - found),
        "taken": taken[name],
        "duplicates": why["duplicate"],
        "test_images": why["test image"] + len(source.listed),
        "unreadable": why["unreadable"],
        "unrecognized": source.unrecognized,
    }


def show_table(survey: Survey, report: dict[str, Any] | None) -> str:
    """Show the sources as lines of text: before the build what is there, after it what became."""
    rows = (
        report["sources"]
        if report
        else [
            _count_source(s, Counter(), ()) | {"taken": "", "duplicates": "", "unreadable": ""}
            for s in survey.sources
            if s.numbers.pretraining
        ]
    )
    titles = ["source", "modality", "expected", "found", "missing", "taken", "duplicates"]
    titles += ["test_images", "unreadable", "unrecognized"]
    cells = [titles, *([str(row[title]) for title in titles] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    if survey.strangers:
        lines.append(f"not a source, left alone: {', '.join(survey.strangers)}")
    return "\n".join(line.rstrip() for line in lines).replace("_", " ")
