"""The steps of `univg run`, each a command of univg with the settings that the recipe means.

In: a chain, a recipe. Out: the steps, done. Stages are called through their `run`, as a user would.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from univg.recipe import ENGINE_PRESETS, SEGMENT_PRESETS, Recipe
from univg.recipe_steps import Chain, Step

Folders = Mapping[str, Path]
CARD_NAME = "card.yaml"


def do_steps(chain: Chain, asked: Recipe) -> None:
    """Do all steps of `asked`."""
    if asked.fit_card:
        chain.do(fit_card(asked))
    chain.do(grow_masks(asked))
    if asked.mask_engine == "diffusion":
        chain.do(train_mask_engine(asked))
        chain.do(draw_masks(asked))
    if asked.image_engine == "diffusion":
        if asked.unlabelled is not None:
            chain.do(train_look(asked))
        chain.do(train_image_engine(asked))
    chain.do(make_pairs(asked))
    chain.do(gate_pairs(asked))
    for name in ("alone", "both"):
        chain.do(fit_segmenter(asked, name))
    if asked.test is not None:
        for name in ("alone", "both"):
            chain.do(predict_test(asked, name))
        chain.do(evaluate_test(asked))


def fit_card(asked: Recipe) -> Step:
    """The growth of masks, fitted to the shots."""

    def work(folder: Path, _: Folders) -> None:
        from univg.sca.fit import Fit, run

        run(Fit(real=asked.shots, out=folder / CARD_NAME, like=asked.modality, seed=asked.seed,
                overwrite=True, workers=asked.workers))  # fmt: skip

    values = {"modality": _modality(asked), "seed": asked.seed}
    return Step(name="card", settings=values, inputs=[asked.shots / "masks"], work=work)


def grow_masks(asked: Recipe) -> Step:
    """Masks led by those of the shots."""

    def work(folder: Path, done: Folders) -> None:
        from univg.masks import read_mask
        from univg.pairs import find_masks
        from univg.sca.synth import Synth, run

        card = str(done["card"] / CARD_NAME) if "card" in done else asked.modality
        height, width = read_mask(find_masks(asked.shots)[0]).shape
        run(Synth(out=folder / "masks", modality=(card,), count=asked.pairs, seed=asked.seed,
                  size=(height, width), real=asked.shots, workers=asked.workers))  # fmt: skip

    values = {"modality": _modality(asked), "pairs": asked.pairs, "seed": asked.seed}
    after = ["card"] if asked.fit_card else []
    return Step(
        name="grown", settings=values, inputs=[asked.shots / "masks"], after=after, work=work
    )


def train_mask_engine(asked: Recipe) -> Step:
    """A LoHa on the shots' masks."""

    def work(folder: Path, _: Folders) -> None:
        from univg.train.adapt_masks import AdaptMasks, run

        run(AdaptMasks(out=folder / "run", shots=asked.shots, max_steps=asked.mask_steps,
                       **_engine(asked)))  # fmt: skip

    values = {**_engine(asked), "steps": asked.mask_steps}
    return Step(name="mask-engine", settings=values, inputs=[asked.shots / "masks"], work=work)


def draw_masks(asked: Recipe) -> Step:
    """Masks from the adapted engine."""

    def work(folder: Path, done: Folders) -> None:
        from univg.generate.masks import Masks, run

        run(Masks(out=folder / "masks", engine_dir=done["mask-engine"] / "run",
                  count=asked.pairs, seed=asked.seed))  # fmt: skip

    values = {"pairs": asked.pairs, "seed": asked.seed}
    return Step(name="masks", settings=values, after=["mask-engine"], work=work)


def train_look(asked: Recipe) -> Step:
    """The base's UNet on unlabelled images."""
    assert asked.unlabelled is not None
    unlabelled = asked.unlabelled

    def work(folder: Path, _: Folders) -> None:
        from univg.train.images import TrainImages, run

        run(TrainImages(out=folder / "run", data=(unlabelled,), **_engine(asked)))

    return Step(name="look", settings=_engine(asked), inputs=[unlabelled], work=work)


def train_image_engine(asked: Recipe) -> Step:
    """A ControlNet on the shots."""

    def work(folder: Path, done: Folders) -> None:
        from univg.train.adapt_images import AdaptImages, run

        values = _engine(asked)
        if "look" in done:
            values |= {"base": str(done["look"] / "run" / "base"), "from_": _control_of(asked)}
        run(
            AdaptImages(
                out=folder / "run", shots=asked.shots, max_steps=asked.image_steps, **values
            )
        )

    values = {**_engine(asked), "steps": asked.image_steps}
    after = ["look"] if asked.unlabelled is not None else []
    return Step(name="image-engine", settings=values, inputs=[asked.shots], after=after, work=work)


def make_pairs(asked: Recipe) -> Step:
    """An image for each mask."""
    masks = "masks" if asked.mask_engine == "diffusion" else "grown"

    def work(folder: Path, done: Folders) -> None:
        from univg.generate.images import Images, run

        values: dict[str, Any] = {"image_engine": asked.image_engine, "modality": asked.modality}
        if asked.image_engine == "diffusion":
            values["engine_dir"] = done["image-engine"] / "run"
        if asked.image_engine == "composite":
            values["shots"] = asked.shots
        run(Images(masks=done[masks] / "masks", out=folder / "pairs", seed=asked.seed,
                   workers=asked.workers, **values))  # fmt: skip

    settings = {"engine": asked.image_engine, "modality": _modality(asked), "seed": asked.seed}
    after = [masks, *(["image-engine"] if asked.image_engine == "diffusion" else [])]
    inputs = [asked.shots] if asked.image_engine == "composite" else []
    return Step(name="pairs", settings=settings, inputs=inputs, after=after, work=work)


def gate_pairs(asked: Recipe) -> Step:
    """Every pair measured; those to keep, where the recipe says which."""

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.generate.gate_command import Check, run

        pairs = done["pairs"] / "pairs"
        found = run(Check(pairs=pairs, shots=asked.shots, scores=folder / "quality",
                          keep=asked.keep, attach=False, workers=asked.workers,
                          out=folder / "kept" if asked.keep else None))  # fmt: skip
        return {"pairs": len(found.rows), "kept": len(found.kept), "dropped_by": found.dropped_by()}

    values = {"keep": asked.keep}
    return Step(name="gate", settings=values, inputs=[asked.shots], after=["pairs"], work=work)


def fit_segmenter(asked: Recipe, name: str) -> Step:
    """A segmenter on the shots, `alone` or with the pairs (`both`)."""

    def work(folder: Path, done: Folders) -> None:
        from univg.segment.fit import Fit, run

        synthetic: tuple[Path, ...] = ()
        if name == "both":
            synthetic = (done["gate"] / "kept" if asked.keep else done["pairs"] / "pairs",)
        values: dict[str, Any] = {"preset": SEGMENT_PRESETS[asked.preset], "seed": asked.seed}
        run(Fit(out=folder / "run", shots=asked.shots, synthetic=synthetic,
                network=asked.network, max_steps=asked.segment_steps, **values))  # fmt: skip

    values = {"preset": asked.preset, "network": asked.network, "steps": asked.segment_steps,
              "seed": asked.seed}  # fmt: skip
    after = ["pairs", "gate"] if name == "both" else []
    return Step(name=name, settings=values, inputs=[asked.shots], after=after, work=work)


def predict_test(asked: Recipe, name: str) -> Step:
    """What a segmenter finds in the test images."""
    assert asked.test is not None
    test = asked.test

    def work(folder: Path, done: Folders) -> None:
        from univg.segment.predict import Predict, run

        run(Predict(model=done[name] / "run", images=test, out=folder / "found"))

    return Step(name=f"found-{name}", inputs=[test], after=[name], work=work)


def evaluate_test(asked: Recipe) -> Step:
    """Both segmenters measured on the test set, with a paired test."""
    assert asked.test is not None
    test = asked.test

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.segment.evaluate import Evaluate, run

        found: Any = run(
            Evaluate(
                truth=test,
                predicted=done["found-both"] / "found",
                against=done["found-alone"] / "found",
                name="shots and pairs",
                against_name="shots alone",
                out=folder / "evaluation",
                fov="inside" if (test / "fov").is_dir() else "whole",
                workers=asked.workers,
            )
        )
        return {
            method: {metric: each.mean for metric, each in summaries.items()}
            for method, summaries in found.summaries.items()
        }

    return Step(name="test", inputs=[test], after=["found-alone", "found-both"], work=work)


def _engine(asked: Recipe) -> dict[str, Any]:
    return {
        "base": asked.base,
        "preset": ENGINE_PRESETS[asked.preset],
        "modality": asked.modality,
        "seed": asked.seed,
    }


def _control_of(asked: Recipe) -> str:
    """Return the ControlNet to start from where the base has been trained on."""
    return "nano" if asked.base == "nano" else "unet"


def _modality(asked: Recipe) -> Any:
    """Return what decides a modality: its name, or the content of its card."""
    path = Path(asked.modality).expanduser()
    return path.read_text(encoding="utf-8") if path.is_file() else asked.modality
