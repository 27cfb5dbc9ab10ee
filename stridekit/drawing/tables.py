"""Tables of text for a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_UNLIMITED = 200
"""Columns where nobody looks: in a pipe or a file no table is to be folded."""


def text_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, names: bool = False) -> Table:
    """Lay rows of text out under headings, aligned to the right; names, in the first column, to the left."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, heading in enumerate(headings):
        # Fold, never an ellipsis: in a narrow terminal a number may break, it may not lose digits.
        table.add_column(heading, justify="left" if names and not number else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def text_of(parts: Iterable[Table | str]) -> str:
    """Return tables and lines as one text."""
    stream = io.StringIO()
    console = Console(file=stream, width=_UNLIMITED, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return stream.getvalue().rstrip()


def print_parts(parts: Iterable[Table | str]) -> None:
    """Print tables and lines to stdout, as wide as the terminal; in a pipe, without a limit."""
    piped = not sys.stdout.isatty()
    console = Console(width=_UNLIMITED if piped else None, highlight=False, markup=False)
    for part in parts:
        console.print(part, soft_wrap=piped and isinstance(part, str))
