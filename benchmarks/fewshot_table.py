"""The figures of `fewshot.py` as CSV and as tables in Markdown.

In: WORK/rows, a JSON file a job that is done, and jobs that the CSV files hold already. Out:
`fewshot.csv`, a line a job; `fewshot-images.csv`, a line an image; `fewshot.md`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fewshot_rows import REFERENCE, ROWS

from univg.files import make_folder, write_all_atomic, write_atomic
from univg.segment.statistics import compare_paired

Found = dict[str, Any]
PROTOCOL = (
    *("set", "draw", "row", "on", "steps", "seed"),
    *(
        "fit_steps",
        "network",
        "batch",
        "patch_px",
        "augment",
        "shots",
        "pairs",
        "pairs_used",
        "engine",
    ),
    *("masks", "card", "base", "size_px", "seen_px", "judged", "scored", "precision"),
)
FIGURES = ("dsc", "dsc_sd", "cldice", "cldice_sd", "threshold", "shots_dice")
STAGES = (
    *("card", "mask-engine", "masks", "squares", "image-engine", "pairs", "fitted"),
    *("fit", "found", "score"),
)
"""Steps of a row in their order; a column of seconds each."""
KEYS = PROTOCOL[:6]
"""What tells a job from the others."""
COLUMNS = (*PROTOCOL, *FIGURES, *(f"{stage}_s" for stage in STAGES), "fit_cpu_s", "cpu_s")
METRICS = {"dsc": "DSC", "cldice": "clDice"}


def write_job(folder: Path, found: Found) -> Path:
    """Write what a job found; the same job again replaces it."""
    path = make_folder(folder) / f"{name_job(found)}.json"
    write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
    return path


def name_job(found: Mapping[str, Any]) -> str:
    """Return the name of the file of a job."""
    return "-".join(str(found[key]) for key in KEYS)


def read_jobs(folder: Path) -> list[Found]:
    """Return what all jobs found, in the order of the table."""
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(jobs, key=_place_job)


def read_tables(out: Path) -> list[Found]:
    """Return the jobs that `out` and the images' CSV beside it hold, none if they are not there."""
    images: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in _read_csv(_images_of(out)):
        values = {metric: _to_number(line[metric]) for metric in METRICS}
        images.setdefault(tuple(line[key] for key in KEYS), {})[line["image"]] = values
    jobs = []
    for line in _read_csv(out):
        fit, whole = float(line["fit_cpu_s"]), float(line["cpu_s"])
        jobs.append(
            {
                **{key: _to_plain(line[key]) for key in PROTOCOL},
                "threshold": _to_number(line["threshold"]),
                "shots_dice": _to_number(line["shots_dice"]),
                "seconds": {s: float(line[f"{s}_s"]) for s in STAGES if line[f"{s}_s"]},
                "cpu_s": {"fit": fit, "others": round(whole - fit, 2)},
                "images": images[tuple(line[key] for key in KEYS)],
            }
        )
    return jobs


def join_jobs(kept: Sequence[Found], done: Sequence[Found]) -> list[Found]:
    """Return all jobs in the order of the table; one that is done anew replaces what was kept."""
    by_name = {name_job(job): job for job in [*kept, *done]}
    return sorted(by_name.values(), key=_place_job)


def write_tables(jobs: Sequence[Found], out: Path, page: str) -> None:
    """Write `out` (CSV, a line a job), the images' CSV and the Markdown `page` beside it."""
    make_folder(out.parent)
    images = [
        {**{key: job[key] for key in KEYS}, "image": stem, **values}
        for job in jobs
        for stem, values in sorted(job["images"].items())
    ]
    write_all_atomic(
        {
            out: _to_csv(COLUMNS, [list_cells(job) for job in jobs]),
            _images_of(out): _to_csv((*KEYS, "image", *METRICS), images),
            out.with_suffix(".md"): page.encode(),
        }
    )


def list_cells(job: Found) -> dict[str, Any]:
    """Return one line of the CSV."""
    cells: dict[str, Any] = {key: job[key] for key in PROTOCOL}
    for metric in METRICS:
        values = _values(job, metric)
        cells[metric] = round(100 * float(np.mean(values)), 3)
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        cells[f"{metric}_sd"] = round(100 * spread, 3)
    cells |= {key: job[key] for key in ("threshold", "shots_dice")}
    cells |= {f"{stage}_s": job["seconds"].get(stage, "") for stage in STAGES}
    return {
        **cells,
        "fit_cpu_s": job["cpu_s"]["fit"],
        "cpu_s": round(sum(job["cpu_s"].values()), 2),
    }


def describe_tables(jobs: Sequence[Found]) -> str:
    """Return the tables of jobs of one half and number of steps, in Markdown."""
    sets = sorted({job["set"] for job in jobs})
    rows = list(dict.fromkeys(job["row"] for job in jobs))
    parts = [
        "DSC and clDice in percent, mean over images; ± standard deviation over draws. "
        "Minutes: all steps of a row, of a set and draw.\n"
    ]
    parts += [
        _frame(["row", *sets, "mean", "minutes", "of processor"]),
        *_score_lines(jobs, rows, sets),
    ]
    if any(job["row"] == REFERENCE for job in jobs) and len(rows) > 1:
        parts.append(
            f"\nDSC less that of `{REFERENCE}` on the same images and draws [95 %], p of a paired "
            "permutation test over images (an image's mean over draws counts once):\n"
        )
        parts += [_frame(["row", *sets, "mean"]), *_difference_lines(jobs, rows, sets)]
    parts.append(
        "\nDice of the real images that a row is trained on, at the threshold chosen on them and "
        "the size that the network sees, in percent. Where images of the same look that were never "
        "seen come close to it, more pairs have little to win:\n"
    )
    parts += [_frame(["row", *sets]), *_trained_lines(jobs, rows, sets)]
    parts.append("")
    parts += [f"- `{row}`: {_what(row)}" for row in rows]
    return "\n".join(parts) + "\n"


def describe_protocol(jobs: Sequence[Found]) -> str:
    """Return what a reader must know to compare the figures with others'."""
    lines = []
    for name in sorted({job["set"] for job in jobs}):
        some = next(job for job in jobs if job["set"] == name)
        counts = sorted({len(job["images"]) for job in jobs if job["set"] == name})
        usual = [job["seen_px"] for job in jobs if (job["set"], job["row"]) == (name, REFERENCE)]
        seen = f"longest side {usual[0]} px to the network of `{REFERENCE}`, " if usual else ""
        lines.append(
            f"- {name}: {some['size_px']} px, {seen}judged {some['judged']}, "
            f"{' or '.join(map(str, counts))} images scored"
        )
    lines.append(
        "- The network sees images at the size that the shots' masks need (`--size-px auto`); what "
        "it finds is judged at the size that stands first. The paper works at 512 px and tests on "
        "all images but the five. Truth is scaled like the masks of the shots.\n"
        "- Intervals and p are over images: what another seed of training changes is not in them."
    )
    return "\n".join(lines) + "\n"


def _score_lines(jobs: Sequence[Found], rows: Sequence[str], sets: Sequence[str]) -> Iterable[str]:
    for row in rows:
        cells, means = [row], []
        mine = [job for job in jobs if job["row"] == row]
        for name in sets:
            here = [job for job in mine if job["set"] == name]
            cells.append(" / ".join(_show_spread(here, metric) for metric in METRICS if here))
            if here:
                means.append([_mean_of(here, metric) for metric in METRICS])
        whole = len(means) == len(sets)
        cells.append(" / ".join(f"{v:.2f}" for v in np.mean(means, axis=0)) if whole else "")
        minutes = np.mean([sum(job["seconds"].values()) for job in mine]) / 60
        processor = np.mean([sum(job["cpu_s"].values()) for job in mine]) / 60
        cells += [f"{minutes:.1f}", f"{processor:.1f}"]
        yield _line(cells)


def _difference_lines(
    jobs: Sequence[Found], rows: Sequence[str], sets: Sequence[str]
) -> Iterable[str]:
    for row in rows:
        if row == REFERENCE:
            continue
        cells, means = [row], []
        for name in sets:
            mine, theirs = pair_images(jobs, row, REFERENCE, name)
            if not mine:
                cells.append("")
                continue
            test = compare_paired(mine, theirs, draws=2000)
            means.append(test.difference or 0.0)
            cells.append(f"{test.difference:+z.2f}")
            if test.low is not None:
                cells[-1] += (
                    f" [{test.low:+z.2f}, {test.high:+z.2f}], {_chance(test.permutation_p)}"
                )
        cells.append(f"{np.mean(means):+z.2f}" if len(means) == len(sets) else "")
        yield _line(cells)


def _trained_lines(
    jobs: Sequence[Found], rows: Sequence[str], sets: Sequence[str]
) -> Iterable[str]:
    for row in rows:
        cells = [row]
        for name in sets:
            found = [
                job["shots_dice"]
                for job in jobs
                if (job["row"], job["set"]) == (row, name) and job["shots_dice"] is not None
            ]
            cells.append(f"{100 * np.mean(found):.2f}" if found else "")
        yield _line(cells)


def pair_images(
    jobs: Sequence[Found], row: str, other: str, name: str, metric: str = "dsc"
) -> tuple[list[float], list[float]]:
    """Return percentages of two rows on the images and draws of set `name` that both have.

    An image's draws are averaged: they are not independent. A row that has no draw (`ceiling`)
    stands beside every draw of the other.
    """
    gathered: dict[str, list[tuple[float, float]]] = {}
    for mine in jobs:
        for theirs in jobs:
            if (mine["set"], mine["row"]) != (name, row):
                continue
            if (theirs["set"], theirs["row"]) != (name, other):
                continue
            if mine["draw"] != theirs["draw"] and "all" not in (mine["draw"], theirs["draw"]):
                continue
            for stem in mine["images"].keys() & theirs["images"].keys():
                both = mine["images"][stem][metric], theirs["images"][stem][metric]
                if None not in both:
                    gathered.setdefault(stem, []).append(both)
    means = [100 * np.mean(gathered[stem], axis=0) for stem in sorted(gathered)]
    return [float(a) for a, _ in means], [float(b) for _, b in means]


def _show_spread(jobs: Sequence[Found], metric: str) -> str:
    means = [float(np.mean(_values(job, metric))) * 100 for job in jobs]
    text = f"{np.mean(means):.2f}"
    return f"{text} ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else text


def _mean_of(jobs: Sequence[Found], metric: str) -> float:
    return 100 * float(np.mean([np.mean(_values(job, metric)) for job in jobs]))


def _values(job: Found, metric: str) -> list[float]:
    return [one[metric] for one in job["images"].values() if one[metric] is not None] or [np.nan]


def _images_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}-images.csv")


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _chance(p: float) -> str:
    return f"p {p:.3f}" if p >= 0.001 else "p < 0.001"


def _to_plain(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _to_number(text: str) -> float | None:
    return float(text) if text else None


def _place_job(job: Found) -> tuple[tuple[int, str], list[str]]:
    return _place_row(job["row"]), [str(job[key]) for key in KEYS]


def _place_row(name: str) -> tuple[int, str]:
    names = list(ROWS)
    plain = name.partition("@")[0]
    return (names.index(plain) if plain in names else len(names), name)


def _what(name: str) -> str:
    plain, *marks = name.split("@")
    text = ROWS[plain].what if plain in ROWS else plain
    told = [f"longest side {m[:-2]} px" if m.endswith("px") else f"trial {m}" for m in marks]
    return "; ".join([text, *told])


def _frame(titles: Sequence[str]) -> str:
    return f"{_line(titles)}\n|{'---|' * len(titles)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()
