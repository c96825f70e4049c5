"""A trained segmenter in one file: safetensors, with what it takes to build and use it again.

In: a network, its threshold, facts about its training. Out: a .safetensors file whose metadata
holds them as JSON, and the way back: same bytes, same logits. No pickle; and a file never makes
univg import a module that the user did not name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from univg.errors import ConfigError, DataError
from univg.files import make_folder, write_atomic

from .networks import MONAI, build_network

if TYPE_CHECKING:
    from torch import Tensor

    from .net_frame import Segmenter

KEY = "univg-segmenter"
FORMAT = 1
SUFFIX = ".safetensors"
MOST_CHANNELS = 1024


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """What the file tells about its network. `facts` is free: figures, texts, lists, mappings."""

    network: str
    channels_in: int
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    threshold: float = 0.5
    facts: dict[str, Any] = field(default_factory=dict)


def make_card(
    network: Segmenter, threshold: float = 0.5, facts: Mapping[str, Any] | None = None
) -> WeightsCard:
    """Return the card of `network`."""
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"threshold is {threshold}: a probability between 0 and 1")
    return WeightsCard(
        network=network.name,
        channels_in=network.channels_in,
        options=dict(network.options),
        size=network.size,
        threshold=threshold,
        facts=dict(facts or {}),
    )


def save_network(
    network: Segmenter,
    path: Path,
    *,
    threshold: float = 0.5,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `network` to `path`; equal weights and facts give equal bytes."""
    from safetensors.torch import save

    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"{path}: weights are written as {SUFFIX}; choose such a name")
    card = write_card(make_card(network, threshold, facts))
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in own_tensors(network).items()
    }
    make_folder(path.parent)
    write_atomic(path, save(tensors, {KEY: card}))
    return path


def load_network(path: Path, own: str | None = None) -> tuple[Segmenter, WeightsCard]:
    """Return the network in `path`, in eval mode on the CPU, and its card.

    A network of the user's own (`package.module:function`) is code: it is imported only if the
    caller names it in `own` too.
    """
    card = read_card(path)
    check_trusted(card, path, own)
    try:
        network = build_network(card.network, card.channels_in, card.size, **card.options)
    except (ConfigError, MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: its network cannot be built: {reason}") from error
    fill_network(network, read_tensors(path), path)
    return network.eval(), card


def check_trusted(card: WeightsCard, path: Path, own: str | None) -> None:
    """Refuse a network that is a user's own code, unless the user names it in `own`.

    So too one of MONAI with options that may read files or ask the network for weights.
    """
    if own == card.network or ":" not in card.network:
        return
    if not card.network.startswith(f"{MONAI}:"):
        raise ConfigError(
            f"{path}: was trained with {card.network}, code that univg runs only if you name it; "
            f"if you trust it, say --network {card.network}"
        )
    odd = [name for name, value in card.options.items() if _may_fetch(name, value)]
    if odd:
        raise ConfigError(
            f"{path}: its option {odd[0]} may read other files or use the network; if you trust "
            f"it, say --network {card.network}"
        )


def _may_fetch(name: str, value: Any) -> bool:
    words = ("pretrain", "path", "file", "url", "weight", "download", "checkpoint")
    if isinstance(value, Mapping):
        return any(_may_fetch(f"{name} {key}", inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(_may_fetch(name, inner) for inner in value)
    strange = isinstance(value, str) and not value.replace("_", "").isalnum()
    return strange or any(word in name.lower() for word in words)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, those of one byte a weight as they were."""
    from safetensors.torch import load_file

    from .weights_small import unpack

    return unpack(load_file(path))


def read_card(path: Path) -> WeightsCard:
    """Read the card alone, without torch."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path}: no such file; give weights that `univg segment fit` wrote")
    if path.suffix.lower() != SUFFIX:
        raise DataError(f"{path}: is not a {SUFFIX} file; univg reads no pickles, train it again")
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: is not a whole safetensors file ({error}); copy or make it again"
        ) from error
    if KEY not in metadata:
        raise DataError(f"{path}: holds no segmenter; give weights that `univg segment fit` wrote")
    return parse_card(metadata[KEY], str(path))


def write_card(card: WeightsCard) -> str:
    """Return the card as JSON, keys in order."""
    plain = {
        "format": FORMAT,
        "network": card.network,
        "channels_in": card.channels_in,
        "options": card.options,
        "size": list(card.size) if card.size else None,
        "threshold": card.threshold,
        "facts": _make_plain(card.facts),
    }
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _make_plain(value: Any) -> Any:
    """Return what JSON can say of `value`: a figure that is not finite is none, a path its text.

    A file written at the end of a long training must not fail over a score that was not defined.
    """
    if isinstance(value, Mapping):
        return {str(key): _make_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_make_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def parse_card(text: str, source: str) -> WeightsCard:
    """Read what `write_card` wrote; `source` is named in the error."""
    try:
        plain = json.loads(text)
        if plain["format"] > FORMAT:
            raise DataError(f"{source}: is of a later univg (format {plain['format']}); update")
        size = plain["size"]
        return _check_card(
            WeightsCard(
                network=str(plain["network"]),
                channels_in=int(plain["channels_in"]),
                options=dict(plain["options"]),
                size=(int(size[0]), int(size[1])) if size else None,
                threshold=float(plain["threshold"]),
                facts=dict(plain["facts"]),
            )
        )
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise DataError(
            f"{source}: its card cannot be read ({error!r}); copy or make it again"
        ) from error


def _check_card(card: WeightsCard) -> WeightsCard:
    """Return `card`, or raise ValueError for what no training writes."""
    if not 0.0 < card.threshold < 1.0:
        raise ValueError(f"threshold {card.threshold}")
    if not 1 <= card.channels_in <= MOST_CHANNELS:
        raise ValueError(f"{card.channels_in} channels")
    taken = sorted(card.options.keys() & {"name", "channels_in", "size", "seed"})
    if taken:
        raise ValueError(f"an option called {taken[0]}")
    return card


def own_tensors(network: Segmenter) -> dict[str, Tensor]:
    """Return weights and kept buffers, each once: modules may share theirs under several names."""
    kept = network.state_dict().keys()
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor for name, tensor in found.items() if name in kept}


def fill_network(network: Segmenter, found: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file into `network`, or say what does not fit."""
    import torch

    wanted = own_tensors(network)
    missing = sorted(wanted.keys() - found.keys())
    foreign = sorted(found.keys() - wanted.keys())
    misfit = sorted(n for n in wanted.keys() & found.keys() if wanted[n].shape != found[n].shape)
    wrong = missing + foreign + misfit
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} of its tensors do not fit the network {network.name} with "
            f"{network.options} (first: {wrong[0]}); it was written by another version"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])
