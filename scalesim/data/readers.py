"""Reading run tables: files and data frames, the columns' many names, units, rows that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from scalesim.data.columns import ALIASES, Found, find_columns, listed
from scalesim.data.conventions import parameter_counts
from scalesim.data.delimited import MISSING
from scalesim.data.own import own_runs
from scalesim.data.paper import paper_runs
from scalesim.data.recognised import RECIPES
from scalesim.data.runs import RunTable
from scalesim.data.tables import read_columns
from scalesim.data.units import LOSS_UNITS, check_units, in_nats, outliers_in_loss, scale_of
from scalesim.errors import InvalidInput, check_kind, choose

__all__ = ["ALIASES", "load_runs", "read_columns"]

_SHIPPED: dict[str, Callable[[], RunTable]] = {
    "paper": paper_runs,
    "own": own_runs,
    "own-long": partial(own_runs, "long"),
}

_NOT_FIELDS = ("loss", "group", "weight", "error", "vocab_size")
_ENDED_BADLY = frozenset(("crashed", "failed", "killed", "diverged", "nan", "error", "preempted"))
_STATES = ("state", "status")
_HISTORY = 5  # rows of one size at least


def load_runs(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str | float] | None = None,
    group: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    convention: str | None = None,
    drop_largest: int = 0,
) -> RunTable:
    """Read a run table.

    Args:
        source: "paper", "own" or "own-long", which the package ships; a path (.csv, .tsv, .txt, .parquet,
            .jsonl, .ndjson, .json, a trainer_state.json among them); a pandas or polars data frame; a mapping
            of columns; or a `RunTable`.
        columns: the table's name of each field, {"n_tokens": "tok_seen"}, where it is none of `ALIASES`
            (--column of the command line).
        units: what a field's numbers are counted in, {"n_tokens": 1e9, "flops": "PF-days", "loss": "bits"}
            (--unit of the command line); a unit of 1, or "nats", says that they are right as they are.
        group: the column, or columns, that tell which rows belong together.
        select: keep the rows with these values, {"experiment": "misfitting__..."}.
        convention: recount n_params from the shape's columns: "total", "non_embedding" or "paper".
        drop_largest: leave out the rows of the largest losses.

    The tables that the package ships, and a `RunTable`, have their fields already: `columns` is refused.

    Without an n_tokens column, tokens are FLOPs / (6 n_params). The public sets that
    `scalesim.data.recognised` lists are known by their columns. Rows with a value that is missing, not
    finite or not positive are dropped, as are runs that crashed or diverged, and `notes` of the result says
    how many and why.

    Raises:
        InvalidInput: the file cannot be read, a column is missing or several may be one field, units look
            wrong, or no row is left. Messages name the options of the command line.

    >>> len(load_runs("paper")), load_runs({"N": [1e8], "C": [1.2e18], "loss": [3.4]})["n_tokens"].tolist()
    (46, [2000000000.0])
    """
    if isinstance(source, str) and source in _SHIPPED:
        source = _SHIPPED[source]()
    if isinstance(source, RunTable):
        return _reread(source, columns, units, group, select, convention).drop_largest(drop_largest)
    for option, given in (("columns", columns), ("units", units), ("select", select)):
        check_kind(option, given, (Mapping, type(None)), "a mapping such as {'n_tokens': ...}")
    check_kind("group", group, (str, list, tuple, type(None)), "a column's name or a list of them")
    table, name, notes = read_columns(source)
    recipe = next((r for r in RECIPES if r.fits(table)), None)
    if recipe is not None and columns is None:
        table = recipe.prepare(table)
        notes.append(f"Recognised as {recipe.name}: {recipe.what}")
    known = dict(recipe.columns) if recipe is not None and columns is None else dict(columns or {})
    table = _selected(table, select or {}, notes)
    said = name if name.startswith(("/", ".")) or "/" in name or "." in name else "the table"
    found = find_columns(table, known, said)
    if recipe is None:
        notes += found.notes
    if group:
        found.values["group"] = _labels(table, [group] if isinstance(group, str) else list(group))
    numbers = {k: _numbers(k, v) for k, v in found.values.items() if k != "group"}
    if "loss" not in numbers:
        raise InvalidInput(
            f"{said} has no column for the loss: --column loss=NAME says which it is. It has {listed(table)}."
        )
    stated = _in_plain_units(numbers, found, units or {}, notes)
    if "n_params" not in stated:
        numbers = {**parameter_counts(table, numbers), **numbers}
    kept = _usable(numbers, _ended_well(table, notes), notes)
    rows = np.flatnonzero(kept)
    numbers = {k: v[kept] for k, v in numbers.items()}
    derived = _fill(numbers, convention, notes)
    check_units(numbers, rows, derived, stated)
    labels = np.asarray(found.values["group"])[kept] if "group" in found.values else None
    if recipe is None:
        _note_histories(numbers, labels, found, notes)
    result = RunTable(
        {k: v for k, v in numbers.items() if k not in _NOT_FIELDS},
        numbers["loss"],
        group=labels,
        weight=numbers.get("weight"),
        error=numbers.get("error"),
        source=name,
        notes=tuple(notes),
        unread=() if recipe else tuple(c for c in table if c not in found.names.values()),
    )
    return result.drop_largest(drop_largest)


def _reread(
    runs: RunTable,
    columns: Mapping[str, str] | None,
    units: Mapping[str, Any] | None,
    group: str | Sequence[str] | None,
    select: Mapping[str, Any] | None,
    convention: str | None,
) -> RunTable:
    """Return rows of a table whose columns are known, grouped and counted anew."""
    for option, given in (("column", columns), ("unit", units)):
        if given:
            known = ", ".join((*runs.columns, "loss"))
            raise InvalidInput(
                f"{option} does nothing here: it says what a file calls or counts its fields, and the table "
                f"({runs.source}) has them already: {known}."
            )
    notes = list(runs.notes)
    if select:
        table = {**runs.columns, "loss": runs.loss, "row": np.arange(len(runs))}
        if runs.group is not None:
            table["group"] = runs.group
        runs = runs.take(_selected(table, select, notes)["row"])
    if group is not None:
        runs = runs.with_group(group)
    numbers = dict(runs.columns)
    if convention is not None:
        _fill(numbers, convention, notes)
        runs = runs.with_columns(n_params=numbers["n_params"])
    return replace(runs, notes=tuple(notes))


def _selected(table: Mapping[str, Any], select: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the rows that have the values asked for."""
    table = dict(table)
    rows = len(next(iter(table.values()), []))
    for column, wanted in select.items():
        if column not in table:
            raise InvalidInput(f"select names {column!r}, which is no column; they are {listed(table)}.")
        keep = np.array([_same(v, wanted) for v in table[column]], bool)
        if not keep.any():
            known = ", ".join(sorted({_label(v) for v in table[column]})[:8])
            raise InvalidInput(f"no row has {column} = {wanted!r}; its values are {known}.")
        table = {k: np.asarray(v)[keep] for k, v in table.items()}
    left = len(next(iter(table.values()), []))
    if left < rows:
        notes.append(f"{left} of {rows} rows were selected.")
    return table


def _same(value: Any, wanted: Any) -> bool:
    if str(value) == str(wanted):
        return True
    try:
        return bool(float(value) == float(wanted))
    except (TypeError, ValueError):
        return False


def _label(value: Any) -> str:
    """Return a value as a label: whole numbers without a point."""
    if isinstance(value, float | np.floating) and np.isfinite(value):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.12g}"
    return str(value)


def _in_plain_units(
    numbers: dict[str, np.ndarray], found: Found, units: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Multiply by the units that are given or in the columns' names; return those that are stated."""
    loss_name = found.names.get("loss", "").lower()
    named = next((u for w, u in _LOSS_WORDS.items() if w in loss_name), None)
    for key in units:
        if key not in numbers:
            raise InvalidInput(f"unit {key}={units[key]}: the table has no column for {key}.")
        if key not in ("n_params", "n_tokens", "flops", "loss", "context_length", "error"):
            raise InvalidInput(f"unit {key}={units[key]}: n_params, n_tokens, flops and loss have units.")
    if named in ("bits", "perplexity") and "loss" not in units:
        raise InvalidInput(
            f"loss is the column {found.names['loss']!r}, by its name in {named}: --unit loss={named} "
            "converts it, --unit loss=nats says that it holds nats."
        )
    if named == "bits a byte" and "loss" not in units:
        notes.append(
            f"{found.names['loss']!r} is in bits a byte by its name, and so are the law's E and predictions; "
            "--unit loss=bits makes nats of them."
        )
    with np.errstate(all="ignore"):
        for key, scale in found.scales.items():
            if key not in units:
                numbers[key] = numbers[key] * scale
        for key, unit in units.items():
            if key == "loss":
                word = {"1": "nats", "1.0": "nats", "bpb": "bits", "ppl": "perplexity"}.get(
                    str(unit), str(unit)
                )
                choose("unit of loss", word, LOSS_UNITS)
                if word == "perplexity" and not float(np.nanmin(numbers["loss"])) > 1:
                    raise InvalidInput(
                        f"unit loss=perplexity: the loss goes down to {np.nanmin(numbers['loss']):g}, and a "
                        "perplexity is above 1."
                    )
                numbers["loss"] = in_nats(numbers["loss"], word)
            else:
                numbers[key] = numbers[key] * scale_of(key, unit)
    return {**found.scales, **units, **({"loss": named} if named == "bits a byte" else {})}


_LOSS_WORDS = {
    "ppl": "perplexity",
    "perplexity": "perplexity",
    "bpb": "bits a byte",
    "bits_per_byte": "bits a byte",
    "bpc": "bits a byte",
    "bits": "bits",
}


def _ended_well(table: Mapping[str, Any], notes: list[str]) -> np.ndarray:
    """Return which rows are of runs that did not crash or diverge, by their state."""
    rows = len(next(iter(table.values()), []))
    good = np.ones(rows, bool)
    for column, values in table.items():
        if column.strip().lower() in _STATES:
            bad = np.array([str(v).strip().lower() in _ENDED_BADLY for v in values], bool)
            if bad.any():
                words = ", ".join(sorted({str(v) for v in np.asarray(values)[bad]}))
                notes.append(f"{int(bad.sum())} rows were dropped because their {column} is {words}.")
            good &= ~bad
    return good


def _note_histories(numbers: Mapping[str, np.ndarray], labels: Any, found: Found, notes: list[str]) -> None:
    """Say where rows are checkpoints of few runs: they are correlated, and taken before the rate fell."""
    if "n_params" not in numbers or "n_tokens" not in numbers:
        return
    keys = labels if labels is not None else numbers["n_params"]
    runs = [np.flatnonzero(np.asarray(keys) == key) for key in np.unique(keys)]
    size, tokens, loss = numbers["n_params"], numbers["n_tokens"], numbers["loss"]
    long = [r for r in runs if len(r) >= _HISTORY and len(np.unique(size[r])) == 1]
    # Steps of one run are evenly spaced in tokens; separate runs are more often so in their logarithms.
    even = [r for r in long if _evenly(np.sort(tokens[r])) and len(np.unique(loss[r])) > 1]
    if not even or sum(map(len, even)) < 0.5 * len(loss):
        return
    how = (
        f"--group {found.names['group']} --bootstrap 1000 --kind cluster draws whole runs"
        if labels is not None and "group" in found.names
        else "Name the column of the run with --group, and --bootstrap 1000 --kind cluster draws whole runs"
    )
    notes.append(
        f"{sum(map(len, even))} rows look to be the histories of {len(even)} runs: rows of one run are "
        "correlated, so errors from the curvature are far too small, and losses are of the middle of a "
        f"schedule. {how}; the last row of each run alone is better evidence."
    )


def _evenly(tokens: np.ndarray) -> bool:
    gaps = np.diff(tokens)
    return bool(len(gaps) and gaps.min() > 0 and gaps.max() < 1.5 * np.median(gaps))


def _labels(table: Mapping[str, Any], names: list[str]) -> np.ndarray:
    missing = [name for name in names if name not in table]
    if missing:
        raise InvalidInput(f"group names {missing[0]!r}, which is no column; they are {listed(table)}.")
    return np.array([",".join(map(_label, row)) for row in zip(*(table[n] for n in names), strict=True)])


_SIZES = ("n_params", "n_tokens", "flops", "context_length")


def _numbers(name: str, values: Any) -> np.ndarray:
    from scalesim.units import parse_context, parse_count

    def number(value: Any) -> float:
        if value is None:
            return np.nan
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            text = str(value).strip()
        if text.lower() in MISSING:
            return np.nan
        if name in _SIZES and text[-1:].upper() in "KMBGT":  # 1.3B
            return float((parse_context if name == "context_length" else parse_count)(text, name))
        raise InvalidInput(f"Column {name} must hold numbers, but holds {text[:40]!r}.")

    array = np.asarray(values)
    if array.dtype.kind in "iuf":
        return array.astype(float)
    return np.array([number(v) for v in values], float)


def _usable(numbers: Mapping[str, np.ndarray], good: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return which rows can be used, and note why the others cannot."""
    needed = [k for k in ("loss", "n_params", "n_tokens", "flops", "n_head", "n_kv_head") if k in numbers]
    kept = good.copy()
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
    diverged = np.flatnonzero(kept)[outliers_in_loss(numbers["loss"][kept])]
    if len(diverged):
        shown = ", ".join(f"row {i}: {numbers['loss'][i]:g}" for i in diverged[:5])
        notes.append(
            f"{len(diverged)} rows were dropped because their loss is far above all others, as of a run that "
            f"diverged ({shown}{', ...' if len(diverged) > 5 else ''})."
        )
        kept[diverged] = False
    rows = np.stack([numbers[k][kept] for k in sorted(numbers)], axis=1)
    doubles = len(rows) - len(np.unique(np.nan_to_num(rows, nan=-1.0), axis=0))
    if doubles:
        notes.append(f"{doubles} rows are exact duplicates of others; they are kept and count again.")
    return kept


def _fill(numbers: dict[str, np.ndarray], convention: str | None, notes: list[str]) -> bool:
    """Derive n_params from the shape and n_tokens from FLOPs, where they are asked for or missing.

    Returns whether tokens were derived.
    """
    if convention is not None:
        numbers["n_params"] = _counted(numbers, convention)
        notes.append(f"n_params was counted from the shape, {convention}.")
    derived = "n_tokens" not in numbers and "flops" in numbers and "n_params" in numbers
    if derived:
        with np.errstate(all="ignore"):
            numbers["n_tokens"] = numbers["flops"] / (6 * numbers["n_params"])
        notes.append("n_tokens is FLOPs / (6 n_params).")
    for name in [k for k, v in numbers.items() if k not in ("loss", "error") and not np.all(v > 0)]:
        if name != "weight":
            del numbers[name]
            notes.append(f"Column {name} was left out: it is not positive in every row.")
    return derived


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
