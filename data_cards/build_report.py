"""What a build has found, taken in and left out, source by source.

In: the survey of the sources and the rows of the finished shards. Out: the content of
`report.json`, and a table for people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from univg.manifest import Row

from .build_sources import SourceFolder, Survey


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
