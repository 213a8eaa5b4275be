"""Where tables are printed: as wide as the terminal, or as a reader of the output asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["TableConsole", "broken", "print_remarks", "print_rows", "stated_width", "table_console"]

PIPED = 110
"""Columns where the output is no terminal and COLUMNS says nothing: what our tables need."""


class TableConsole(Console):
    """A console whose tables are whole: a word wider than its column goes on below, where rich cuts it."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but cut nothing."""
        for column in (c for table in objects if isinstance(table, Table) for c in table.columns):
            column.overflow = "fold"
        super().print(*objects, **options)


def table_console() -> Console:
    """Return a console on standard output: the terminal's width, else COLUMNS, else what our tables need."""
    stated = os.environ.get("COLUMNS", "")
    width = int(stated) if stated.isdigit() and int(stated) > 20 else PIPED
    return TableConsole() if sys.stdout.isatty() else TableConsole(width=width)


def stated_width() -> int | None:
    """Return the terminal's columns, or COLUMNS, or None where the output is piped and nothing says."""
    stated = os.environ.get("COLUMNS", "")
    if sys.stdout.isatty() or (stated.isdigit() and int(stated) > 20):
        return table_console().width
    return None


def broken(text: str) -> str:
    """Return a line broken where the terminal ends, where that is known; what goes on is set in."""
    import textwrap

    width = stated_width()
    return (
        text
        if width is None
        else textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    )


def print_remarks(remarks: Iterable[str]) -> None:
    """Print what is to be said below a table, a remark a line, broken where the console ends."""
    console = table_console()
    for remark in remarks:
        console.print(Text("• " + remark), highlight=False)


def print_rows(console: Console, title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns' names, whole: what is too wide goes into further tables below.

    The first column says what a row is, and stands in each.
    """
    widths = [max(map(cell_len, column)) + 3 for column in zip(names, *rows, strict=True)]
    room = console.width - 1
    parts: list[list[int]] = [[]]
    for i in range(1, len(names)):
        if parts[-1] and widths[0] + sum(widths[j] for j in (*parts[-1], i)) > room:
            parts.append([])
        parts[-1].append(i)
    for number, part in enumerate(parts):
        table = Table(title=None if number else title, title_justify="left")
        table.add_column(names[0])
        for i in part:
            table.add_column(names[i], justify="right", no_wrap=widths[0] + widths[i] <= room)
        for row in rows:
            table.add_row(row[0], *(row[i] for i in part))
        console.print(table)
