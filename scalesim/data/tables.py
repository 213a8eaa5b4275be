"""Tables of any kind as columns: delimited text, Parquet, JSON, data frames, mappings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalesim.data.delimited import as_column, read_table
from scalesim.errors import InvalidInput, shown
from scalesim.files import decoded, format_of, json_text, kind_of, read_bytes, read_parquet

__all__ = ["read_columns"]

_TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat")
_JSON = (".json", ".jsonl", ".ndjson")
_SHIPPED = "paper, own, own-long"


def read_columns(source: Any) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """Return the columns of a file, a data frame or a mapping, a name for the table, and notes.

    Raises:
        InvalidInput: no such file, one that is no table, or columns of different lengths.
    """
    if isinstance(source, Mapping):
        columns = {str(k): _given(k, v) for k, v in source.items()}
        return _checked(columns, "the mapping"), "given in the call", []
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        frame = {str(k): np.asarray(source[k]) for k in source.columns}
        return _checked(frame, "the data frame"), "a data frame", []
    if not isinstance(source, str | Path):
        raise InvalidInput(
            f"runs must be a path, a data frame or a RunTable, but is {type(source).__name__}."
        )
    path, name = Path(source), f"runs {str(source)!r}"
    ending = path.suffix.lower()
    notes: list[str] = []
    if kind_of(path) is None:
        raise InvalidInput(f"{name} does not exist; a file or one of {_SHIPPED} would do.")
    if ending in _TEXT:
        cells, notes = read_table(str(path), "runs")
        columns = {key: as_column(column) for key, column in cells.items()}
    elif ending in _JSON:
        columns = _from_json(path, name, notes, lines=ending != ".json")
    elif ending in (".parquet", ".pq"):
        table = read_parquet(read_bytes(path, "runs"), name)
        columns = {column: table[column].to_numpy() for column in table.columns}
    else:
        odd = {"folder": "a folder", "other": "no file"}.get(kind_of(path) or "")
        kind = odd or format_of(read_bytes(path, "runs")[:16])
        known = ", ".join((*_TEXT, *_JSON, ".parquet"))
        raise InvalidInput(f"{name} is {kind or f'of the kind {ending!r}'}; {known} can be read.")
    return _checked(columns, name), str(path), notes


def _given(name: Any, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise InvalidInput(f"Column {name} must hold one value a row, but holds {shown(values)}.") from None


def _checked(columns: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    lengths = {len(v) if v.ndim else -1 for v in columns.values()}
    if -1 in lengths or len(lengths) > 1:
        shape = {k: v.shape for k, v in list(columns.items())[:8]}
        raise InvalidInput(f"{name} must have columns of one length, but they are {shape}.")
    if not columns or lengths == {0}:
        raise InvalidInput(f"{name} holds no rows.")
    return columns


def _from_json(path: Path, name: str, notes: list[str], *, lines: bool) -> dict[str, np.ndarray]:
    content = decoded(read_bytes(path, "runs"), name)[0]
    if not content.strip():
        raise InvalidInput(f"{name} is empty.")
    if not lines:
        try:
            return _from_value(json_text(content, name, missing=True), name, notes)
        except InvalidInput as error:
            rows = [line for line in content.splitlines() if line.strip()]
            # One object a line under another ending is as plain.
            if "Extra data" not in str(error) or len(rows) < 2:
                raise InvalidInput(
                    str(error).replace(" is not JSON", " cannot be read: it is not JSON")
                ) from None
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            found.append(json_text(line, f"{name}, line {number},", missing=True))
    return _from_records(found, name)


def _from_value(value: Any, name: str, notes: list[str]) -> dict[str, np.ndarray]:
    """Return the columns of JSON as programs write tables: records, columns, pandas' ways, trainers' logs."""
    if isinstance(value, list):
        return _from_records(value, name)
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must hold rows or columns, but holds {json.dumps(value)[:40]}.")
    if isinstance(value.get("log_history"), list):
        return _from_trainer(value, name, notes)
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        names = [str(c) for c in value["columns"]]
        if not all(isinstance(row, list) and len(row) == len(names) for row in value["data"]):
            raise InvalidInput(f"{name} has rows that do not hold {len(names)} values, one a column.")
        return _from_records([dict(zip(names, row, strict=True)) for row in value["data"]], name)
    for key in ("data", "rows", "runs", "records", "results"):
        if isinstance(value.get(key), list) and all(isinstance(row, dict) for row in value[key]):
            return _from_records(value[key], name)
    if value and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) > 1:
            raise InvalidInput(f"{name} has columns of {' and '.join(map(str, sorted(lengths)))} values.")
        return {str(key): _column(column) for key, column in value.items()}
    if value and all(isinstance(column, dict) for column in value.values()):
        index = list(next(iter(value.values())))
        if all(list(column) == index for column in value.values()) and all(k.isdigit() for k in index):
            return {str(k): _column(list(c.values())) for k, c in value.items()}  # pandas' to_json()
        return _from_records(list(value.values()), name)  # a run's name: its values
    raise InvalidInput(
        f"{name} must hold a list of rows or an object of columns; its keys are {_keys(value)}."
    )


def _keys(value: Mapping[str, Any]) -> str:
    return ", ".join(list(map(str, value))[:8]) or "none"


def _from_trainer(value: dict[str, Any], name: str, notes: list[str]) -> dict[str, np.ndarray]:
    """Return the evaluations of one run that Hugging Face's Trainer logged."""
    logged = [row for row in value["log_history"] if isinstance(row, dict)]
    rows = [row for row in logged if "eval_loss" in row] or [row for row in logged if "loss" in row]
    if not rows:
        raise InvalidInput(f"{name} is a trainer's log without a loss.")
    key = "num_input_tokens_seen"
    seen = {str(row.get("step")): row[key] for row in logged if key in row}
    for row in rows:
        row.setdefault(key, seen.get(str(row.get("step"))))
    notes.append(
        f"It is the log of one run of Hugging Face's Trainer, {len(rows)} evaluations: rows of one run are "
        "correlated, and the run's size is not in it."
    )
    return _from_records(rows, name)


def _from_records(rows: Sequence[Any], name: str) -> dict[str, np.ndarray]:
    if not rows:
        raise InvalidInput(f"{name} holds no rows.")
    flat: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidInput(f"{name}: row {i} must be an object, but is {json.dumps(row)[:40]}.")
        one: dict[str, Any] = {}
        for key, value in row.items():
            one |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        flat.append(one)
    keys = list(dict.fromkeys(key for row in flat for key in row))
    return {key: _column([row.get(key) for row in flat]) for key in keys}


def _column(values: Sequence[Any]) -> np.ndarray:
    """Return values as float64 where all are numbers or missing, else as they are."""
    if all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        return np.array([np.nan if v is None else float(v) for v in values])
    if all(v is None or isinstance(v, str) for v in values):
        return as_column(["" if v is None else v for v in values])
    found = np.empty(len(values), object)
    found[:] = values
    return found
