"""`univg segment fit`: a segmenter of vessels from a few real pairs and many synthetic ones.

In: folders of pairs, a network by name. Out: `OUT/model.safetensors`, which holds all that
`univg segment predict` needs, and `OUT/report.html`. Also
`accelerate launch -m univg.segment.fit …`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from univg.config import check, settings
from univg.errors import ConfigError
from univg.loop.options import Training, fill_in

from .augment import Level
from .data import View
from .presets import PRESETS

if TYPE_CHECKING:
    from univg.loop.loop import Outcome

    from .weights import WeightsCard

WARMUP_SHARE = 10


@settings
class Fit(Training):
    """Train a segmenter on a few real pairs, and on synthetic ones.

    Writes OUT/model.safetensors and OUT/report.html. The same command goes on after an
    interruption.
    """

    shots: Path
    """Folder of the real pairs: images/, masks/ and, where there is one, fov/."""
    synthetic: tuple[Path, ...] = ()
    """Folders of synthetic pairs, as `univg generate pairs` writes them."""
    synthetic_share: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of each batch that is synthetic, where --synthetic names any; the shots are repeated as
    needed."""
    synthetic_until: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the run in which batches hold synthetic samples; those after it hold shots alone, so
    that what comes last is real. 1: to the end, as in the paper."""
    preset: Literal["paper", "laptop", "strong"] = "laptop"
    """Named values of all that is left open. paper: UNet, BCE, whole images of 512 px, 300 epochs;
    laptop: small UNet, patches; strong: for a GPU, or with patience."""
    network: str | None = None
    """unet, unet-small, swin-unet, vm-unet, iternet, nnunet-like, monai:CLASS, or
    package.module:function."""
    network_options: tuple[str, ...] | None = None
    """Options of the network, as name=value: channels=32 depth=4."""
    start_from: str | None = None
    """Weights to start from instead of random ones: vessels, which comes with univg and has learned
    drawn vessels of all modalities; a file that `univg segment fit` wrote, or its run folder; none:
    random. Network and options are those of the weights. Default: the preset's, where the network
    is its own too."""
    loss: Literal["bce", "dice", "bce+dice", "soft-cldice"] | None = None
    """What is made small."""
    epochs: Annotated[int, Ge(1)] | None = None
    """Length of the run, in place of --max-steps: how often the larger set is seen."""
    size_px: Annotated[int, Ge(0), Le(8192)] | Literal["auto"] | None = None
    """Images are scaled to this longest side, at most the shots' own median; 0: left as they are;
    auto: the smallest of 512 to 2048 px that costs the shots' masks no more than 0.02 of Dice."""
    patch_px: Annotated[int, Ge(0), Le(4096)] | None = None
    """Side of the squares that are cut from them; 0: whole images."""
    vessel_share: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of patches that are put on a vessel; the others lie anywhere."""
    augment: Level | None = None
    """How much samples are varied."""
    channels: Literal["auto", "rgb", "grey", "green"] = "auto"
    """What the network sees; auto: rgb where a shot has colour, else grey."""
    fov: View = "auto"
    """Where images count. auto: as given by fov/, else the disc of a fundus camera where there is
    one, else everywhere."""
    wanted: Annotated[int, Ge(1), Le(100_000)] | None = None
    """How many shots to take, fewer are refused; default: all."""
    hold_out: Annotated[int, Ge(0)] = 0
    """Shots (the last ones) that are validated on instead of trained on."""
    left_out: Annotated[int, Ge(0)] | None = None
    """Number, from 0, of one shot to validate on instead; each fold of --leave-one-out has one."""
    leave_one_out: bool = False
    """First train once without each shot, to find the step after which the others get no better and
    the threshold that suits them; then on all shots up to that step."""
    skip_bad: bool = False
    """Leave pairs out that cannot be used, and say so, instead of refusing."""
    memory_mb: Annotated[int, Ge(0)] = 2048
    """Memory for decoded images [MiB]; what does not fit is read each time."""
    loaders: Annotated[int, Ge(1), Le(64)] | None = None
    """Threads that prepare samples while the network learns; default: one where it learns on a CPU,
    all of which it takes for itself, else what the machine has, eight at most."""
    onnx: bool = False
    """Also write OUT/model.onnx, for machines without torch; needs `univg[onnx]`."""
    report_samples: Annotated[int, Ge(0), Le(100)] = 8
    """Shots shown on the page."""


def resolve(asked: Fit, real: int, synthetic: int) -> Fit:
    """Return `asked` with nothing left open, for so many training pairs."""
    asked = check(asked)
    if asked.gradient_checkpointing:
        raise ConfigError("gradient_checkpointing is for engines; take a smaller --micro-batch")
    if asked.epochs is not None and asked.max_steps is not None:
        raise ConfigError("epochs and max_steps both say how long to train; leave one of them out")
    preset: Mapping[str, Any] = {**PRESETS["paper"], **PRESETS[asked.preset]}
    asked = take_network(asked)
    if asked.network is not None and asked.network_options is None:
        asked = dataclasses.replace(
            asked, network_options=()
        )  # the preset's are of its own network
    if asked.max_steps is None:
        batch = asked.batch or int(preset["batch"])
        share = (
            preset["synthetic_share"] if asked.synthetic_share is None else asked.synthetic_share
        )
        made = count_synthetic(batch, float(share), synthetic)
        epochs = asked.epochs or preset.get("epochs")
        if epochs:
            steps = count_steps(int(epochs), batch, made, real, synthetic)
            asked = dataclasses.replace(asked, max_steps=steps)
    wanted_warmup = asked.warmup_steps
    filled = fill_in(asked, PRESETS, asked.preset)
    assert filled.max_steps is not None
    if wanted_warmup is None:  # a preset's warm-up is of its own length
        warmup = min(filled.warmup_steps or 0, filled.max_steps // WARMUP_SHARE)
        filled = dataclasses.replace(filled, warmup_steps=warmup)
    assert filled.patch_px is not None
    if 0 < filled.patch_px < 16:
        raise ConfigError(f"patch_px is {filled.patch_px}: at least 16, or 0 for whole images")
    return filled


def take_network(asked: Fit) -> Fit:
    """Return `asked` with what it starts from, and the network of that; another is refused."""
    from .start import NOTHING, find_start
    from .weights import check_trusted, read_card

    start = asked.start_from or PRESETS[asked.preset].get("start_from", NOTHING)
    path = find_start(start)
    if path is None:
        return dataclasses.replace(asked, start_from=NOTHING)
    card = read_card(path)
    if not _is_network_of(asked, card):
        if (
            asked.start_from is None
        ):  # what was asked for counts more than what a preset leaves open
            return dataclasses.replace(asked, start_from=NOTHING)
        raise ConfigError(
            f"start_from is {start}, which holds {card.network} with {card.options}; leave network "
            "and network_options out, or take --start-from none"
        )
    check_trusted(card, path, asked.network)
    words = tuple(f"{name}={json.dumps(value)}" for name, value in card.options.items())
    return dataclasses.replace(asked, start_from=start, network=card.network, network_options=words)


def _is_network_of(asked: Fit, card: WeightsCard) -> bool:
    """Whether the network that is asked for, where it is, is the one of `card`."""
    from .networks import fill_options

    if asked.network not in {None, card.network}:
        return False
    if asked.network_options is None:
        return True
    options = parse_options(asked.network_options)
    return fill_options(card.network, options) == fill_options(card.network, card.options)


def count_synthetic_steps(asked: Fit) -> int | None:
    """Return after how many steps batches hold shots alone; None: never."""
    if asked.synthetic_until is None or asked.synthetic_until >= 1:
        return None
    return round(asked.synthetic_until * (asked.max_steps or 0))


def count_synthetic(batch: int, share: float, pairs: int) -> int:
    """Return how many samples of a batch are synthetic; at least one is real, but at share 1.

    Of an odd batch the smaller half is.
    """
    if not pairs or not share:
        return 0
    if share == 1:
        return batch
    if batch == 1:
        raise ConfigError(
            f"batch is 1 and synthetic_share is {share:g}: one sample cannot be both; take a batch "
            "of two or more (--micro-batch 1 needs as little memory)"
        )
    return min(max(math.ceil(batch * share - 0.5), 1), batch - 1)


def count_steps(epochs: int, batch: int, made: int, real: int, synthetic: int) -> int:
    """Return the steps in which the set that takes longest is seen `epochs` times."""
    parts = [math.ceil(real / (batch - made))] if batch > made else []
    parts += [math.ceil(synthetic / made)] if made else []
    return epochs * max(parts)


def parse_options(words: tuple[str, ...] | None) -> dict[str, Any]:
    """Read name=value words as options of a network."""
    import yaml

    options: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"network_options holds {word!r}: write name=value")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"network_options holds {word!r}: not a value") from error
    return options


def plan(asked: Fit) -> str:
    """Say what a run would do."""
    from .fit_run import describe_plan

    return describe_plan(asked)


def run(asked: Fit) -> Outcome:
    """Train; return how it went."""
    from .fit_run import fit_segmenter

    return fit_segmenter(asked)


if __name__ == "__main__":
    import sys

    from univg.cli import main

    sys.exit(main(["segment", "fit", *sys.argv[1:]]))
