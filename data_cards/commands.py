"""`univg data list` and `univg data show`: what the cards say, for people and for pipes.

In: a filter, or a card's name. Out: text on stdout; a table where a person looks at it, lines of
tab-separated fields where a program does.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Literal

import tyro

from univg.config import settings

from .card import DataCard, Group, Modality, find_card, load_cards

_TITLES = ("name", "title", "modality", "images", "licence", "access", "UniVG-58K")
_WIDTH = 88
_INDENT = 14


@settings
class List:
    """List the data sets that have a card."""

    modality: Modality | Literal["all"] = "all"
    """Only this modality."""
    task: Literal["vessel", "all"] = "all"
    """vessel: only data sets with vessel labels."""


@settings
class Show:
    """Show one data card: its numbers, its terms, where to get it, how its files lie."""

    name: tyro.conf.Positional[str]
    """Name of the data set; letter case, - and _ do not matter."""


def run_list(settings: List) -> list[DataCard]:
    """Print the cards that pass the filters, in alphabetical order, and return them."""
    cards = [card for card in load_cards().values() if _passes(card, settings)]
    rows = [_row(card) for card in cards]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        print("\n".join("\t".join(row) for row in (_TITLES, *rows)))  # noqa: T201
    return cards


def run_show(settings: Show) -> DataCard:
    """Print a card in readable form and return it."""
    card = find_card(settings.name)
    print(describe(card))  # noqa: T201
    return card


def describe(card: DataCard) -> str:
    """Return a card as text for people."""
    lines = [f"{card.name}: {card.title}", ""]
    for title, text in (
        ("also called", ", ".join(card.aliases)),
        ("modality", card.modality),
        ("labels", f"{card.task}. {card.labels}" if card.labels else card.task),
        ("images", "not known" if card.images is None else f"{card.images:,}"),
        ("size [px]", ", ".join(card.resolution_px)),
        ("UniVG-58K", _numbers(card) or "not part of it"),
        ("paper's DSC", _scores(card)),
        ("get it", card.url or "no public address"),
        ("access", card.access),
        ("licence", card.licence),
        ("cite", card.citation),
        ("patients", f"--group-by '{card.patient}'" if card.patient else ""),
        ("notes", card.notes),
    ):
        if text:
            lines += _entry(title, text)
    lines += ["", *_layout(card)]
    return "\n".join(lines)


def _passes(card: DataCard, settings: List) -> bool:
    right_modality = settings.modality in {"all", card.modality}
    return right_modality and (settings.task == "all" or is_vessel(card))


def is_vessel(card: DataCard) -> bool:
    """Whether the labels of the data set show vessels."""
    return card.task.startswith("vessel")


def _row(card: DataCard) -> tuple[str, ...]:
    images = "" if card.images is None else str(card.images)
    access = card.access.partition(";")[0]
    return (
        *(card.name, card.title, card.modality, images, card.licence, access),
        _numbers(card),
    )


def _numbers(card: DataCard) -> str:
    """The card's row in the paper's table, as words."""
    paper = card.univg58k
    if paper is None:
        return ""
    parts = [f"{paper.pretraining} pretraining"] if paper.pretraining else []
    if paper.downstream:
        parts.append(f"{paper.downstream} labelled ({paper.shots} shots, {paper.test} test)")
    return ", ".join(parts)


def _scores(card: DataCard) -> str:
    paper = card.univg58k
    if paper is None or paper.dsc is None:
        return ""
    cldice = f", clDice {paper.cldice:.2f} %" if paper.cldice is not None else ""
    return f"{paper.dsc:.2f} % with {paper.shots} shots{cldice}"


def _entry(title: str, text: str) -> list[str]:
    body = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    first, *rest = body
    return [f"{title:<{_INDENT}}{first}", *(" " * _INDENT + line for line in rest)]


def _layout(card: DataCard) -> list[str]:
    if not card.layout:
        return ["files         layout not known; `univg data prepare` does not read this set"]
    lines = ["files, as patterns below the provider's folder:"]
    for group in card.layout:
        lines.append(f"  {group.name or '(all)'}{_use(card, group)}")
        for title, patterns in (
            ("images", group.images),
            ("masks", group.masks),
            ("fov", group.fov),
        ):
            lines += [f"    {title:<7} {pattern}" for pattern in patterns]
        if group.labels:
            classes = (f"{name} {', '.join(map(str, v))}" for name, v in group.labels.items())
            lines.append(f"    classes {'; '.join(classes)} (mask: {', '.join(group.vessel)})")
    return lines


def _use(card: DataCard, group: Group) -> str:
    if card.univg58k is None:
        return ""
    return "  (pretraining)" if group.pretraining else "  (labelled; never pretraining)"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption="univg data show NAME tells the rest")
    for title in _TITLES:
        table.add_column(title, overflow="fold", justify="right" if title == "images" else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
