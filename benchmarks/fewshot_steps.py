"""The steps of one row of `fewshot.py`: each a stage's own `run`, done once for what decides it.

In: a row, a set, a draw, settings. Out: a segmenter's figures on each image, and what they took.
Rows of one set and draw share the steps that they have in common.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from fewshot_chain import Asked, Folders, Job, SharedChain, count_masks, lock_waiting
from fewshot_data import place_pool, place_shots, place_truth, place_unlabelled, size_of
from fewshot_masks import relabel_pairs
from fewshot_pairs import make_pairs
from fewshot_rows import FIT, REFERENCE, ROWS, Row

from univg.files import make_folder, write_atomic
from univg.recipe_steps import Step
from univg.segment.start import find_start

METRICS = ("dsc", "cldice")


def do_job(asked: Asked, job: Job) -> dict[str, Any]:
    """Do all steps of `job`; return its figures."""
    chain = SharedChain(asked.work / "runs" / job.where, say=lambda text: print(text, flush=True))
    shots, truth = place_pairs(asked, job)
    if job.row.unlabelled:
        _find_grounds(asked, job, shots, chain)
    synthetic = make_pairs(chain, asked, job, shots) if job.row.engine else None
    if synthetic and job.row.relabelled:
        synthetic = _relabel(asked, job, shots, chain, synthetic)
    fit = chain.do(_fit(asked, job, shots, synthetic))
    chain.do(_predict(truth))
    scored = chain.do(_score(truth))
    result = json.loads((fit.folder / "run" / "result.json").read_text(encoding="utf-8"))
    return {
        "threshold": result["threshold"],
        "shots_dice": round(float(result["dice"]), 4),
        "size_px": "x".join(map(str, size_of(truth)[::-1])),
        "judged": "inside the field of view" if (truth / "fov").is_dir() else "whole image",
        "shots": count_masks(shots),
        "pairs_used": fit.facts["pairs"],
        "seen_px": fit.facts.get("seen_px", ""),
        "fit_steps": steps_of(asked, job.row),
        "seconds": {name: each.seconds for name, each in chain.results.items()},
        "cpu_s": {name: each.facts.get("cpu_s", 0.0) for name, each in chain.results.items()},
        "images": scored.facts["images"],
    }


def _find_grounds(asked: Asked, job: Job, shots: Path, chain: SharedChain) -> None:
    """What the baseline takes for vessel in the rest of the pool."""
    from univg.segment.predict import Predict, run

    model = _train_baseline(asked, job, shots, chain)
    most = asked.longest_of(job.split)
    with lock_waiting(make_folder(asked.work / "prepared")):
        images = place_unlabelled(asked.data, asked.work, job.split, job.draw, most)

    def work(folder: Path, _: Folders) -> None:
        for path in images.iterdir():
            write_atomic(make_folder(folder / "images") / path.name, path.read_bytes())
        run(Predict(model=model, images=folder / "images", out=folder / "found"))

    chain.do(Step(name="grounds", inputs=[images, model / "model.safetensors"], work=work))


def _relabel(asked: Asked, job: Job, shots: Path, chain: SharedChain, pairs: str) -> str:
    """Label the images of `pairs` anew; return the name of the step that has them."""
    from univg.segment.predict import Predict, run

    model = _train_baseline(asked, job, shots, chain)

    def work(folder: Path, done: Folders) -> None:
        drawn = done[pairs] / "pairs"
        run(Predict(model=model, images=drawn / "images", out=folder / "found"))
        relabel_pairs(drawn, folder / "found" / "masks", folder / "pairs")

    inputs = [model / "model.safetensors"]
    chain.do(Step(name="relabelled", inputs=inputs, after=[pairs], work=work))
    return "relabelled"


def _train_baseline(asked: Asked, job: Job, shots: Path, chain: SharedChain) -> Path:
    """Return the run of the row that all are compared with, on the shots of `job`."""
    baseline = dataclasses.replace(job, row=ROWS[REFERENCE])
    others = SharedChain(chain.out, say=chain.say)
    return others.do(_fit(asked, baseline, shots, None)).folder / "run"


def place_pairs(asked: Asked, job: Job) -> tuple[Path, Path]:
    """Return the folders of the shots and of what is scored on."""
    most = asked.longest_of(job.split)
    with lock_waiting(make_folder(asked.work / "prepared")):
        if job.row.all_pool:
            shots = place_pool(asked.data, asked.work, job.split, most)
        else:
            shots = place_shots(asked.data, asked.work, job.split, job.draw, most)
        truth = place_truth(asked.data, asked.work, job.split, job.draw, most, asked.on)
    return shots, truth


def steps_of(asked: Asked, row: Row) -> int:
    """Return the steps of the row's segmenter."""
    return max(1, round(asked.steps * row.steps_share))


def _fit(asked: Asked, job: Job, shots: Path, synthetic: str | None) -> Step:
    values = {**FIT, **dict(job.row.fit), "seed": asked.seed}
    values["max_steps"] = steps_of(asked, job.row)
    # An engine may fail at a mask or two; never at a shot.
    values |= {"wanted": count_masks(shots), "skip_bad": synthetic is not None}
    start = find_start(asked.start) if job.row.pretrained else None

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.segment.fit import Fit, run
        from univg.segment.fit_task import MODEL
        from univg.segment.weights import read_card

        made = (done[synthetic] / "pairs",) if synthetic else ()
        run(
            Fit(
                out=folder / "run",
                shots=shots,
                synthetic=made,
                start_from=str(start) if start else "none",
                **values,
            )
        )
        card = read_card(folder / "run" / MODEL)
        return {
            "pairs": card.facts["training"]["synthetic_pairs"],
            "seen_px": card.facts["preparation"]["longest_px"],
        }

    free = {"memory_mb", "tracker", "report_samples", "preview_every", "channels_last"}
    decides = {name: value for name, value in values.items() if name not in free}
    after = [synthetic] if synthetic else []
    inputs = [shots, *([start] if start else [])]
    return Step(name="fit", settings=decides, inputs=inputs, after=after, work=work)


def _predict(truth: Path) -> Step:
    def work(folder: Path, done: Folders) -> None:
        from univg.segment.predict import Predict, run

        run(Predict(model=done["fit"] / "run", images=truth, out=folder / "found"))

    return Step(name="found", inputs=[truth], after=["fit"], work=work)


def _score(truth: Path) -> Step:
    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.segment.evaluate import Evaluate, run

        found = run(
            Evaluate(
                truth=truth,
                predicted=done["found"] / "found",
                out=folder / "evaluation",
                fov="inside" if (truth / "fov").is_dir() else "whole",
                metrics=METRICS,
                draws=1000,
                workers=1,
            )
        )
        return {
            "images": {
                one.item.stem: {name: _plain(one.values[0][name]) for name in METRICS}
                for one in found.measured
            }
        }

    return Step(name="score", settings={"metrics": METRICS}, inputs=[truth], after=["found"],
                work=work)  # fmt: skip


def _plain(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
