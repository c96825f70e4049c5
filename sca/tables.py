"""Tables on the terminal: boxed where a person watches, plain columns in a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 120  # of a pipe or a file, so that no line is wrapped


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to the standard output; the first column is text, the others are numbers."""
    console = Console()
    boxed = console.is_terminal
    if not boxed:
        console = Console(width=_PIPE_WIDTH)
    style = box.ROUNDED if boxed else None
    table = Table(title=title, box=style, title_justify="left", pad_edge=boxed)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=not boxed)
    for row in rows:
        table.add_row(*row)
    console.print(table)
