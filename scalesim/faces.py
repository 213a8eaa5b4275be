"""How a result shows itself: a few lines of text, a table in a notebook, plain values for JSON."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Face", "Shown", "cell", "plain"]


def cell(value: Any) -> str:
    """Return a value as a table shows it: four significant digits, thousands apart, what is absent empty.

    >>> [cell(v) for v in (1234567, 0.123456, 2.6e11, float("nan"), None, "text", [1.0, 2.5])]
    ['1,234,567', '0.1235', '2.6e+11', '', '', 'text', '1 .. 2.5']
    """
    if value is None or isinstance(value, str | bool):
        return "" if value is None else str(value)
    if np.ndim(value):
        return " .. ".join(cell(part) for part in value) if len(value) == 2 else f"{len(value)} values"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    number = float(value)
    return "" if number != number else f"{number:.4g}"


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not a finite number is None, arrays are lists.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (np.int64(2), float("inf"))})
    {'a': [1.0, None], 'b': [2, None]}
    """
    if isinstance(value, Shown):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(held) for held in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if hasattr(value, "tolist"):  # an array of NumPy's or JAX's
        return plain(value.tolist())
    return getattr(value, "__qualname__", None) or str(value)


@dataclasses.dataclass(frozen=True)
class Face:
    """What a person sees of a result: a line, a table of a few rows, and sentences.

    Attributes:
        title: what it is and its main figure, one line.
        columns: headings of the table.
        rows: its cells, which `cell` writes; those beyond `most` are counted and not shown.
        notes: sentences below it.

    >>> print(Face("Fit of PowerLaw", ("coefficient", "value"), [("b", 0.196), ("E", 1.97)], ("Converged.",)))
    Fit of PowerLaw
      coefficient  value
      b            0.196
      E             1.97
    Converged.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    notes: Sequence[str] = ()
    most: int = 12

    def _table(self) -> tuple[list[list[str]], list[bool], list[str]]:
        """Return the shown cells with their heading, which columns hold numbers, and the notes."""
        shown = [[cell(value) for value in row] for row in self.rows[: self.most]]
        number = [
            all(value is None or not isinstance(value, str) for value in column)
            for column in zip(*self.rows[: self.most], strict=True)
        ]
        hidden = len(self.rows) - len(shown)
        notes = [f"... and {hidden:,} rows more."] * (hidden > 0) + [note for note in self.notes if note]
        return [list(self.columns), *shown] if self.columns else shown, number, notes

    def __str__(self) -> str:
        return self.within(None)

    def within(self, columns: int | None) -> str:
        """Return the text for a terminal of so many columns: what is too wide goes on below, nothing is cut.

        >>> print(Face("Two", ("", "first", "second"), [("name", "a" * 9, "b" * 9)]).within(20))
        Two
                first
          name  aaaaaaaaa
        <BLANKLINE>
                second
          name  bbbbbbbbb
        """
        table, number, notes = self._table()
        number = number or [False] * len(self.columns)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        parts: list[list[int]] = [[]] if len(widths) > 1 else []
        for i in range(1, len(widths)):
            room = math.inf if columns is None else columns
            if parts[-1] and 2 + widths[0] + sum(2 + widths[j] for j in (*parts[-1], i)) > room:
                parts.append([])
            parts[-1].append(i)
        lines: list[str] = []
        for at, part in enumerate(parts or ([[]] if widths else [])):
            lines += [""] if at else []
            for row in table:
                held = (row[i].rjust(widths[i]) if number[i] else row[i].ljust(widths[i]) for i in (0, *part))
                lines.append(("  " + "  ".join(held)).rstrip())
        if columns is None:
            return "\n".join([self.title, *lines, *notes])
        title, *tail = (textwrap.fill(text, columns, break_on_hyphens=False) for text in (self.title, *notes))
        return "\n".join([title, *lines, *tail])

    def html(self) -> str:
        """Return the same as HTML, for a notebook.

        >>> Face("A < B", ("x",), [(1.0,)]).html().count("<td")
        1
        """
        table, number, notes = self._table()
        head, body = (table[:1], table[1:]) if self.columns else ([], table)

        def row(cells: Sequence[str], tag: str) -> str:
            sides = ["right" if right else "left" for right in number or [False] * len(cells)]
            parts = zip(cells, sides, strict=True)
            return "".join(f'<{tag} style="text-align:{s}">{html.escape(c)}</{tag}>' for c, s in parts)

        lines = [f"<tr>{row(cells, 'th')}</tr>" for cells in head]
        lines += [f"<tr>{row(cells, 'td')}</tr>" for cells in body]
        drawn = f"<table>{''.join(lines)}</table>" if lines else ""
        said = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
        return f"<div><strong>{html.escape(self.title)}</strong>{drawn}{said}</div>"


class Shown(ABC):
    """A result with a face: `repr`, a table in notebooks, and `to_dict`.

    A dataclass that inherits it is declared with `repr=False`, and defines `_face`.
    """

    @abstractmethod
    def _face(self) -> Face:
        """Return what a person sees of it."""

    def __repr__(self) -> str:
        return str(self._face())

    def _repr_html_(self) -> str:
        return self._face().html()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values that JSON can hold; what is not a finite number is None."""
        own = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: plain(getattr(self, f.name)) for f in own if f.repr}
