"""The page of the quality gate: is this set fit to train on, and what does it look like?

In: what the gate found. Out: `report.html`, one self-contained file: key figures, every measure
beside that of the shots, histograms, the best, worst and random pairs, copies of shots,
near-duplicates, what was dropped and which files cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from univg import __version__
from univg.overlap import turn_over
from univg.pairs import Pair
from univg.report import Page, shrink_mask
from univg.seeds import rng_for

from .gate import MEASURES
from .gate_charts import Picture, draw_histogram, show_image, show_outline
from .gate_pairs import IMAGE_TWIN, MASK_TWIN, open_pair
from .gate_run import GateResult

TILE_PX = 144
OUTLINE_PX = 224  # thin vessels would vanish under their own outline
_CASES = 5
_SHOWN_PROBLEMS = 40
_LABELS = ("image", "mask", "outline of the mask")


def write_page(
    result: GateResult, path: Path, *, chance: float | None = None, show: int = 6, seed: int = 0
) -> None:
    """Write the page; `chance` is the agreement with the mask of another image."""
    page = Page(
        "Quality of a set of image-mask pairs",
        kicker=f"univg generate check, {len(result.rows):,} pairs",
        lead=_lead(result),
        footer=f"univg {__version__}. Rows of all pairs: `scores.jsonl` beside this page.",
    )
    _add_figures(page, result, chance)
    usable = [k for k, row in enumerate(result.rows) if "scores" in row]
    if usable:
        _add_measures(page, result)
        _add_pairs(page, result, usable, show, seed)
    if result.shots is not None and usable:
        _add_copies(page, result)
    if any("duplicate" in scores for scores in result.scores()):
        _add_twins(page, result)
    _add_dropped(page, result)
    page.write(path)


def _lead(result: GateResult) -> str:
    if not result.keep.text:
        return "Measured pair by pair; nothing is dropped."
    dropped = len(result.rows) - len(result.kept)
    return f"Kept {len(result.kept):,} of {len(result.rows):,} pairs, dropped {dropped:,}."


def _add_figures(page: Page, result: GateResult, chance: float | None) -> None:
    figures = [(f"{len(result.rows):,}", "pairs")]
    agreement = result.values("agreement")
    shots = _shot_values(result, "agreement")
    if agreement:
        figures.append((f"{np.median(agreement):.2f}", "agreement of image and mask, median"))
    if shots:
        figures.append((f"{np.median(shots):.2f}", "the same of the shots: about what is possible"))
    if chance is not None:
        figures.append((f"{chance:.2f}", "with the mask of another image: chance"))
    for name, what in (
        ("copied", "copies of a shot"), ("background_copied", "backgrounds copied from a shot"),
        ("duplicate", "near-duplicates"),
    ):  # fmt: skip
        flags = result.values(name)
        if flags:
            figures.append((f"{int(sum(flags)):,}", what))
    broken = len(result.rows) - len(result.scores())
    if broken:
        figures.append((f"{broken:,}", "pairs that cannot be read"))
    page.section("At a glance").key_figures(figures)


def _add_measures(page: Page, result: GateResult) -> None:
    section = page.section(
        "Measures",
        "Of each measure the 5th, 50th and 95th percentile over the pairs"
        + (", and the least and largest value of the shots." if result.shots else "."),
    )
    columns = ["measure", "5 %", "median", "95 %"]
    columns += ["shots, least", "shots, largest", "pairs outside"] if result.shots else []
    rows, charts = [], []
    for name, measure in MEASURES.items():
        values = result.values(name)
        if not values or measure.kind == "flag":
            continue
        shots = _shot_values(result, name)
        cells = [_show(float(edge)) for edge in np.quantile(values, (0.05, 0.5, 0.95))]
        if result.shots:
            cells += _compare(values, shots)
        rows.append([f"`{name}`: {measure.what}", *cells])
        charts.append(draw_histogram(name, values, shots))
    note = ""
    if result.shots:
        count = len(result.shots.pairs)
        note = "Outside: share of pairs below the least or above the largest shot; of new real "
        note += f"pairs, {2 / (count + 1):.0%} would be outside {count} shots by chance."
    section.table("Measures of the pairs", columns, rows, note=note)
    marks = "; orange marks are the shots" if result.shots else ""
    caption = f"How the measures are distributed{marks}. The axis covers 98 % of the pairs, "
    caption += "what lies beyond counts in the outermost bars; the number is that of the tallest."
    section.pictures(charts, "Histograms of the measures", caption, columns=2)


def _compare(values: Sequence[float], shots: Sequence[float]) -> list[str]:
    if not shots:
        return ["-", "-", "-"]
    outside = np.mean([not min(shots) <= value <= max(shots) for value in values])
    return [_show(min(shots)), _show(max(shots)), f"{outside:.0%}"]


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _shot_values(result: GateResult, name: str) -> list[float]:
    found = [scores.get(name) for scores in (result.shots.scores if result.shots else ())]
    return [float(value) for value in found if value is not None]


def _add_pairs(page: Page, result: GateResult, usable: Sequence[int], show: int, seed: int) -> None:
    section = page.section("Pairs to look at")
    scored = [k for k in usable if result.rows[k]["scores"].get("agreement") is not None]
    ordered = sorted(scored, key=lambda k: (-result.rows[k]["scores"]["agreement"], k))
    drawn = rng_for(seed, "generate/gate page").permutation(len(usable))[:show]
    random = sorted(usable[k] for k in drawn)
    for heading, chosen, order in (
        ("Random", random, ""),
        ("Worst agreement", ordered[::-1][:show], ", the worst first"),
        ("Best agreement", ordered[:show], ", the best first"),
    ):
        cases = [(k, _show_pair(result.found.pairs[k])) for k in chosen]
        shown = [(k, case) for k, case in cases if case]
        if not shown:
            continue
        section.subheading(heading)
        names = ", ".join(_name(result, k) for k, _ in shown)
        section.comparison(
            _LABELS,
            [case for _, case in shown],
            f"{len(shown)} pairs: image, mask, image with the outline of the mask",
            f"{heading}{order} (agreement in brackets): {names}.",
        )


def _name(result: GateResult, k: int) -> str:
    agreement = result.rows[k]["scores"].get("agreement")
    shown = "-" if agreement is None else f"{agreement:.2f}"
    return f"`{result.rows[k]['id']}` ({shown})"


def _show_pair(pair: Pair) -> list[Picture]:
    """Return the image, the mask and both together; nothing where they cannot be read."""
    facts, _, _ = open_pair(pair)
    if facts is None:
        return []
    mask = facts.reading.mask
    return [
        show_image(facts.image, TILE_PX),
        shrink_mask(mask, TILE_PX),
        show_outline(facts.image, mask, OUTLINE_PX),
    ]


def _add_copies(page: Page, result: GateResult) -> None:
    assert result.shots is not None
    section = page.section(
        "Copies of shots",
        "A copy is nearer to a shot than half the distance that shots have from each other, "
        "quarter turns, mirroring and shifts seen through. The nearest pairs are shown whether "
        "they are copies or not.",
    )
    for kind, what in (
        ("mask", "Masks"), ("image", "Images"), ("background", "Images, vessels left out"),
    ):  # fmt: skip
        scored = [
            (row.get("scores", {}).get(f"{kind}_distance"), k) for k, row in enumerate(result.rows)
        ]
        near = sorted((value, k) for value, k in scored if value is not None)[:_CASES]
        cases = [_show_beside_shot(result, k, kind) for _, k in near]
        if not cases:
            continue
        threshold = result.shots.thresholds[kind]  # type: ignore[index]
        limit = "of one shot alone no limit is known" if threshold is None else (
            f"shots have {threshold:.2f} and more between each other, copies less than "
            f"{threshold / 2:.2f}"
        )  # fmt: skip
        copies = int(sum(result.values(f"{kind}_copied")))
        section.subheading(what, f"{_count(copies, 'copy', 'copies')}; {limit}.")
        names = ", ".join(
            f"`{result.rows[k]['id']}` and `{result.rows[k]['nearest_shot'][kind]['id']}` "
            f"({value:.2f})"
            for value, k in near
        )
        section.comparison(
            ("pair", "nearest shot"), cases, "pairs beside the shot they are nearest to",
            f"The nearest first, the shot turned as the pair lies; distance in brackets: {names}.",
        )  # fmt: skip


def _show_beside_shot(result: GateResult, k: int, kind: str) -> list[Picture]:
    assert result.shots is not None
    near = result.rows[k]["nearest_shot"][kind]
    shot = next(pair for pair in result.shots.pairs if pair.stem == near["id"])
    return [_show_side(result.found.pairs[k], kind), _show_side(shot, kind, near["turn"])]


def _show_side(pair: Pair, kind: str, turn: int = 0) -> Picture:
    facts, _, _ = open_pair(pair)
    if facts is None:
        return np.zeros((TILE_PX, TILE_PX), np.uint8)
    if kind == "mask":
        return shrink_mask(turn_over(facts.reading.mask, turn), TILE_PX)
    return show_image(np.ascontiguousarray(turn_over(facts.image, turn)), TILE_PX)


def _add_twins(page: Page, result: GateResult) -> None:
    section = page.section(
        "Near-duplicates",
        f"Pairs that repeat an earlier one: masks from an overlap of {MASK_TWIN} on (several "
        f"images of one mask do not count), images from a correlation of {IMAGE_TWIN} of their "
        "fine structure (those of one mask without their vessels).",
    )
    for kind in ("mask", "image"):
        repeats = [k for k, row in enumerate(result.rows) if kind in row.get("repeats", {})]
        section.subheading(f"{kind.capitalize()}s", f"{len(repeats):,} of {len(result.rows):,}.")
        repeats.sort(key=lambda k: (-result.rows[k]["repeats"][kind]["likeness"], k))
        places = {row["id"]: k for k, row in enumerate(result.rows)}
        cases, names = [], []
        for k in repeats[:_CASES]:
            twin = result.rows[k]["repeats"][kind]
            sides = (k, places[twin["id"]])
            cases.append([_show_side(result.found.pairs[side], kind) for side in sides])
            names.append(f"`{result.rows[k]['id']}` and `{twin['id']}` ({twin['likeness']:.2f})")
        if cases:
            section.comparison(
                ("later", "earlier"), cases, "near-duplicates beside each other",
                f"The most alike first: {', '.join(names)}.",
            )  # fmt: skip


def _add_dropped(page: Page, result: GateResult) -> None:
    section = page.section("What is kept")
    if result.keep.text:
        section.text(f"Asked for: `{result.keep.text}`. {_lead(result)}")
        rows = [[f"`{condition}`", f"{n:,}"] for condition, n in result.dropped_by().items()]
        section.table(
            "Pairs that fail a condition (some fail several)", ["condition", "pairs"], rows
        )
    else:
        section.text("All pairs. `--keep` takes conditions on the measures above, such as:")
        wanted = "agreement > 0.5 and not duplicate"
        section.commands([f'univg generate check --pairs PAIRS --keep "{wanted}" --out KEPT'])
    if result.problems:
        section.subheading(
            "Files that cannot be used", f"{_count(len(result.problems), 'problem', 'problems')}:"
        )
        section.commands(result.problems[:_SHOWN_PROBLEMS], "Problems")
