"""The steps of `univg run`, each a command of univg with the settings that the recipe means.

In: a recipe. Out: its steps, in order; done by a chain. Stages are called through their `run`, as a
user would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from univg.config import read_yaml
from univg.errors import DataError
from univg.modalities import find_card, find_modality
from univg.recipe import ENGINE_PRESETS, Recipe, resolve
from univg.recipe_segmenters import (
    Folders,
    evaluate_test,
    find_grounds,
    fit_segmenter,
    lent_grounds,
    list_endings,
    names_of,
    pairs_of,
    predict_test,
    uses_grounds,
)
from univg.recipe_steps import Chain, Step


def do_steps(chain: Chain, asked: Recipe) -> None:
    """Do all steps of `asked`."""
    steps = make_steps(asked)
    chain.total = len(steps)
    for step in steps:
        chain.do(step)


def make_steps(asked: Recipe) -> list[Step]:
    """Return the steps of `asked` in the order in which they are done."""
    asked = resolve(asked)
    drawn = asked.mask_engine == "diffusion"
    steps: list[Step] = []
    if not drawn or asked.pseudo_masks:
        if asked.fit_card:
            steps.append(fit_card(asked))
        steps.append(grow_masks(asked))
    if drawn:
        if asked.pseudo_masks:
            steps.append(train_on_grown(asked))
        steps += [train_mask_engine(asked), draw_masks(asked)]
    if asked.image_engine == "diffusion":
        if asked.unlabelled is not None:
            steps.append(train_look(asked))
        steps.append(train_image_engine(asked))
    endings = list_endings(asked)
    fits = [
        fit_segmenter(asked, name, network, ending)
        for ending, network in endings.items()
        for name in ("alone", "both")
    ]
    if uses_grounds(asked):  # the first segmenter finds what has to be taken out of them
        steps += [fits.pop(0), find_grounds(asked)]
    steps += [make_pairs(asked), gate_pairs(asked), *fits]
    if asked.test is not None:
        for ending, network in endings.items():
            steps += [predict_test(asked, name, network, ending) for name in ("alone", "both")]
            steps.append(evaluate_test(asked, network, ending))
    return steps


def fit_card(asked: Recipe) -> Step:
    """The growth of masks, fitted to the shots."""

    def work(folder: Path, _: Folders) -> None:
        from univg.sca.fit import Fit, run

        run(Fit(real=asked.shots, out=folder / name_card(asked), like=asked.modality,
                seed=asked.seed, overwrite=True, workers=asked.workers))  # fmt: skip

    values = {"modality": _modality(asked), "seed": asked.seed}
    return Step(
        name="card", words="growth of masks fitted to the shots", settings=values,
        inputs=_masks_of(asked.shots), work=work,
    )  # fmt: skip


def grow_masks(asked: Recipe) -> Step:
    """Masks led by those of the shots."""
    count = asked.pseudo_masks or asked.pairs or 1

    def work(folder: Path, done: Folders) -> None:
        from univg.masks import read_mask
        from univg.pairs import find_masks
        from univg.sca.synth import Synth, run

        card = str(done["card"] / name_card(asked)) if "card" in done else asked.modality
        height, width = read_mask(find_masks(asked.shots)[0]).shape
        run(Synth(out=folder / "masks", modality=(card,), count=count, seed=asked.seed,
                  size=(height, width), real=asked.shots, workers=asked.workers))  # fmt: skip

    values = {"modality": _modality(asked), "count": count, "seed": asked.seed,
              "names": [path.name for path in _masks_of(asked.shots)]}  # fmt: skip
    after = ["card"] if asked.fit_card else []
    return Step(
        name="grown", words=f"{count} masks led by the shots", settings=values,
        inputs=_masks_of(asked.shots), after=after, work=work,
    )  # fmt: skip


def train_on_grown(asked: Recipe) -> Step:
    """A LoRA on grown masks, for a base that knows no masks."""

    def work(folder: Path, done: Folders) -> None:
        from univg.train.masks import TrainMasks, run

        run(TrainMasks(out=folder / "run", data=(done["grown"] / "masks",),
                       max_steps=asked.pretrain_steps, **_engine(asked)))  # fmt: skip

    values = {**_engine_values(asked), "steps": asked.pretrain_steps}
    return Step(
        name="mask-pretraining", words=f"LoRA of {asked.base} on grown masks", settings=values,
        inputs=files_of_base(asked), after=["grown"], work=work,
    )  # fmt: skip


def train_mask_engine(asked: Recipe) -> Step:
    """A LoHa on the shots' masks."""

    def work(folder: Path, done: Folders) -> None:
        from univg.train.adapt_masks import AdaptMasks, run

        under = [done[name] / "run" / "adapter.safetensors" for name in after]
        run(AdaptMasks(out=folder / "run", shots=asked.shots, max_steps=asked.mask_steps,
                       adapter=tuple(map(str, under)), **_engine(asked)))  # fmt: skip

    after = ["mask-pretraining"] if asked.pseudo_masks else []
    values = {**_engine_values(asked), "steps": asked.mask_steps}
    return Step(
        name="mask-engine", words=f"LoHa of {asked.base} on the shots' masks", settings=values,
        inputs=[*_masks_of(asked.shots), *files_of_base(asked)], after=after, work=work,
    )  # fmt: skip


def draw_masks(asked: Recipe) -> Step:
    """Masks from the adapted engine."""
    count = asked.pairs or 1

    def work(folder: Path, done: Folders) -> None:
        from univg.generate.masks import Masks, run

        run(Masks(out=folder / "masks", engine_dir=done["mask-engine"] / "run",
                  count=count, seed=asked.seed))  # fmt: skip

    values = {"pairs": count, "seed": asked.seed}
    words = f"{count} masks drawn"
    return Step(name="masks", words=words, settings=values, after=["mask-engine"], work=work)


def train_look(asked: Recipe) -> Step:
    """The base's UNet on unlabelled images."""
    assert asked.unlabelled is not None
    unlabelled = asked.unlabelled

    def work(folder: Path, _: Folders) -> None:
        from univg.train.images import TrainImages, run

        run(TrainImages(out=folder / "run", data=(unlabelled,), max_steps=asked.pretrain_steps,
                        **_engine(asked)))  # fmt: skip

    values = {**_engine_values(asked), "steps": asked.pretrain_steps}
    return Step(
        name="look", words=f"UNet of {asked.base} on unlabelled images", settings=values,
        inputs=[unlabelled, *files_of_base(asked)], work=work,
    )  # fmt: skip


def train_image_engine(asked: Recipe) -> Step:
    """A ControlNet on the shots."""

    def work(folder: Path, done: Folders) -> None:
        from univg.train.adapt_images import AdaptImages, run

        values = _engine(asked)
        if "look" in done:
            values |= {"base": str(done["look"] / "run" / "base"), "from_": _control_of(asked)}
        run(AdaptImages(out=folder / "run", shots=asked.shots, max_steps=asked.image_steps,
                        refine_steps=asked.refine_steps, **values))  # fmt: skip

    steps = {"steps": asked.image_steps, "refine_steps": asked.refine_steps}
    values = {**_engine_values(asked), **steps}
    after = ["look"] if asked.unlabelled is not None else []
    return Step(
        name="image-engine", words="ControlNet on the shots", settings=values,
        inputs=[*pairs_of(asked.shots), *files_of_base(asked)], after=after, work=work,
    )  # fmt: skip


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
        if "grounds" in done:
            values |= lent_grounds(done["grounds"])
        run(Images(masks=done[masks] / "masks", out=folder / "pairs", seed=asked.seed,
                   workers=asked.workers, **values))  # fmt: skip

    values = {"engine": asked.image_engine, "modality": _modality(asked), "seed": asked.seed}
    after = [masks, *(["image-engine"] if asked.image_engine == "diffusion" else [])]
    after += ["grounds"] if uses_grounds(asked) else []
    inputs = []
    if asked.image_engine == "composite":  # the grounds are drawn by the names too
        inputs, values["names"] = pairs_of(asked.shots), names_of(asked.shots)
    return Step(
        name="pairs", words=f"{asked.pairs} pairs, {asked.image_engine}", settings=values,
        inputs=inputs, after=after, work=work,
    )  # fmt: skip


def gate_pairs(asked: Recipe) -> Step:
    """Every pair measured; those to keep, where the recipe says which."""

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.generate.gate_command import Check, run

        pairs = done["pairs"] / "pairs"
        found = run(Check(pairs=pairs, shots=asked.shots, scores=folder / "quality",
                          keep=asked.keep, attach=False, workers=asked.workers,
                          out=folder / "kept" if asked.keep else None))  # fmt: skip
        if not found.kept:
            raise DataError(
                f"keep is {asked.keep!r}: none of {len(found.rows)} pairs is left; see "
                f"{folder / 'quality' / 'report.html'} and ask for less"
            )
        return {"pairs": len(found.rows), "kept": len(found.kept), "dropped_by": found.dropped_by()}

    return Step(
        name="gate", words="every pair measured",
        settings={"keep": asked.keep, "names": names_of(asked.shots)},
        inputs=pairs_of(asked.shots), after=["pairs"], work=work,
    )  # fmt: skip


def _engine(asked: Recipe) -> dict[str, Any]:
    return {
        "base": asked.base,
        "preset": ENGINE_PRESETS[asked.preset],
        "modality": asked.modality,
        "seed": asked.seed,
        # On a laptop pictures take longer than the steps; the gate looks at every pair anyway.
        **({"preview_every": 0, "report_samples": 6} if asked.preset == "laptop" else {}),
    }


_DECIDES_NOTHING = {"base", "preview_every", "report_samples"}
"""The base's files count as inputs."""


def _engine_values(asked: Recipe) -> dict[str, Any]:
    """Return what decides an engine, wherever base and card lie."""
    values = {**_engine(asked), "modality": _modality(asked)}
    return {name: value for name, value in values.items() if name not in _DECIDES_NOTHING}


def files_of_base(asked: Recipe) -> list[Path]:
    """Return the files of the base: it is known by its weights and settings, not by its card."""
    from univg.sd_source import find_base

    path = find_base(asked.base).path
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in {".json", ".safetensors"})


def _control_of(asked: Recipe) -> str:
    """Return the ControlNet to start from where the base has been trained on."""
    return "nano" if asked.base == "nano" else "unet"


def _masks_of(shots: Path) -> list[Path]:
    from univg.pairs import find_masks

    return find_masks(shots)


def name_card(asked: Recipe) -> str:
    """Return the file of the fitted card; the modality keeps its name."""
    return f"{find_modality(asked.modality).name}.yaml"


FOR_PEOPLE = {"title", "description"}


def _modality(asked: Recipe) -> Any:
    """Return what decides a modality: its name, or what its card says but for people."""
    path = find_card(asked.modality)
    if path is None:
        return asked.modality
    return {key: value for key, value in read_yaml(path).items() if key not in FOR_PEOPLE}
