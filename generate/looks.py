"""Looks: what an image of a modality may look like, as a card of ranges, and one draw from it.

In: a card (`univg/assets/looks/NAME.yaml`, or a user's own file). Out: a `Look`, plain numbers that
go into the manifest and from which the same image can be rendered again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field as Setting

import univg
from univg.config import from_plain, read_yaml, settings
from univg.errors import ConfigError
from univg.seeds import rng_for

LOOK_FOLDER = Path(univg.__file__).parent / "assets" / "looks"
PLAIN, DEFAULT, GENERIC = "plain", "default", "generic"
DIGITS = 5
"""Drawn numbers are rounded to this many significant digits, so that JSON carries them exactly."""

Number = Annotated[float, Setting(allow_inf_nan=False)]
Colour = tuple[Number, Number, Number]


@settings
class Chance:
    """A value that is 0 except with probability `chance`; then it lies in `range`."""

    chance: Annotated[float, Setting(ge=0, le=1)]
    range: tuple[Number, Number]


@settings
class Colours:
    """A colour between two of these at random, each channel scaled by 1 ± `jitter`."""

    colours: Annotated[tuple[Colour, ...], Setting(min_length=1)]
    jitter: Annotated[float, Setting(ge=0, le=1)] = 0.0


Draw = Number | tuple[Number, Number] | Chance | Colours


@settings
class LookCard:
    """Ranges of all that a renderer draws."""

    name: str
    """Short name."""
    renderer: str
    """Which renderer draws it: fundus, octa, oct, coronary, brain or generic."""
    description: str = ""
    """What such images look like."""
    values: dict[str, Draw]
    """Each: a number, [low, high], {chance, range}, or {colours, jitter}."""


Value = float | tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One draw: everything that decides how one image looks."""

    card: str
    renderer: str
    texture_seed: int
    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> float:
        value = self.values[name]
        assert not isinstance(value, tuple)
        return value

    def colour(self, name: str) -> tuple[float, float, float]:
        """Return the colour called `name`."""
        value = self.values[name]
        assert isinstance(value, tuple)
        return value

    def to_plain(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.values.items()}
        return {**dataclasses.asdict(dataclasses.replace(self, values={})), "values": values}


def fit_look(look: Look, short_px: int) -> Look:
    """Return `look` for images of this short side: values that end in `_px` are given at 256 px.

    They grow slower than the image, for larger images are mostly sharper too.
    """
    factor = (short_px / 256) ** 0.7
    values = {
        name: value * factor if name.endswith("_px") and not isinstance(value, tuple) else value
        for name, value in look.values.items()
    }
    return dataclasses.replace(look, values=values)


def look_from_plain(plain: Mapping[str, Any]) -> Look:
    """Return the look that a manifest row holds."""
    values = {
        key: (float(v[0]), float(v[1]), float(v[2])) if isinstance(v, list) else float(v)
        for key, v in plain["values"].items()
    }
    return Look(
        card=plain["card"], renderer=plain["renderer"], texture_seed=int(plain["texture_seed"]),
        values=values,
    )  # fmt: skip


def look_names() -> list[str]:
    """Return the names of the cards that ship."""
    return sorted(path.stem for path in LOOK_FOLDER.glob("*.yaml"))


def find_look(modality_name: str, look: str = DEFAULT) -> LookCard:
    """Return the card of `look` for a modality.

    `default` is the modality's own (`generic` where it has none), `plain` the middle of its ranges
    without rare features; else the name of a card or the path of one.
    """
    names = look_names()
    if look in {DEFAULT, PLAIN}:
        card = _shipped(modality_name if modality_name in names else GENERIC)
        return _narrow(card) if look == PLAIN else card
    if Path(look).suffix.lower() in {".yaml", ".yml"}:
        return _read_card(Path(look))
    if look in names:
        return _shipped(look)
    known = ", ".join([DEFAULT, PLAIN, *names])
    raise ConfigError(f"look `{look}` is unknown: known: {known}, or the path of a card (my.yaml)")


@functools.cache
def _shipped(name: str) -> LookCard:
    return _read_card(LOOK_FOLDER / f"{name}.yaml")


def _read_card(path: Path) -> LookCard:
    """Read a card; what it leaves out is as in the card of its renderer."""
    card = from_plain(LookCard, read_yaml(path), str(path))
    base = LOOK_FOLDER / f"{card.renderer}.yaml"
    if card.renderer not in _renderers():
        raise ConfigError(
            f"{path}: renderer is {card.renderer!r}: known: {', '.join(_renderers())}"
        )
    if path.resolve() == base.resolve():
        return card
    whole = _shipped(card.renderer).values
    unknown = sorted(set(card.values) - set(whole))
    if unknown:
        raise ConfigError(
            f"{path}: values.{unknown[0]} is not a value of renderer {card.renderer} "
            f"(known: {', '.join(sorted(whole))})"
        )
    for name, draw in card.values.items():
        if isinstance(draw, Colours) != isinstance(whole[name], Colours):
            wanted = "colours" if isinstance(whole[name], Colours) else "a number or a range"
            raise ConfigError(f"{path}: values.{name} must be {wanted}")
    return dataclasses.replace(card, values={**whole, **card.values})


def _renderers() -> list[str]:
    """The cards that are whole: named as their renderer."""
    return [name for name in look_names() if name != "unseen"]


def _narrow(card: LookCard) -> LookCard:
    """Return `card` with each range at its middle and what is rare left out."""
    values: dict[str, Draw] = {}
    for name, draw in card.values.items():
        if isinstance(draw, Chance):
            values[name] = (draw.range[0] + draw.range[1]) / 2 if draw.chance >= 0.5 else 0.0
        elif isinstance(draw, Colours):
            middle = np.mean(np.array(draw.colours), axis=0)
            values[name] = Colours(colours=((middle[0], middle[1], middle[2]),))
        else:
            values[name] = (draw[0] + draw[1]) / 2 if isinstance(draw, tuple) else draw
    return dataclasses.replace(card, name=f"{card.name} plain", values=values)


def sample_look(card: LookCard, rng: np.random.Generator) -> Look:
    """Draw one look. Each value has dice of its own, so changing one leaves the others alone."""
    texture_seed, look_seed = (int(seed) for seed in rng.integers(2**53, size=2))
    values = {
        name: _draw(card.values[name], rng_for(look_seed, name).random(6))
        for name in sorted(card.values)
    }
    return Look(card=card.name, renderer=card.renderer, texture_seed=texture_seed, values=values)


def _draw(draw: Draw, dice: np.ndarray[Any, np.dtype[np.float64]]) -> Value:
    if isinstance(draw, Chance):
        low, high = draw.range
        return _round(low + (high - low) * dice[1]) if dice[0] < draw.chance else 0.0
    if isinstance(draw, Colours):
        table = np.array(draw.colours)
        first, second = table[int(dice[0] * len(table))], table[int(dice[1] * len(table))]
        colour = (first + (second - first) * dice[2]) * (1 + draw.jitter * (2 * dice[3:6] - 1))
        return _round(colour[0]), _round(colour[1]), _round(colour[2])
    if isinstance(draw, tuple):
        return _round(draw[0] + (draw[1] - draw[0]) * dice[0])
    return draw


def _round(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return 0.0
    return round(float(value), DIGITS - 1 - math.floor(math.log10(abs(value))))
