"""The steps of `univg run` that train segmenters, measure them, and have them look at others.

In: a recipe, a network. Out: steps of a chain.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from univg.errors import ConfigError
from univg.files import make_folder, sha256_of_file, write_atomic
from univg.images import list_pictures
from univg.likeness import choose_evenly
from univg.plugins import load_function
from univg.recipe import SEGMENT_PRESETS, Recipe
from univg.recipe_steps import Step

Folders = Mapping[str, Path]
MOST_GROUNDS = 48
"""Unlabelled images that lend their grounds, at most, spread over their names."""
ALONE, BOTH = "shots alone", "shots and pairs"
"""The two ways to train a segmenter, as tables call them."""


def list_endings(asked: Recipe) -> dict[str, str | None]:
    """Return the networks by what is added to the names of their steps; nothing for the first."""
    endings: dict[str, str | None] = {}
    for network in asked.network or (None,):
        ending = f"-{re.sub('[^A-Za-z0-9]+', '-', network)}" if network and endings else ""
        if ending in endings:
            raise ConfigError(f"network names {network} and one that is spelled nearly so: say one")
        endings[ending] = network
    return endings


def name_network(asked: Recipe, network: str | None) -> str:
    """Return the name of a network, that of the preset where none is asked for."""
    from univg.segment.presets import PRESETS

    return network or str(PRESETS[SEGMENT_PRESETS[asked.preset]]["network"])


def fit_segmenter(asked: Recipe, name: str, network: str | None, ending: str) -> Step:
    """A segmenter on the shots, `alone` or with the pairs (`both`)."""

    def work(folder: Path, done: Folders) -> None:
        from univg.segment.fit import Fit, run

        synthetic: tuple[Path, ...] = ()
        if name == "both":
            synthetic = (done["gate"] / "kept" if asked.keep else done["pairs"] / "pairs",)
        values: dict[str, Any] = {"preset": SEGMENT_PRESETS[asked.preset], "seed": asked.seed}
        run(Fit(out=folder / "run", shots=asked.shots, synthetic=synthetic, network=network,
                max_steps=asked.segment_steps, **values))  # fmt: skip

    values = {"preset": asked.preset, "network": _identify_network(asked, network),
              "steps": _steps_of(asked), "seed": asked.seed}  # fmt: skip
    what = "the shots alone" if name == "alone" else "shots and pairs"
    return Step(
        name=name + ending, kind=name, words=f"{name_network(asked, network)} on {what}",
        settings=values, inputs=pairs_of(asked.shots),
        after=["pairs", "gate"] if name == "both" else [], work=work,
    )  # fmt: skip


def _identify_network(asked: Recipe, network: str | None) -> str | None:
    """Return what tells networks apart: named or not, a preset's network is the same.

    But for one with options of the preset's, which a network that is named does not get. A user's
    own is known by the file that it stands in, too.
    """
    from univg.segment.presets import PRESETS

    own = own_network(network)
    if own is not None:
        path = inspect.getsourcefile(load_function(own, "network"))
        return f"{own} {sha256_of_file(Path(path))}" if path else own
    preset = PRESETS[SEGMENT_PRESETS[asked.preset]]
    return network if network or preset.get("network_options") else str(preset["network"])


def _steps_of(asked: Recipe) -> int | None:
    from univg.segment.presets import PRESETS

    usual: int | None = PRESETS[SEGMENT_PRESETS[asked.preset]].get("max_steps")
    return usual if asked.segment_steps is None else asked.segment_steps


def own_network(network: str | None) -> str | None:
    """Return a user's own network: it is run because the user named it, not because a file does."""
    return network if network and ":" in network and not network.startswith("monai:") else None


def predict_test(asked: Recipe, name: str, network: str | None, ending: str) -> Step:
    """What a segmenter finds in the test images."""
    assert asked.test is not None
    test, model = asked.test, name + ending
    seen = pairs_of(test, masks=False)

    def work(folder: Path, done: Folders) -> None:
        from univg.segment.predict import Predict, run

        run(Predict(model=done[model] / "run", images=test, out=folder / "found",
                    network=own_network(network)))  # fmt: skip

    return Step(
        name=f"found-{model}", kind=f"found-{name}", words="vessels found in the test images",
        settings={"names": [path.name for path in seen]}, inputs=seen, after=[model], work=work,
    )  # fmt: skip


def evaluate_test(asked: Recipe, network: str | None, ending: str) -> Step:
    """Both segmenters measured on the test set, with a paired test."""
    assert asked.test is not None
    test, both, alone = asked.test, f"found-both{ending}", f"found-alone{ending}"

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.segment.evaluate import Evaluate, run

        found = run(
            Evaluate(
                truth=test,
                predicted=done[both] / "found",
                against=done[alone] / "found",
                name=BOTH,
                against_name=ALONE,
                out=folder / "evaluation",
                fov="inside" if has_views(test) else "whole",
                workers=asked.workers,
            )
        )
        facts: dict[str, Any] = {
            method: {metric: each.mean for metric, each in summaries.items()}
            for method, summaries in found.summaries.items()
        }
        facts["shown"] = {
            method: {
                found.metrics[metric].heading: found.metrics[metric].show_spread(each.mean, each.sd)
                for metric, each in summaries.items()
            }
            for method, summaries in found.summaries.items()
        }
        facts["difference"] = {
            metric: {"mean": each.difference, "low": each.low, "high": each.high,
                     "p": found.corrected[metric]}
            for metric, each in found.tests.items()
        }  # fmt: skip
        return {**facts, "images": len(found.measured)}

    return Step(
        name=f"test{ending}", kind="test", settings={"names": names_of(test)},
        inputs=pairs_of(test), after=[alone, both], work=work,
        words=f"{name_network(asked, network)}: both measured on the test set", algorithm=3,
    )  # fmt: skip


def uses_grounds(asked: Recipe) -> bool:
    """Whether unlabelled images lend their grounds."""
    return asked.image_engine == "composite" and asked.unlabelled is not None


def find_grounds(asked: Recipe) -> Step:
    """What may be vessel in some of the unlabelled images."""
    network = next(iter(list_endings(asked).values()))

    def work(folder: Path, done: Folders) -> dict[str, Any]:
        from univg.generate.unlabelled import read_unlabelled
        from univg.segment.predict import Predict, run

        for name, path in chosen.items():
            write_atomic(make_folder(folder / "images") / name, path.read_bytes())
        run(Predict(model=done["alone"] / "run", images=folder / "images", out=folder / "found",
                    network=own_network(network)))  # fmt: skip
        usable = {name for name, *_ in read_unlabelled(folder / "images", folder / "found")}
        for name in chosen:
            if Path(name).stem not in usable:
                (folder / "images" / name).unlink()
        return {"looked_at": len(chosen), "images": len(usable)}

    assert asked.unlabelled is not None
    chosen = choose_grounds(asked.unlabelled)
    return Step(
        name="grounds", words=f"what may be vessel in {len(chosen)} unlabelled images",
        settings={"names": list(chosen)}, inputs=list(chosen.values()), after=["alone"], work=work,
    )  # fmt: skip


def lent_grounds(folder: Path) -> dict[str, Path]:
    """Return the settings by which pairs are made with what `find_grounds` has left in `folder`."""
    images = folder / "images"
    return {"unlabelled": images, "found": folder / "found"} if list_pictures(images) else {}


def choose_grounds(folder: Path) -> dict[str, Path]:
    """Return images of `folder`, no more than are useful, by names of which none is twice."""
    from univg.train.pictures import find_pictures

    some = choose_evenly(sorted(find_pictures(folder, "image")), MOST_GROUNDS)
    return {f"{number:02d}-{path.name}": path for number, path in enumerate(some)}


def pairs_of(folder: Path, *, masks: bool = True) -> list[Path]:
    """Return the files of the pairs; what else lies in the folder changes nothing."""
    from univg.pairs import open_pairs

    each = [
        (pair.image, pair.mask if masks else None, pair.fov) for pair in open_pairs(folder).pairs
    ]
    return [path for files in each for path in files if path]


def has_views(folder: Path) -> bool:
    """Whether the images of `folder` have fields of view."""
    from univg.pairs import open_pairs

    return any(pair.fov for pair in open_pairs(folder).pairs)


def names_of(folder: Path) -> list[str]:
    return [path.name for path in pairs_of(folder)]
