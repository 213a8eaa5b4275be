"""Reading run tables: files and data frames, the columns' many names, units, rows that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scalesim.data.conventions import parameter_counts
from scalesim.data.own import own_runs
from scalesim.data.paper import paper_runs
from scalesim.data.recognised import RECIPES, Recipe
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput

__all__ = ["ALIASES", "load_runs", "read_columns"]

_SHIPPED = {"paper": paper_runs, "own": own_runs}

ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        "params",
        "parameters",
        "n",
        "model_size",
        "n_params_nonembed",
        "n_params_non_embedding",
        "n_params_total",
    ),
    "n_tokens": ("tokens", "training_tokens", "d", "dataset_size", "num_tokens"),
    "flops": ("training_flop", "training_flops", "budget", "compute", "c"),
    "loss": ("val_loss", "validation_loss", "final_loss", "l"),
    "context_length": ("seq_len", "sequence_length", "block_size", "t"),
    "n_layer": ("n_layers", "num_layers", "layers", "depth", "num_hidden_layers"),
    "d_model": ("width", "hidden_size", "n_embd"),
    "n_head": ("n_heads", "num_heads", "num_attention_heads"),
    "n_kv_head": ("n_kv_heads", "num_kv_heads", "num_key_value_heads"),
    "d_ff": ("ffn_width", "intermediate_size"),
    "head_dim": ("d_head",),
    "vocab_size": ("vocab",),
    "n_epochs": ("epochs",),
    "weight_bits": (),
    "activation_bits": (),
    "kv_bits": (),
    "weight": (),
    "error": ("loss_err", "loss_error", "loss_std"),
    "group": ("run_name", "run", "family"),
}
"""Each field, and the other names (any case, spaces as underscores) under which it is recognised."""

_NOT_FIELDS = ("loss", "group", "weight", "error", "vocab_size")
_LEAST = {"n_params": 1e3, "n_tokens": 1e3}
_HIGHEST_LOSS = 15.0


def load_runs(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    group: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    convention: str | None = None,
    drop_largest: int = 0,
) -> RunTable:
    """Read a run table.

    Args:
        source: "paper" or "own", which the package ships; a path (.csv, .tsv, .parquet, .jsonl, .ndjson,
            .json); a pandas or polars data frame; a mapping of columns; or a `RunTable`.
        columns: the table's name of each field, {"n_tokens": "tok_seen"}, where it is none of `ALIASES`.
        group: the column, or columns, that tell which rows belong together.
        select: keep the rows with these values, {"experiment": "misfitting__..."}.
        convention: recount n_params from the shape's columns: "total", "non_embedding" or "paper".
        drop_largest: leave out the rows of the largest losses.

    The tables that the package ships, and a `RunTable`, have their fields already: `columns` is refused.

    Without an n_tokens column, tokens are FLOPs / (6 n_params). The public sets that
    `scalesim.data.recognised` lists are known by their columns. Rows with a value that is missing, not
    finite or not positive are dropped, and `notes` of the result says how many and why.

    Raises:
        InvalidInput: the file cannot be read, a column is missing, units look wrong, or no row is left.

    >>> len(load_runs("paper")), load_runs({"N": [1e8], "C": [1.2e18], "loss": [3.4]})["n_tokens"].tolist()
    (46, [2000000000.0])
    """
    if isinstance(source, str) and source in _SHIPPED:
        source = _SHIPPED[source]()
    if isinstance(source, RunTable):
        return _chosen(source, columns, group, select, convention).drop_largest(drop_largest)
    table, name = read_columns(source)
    notes: list[str] = []
    recipe = next((r for r in RECIPES if r.fits(table)), None)
    if recipe is not None and columns is None:
        table = recipe.prepare(table)
        notes.append(f"Recognised as {recipe.name}: {recipe.what}")
    rows = len(next(iter(table.values()), []))
    for column, wanted in (select or {}).items():
        if column not in table:
            raise InvalidInput(f"select names {column!r}, which is no column; they are {', '.join(table)}.")
        keep = _matching(column, table[column], wanted)
        table = {k: v[keep] for k, v in table.items()}
    if len(next(iter(table.values()))) < rows:
        notes.append(f"{len(next(iter(table.values())))} of {rows} rows were selected.")
    found = _renamed(table, columns or {}, recipe if columns is None else None, notes)
    if group is not None:
        found["group"] = _labels(table, [group] if isinstance(group, str) else list(group))
    numbers = {k: _numbers(k, v) for k, v in found.items() if k != "group"}
    if "loss" not in numbers:
        raise InvalidInput(f"{name} has no column for the loss; name it by columns={{'loss': ...}}.")
    numbers = {**parameter_counts(table, numbers), **numbers}
    kept = _usable(numbers, notes)
    numbers = {k: v[kept] for k, v in numbers.items()}
    _check_units(numbers, np.flatnonzero(kept))
    _fill(numbers, convention, notes)
    result = RunTable(
        {k: v for k, v in numbers.items() if k not in _NOT_FIELDS},
        numbers["loss"],
        group=np.asarray(found["group"])[kept] if "group" in found else None,
        weight=numbers.get("weight"),
        error=numbers.get("error"),
        source=name,
        notes=tuple(notes),
    )
    return result.drop_largest(drop_largest)


def _chosen(
    runs: RunTable,
    columns: Mapping[str, str] | None,
    group: str | Sequence[str] | None,
    select: Mapping[str, Any] | None,
    convention: str | None,
) -> RunTable:
    """Return a table whose fields are known, with rows selected, grouped and recounted."""
    if columns:
        raise InvalidInput(
            f"columns={dict(columns)} says what a file calls its fields, but the table ({runs.source}) has "
            f"them already: {', '.join(runs.columns)}, loss."
        )
    rows = len(runs)
    for column, wanted in (select or {}).items():
        values = runs.group if column == "group" and runs.group is not None else runs[column]
        runs = runs.take(_matching(column, values, wanted))
    notes = list(runs.notes)
    if len(runs) < rows:
        notes.append(f"{len(runs)} of {rows} rows were selected.")
    if group is not None:
        runs = runs.with_group(group)
    if convention is not None:
        runs = runs.with_columns(n_params=_counted(runs.columns, convention))
        notes.append(f"n_params was counted from the shape, {convention}.")
    return replace(runs, notes=tuple(notes))


def _matching(column: str, values: Any, wanted: Any) -> np.ndarray:
    """Return which values are the one that is wanted, as numbers or as text.

    Raises:
        InvalidInput: none is.
    """
    try:
        number = float(wanted)
    except (TypeError, ValueError):
        number = np.nan
    keep = np.array([str(v) == str(wanted) or (_is_number(v) and v == number) for v in values], bool)
    if not keep.any():
        known = ", ".join(sorted({f"{v:g}" if isinstance(v, float) else str(v) for v in values})[:8])
        raise InvalidInput(f"no row has {column} = {wanted!r}; its values are {known}.")
    return keep


def read_columns(source: Any) -> tuple[dict[str, np.ndarray], str]:
    """Return the columns of a file, a data frame or a mapping, and a name for where they came from."""
    if isinstance(source, Mapping):
        return {str(k): np.asarray(v) for k, v in source.items()}, "given in the call"
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return {str(k): np.asarray(source[k]) for k in source.columns}, "a data frame"
    if not isinstance(source, str | Path):
        raise InvalidInput(
            f"runs must be a path, a data frame or a RunTable, but is {type(source).__name__}."
        )
    path = Path(source)
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; a file or one of {', '.join(_SHIPPED)} would do.")
    import polars as pl

    readers = {
        ".csv": lambda: pl.read_csv(path, infer_schema_length=None),
        ".tsv": lambda: pl.read_csv(path, separator="\t", infer_schema_length=None),
        ".parquet": lambda: pl.read_parquet(path),
        ".jsonl": lambda: pl.read_ndjson(path),
        ".ndjson": lambda: pl.read_ndjson(path),
        ".json": lambda: pl.read_json(path),
    }
    if path.suffix.lower() not in readers:
        raise InvalidInput(f"{path} ends in {path.suffix!r}; {', '.join(readers)} can be read.")
    try:
        frame = readers[path.suffix.lower()]()
    except Exception as error:  # polars raises a type of its own for every way a file can be wrong
        raise InvalidInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    if not frame.height:
        raise InvalidInput(f"{path} holds no rows.")
    return {name: frame[name].to_numpy() for name in frame.columns}, str(path)


def _renamed(
    table: Mapping[str, Any], columns: Mapping[str, str], recipe: Recipe | None, notes: list[str]
) -> dict[str, Any]:
    """Return the columns by field."""
    known = {**(recipe.columns if recipe else {}), **columns}
    by_plain = {name.lower().strip().replace(" ", "_"): name for name in table}
    found = {}
    for field, column in known.items():
        if column not in table:
            raise InvalidInput(f"columns maps {field} to {column!r}, which is no column: {', '.join(table)}.")
        found[field] = table[column]
    for field, names in ALIASES.items():
        if field in found:
            continue
        for plain in (field, *names):
            if plain in by_plain:
                found[field] = table[by_plain[plain]]
                if field == "n_params" and by_plain[plain] != "n_params":
                    notes.append(f"n_params is the column {by_plain[plain]!r}.")
                break
    return found


def _labels(table: Mapping[str, Any], names: list[str]) -> np.ndarray:
    missing = [name for name in names if name not in table]
    if missing:
        raise InvalidInput(f"group names {missing[0]!r}, which is no column; they are {', '.join(table)}.")
    return np.array([",".join(map(str, row)) for row in zip(*(table[n] for n in names), strict=True)])


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.array([np.nan if v is None or v == "" else float(v) for v in values])
    except (TypeError, ValueError):
        bad = next(v for v in values if not _is_number(v))
        raise InvalidInput(f"Column {name} must hold numbers, but holds {str(bad)!r}.") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None or value == ""
    return True


def _usable(numbers: Mapping[str, np.ndarray], notes: list[str]) -> np.ndarray:
    """Return which rows can be used, and note why the others cannot."""
    needed = [k for k in ("loss", "n_params", "n_tokens", "flops", "n_head", "n_kv_head") if k in numbers]
    kept = np.ones(len(numbers["loss"]), bool)
    for name in needed:
        bad = ~(np.isfinite(numbers[name]) & (numbers[name] > 0))
        if (bad & kept).any():
            first = int(np.flatnonzero(bad & kept)[0])
            notes.append(
                f"{int((bad & kept).sum())} rows were dropped because {name} is missing, not finite or not "
                f"positive (the first is row {first}: {numbers[name][first]:g})."
            )
        kept &= ~bad
    if not kept.any():
        raise InvalidInput("No usable row is left: " + " ".join(notes))
    rows = np.stack([numbers[k][kept] for k in sorted(numbers)], axis=1)
    doubles = len(rows) - len(np.unique(np.nan_to_num(rows, nan=-1.0), axis=0))
    if doubles:
        notes.append(f"{doubles} rows are exact duplicates of others; they are kept and count again.")
    return kept


def _check_units(numbers: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
    for name, least in _LEAST.items():
        if name in numbers and (numbers[name] < least).any():
            at = int(np.argmin(numbers[name]))
            raise InvalidInput(
                f"{name} of row {rows[at]} is {numbers[name][at]:g}, which looks like millions or billions; "
                "give plain numbers, 1.3e9 for 1.3B."
            )
    at = int(np.argmax(numbers["loss"]))
    if numbers["loss"][at] > _HIGHEST_LOSS:
        raise InvalidInput(
            f"loss of row {rows[at]} is {numbers['loss'][at]:g}, above {_HIGHEST_LOSS:g} nats a token; "
            "it looks like a perplexity: give its logarithm."
        )


def _fill(numbers: dict[str, np.ndarray], convention: str | None, notes: list[str]) -> None:
    """Derive n_params from the shape and n_tokens from FLOPs, where they are asked for or missing."""
    if convention is not None:
        numbers["n_params"] = _counted(numbers, convention)
        notes.append(f"n_params was counted from the shape, {convention}.")
    if "n_tokens" not in numbers and "flops" in numbers and "n_params" in numbers:
        numbers["n_tokens"] = numbers["flops"] / (6 * numbers["n_params"])
        notes.append("n_tokens is FLOPs / (6 n_params).")
    for name in [k for k, v in numbers.items() if k not in ("loss", "error") and not np.all(v > 0)]:
        if name != "weight":
            del numbers[name]
            notes.append(f"Column {name} was left out: it is not positive in every row.")


def _counted(numbers: Mapping[str, np.ndarray], convention: str) -> np.ndarray:
    from scalesim.shape import Shape, count_params

    sizes = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    missing = [name for name in sizes if name not in numbers]
    if missing:
        raise InvalidInput(
            f"convention {convention!r} needs the shape, but the table has no {', '.join(missing)}."
        )
    given: dict[str, Any] = {name: numbers[name] for name in sizes}
    named: Any = convention
    return np.asarray(count_params(Shape(**given), named))
