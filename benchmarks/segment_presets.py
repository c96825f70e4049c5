"""Which settings of a segmenter learn most from five shots: each shot left out in turn.

    python benchmarks/segment_presets.py --data FOLDER --work FOLDER [--preset laptop|strong]
        [--sets …] [--steps 400] [--budget-minutes 120] [--share 1/2] [--out CSV]

FOLDER (data) holds the sets of `splits.py`; nothing but the five shots of draw A of each is opened.
From the preset, one thing is changed at a time (`ALTERNATIVES`). Each is trained on four shots and
judged on the fifth; one threshold is chosen for all folds of a set. Folds come first, then sets, so
that whatever time there is, all alternatives have had the same of it: a ranking counts folds alone
that all have. Stopped, the same command goes on. Results: OUT, default WORK/segment_presets.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fewshot_chain import SharedChain, lock_waiting
from fewshot_data import place_shots
from fewshot_rows import LONGEST_PX
from splits import SPLITS

from univg.config import to_plain
from univg.errors import UserError
from univg.files import make_folder, write_atomic
from univg.recipe_steps import Step
from univg.segment.thresholds import choose_threshold

DRAW = "A"
SHOTS = 5
BASE = "as it is"
STEPS = 400

ALTERNATIVES: dict[str, dict[str, Any]] = {
    BASE: {},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "bce": {"loss": "bce"},
    "soft-cldice": {"loss": "soft-cldice"},
    "32 channels": {"network_options": ("channels=32",)},
    "batch normalisation": {"network_options": ("channels=16", "depth=5", "norm=batch")},
    "depth 4": {"network_options": ("channels=16", "depth=4")},
    "patch 128": {"patch_px": 128},
    "patch 256": {"patch_px": 256},
    "batch 4": {"batch": 4},
    "vessels in 0 % of patches": {"vessel_share": 0.0},
    "vessels in 70 % of patches": {"vessel_share": 0.7},
    "light augmentation": {"augment": "light"},
    "no moving average": {"ema": 0.0},
}
"""What is changed, by name. Those that a preset has already are not tried with it."""
COLUMNS = (
    *("preset", "alternative", "set", "fold", "steps", "seed", "dice", "dice_all", "threshold"),
    *("seconds", "cpu_s"),
)
LIKE: dict[str, Any] = {
    "network": "unet-small", "start_from": "none", "size_px": "auto", "tracker": "none",
    "report_samples": 0, "preview_every": 0, "validate_every": 0, "memory_mb": 4096,
}  # fmt: skip
"""Of every run: one small network, pictures as in `fewshot.py`."""


def main(words: Sequence[str] | None = None) -> None:
    """Do the folds that are not done, while there is time; print the ranking."""
    parser = _make_parser()
    asked = parser.parse_args(words)
    began = time.monotonic()
    try:
        part, parts = (int(word) for word in asked.share.split("/"))
        jobs = list(list_folds(asked))
        folder = make_folder(asked.work / "presets" / "rows")
        for number, (fold, name, set_name) in enumerate(jobs[part - 1 :: parts], start=1):
            if asked.budget_minutes and time.monotonic() - began > 60 * asked.budget_minutes:
                print(f"the {asked.budget_minutes:g} minutes are over", flush=True)
                break
            print(f"== {number} of {len(jobs[part - 1 :: parts])}: {set_name}, fold {fold}, {name}")
            found = do_fold(asked, fold, name, set_name)
            key = f"{asked.preset}-{set_name}-{name}-{fold}-{asked.steps}-{asked.seed}"
            write_atomic(folder / f"{key}.json", (json.dumps(found, indent=1) + "\n").encode())
        print(report(asked, folder))
    except UserError as error:
        parser.exit(2, f"segment_presets.py: {error}\n")


def list_folds(asked: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Yield (fold, alternative, set) in the order in which they are done."""
    for fold in range(min(SHOTS, asked.folds)):
        for name in asked.alternatives or ALTERNATIVES:
            if name == BASE or settings_of(asked.preset, name) != settings_of(asked.preset, BASE):
                for set_name in asked.sets:
                    yield fold, name, set_name


def settings_of(preset: str, name: str) -> dict[str, Any]:
    """Return the settings of an alternative, of those that any of them changes."""
    from univg.segment.presets import PRESETS

    of_preset = {**PRESETS["paper"], **PRESETS[preset]}
    changed = {key for each in ALTERNATIVES.values() for key in each if key != "network_options"}
    default = ("channels=16", "depth=5")
    values = {**{key: of_preset[key] for key in changed}, "network_options": default}
    return {**values, **ALTERNATIVES[name]}


def do_fold(asked: argparse.Namespace, fold: int, name: str, set_name: str) -> dict[str, Any]:
    """Train without shot number `fold`; return Dice by threshold on it."""
    most = LONGEST_PX[set_name]
    with lock_waiting(make_folder(asked.work / "prepared")):
        shots = place_shots(asked.data, asked.work, SPLITS[set_name], DRAW, most)
    values = {
        **settings_of(asked.preset, name), **LIKE, "preset": asked.preset, "seed": asked.seed,
        "max_steps": asked.steps, "left_out": fold,
    }  # fmt: skip

    def work(folder: Path, _: Any) -> dict[str, Any]:
        from univg.segment.fit import Fit, run

        run(Fit(out=folder / "run", shots=shots, **values))
        found = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
        return {"curve": found["dice_by_threshold"][0]}

    chain = SharedChain(asked.work / "presets", say=lambda text: print(text, flush=True))
    done = chain.do(Step(name=set_name, settings=to_plain(values), inputs=[shots], work=work))
    return {
        "preset": asked.preset,
        "alternative": name,
        "set": set_name,
        "fold": fold,
        "steps": asked.steps,
        "seed": asked.seed,
        "seconds": done.seconds,
        "cpu_s": done.facts.get("cpu_s", 0.0),
        "curve": done.facts["curve"],
    }


def report(asked: argparse.Namespace, folder: Path) -> str:
    """Write the CSV of all folds that are done; return the ranking in Markdown."""
    with lock_waiting(folder):
        found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        found.sort(key=lambda one: [str(one[key]) for key in COLUMNS[:6]])
        cells = score_folds(found)
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
        out = asked.out or asked.work / "segment_presets.csv"
        make_folder(out.parent)
        write_atomic(out, stream.getvalue().encode())
    like = asked.preset, asked.steps, asked.seed
    shown = [one for one in cells if (one["preset"], one["steps"], one["seed"]) == like]
    return rank(shown)


def score_folds(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of each fold: Dice at the threshold that suits its set's folds best."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in found:
        key = tuple(one[name] for name in ("preset", "alternative", "set", "steps", "seed"))
        groups.setdefault(key, []).append(one)
    cells = []
    for group in groups.values():
        curves = [np.array(one["curve"], np.float64) for one in group]
        threshold, mean = choose_threshold(curves)
        place = round(threshold * 100) - 1
        for one in group:
            plain = {key: value for key, value in one.items() if key != "curve"}
            dice = {"dice": one["curve"][place], "dice_all": round(mean, 5)}
            cells.append({**plain, **dice, "threshold": threshold})
    return cells


def rank(cells: Sequence[dict[str, Any]]) -> str:
    """Return a table of alternatives, best mean over sets first, of folds that all of them have."""
    if not cells:
        return "nothing is done yet"
    names = list(dict.fromkeys(one["alternative"] for one in cells))
    places = {name: {(c["set"], c["fold"]) for c in cells if c["alternative"] == name}
              for name in names}  # fmt: skip
    common = set.intersection(*places.values())
    if not common:
        return "no fold is done for all alternatives yet"
    sets = sorted({name for name, _ in common})
    scores: dict[str, dict[str, float]] = {}
    for name in names:
        mine = [c for c in cells if c["alternative"] == name and (c["set"], c["fold"]) in common]
        scores[name] = {
            each: 100 * float(np.mean([c["dice"] for c in mine if c["set"] == each]))
            for each in sets
        }
    means = {name: float(np.mean(list(scores[name].values()))) for name in names}
    base = means.get(BASE, float("nan"))
    seconds = {n: np.mean([c["cpu_s"] for c in cells if c["alternative"] == n]) for n in names}
    lines = [
        f"Dice of shots left out, {len(common)} folds that all alternatives have.\n",
        f"| {' | '.join(['alternative', *sets, 'mean', 'less as it is', 'CPU s a fold'])} |",
        f"|{'---|' * (len(sets) + 4)}",
    ]
    for name in sorted(names, key=lambda name: -means[name]):
        figures = [f"{scores[name][each]:.2f}" for each in sets]
        figures += [f"{means[name]:.2f}", f"{means[name] - base:+.2f}", f"{seconds[name]:.0f}"]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--preset", default="laptop", choices=["laptop", "strong"])
    parser.add_argument("--sets", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument(
        "--alternatives", nargs="+", choices=list(ALTERNATIVES), metavar="NAME",
        help=f"default: all: {'; '.join(ALTERNATIVES).replace('%', '%%')}",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, default=SHOTS, help="how many shots are left out")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-minutes", type=float, help="no fold is begun after them")
    parser.add_argument(
        "--share", default="1/1", choices=["1/1", "1/2", "2/2"], help="for two processes"
    )
    parser.add_argument("--out", type=Path, help="CSV; default: WORK/segment_presets.csv")
    return parser


if __name__ == "__main__":
    main()
