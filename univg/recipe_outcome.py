"""What `univg run` leaves at the top of OUT: figures, segmenters, the way to the pairs.

In: a recipe and its results. Out: `table.md` and `table.csv`, every segmenter without and with the
pairs on the test images, where there are any; `segmenter.safetensors`; `pairs`, a link.
"""

from __future__ import annotations

import contextlib
import csv
import filecmp
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univg.errors import ConfigError
from univg.files import TEMPORARY_PREFIX, open_atomic, write_all_atomic
from univg.recipe import MARK, Recipe
from univg.recipe_segmenters import ALONE, BOTH, list_endings, name_network
from univg.recipe_steps import DONE, Result


def write_outcome(asked: Recipe, results: Mapping[str, Result]) -> list[str]:
    """Write all of it into OUT; return the lines that tell of it."""
    tables = write_tables(asked, results)
    write_all_atomic({asked.out / name: text.encode() for name, text in tables.items()})
    for ending in list_endings(asked):
        model = results[f"both{ending}"].folder / "run" / "model.safetensors"
        with model.open("rb") as source, open_atomic(asked.out / _model_name(ending)) as copy:
            shutil.copyfileobj(source, copy)
    _take_away(asked, {*tables, *(_model_name(ending) for ending in list_endings(asked))})
    pairs = find_made(asked, results)
    link_folder(asked.out / "pairs", pairs)
    lines = [tables["table.md"]] if tables else []
    lines += [f"The segmenter: {asked.out / _model_name(e)}" for e in list_endings(asked)]
    return [*lines, f"The pairs: {pairs}"]


def check_out(out: Path) -> None:
    """Refuse a folder with files of others by the names that are written there."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out is {out}, which is a file: give a folder")
    config = out / "config.yaml"
    if config.is_file():
        with config.open("rb") as stream:
            own = MARK.encode() in stream.readline()
    else:
        own = any(out.glob(f"steps/*/{DONE}"))
    names = ("config.yaml", "report.html", "table.md", "table.csv", "segmenter*.safetensors")
    others = [] if own else sorted(path.name for name in names for path in out.glob(name))
    if others:
        raise ConfigError(
            f"out is {out}, which holds {others[0]}, and that no univg run has made: give another "
            "folder"
        )


def _take_away(asked: Recipe, made: set[str]) -> None:
    """Delete what an earlier recipe left here that is none of this one's; its steps stay.

    Of models only copies of what lies in the steps: nobody's own file is lost.
    """
    for name in {"table.md", "table.csv"} - made:
        (asked.out / name).unlink(missing_ok=True)
    models = list(asked.out.glob("steps/both-*/run/model.safetensors"))
    for path in asked.out.glob(_model_name("-*")):
        if path.name not in made and any(filecmp.cmp(path, m, shallow=False) for m in models):
            path.unlink()


def find_made(asked: Recipe, results: Mapping[str, Result]) -> Path:
    """Return the folder of the pairs: all, or those kept."""
    if asked.keep:
        return results["gate"].folder / "kept"
    return results["pairs"].folder / "pairs"


def link_folder(link: Path, folder: Path) -> None:
    """Make `link` lead to `folder`, if the system has such links and nothing else stands there."""
    if link.exists() and not link.is_symlink():
        return
    draft = link.with_name(f"{TEMPORARY_PREFIX}link")
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        draft.replace(link)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the test set said of one network."""

    network: str
    test: Result
    """Facts: means by method and metric; `shown`, mean and deviation in words; `difference`, by
    metric, with its interval and the corrected p; `images`."""


def list_answers(asked: Recipe, results: Mapping[str, Result]) -> list[Answer]:
    """Return an answer a network, in the order of the recipe; none without a test set."""
    return [
        Answer(network=name_network(asked, network), test=results[f"test{ending}"])
        for ending, network in list_endings(asked).items()
        if f"test{ending}" in results
    ]


def write_tables(asked: Recipe, results: Mapping[str, Result]) -> dict[str, str]:
    """Return the files with the figures, by name."""
    answers = list_answers(asked, results)
    if not answers:
        return {}
    return {"table.md": _write_markdown(answers), "table.csv": _write_csv(answers)}


def _write_markdown(answers: list[Answer]) -> str:
    facts = answers[0].test.facts
    head = ["Segmenter", "Trained on", *facts["shown"][BOTH]]
    rows = []
    for answer in answers:
        shown = answer.test.facts["shown"]
        rows += [[answer.network, name, *shown[name].values()] for name in (ALONE, BOTH)]
    lines = [head, ["---"] * len(head), *rows]
    count = facts["images"]
    lead = f"{count} test image{'s' if count != 1 else ''}; mean ± standard deviation."
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{lead}\n\n{text}\n"


def _write_csv(answers: list[Answer]) -> str:
    """Full numbers; the difference is that of the pairs, with its interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = ["mean", "low", "high", "p"]
    writer.writerow(["network", "metric", ALONE, BOTH, *(f"difference_{f}" for f in fields)])
    for answer in answers:
        facts = answer.test.facts
        for metric, both in facts[BOTH].items():
            row: list[Any] = [answer.network, metric, facts[ALONE].get(metric), both]
            difference = facts["difference"].get(metric, {})
            row += [difference.get(field) for field in fields]
            writer.writerow(["" if value is None else value for value in row])
    return stream.getvalue()


def _model_name(ending: str) -> str:
    return f"segmenter{ending}.safetensors"
