"""What a data card says, and where the cards are.

In: a YAML file of `cards/`. Out: a checked `DataCard`.
"""

from __future__ import annotations

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

    A pattern is a glob (`**` allowed) matched without regard to letter case. Stems are paired after
    the suffixes are stripped.
    """

    name: str = ""
    """The provider's own split or subset ("training", "OCTA_3mm"); becomes part of the manifest."""
    images: Annotated[tuple[str, ...], MinLen(1)]
    masks: tuple[str, ...] = ()
    fov: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    """Endings (or, with a trailing *, beginnings) to drop from stems before pairing."""
    labels: dict[str, tuple[int, ...]] | None = None
    """Label class -> pixel values in the mask files; None: any non-zero pixel is vessel."""
    vessel: tuple[str, ...] = ()
    """Which classes of `labels` make the vessel mask."""
    invert: bool = False
    """The provider draws vessels dark on white."""
    unlabelled_ok: bool = False
    """Images of this group may lack a mask (they serve for pretraining)."""


@settings
class DataCard:
    """One data set."""

    name: str
    """Short name, as on the command line."""
    title: str
    modality: Modality
    task: str = ""
    """What the labels show ("vessel segmentation", "optic disc and cup", …)."""
    images: Count | None = None
    """How many images the provider hands out."""
    resolution_px: tuple[str, ...] = ()
    """As WIDTHxHEIGHT."""
    licence: str
    access: str
    """open | registration | request | private, and what it takes."""
    url: str = ""
    citation: str
    labels: str = ""
    """What the label values mean, in words."""
    notes: str = ""
    univg58k: UniVG58K | None = None
    """Absent for data sets that are not part of UniVG-58K."""
    layout: tuple[Group, ...] = ()
    """The provider's own layout; empty where `prepare` does not know it."""


@cache
def load_cards() -> dict[str, DataCard]:
    """Return every card by name, in alphabetical order."""
    cards = [read_settings(DataCard, path) for path in sorted(CARD_FOLDER.glob("*.yaml"))]
    return {card.name: card for card in cards}


def find_card(name: str) -> DataCard:
    """Return the card called `name`; letter case, `-` and `_` do not matter."""
    by_key = {_key(known): card for known, card in load_cards().items()}
    if _key(name) not in by_key:
        raise DataError(f"`{name}` has no data card; `univg data list` names those there are")
    return by_key[_key(name)]


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
