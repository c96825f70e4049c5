"""The steps of one row of `fewshot.py`: each a stage's own `run`, done once for what decides it.

In: a row, a set, a draw, settings. Out: a segmenter's figures on each image, and what they took.
Rows of one set and draw share the steps that they have in common; two processes may work in the
same folder: one waits where the other is at a step that it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_data import place_pool, place_shots, place_truth, place_unlabelled, size_of
from fewshot_masks import cut_masks, cut_shots, fit_pairs, relabel_pairs, warp_masks
from fewshot_rows import FIT, LONGEST_PX, REFERENCE, ROWS, Row
from splits import Split

from univg.errors import ResumeError
from univg.files import make_folder, write_atomic
from univg.manifest import lock_folder
from univg.recipe_segmenters import lent_grounds
from univg.recipe_steps import Chain, Result, Step
from univg.sd_source import find_base
from univg.segment.start import find_start

WAIT_S = 2.0
METRICS = ("dsc", "cldice")
Folders = Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What all rows of a call share."""

    data: Path
    work: Path
    on: str
    steps: int
    seed: int = 0
    base: str = "nano"
    card: str = "fitted"
    """fitted: the growth of masks is fitted to the shots; shipped: as univg brings it."""
    engine_steps: int | None = None
    """Of each diffusion engine; None: its preset's."""
    start: str = "vessels"
    """Weights that `pretrained` rows start from."""
    longest: int | None = None
    """Longest side of all sets in pixels; None: that of each, `LONGEST_PX`."""
    trial: str = ""
    """Name of a trial of changed code: what is synthetic is made anew."""

    def longest_of(self, split: Split) -> int:
        """Return the longest side at which a set is worked on, 0: as it comes."""
        return LONGEST_PX[split.name] if self.longest is None else self.longest


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row on one set and draw."""

    row: Row
    split: Split
    draw: str

    @property
    def where(self) -> str:
        """Set and draw as they name a folder."""
        return f"{self.split.name}-{self.draw}"


class SharedChain(Chain):
    """A chain that several processes may go along."""

    def do(self, step: Step) -> Result:
        """Do `step` unless it is done; wait for a process that is at it."""
        folder = make_folder(self.out / "steps" / f"{step.name}-{self.key_of(step)}")
        with lock_waiting(folder):
            return super().do(dataclasses.replace(step, work=count_seconds(step.work)))


@contextlib.contextmanager
def lock_waiting(folder: Path) -> Iterator[None]:
    """Keep others out of `folder`; wait until they have left it."""
    with contextlib.ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(lock_folder(folder))
                break
            except ResumeError:
                if not told:
                    print(f"waiting for the process that is at {folder}", flush=True)
                told = True
                time.sleep(WAIT_S)
        yield


def count_seconds(work: Any) -> Any:
    """Return `work` that also tells the processor time it took."""

    def counted(folder: Path, done: Folders) -> dict[str, Any]:
        start = sum(os.times()[:4])
        facts = work(folder, done)
        return {**(facts or {}), "cpu_s": round(sum(os.times()[:4]) - start, 2)}

    return counted


def do_job(asked: Asked, job: Job) -> dict[str, Any]:
    """Do all steps of `job`; return its figures."""
    chain = SharedChain(asked.work / "runs" / job.where, say=lambda text: print(text, flush=True))
    shots, truth = place_pairs(asked, job)
    if job.row.unlabelled:
        _find_grounds(asked, job, shots, chain)
    synthetic = _make_pairs(chain, asked, job, shots) if job.row.engine else None
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


def count_masks(folder: Path) -> int:
    """Return how many pairs a prepared folder holds."""
    return len(list((folder / "masks").glob("*.png")))


def steps_of(asked: Asked, row: Row) -> int:
    """Return the steps of the row's segmenter."""
    return max(1, round(asked.steps * row.steps_share))


def _make_pairs(chain: Chain, asked: Asked, job: Job, shots: Path) -> str:
    """Do all steps up to the row's pairs; return the name of the one that has them."""
    row = job.row
    grown = _bend(asked, job, shots) if row.masks == "warped" else None
    if row.masks == "loha":
        chain.do(_train_mask_engine(asked, job, shots))
        grown = _draw_masks(asked, row)
    if grown is None:
        if asked.card == "fitted":
            chain.do(_fit_card(asked, job, shots))
        grown = _grow(asked, job, shots)
    chain.do(grown)
    if row.engine != "diffusion":
        chain.do(_compose(asked, job, shots))
        return "pairs"
    if row.tiles:
        chain.do(_cut(asked, shots))
    chain.do(_train_image_engine(asked, job, shots))
    chain.do(_draw_images(asked, job))
    if row.tiles:
        return "pairs"
    shape = size_of(shots)
    chain.do(
        Step(
            name="fitted", settings={"shape": shape}, after=["pairs"],
            work=lambda folder, done: fit_pairs(done["pairs"] / "pairs", folder / "pairs", shape),
        )
    )  # fmt: skip
    return "fitted"


def _fit_card(asked: Asked, job: Job, shots: Path) -> Step:
    def work(folder: Path, _: Folders) -> None:
        from univg.sca.fit import Fit, run

        run(Fit(real=shots, out=folder / "card.yaml", like=job.split.modality, seed=asked.seed,
                overwrite=True, workers=1))  # fmt: skip

    values = {"modality": job.split.modality, "seed": asked.seed, "trial": asked.trial}
    return Step(name="card", settings=values, inputs=[shots / "masks"], work=work)


def _grow(asked: Asked, job: Job, shots: Path) -> Step:
    size = size_of(shots)

    def work(folder: Path, done: Folders) -> None:
        from univg.sca.synth import Synth, run

        card = str(done["card"] / "card.yaml") if "card" in done else job.split.modality
        run(Synth(out=folder / "masks", modality=(card,), count=job.row.pairs, seed=asked.seed,
                  size=size, real=shots, workers=1))  # fmt: skip

    values = {"modality": job.split.modality, "count": job.row.pairs, "seed": asked.seed,
              "trial": asked.trial}  # fmt: skip
    after = ["card"] if asked.card == "fitted" else []
    return Step(name="masks", settings=values, inputs=[shots / "masks"], after=after, work=work)


def _bend(asked: Asked, job: Job, shots: Path) -> Step:
    def work(folder: Path, _: Folders) -> None:
        warp_masks(shots, folder / "masks", job.row.pairs, asked.seed)

    values = {"warped": job.row.pairs, "seed": asked.seed, "trial": asked.trial}
    return Step(name="masks", settings=values, inputs=[shots / "masks"], work=work)


def _train_mask_engine(asked: Asked, job: Job, shots: Path) -> Step:
    def work(folder: Path, _: Folders) -> None:
        from univg.train.adapt_masks import AdaptMasks, run

        run(AdaptMasks(out=folder / "run", shots=shots, max_steps=asked.engine_steps,
                       **_engine(asked, job)))  # fmt: skip

    values = {**_engine(asked, job), "steps": asked.engine_steps, "trial": asked.trial}
    inputs = [shots / "masks", find_base(asked.base).path]
    return Step(name="mask-engine", settings=values, inputs=inputs, work=work)


def _draw_masks(asked: Asked, row: Row) -> Step:
    def work(folder: Path, done: Folders) -> None:
        from univg.generate.masks import Masks, run

        run(Masks(out=folder / "masks", engine_dir=done["mask-engine"] / "run", count=row.pairs,
                  seed=asked.seed))  # fmt: skip

    values = {"count": row.pairs, "seed": asked.seed}
    return Step(name="masks", settings=values, after=["mask-engine"], work=work)


def _compose(asked: Asked, job: Job, shots: Path) -> Step:
    """Procedural or composite pairs."""
    row = job.row

    def work(folder: Path, done: Folders) -> None:
        from univg.generate.images import Images, run

        given: dict[str, Any] = {"shots": shots} if row.engine == "composite" else {}
        if "grounds" in done:
            given |= lent_grounds(done["grounds"])
        engine: Any = row.engine
        run(Images(masks=done["masks"] / "masks", out=folder / "pairs", image_engine=engine,
                   modality=job.split.modality, seed=asked.seed, workers=1, **given))  # fmt: skip

    values = {"engine": row.engine, "modality": job.split.modality, "seed": asked.seed,
              "trial": asked.trial}  # fmt: skip
    after = ["masks", *(["grounds"] if row.unlabelled else [])]
    return Step(name="pairs", settings=values, inputs=[shots], after=after, work=work)


def _cut(asked: Asked, shots: Path) -> Step:
    """Squares of the shots and of the masks, of the size at which the base draws."""
    from univg.sd import inspect_base

    side = inspect_base(asked.base).native_px

    def work(folder: Path, done: Folders) -> None:
        cut_shots(shots, folder / "shots", side)
        cut_masks(done["masks"] / "masks", folder / "masks", side, asked.seed)

    values = {"side_px": side, "seed": asked.seed}
    return Step(name="squares", settings=values, inputs=[shots], after=["masks"], work=work)


def _train_image_engine(asked: Asked, job: Job, shots: Path) -> Step:
    row = job.row

    def work(folder: Path, done: Folders) -> None:
        from univg.train.adapt_images import AdaptImages, run

        own = done["squares"] / "shots" if row.tiles else shots
        run(AdaptImages(out=folder / "run", shots=own, max_steps=asked.engine_steps,
                        from_=row.control_from, **_engine(asked, job)))  # fmt: skip

    values = {**_engine(asked, job), "steps": asked.engine_steps, "from": row.control_from,
              "trial": asked.trial}  # fmt: skip
    after = ["squares"] if row.tiles else []
    inputs = [shots, find_base(asked.base).path]
    return Step(name="image-engine", settings=values, inputs=inputs, after=after, work=work)


def _draw_images(asked: Asked, job: Job) -> Step:
    masks = "squares" if job.row.tiles else "masks"

    def work(folder: Path, done: Folders) -> None:
        from univg.generate.images import Images, run

        run(Images(masks=done[masks] / "masks", out=folder / "pairs", image_engine="diffusion",
                   engine_dir=done["image-engine"] / "run", modality=job.split.modality,
                   seed=asked.seed))  # fmt: skip

    values = {"seed": asked.seed, "modality": job.split.modality}
    return Step(name="pairs", settings=values, after=[masks, "image-engine"], work=work)


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


def _engine(asked: Asked, job: Job) -> dict[str, Any]:
    return {
        "base": asked.base,
        "modality": job.split.modality,
        "seed": asked.seed,
        "report_samples": 0,
        "preview_every": 0,
        "tracker": "none",
    }


def _plain(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
