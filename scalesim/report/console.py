"""Where tables are printed: as wide as the terminal, or as a reader of the output asks."""

from __future__ import annotations

import os
import sys

from rich.console import Console

__all__ = ["table_console"]

PIPED = 110
"""Columns where the output is no terminal and COLUMNS says nothing: what our tables need."""


def table_console() -> Console:
    """Return a console on standard output: the terminal's width, else COLUMNS, else what our tables need."""
    stated = os.environ.get("COLUMNS", "")
    width = int(stated) if stated.isdigit() and int(stated) > 20 else PIPED
    return Console() if sys.stdout.isatty() else Console(width=width)
