"""What a data card says, and where the cards are.

In: a YAML file of `cards/`. Out: a checked `DataCard`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from univg.config import read_settings, settings
from univg.errors import DataError

CARD_FOLDER = Path(__file__).parent / "cards"

Count = Annotated[int, Ge(0)]
Modality = Literal["fundus", "oct", "octa", "coronary", "brain", "other"]


@settings
class UniVG58K:
    """The row of the paper's table of data sets."""

    pretraining: Count = 0
    downstream: Count = 0
    shots: Count = 0
    test: Count = 0
    dsc: float | None = None
    """The paper's five-shot Dice [%]."""
    cldice: float | None = None
    """The paper's five-shot clDice [%]; absent where the paper gives it only in a lost table."""


@settings
class Group:
    """One group of files in the provider's layout, as patterns below the provider's root.

    A pattern is a glob (`**`, `*`, `?`, `[0-9]`) matched without regard to letter case
    against the whole path below the root. Stems are paired after the suffixes are stripped.
    """

    name: str = ""
    """The provider's own split or subset ("training", "OCTA_3mm"); becomes part of the manifest."""
    images: Annotated[tuple[str, ...], MinLen(1)]
    masks: tuple[str, ...] = ()
    fov: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    """Endings (or, with a trailing *, beginnings) to drop from stems before pairing."""
    labels: dict[str, tuple[int, ...]] | None = None
    """Label class -> pixel values in the mask files. None: the mask rule. Of two values the upper
    one is vessel, exactly; where there are more, the file is cut at half with a warning, or
    refused with --strict."""
    vessel: tuple[str, ...] = ()
    """Which classes of `labels` make the vessel mask."""
    invert: bool = False
    """The provider draws vessels dark on white."""
    unlabelled_ok: bool = False
    """Images of this group may lack a mask (they serve for pretraining)."""
    pretraining: bool = False
    """Optional; read by `univg data build` only: these images may enter the pretraining set. A
    group without it is never taken, so a set that is used for tests cannot leak by omission."""


@settings
class DataCard:
    """One data set."""

    name: str
    """Short name, as on the command line."""
    title: str
    aliases: tuple[str, ...] = ()
    """Other names it goes by, as people call their folders."""
    modality: Modality
    task: str = ""
    """What the labels show ("vessel segmentation", "optic disc and cup", …)."""
    images: Count | None = None
    """How many images the provider hands out: those that the layout reads, where there is one."""
    resolution_px: tuple[str, ...] = ()
    """As WIDTHxHEIGHT."""
    licence: str
    access: str
    """open | registration | request | private, and what it takes."""
    url: str = ""
    citation: str
    labels: str = ""
    """What the label values mean, in words."""
    patient: str = ""
    """Optional: a regular expression whose one group finds the patient in a provider's stem, for
    `univg data split --group-by`; empty where names do not tell, or each patient gave one image."""
    notes: str = ""
    univg58k: UniVG58K | None = None
    """Absent for data sets that are not part of UniVG-58K."""
    layout: tuple[Group, ...] = ()
    """The provider's own layout; empty where `prepare` does not know it."""


@cache
def load_cards() -> dict[str, DataCard]:
    """Return every card by name, in alphabetical order."""
    cards = [read_settings(DataCard, path) for path in CARD_FOLDER.glob("*.yaml")]
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def find_card(name: str) -> DataCard:
    """Return the card called `name`, or an alias; letter case, `-` and `_` do not matter."""
    by_key = index_names(load_cards().values())
    if name_key(name) not in by_key:
        near = difflib.get_close_matches(name_key(name), list(by_key), n=1)
        hint = f"did you mean `{by_key[near[0]].name}`? " if near else ""
        raise DataError(f"`{name}` has no data card; {hint}`univg data list` names those there are")
    return by_key[name_key(name)]


def index_names(cards: Iterable[DataCard]) -> dict[str, DataCard]:
    """Return the cards by all they are called, each as `name_key` spells it.

    A name goes before an alias, that before the first word of a title, which counts only where a
    single card begins so.
    """
    cards = list(cards)
    words = [name_key(re.split(r"[ ,(]", card.title)[0]) for card in cards]
    by_key = {w: card for w, card in zip(words, cards, strict=True) if words.count(w) == 1}
    by_key |= {name_key(alias): card for card in cards for alias in card.aliases}
    return by_key | {name_key(card.name): card for card in cards}


def name_key(name: str) -> str:
    """Return `name` without what people spell differently: letter case, `-`, `_`, spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
