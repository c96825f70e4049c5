"""The scores of sets as tables, one text for the page, the Markdown file and the terminal.

In: `Compared`. Out: `Table`s of text; Markdown; plain values for JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from univg.distance import Comparison, Difference, Estimate
from univg.memorisation import Copying
from univg.sca.murray import format_exponent, format_murray

from .compare_inception import MOST_DRAWS
from .compare_scores import Compared, Scores

WORST = 5
_KEPT_COPIES = 10


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def make_tables(found: Compared) -> list[Table]:
    """Return the tables in the order they are shown."""
    tables = [_distances(found, "masks"), _distances(found, "images")]
    tables += [_variety(found), _backgrounds(found), _vessels(found)]
    if found.shots is not None:
        tables.append(_copies(found))
    return [*tables, _differences(found)]


def make_summary(found: Compared) -> Table:
    """Return one narrow table of what matters most, for a terminal."""
    columns = ["set", "pairs", "masks: × floor", "looks: × floor", "density", "coverage"]
    columns += ["Murray compliance", *(["copies"] if found.shots is not None else [])]
    rows = []
    for one in found.rows:
        pair = floors_of(found) if one is found.real else (one.masks, one.images)
        covers = (one.spread.density, one.spread.coverage)
        rows.append(
            (
                name_row(one, found),
                f"{len(one.measured):,}",
                *(_distance_cells(each, one is found.real)[-1] for each in pair),
                *("-" if each is None else f"{each.mean:.2f}" for each in covers),
                format_murray(one.murray),
                *([_count_copies(one)] if found.shots is not None else []),
            )
        )
    caption = f"Fréchet distance over its floor, {found.draws} draws of {found.n}; variety; copies"
    return Table(caption=caption, columns=tuple(columns), rows=tuple(rows))


def _count_copies(one: Scores) -> str:
    counted = [f"{copying.copies:,} {kind}" for kind, copying in _each_copying(one)]
    return ", ".join(counted[:2]) or "-"


def format_markdown(title: str, lead: str, tables: Sequence[Table]) -> str:
    """Return the tables as Markdown."""
    parts = [f"# {title}", "", lead, ""]
    for table in tables:
        parts += [f"**{table.caption}**", ""]
        lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
        parts += ["| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines]
        parts += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(parts)


def to_plain(found: Compared) -> dict[str, Any]:
    """Return all scores as plain JSON values."""
    return {
        "n": found.n,
        "draws": found.draws,
        "inception": found.inception_label or None,
        "sets": [_plain_row(one, found) for one in found.rows],
    }


def name_row(one: Scores, found: Compared) -> str:
    """Return the heading of a row."""
    name = one.measured.name
    return f"{name}: half against half" if one is found.real else name


def floors_of(found: Compared) -> tuple[Comparison | None, Comparison | None]:
    """Return the comparisons that hold the floors: they are the same for every set."""
    first = found.sets[0] if found.sets else None
    return (first.masks, first.images) if first is not None else (None, None)


def _distances(found: Compared, kind: Literal["masks", "images"]) -> Table:
    """Return the distances of masks or images; the first row is the floor."""
    masks, images = floors_of(found)
    inception = found.inception_label if kind == "images" else ""
    name = "Fréchet" if kind == "masks" else "FD-looks"
    columns = ["set", "pairs", name, "energy", "× floor"]
    columns += [inception, "Inception score"] if inception else []
    rows = []
    for one in found.rows:
        floor = one is found.real
        mine = (masks if floor else one.masks) if kind == "masks" else None
        mine = (images if floor else one.images) if kind == "images" else mine
        cells = [name_row(one, found), f"{len(one.measured):,}", *_distance_cells(mine, floor)]
        if inception and one.inception is not None:
            cells += [_show(one.inception.frechet), _show(one.inception.score)]
        rows.append(tuple(cells))
    note = (
        f"Mean of {found.draws} draws of {found.n} pairs a side, 95 % of them in brackets. "
        "The first row is the floor: what two real sets of that size have between them."
    )
    if kind == "images":
        note += " FD-looks is a Fréchet distance over named features of the image; it is no FID."
    if inception:
        draws = min(found.draws, MOST_DRAWS)
        note += f" {inception} and score: {draws} draws; never beside figures of larger sets."
    caption = f"Distance of the {kind} from the real ones"
    return Table(caption=caption, columns=tuple(columns), rows=tuple(rows), note=note)


def _distance_cells(found: Comparison | None, floor: bool) -> list[str]:
    if found is None:
        return ["-", "-", "-"]
    if floor:
        return [_show(found.frechet_floor), _show(found.energy_floor), "1" if found.ratio else "-"]
    ratio = "-" if found.ratio is None else f"{found.ratio:.2f}"
    return [_show(found.frechet), _show(found.energy), ratio]


def _variety(found: Compared) -> Table:
    rows = tuple(
        (
            name_row(one, found),
            _show(one.spread.density),
            _show(one.spread.coverage),
            _show(one.spread.look_distance),
            f"{one.spread.mask_distance:.3f}",
        )
        for one in found.rows
    )
    spread = found.real.spread
    note = (
        "Density and coverage (Naeem et al. 2020) with the neighbourhood up to the nearest "
        f"{spread.neighbours} of {found.n}. Distances are means inside a set: below the first "
        f"row's, it is less varied than the real one; masks by 1 - overlap of {spread.compared} "
        "a set."
    )
    return Table(
        caption="Variety of looks and masks",
        columns=("set", "density", "coverage", "distance of two looks", "distance of two masks"),
        rows=rows,
        note=note,
    )


def _backgrounds(found: Compared) -> Table:
    rows = []
    for one in found.rows:
        likeness = one.spread.background_likeness
        shown = "-" if likeness is None else f"{likeness:.3f}"
        rows.append((name_row(one, found), shown, f"{one.spread.background_repeats:.3f}"))
    note = (
        "Correlation of a background with the nearest one, vessels left out, whatever way up: of "
        f"the real set (mutual, mean of both ways), of the same set; {found.real.spread.compared} "
        "a set."
    )
    return Table(
        caption="Backgrounds",
        columns=("set", "mutual similarity with real ones", "repeats inside the set"),
        rows=tuple(rows),
        note=note,
    )


def _vessels(found: Compared) -> Table:
    rows = tuple(
        (
            one.measured.name,
            format_murray(one.murray),
            format_exponent(one.murray),
            f"{one.murray.bifurcations:,}",
        )
        for one in found.rows
    )
    columns = ("set", "compliance (0 to 100), mean ± sd", "exponent fitted", "bifurcations")
    return Table(caption="Masks and Murray's law", columns=columns, rows=rows)


def _copies(found: Compared) -> Table:
    rows = []
    for one in found.sets:
        for kind, copying in _each_copying(one):
            rows.append((f"{one.measured.name}: {kind}", *_copy_cells(copying)))
    columns = (
        *("set", "copies", "nearer than real ones", "expected of new real ones"),
        *("distance to a shot, median", "of real ones, median"),
    )
    note = (
        "Nearer: than real ones come to each other. A copy is less than half as far. Distance: 0 "
        "the same, 1 nothing in common, whatever way up."
    )
    return Table(caption="Copies of the shots", columns=columns, rows=tuple(rows), note=note)


def _each_copying(one: Scores) -> Iterator[tuple[str, Copying]]:
    if one.mask_copies is not None:
        yield "masks", one.mask_copies
    if one.image_copies is not None:
        yield "images", one.image_copies
        if one.image_copies.background is not None:
            yield "backgrounds", one.image_copies.background


def _copy_cells(copying: Copying) -> tuple[str, ...]:
    distance = f"{_median([each.distance for each in copying.nearest]):.2f}"
    real = f"{_median(copying.real):.2f}" if copying.real else "-"
    if copying.threshold is None or copying.share is None:
        return "-", "-", "-", distance, real
    return (
        f"{copying.copies:,} of {len(copying.nearest):,}",
        f"{copying.share:.0%}",
        f"{copying.expected or 0:.0%}",
        distance,
        real,
    )


def _differences(found: Compared) -> Table:
    rows = []
    for one in found.sets:
        for kind, worst in (("masks", one.mask_differences), ("looks", one.look_differences)):
            for each in worst[:WORST]:
                rows.append(
                    (
                        f"{one.measured.name}: {kind}, {each.name}",
                        f"{each.real:.4g}",
                        f"{each.synth:.4g}",
                        f"{each.shift:+z.2f}",
                        f"{each.ks:.2f}",
                    )
                )
    columns = ("feature", "real", "set", "shift (real sd)", "KS")
    caption = f"What differs most: the {WORST} worst features of each set"
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _show(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.mean:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _plain_row(one: Scores, found: Compared) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if value is None else dataclasses.asdict(value)

    def each(differences: Sequence[Difference]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(difference) for difference in differences]

    return {
        "name": one.measured.name,
        "folder": str(one.measured.folder),
        "role": "real" if one is found.real else "set",
        "pairs_found": one.measured.found,
        "pairs_measured": [pair.pair.stem for pair in one.measured.pairs],
        "masks": plain(one.masks),
        "looks": plain(one.images),
        "inception": plain(one.inception),
        "spread": dataclasses.asdict(one.spread),
        "murray": dataclasses.asdict(one.murray),
        "copies": {kind: _plain_copying(c, one, found) for kind, c in _each_copying(one)},
        "mask_differences": each(one.mask_differences),
        "look_differences": each(one.look_differences),
    }


def _plain_copying(copying: Copying, one: Scores, found: Compared) -> dict[str, Any]:
    shots = () if found.shots is None else found.shots.pairs
    return {
        "copies": copying.copies,
        "share": copying.share,
        "expected": copying.expected,
        "threshold": copying.threshold,
        "nearest": [
            {
                "pair": one.measured.pairs[each.index].pair.stem,
                "shot": shots[each.shot].pair.stem,
                "distance": each.distance,
                "copied": each.copied,
            }
            for each in copying.worst(_KEPT_COPIES)
        ],
    }
