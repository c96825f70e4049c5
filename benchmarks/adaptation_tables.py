"""Tables of `nano_adaptation.py`: a row a set with mean and spread over draws, a row a draw.

In: its results by "SET DRAW PART". Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]
MASKS = ("sca", "rsca", "before", "after")
DRAWN = ("before", "unfinished", "grain alone", "after")
MASK_HEAD = ("Fréchet: SCA", "R-SCA", "nano before", "after", "floor", "energy: R-SCA", "before",
             "after")  # fmt: skip
IMAGE_HEAD = ("FD-looks: procedural", *DRAWN, "floor", "clDice: real", "procedural", *DRAWN,
              "chance", "refiner")  # fmt: skip


def make_tables(found: Mapping[str, Any]) -> str:
    """Return all tables; a part that was not measured has none."""
    lines = [f"{name}: {value}  " for name, value in found.get("facts", {}).items()]
    for part, head, values in (
        ("masks", MASK_HEAD, mask_values), ("images", IMAGE_HEAD, image_values),
    ):  # fmt: skip
        rows = {key.removesuffix(f" {part}"): row for key, row in found.items()
                if key.endswith(f" {part}")}  # fmt: skip
        if rows:
            lines += ["", f"## {part.capitalize()}", ""]
            lines += write_table(head, gather(rows, values))
    return "\n".join(lines) + "\n"


def gather(rows: Mapping[str, Row], values: Any) -> dict[str, list[str]]:
    """Return the cells of each set (mean ± spread over draws), then of each draw."""
    sets: dict[str, list[Row]] = {}
    for key, row in rows.items():
        sets.setdefault(key.rsplit(" ", 1)[0], []).append(row)
    found = {}
    for name, several in sets.items():
        columns = np.array([[row["seconds"], *values(row)] for row in several], float)
        found[f"**{name}**, {len(several)} draws"] = [
            write_spread(column, 0 if k == 0 else 2) for k, column in enumerate(columns.T)
        ]
    for key, row in rows.items():
        numbers = [row["seconds"], *values(row)]
        found[key] = [f"{value:.{0 if k == 0 else 2}f}" for k, value in enumerate(numbers)]
    return found


def mask_values(row: Row) -> list[float]:
    """Return the figures of one adaptation to masks."""
    distances = [row[name]["frechet"] for name in MASKS]
    energies = [row[name]["energy"] for name in MASKS[1:]]
    return [*distances, row["after"]["floor"], *energies]


def image_values(row: Row) -> list[float]:
    """Return the figures of one adaptation to pairs."""
    looks = [row[name]["frechet"] for name in ("procedural", *DRAWN)]
    follows = [row[name]["cldice"] for name in ("real", "procedural", *DRAWN)]
    return [*looks, row["after"]["floor"], *follows, row["chance"], row["refiner strength"]]


def write_spread(values: Iterable[float], digits: int) -> str:
    """Return mean ± sample standard deviation; a single value has none."""
    column = np.array(list(values), float)
    text = f"{column.mean():.{digits}f}"
    return text if len(column) < 2 else f"{text} ± {column.std(ddof=1):.{digits}f}"


def write_table(head: Iterable[str], rows: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    titles = ["set, draw", "s", *head]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
