"""The steps of `fewshot.py` up to a row's synthetic pairs: masks, engines, images.

In: a job, its shots, a chain. Out: the name of the step that has the pairs, in `pairs/` of its
folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewshot_chain import Asked, Folders, Job
from fewshot_data import size_of
from fewshot_masks import cut_masks, cut_shots, fit_pairs, warp_masks
from fewshot_rows import Row

from univg.recipe_segmenters import lent_grounds
from univg.recipe_steps import Chain, Step
from univg.sd_source import find_base


def make_pairs(chain: Chain, asked: Asked, job: Job, shots: Path) -> str:
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


def _engine(asked: Asked, job: Job) -> dict[str, Any]:
    return {
        "base": asked.base,
        "modality": job.split.modality,
        "seed": asked.seed,
        "report_samples": 0,
        "preview_every": 0,
        "tracker": "none",
    }
