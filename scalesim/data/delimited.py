"""Delimited text as programs write it: separators, decimal commas, comments, totals, ragged rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import decoded, read_bytes

__all__ = ["MISSING", "as_column", "parse_table", "read_table"]

MISSING = frozenset(
    ("", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", "—", "?", "inf", "-inf", "+inf", "infinity")
)
"""What stands for no value, in any case."""

_COMMENTS = ("#", "%", "//", ";;")
_TOTALS = frozenset(
    ("total", "totals", "grand total", "sum", "mean", "average", "avg", "count", "summe", "gesamt", "median")
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_GROUPED = r"[+-]?\d{{1,3}}(?:{0}\d{{3}})+"
_SPACES = re.compile(r"(?<=\d)[\s'’_\u00a0\u202f\u2009](?=\d{3})")
_MOST_RAGGED = 0.2


def read_table(path: str, what: str = "table") -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns of a delimited text file, cells as text, and notes of what was done to read it.

    Raises:
        InvalidInput: it cannot be read, holds no rows, or its rows do not agree with its header.
    """
    name = f"{what} {path!r}"
    content, encoding = decoded(read_bytes(path, what), name, latin=True)
    columns, notes = parse_table(content, name, tabs=str(path).lower().endswith((".tsv", ".tab")))
    if encoding == "cp1252":
        notes.insert(0, f"{path} is not UTF-8; it was read as Western European (cp1252).")
    return columns, notes


def parse_table(content: str, name: str, tabs: bool = False) -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns of delimited text, and notes; see `read_table`.

    >>> parse_table("# mine\\na;b\\n1;2,5\\n3;4,25\\n", "t")
    ({'a': ['1', '3'], 'b': ['2.5', '4.25']}, ['1 comment lines were left out.', 'Decimal commas were read.'])
    """
    notes: list[str] = []
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    declared = re.fullmatch(r"sep=(.)", lines[0].strip(), re.IGNORECASE)
    if declared:
        lines = lines[1:]
    body, comments = _without_comments(lines)
    if not any(line.strip() for line in body):
        raise InvalidInput(f"{name} is empty.")
    separator = declared.group(1) if declared else _separator(body, tabs)
    rows = _rows(body, separator, name)
    if not rows:
        raise InvalidInput(f"{name} is empty.")
    if all(_NUMBER.fullmatch(c.replace(",", ".")) for c in rows[0][1]) and comments:
        named = _split(comments[-1].lstrip("#%/; "), separator)  # as numpy.savetxt writes it
        if len(named) == len(rows[0][1]):
            rows.insert(0, (0, named))
            comments.pop()
    if comments:
        notes.append(f"{len(comments)} comment lines were left out.")
    header, data = _checked(rows, separator, name, notes)
    data = _without_totals(header, data, notes)
    if not data:
        raise InvalidInput(f"{name} holds no rows below its header.")
    columns = {key: [row[i] for row in data] for i, key in enumerate(header)}
    return _plain_numbers(columns, separator, name, notes), notes


def _without_comments(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return lines and comments apart; a line within an open quote is none."""
    body, comments, quoted = [], [], False
    for line in lines:
        if not quoted and line.lstrip().startswith(_COMMENTS) and not line.lstrip().startswith("#N/A"):
            comments.append(line)
            continue
        quoted ^= line.count('"') % 2 == 1
        body.append(line)
    return body, comments


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _separator(lines: Sequence[str], tabs: bool) -> str:
    """Return what most likely separates cells: what splits the header, and rows alike."""
    some = [line for line in lines if line.strip()][:200]
    best, most = ("\t" if tabs else ","), (0.0, 0)
    for candidate in ("\t", ";", ",", "|"):
        try:
            counts = [len(_split(line, candidate)) for line in some]
        except csv.Error:
            continue
        if counts[0] < 2:
            continue
        alike = sum(abs(n - counts[0]) <= 1 for n in counts) / len(counts)
        if (round(alike, 2), counts[0]) > most:
            best, most = candidate, (round(alike, 2), counts[0])
    if most == (0.0, 0) and not tabs:
        counts = [len(line.split()) for line in some]
        if counts[0] > 1 and len(some) > 1 and counts.count(counts[0]) == len(counts):
            return " "
    return best


def _rows(lines: Sequence[str], separator: str, name: str) -> list[tuple[int, list[str]]]:
    """Return the rows that hold anything, each with its number among the lines that are no comments."""
    if separator == " ":
        return [(i, line.split()) for i, line in enumerate(lines, 1) if line.strip()]
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
    found: list[tuple[int, list[str]]] = []
    try:
        stripped = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
        found.extend(one for one in stripped if any(one[1]))
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {reader.line_num}: {error}.") from None
    return found


def _checked(
    rows: list[tuple[int, list[str]]], separator: str, name: str, notes: list[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows that agree with it."""
    while (
        len(rows) > 2
        and len(rows[0][1]) < len(rows[1][1]) == len(rows[2][1])
        and not any(_NUMBER.fullmatch(cell) for cell in rows[1][1])
    ):
        title = separator.join(rows[0][1])
        notes.append(f"Line {rows[0][0]} above the header was left out: {title[:40]!r}.")
        rows = rows[1:]
    (_, header), data = rows[0], rows[1:]
    while len(header) > 1 and not header[-1] and all(len(r) < len(header) or not r[-1] for _, r in data):
        header = header[:-1]  # a separator at the end of each line
        data = [(line, row[: len(header)]) for line, row in data]
    if all(_NUMBER.fullmatch(cell) for cell in header):
        raise InvalidInput(
            f"{name} begins with numbers, not with the names of its columns: give it a header."
        )
    width = len(header)
    if data and all(len(row) == width + 1 for _, row in data):
        first = [row[0] for _, row in data]
        counted = [str(i) for i in range(len(first))], [str(i + 1) for i in range(len(first))]
        if first in counted or not any(_NUMBER.fullmatch(cell) for cell in first):
            header, width = ["", *header], width + 1  # row names, as R writes them
    header = [cell or ("row" if i == 0 else f"column {i + 1}") for i, cell in enumerate(header)]
    twice = [cell for cell, count in Counter(header).items() if count > 1]
    if twice:
        raise InvalidInput(f"{name} has two columns named {twice[0]!r}; rename or remove one.")
    good, short = [], []
    for line, row in data:
        if len(row) > width and any(row[width:]):
            hint = " (a decimal comma, or a comma in thousands?)" if separator == "," else ""
            raise InvalidInput(
                f"{name}, line {line}: {len(row)} values, but the header names {width} columns{hint}."
            )
        if len(row) < width:
            short.append(line)
        else:
            good.append(row[:width])
    if short and len(short) > _MOST_RAGGED * len(data):
        raise InvalidInput(
            f"{name}: {len(short)} of {len(data)} rows hold fewer values than the {width} columns of the "
            f"header (the first is line {short[0]})."
        )
    if short:
        notes.append(
            f"{len(short)} rows were dropped because they hold fewer values than the {width} columns of the "
            f"header (the first is line {short[0]})."
        )
    return header, good


def _without_totals(header: list[str], data: list[list[str]], notes: list[str]) -> list[list[str]]:
    """Leave out rows of totals at the end: a cell that says so among columns that hold other things."""
    kept = list(data)
    numeric = [
        sum(_is_number(row[i]) for row in data) > 0.5 * len(data) or i == 0 for i in range(len(header))
    ]
    while kept and any(
        cell.lower().rstrip(": ") in _TOTALS and numeric[i] for i, cell in enumerate(kept[-1])
    ):
        kept.pop()
    dropped = len(data) - len(kept)
    if dropped:
        notes.append(f"{dropped} rows of totals at the end were left out.")
    return kept


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(_SPACES.sub("", cell).replace(",", "").strip()) is not None


def _plain_numbers(
    columns: dict[str, list[str]], separator: str, name: str, notes: list[str]
) -> dict[str, list[str]]:
    """Write numbers with separated thousands or decimal commas as Python reads them."""
    numeric = {
        key: [_SPACES.sub("", c) for c in cells]
        for key, cells in columns.items()
        if all(c.lower() in MISSING or _is_number(c) or _is_number(c.replace(".", "")) for c in cells)
    }
    cells = [cell for column in numeric.values() for cell in column]
    thousands = [c for c in cells if re.fullmatch(_GROUPED.format(",") + r"(\.\d+)?", c)]
    certain = [c for c in thousands if c.count(",") > 1 or "." in c]
    decimal = [c for c in cells if c.count(",") == 1 and (c not in thousands or c.lstrip("+-")[:2] == "0,")]
    points = [c for c in cells if c.count(".") > 1]  # 1.234.567
    if (decimal or points) and certain:
        raise InvalidInput(
            f"{name} has commas in thousands ({certain[0]!r}) and decimal commas "
            f"({(decimal + points)[0]!r}); give one kind."
        )
    unsure = bool(thousands) and not (decimal or points or certain)
    pointed = any(re.fullmatch(r"[+-]?\d+\.(\d{1,2}|\d{4,})", c) for c in cells)
    if unsure and separator not in (",", ";") and not pointed:
        key = next(k for k, v in numeric.items() if thousands[0] in v)
        raise InvalidInput(
            f"{name}: {thousands[0]!r} in column {key!r} may have a decimal comma or a comma in thousands; "
            "write it with a decimal point, or without the comma."
        )
    commas = bool(decimal or points) or (unsure and separator == ";")
    if commas:
        notes.append("Decimal commas were read.")
    elif thousands:
        notes.append("Commas in thousands were read.")
    away = "." if commas else ","
    if commas or thousands:
        numeric = {k: [c.replace(away, "").replace(",", ".") for c in v] for k, v in numeric.items()}
    return {**columns, **numeric}


def as_column(cells: Sequence[str]) -> np.ndarray:
    """Return cells as float64 where all are numbers or missing, else as they are.

    >>> as_column(["1", "", "2.5"]), as_column(["a", "1"])
    (array([1. , nan, 2.5]), array(['a', '1'], dtype=object))
    """
    try:
        values = [np.nan if cell.lower() in MISSING else float(cell) for cell in cells]
    except ValueError:
        return np.array(cells, object)
    return np.array(values)
