"""What synthetic pairs bring to a segmenter of five shots: rows x sets x draws, one table.

    python benchmarks/fewshot.py --data FOLDER --work FOLDER [--sets …] [--draws A] [--rows …]
        [--on pool|test] [--steps 1800] [--share 1/2] [--out benchmarks/results/fewshot.csv]

FOLDER (data) holds the sets of `splits.py`. Every row trains the same network for the same number
of steps on the same five shots; what differs stands in `fewshot_rows.py`. `--on pool`, the default,
scores on the pool's images that are not in the draw and opens no file of the test half; `--on test`
is for reporting alone. Stopped, the same command goes on; rows share what they have in common.
`--share 1/2` and `--share 2/2` may run side by side. Set OMP_NUM_THREADS to the cores of each.

Results: OUT (default WORK/fewshot.csv), a line a row, set and draw; OUT with `-images`, a line an
image; OUT as `.md`: the tables. What OUT holds already is kept, so a table may grow over days.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fewshot_chain import Asked, Job, lock_waiting
from fewshot_rows import DEFAULT_ROWS, FIT, ROWS
from fewshot_steps import do_job
from fewshot_table import (
    describe_protocol,
    describe_tables,
    join_jobs,
    read_jobs,
    read_tables,
    write_job,
    write_tables,
)
from splits import SPLITS

from univg.errors import UserError
from univg.files import make_folder
from univg.sd_compute import choose_precision

STEPS = 1800
"""Ten minutes of one core a row."""


def main(words: Sequence[str] | None = None) -> None:
    """Do what is asked for and not done yet; print the tables."""
    given = list(sys.argv[1:] if words is None else words)
    parser = _make_parser()
    asked = parser.parse_args(given)
    try:
        settings = _settings(asked)
        jobs = list_jobs(asked.rows, asked.draws, asked.sets, asked.on)
        make_folder(asked.work)
        part, parts = _read_share(asked.share)
        for number, job in enumerate(jobs[part::parts]):
            name = name_row(settings, job)
            print(f"== {number + 1} of {len(jobs[part::parts])}: {job.where} {name}", flush=True)
            found = {**describe_job(settings, job), **do_job(settings, job)}
            found["scored"] = len(found["images"])
            write_job(asked.work / "rows", found)
            report(asked, given)
        print(report(asked, given))
    except UserError as error:
        parser.exit(2, f"fewshot.py: {error}\n")


def list_jobs(rows: Sequence[str], draws: Sequence[str], sets: Sequence[str], on: str) -> list[Job]:
    """Return the jobs in the order in which they are done: each row on all sets, then the next."""
    jobs = []
    for name in rows:
        row = ROWS[name]
        if row.all_pool and on == "pool":
            raise UserError(
                f"row {name} is trained on the whole pool, so it cannot be scored there: "
                "take --on test, or leave it out"
            )
        for draw in draws if row.of_draw else ["all"]:
            jobs += [Job(row=row, split=SPLITS[each], draw=draw) for each in sets]
    return jobs


def describe_job(settings: Asked, job: Job) -> dict[str, Any]:
    """Return what names a job in the tables, and its settings."""
    row, fit = job.row, {**FIT, **dict(job.row.fit)}
    precision = choose_precision(str(fit.get("precision", "auto")))
    made = bool(row.engine)
    grown = made and row.masks == "grown"
    return {
        "set": job.split.name,
        "draw": job.draw,
        "row": name_row(settings, job),
        "on": settings.on,
        "steps": settings.steps,
        "network": " ".join([fit["network"], *fit["network_options"]]),
        "batch": fit["batch"],
        "patch_px": fit["patch_px"],
        "augment": fit.get("augment", "strong"),
        "seed": settings.seed,
        # fp32 on processors without bf16: a table may hold rows of both.
        "precision": "fp32" if precision == "no" else precision,
        "pairs": row.pairs if made else 0,
        "engine": row.engine,
        "masks": row.masks if made else "",
        "card": settings.card if grown else "",
        "base": settings.base if row.engine == "diffusion" or row.masks == "loha" else "",
    }


def name_row(settings: Asked, job: Job) -> str:
    """Return the row's name; trials of what is synthetic and other sizes are told apart."""
    marks = [settings.trial] if settings.trial and job.row.engine else []
    marks += [f"{settings.longest}px"] if settings.longest is not None else []
    return "@".join([job.row.name, *marks])


def report(asked: argparse.Namespace, given: Sequence[str]) -> str:
    """Write CSV and Markdown of all that is done, this call's or another's; return the tables.

    What OUT holds is kept: a table may grow on several machines.
    """
    out = asked.out or asked.work / "fewshot.csv"
    with lock_waiting(make_folder(asked.work / "rows")):
        jobs = join_jobs(read_tables(out), read_jobs(asked.work / "rows"))
        alike = asked.on, asked.steps, asked.seed
        shown = [job for job in jobs if (job["on"], job["steps"], job["seed"]) == alike]
        if not shown:
            return "nothing is done yet"
        half = "the test half" if asked.on == "test" else "the pool without the draw (development)"
        tables = f"{describe_tables(shown)}\n{describe_protocol(shown)}"
        title = f"# Five shots, with and without synthetic pairs: {half}\n"
        page = (
            f"{title}\n`python benchmarks/fewshot.py {describe_command(shown, given)}`, "
            f"{platform.machine()}, {date.today().isoformat()}. {asked.steps} steps of "
            f"{FIT['batch']} patches of {FIT['patch_px']} px in each row.\n\n{tables}"
        )
        write_tables(jobs, out, page)
    return tables


def describe_command(shown: Sequence[dict[str, Any]], given: Sequence[str]) -> str:
    """Return what the last call was, and the rows of all calls where it had not all of them."""
    command = hide_folders(given)
    rows = list(dict.fromkeys(job["row"].partition("@")[0] for job in shown))
    missing = [row for row in rows if row not in given]
    return f"{command}` and others, of rows `{' '.join(rows)}" if missing else command


def hide_folders(words: Sequence[str]) -> str:
    """Return a command without the places of one machine."""
    told = [
        "FOLDER" if before in ("--data", "--work") else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    return shlex.join(told)


def _settings(asked: argparse.Namespace) -> Asked:
    return Asked(
        data=asked.data,
        work=asked.work,
        on=asked.on,
        steps=asked.steps,
        seed=asked.seed,
        base=asked.base,
        card=asked.card,
        engine_steps=asked.engine_steps,
        start=asked.start,
        longest=asked.longest,
        trial=asked.trial,
    )


def _read_share(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UserError(f"share is {text!r}: write 1/2 for the first of two processes")
    return int(part) - 1, int(parts)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--sets", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--draws", nargs="+", default=["A", "B", "C"], choices=["A", "B", "C"])
    parser.add_argument(
        "--rows", nargs="+", default=list(DEFAULT_ROWS), choices=list(ROWS), metavar="ROW",
        help="; ".join(f"{row.name}: {row.what}" for row in ROWS.values()),
    )  # fmt: skip
    parser.add_argument("--on", default="pool", choices=["pool", "test"], help="what is scored")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each segmenter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", default="nano", help="of the diffusion engines")
    parser.add_argument(
        "--start", default="vessels", help="weights that pretrained rows start from"
    )  # fmt: skip
    parser.add_argument("--engine-steps", type=int, help="of each of them; default: the preset's")
    parser.add_argument(
        "--card", default="fitted", choices=["fitted", "shipped"],
        help="growth of masks fitted to the shots (minutes a draw), or as it comes",
    )  # fmt: skip
    parser.add_argument(
        "--longest", type=int, metavar="PX",
        help="longest side of the images of all sets; default: each set's; rows become ROW@PXpx",
    )  # fmt: skip
    parser.add_argument(
        "--trial", default="", help="name of a trial of changed code: makes pairs anew, ROW@TRIAL"
    )
    parser.add_argument("--share", default="1/1", help="1/2, 2/2: every second job")
    parser.add_argument("--out", type=Path, help="CSV to write; default: WORK/fewshot.csv")
    return parser


if __name__ == "__main__":
    main()
