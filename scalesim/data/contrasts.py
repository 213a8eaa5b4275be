"""Comparisons of two models that differ in named ways: the shipped table, and the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from scalesim.data.delimited import parse_table, read_table
from scalesim.errors import InvalidInput

__all__ = ["ContrastTable", "load_contrasts"]

FIELDS = (
    "n_params",
    "n_head",
    "n_kv_head",
    "head_dim",
    "n_layer",
    "d_model",
    "d_ff",
    "n_tokens",
    "context_length",
)
"""What may be given of a model: `n_head_a` of one, `n_head_b` of the other, `n_head` of both alike."""
_TEXT = ("id", "source", "corpus", "note", "equal_params")
_OTHER_UNITS = {"ppl": "perplexity", "perplexity": "perplexity", "bpb": "bits", "bits": "bits", "bpc": "bits"}
_COLUMNS = ("loss_a", "loss_b", "name", "source", "corpus", "noise")
_LOSSES = (0.3, 12.0)
"""Nats a token of any text model: beyond, the unit is another."""
_SHIPPED: Mapping[Any, str] = {None: "head_contrasts.csv", "own-long": "own_contrasts.csv"}
_NOISIEST = 0.2
"""Standard deviation of log loss between seeds, beyond which the unit is another."""
_APART = 0.01
"""Difference of two log ratios of the same two models beyond which they contradict each other."""


@dataclass(frozen=True, eq=False)
class ContrastTable:
    """Pairs of models, one a row: what each is, the loss it reached, and who measured it.

    Attributes:
        a, b: each field's values, (rows,): n_params (attention and FFN matrices, no embeddings), n_head, ...
        loss_a, loss_b: nats a token, (rows,), on the same text.
        name, source, corpus: of each row, (rows,) strings.
        notes: what to know of the table, a sentence each.
        noise: standard deviation of the log loss of one run, as its seeds show it, (rows,); nan where it is
            not known, and then the same for all (`Spread.noise`).

    The study of a row is its source up to the first comma or bracket: rows of one study share its noise
    and its own head effects.
    """

    a: Mapping[str, np.ndarray]
    b: Mapping[str, np.ndarray]
    loss_a: np.ndarray
    loss_b: np.ndarray
    name: np.ndarray
    source: np.ndarray
    corpus: np.ndarray
    notes: tuple[str, ...] = field(default=())
    noise: np.ndarray = field(default_factory=lambda: np.array(np.nan))

    def __post_init__(self) -> None:
        each = np.broadcast_to(np.asarray(self.noise, float), self.loss_a.shape)
        object.__setattr__(self, "noise", each)

    def __len__(self) -> int:
        return len(self.loss_a)

    @property
    def study(self) -> np.ndarray:
        """The study of each row, (rows,) strings."""
        return np.array([s.split(",")[0].split(" (")[0].strip() for s in self.source])

    @property
    def log_ratio(self) -> np.ndarray:
        """log(loss_b / loss_a) of each row, (rows,)."""
        return np.log(self.loss_b / self.loss_a)

    def take(self, rows: Any) -> ContrastTable:
        """Return some of the rows."""
        a, b = ({k: v[rows] for k, v in side.items()} for side in (self.a, self.b))
        return replace(self, a=a, b=b, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def joined(self, other: ContrastTable) -> ContrastTable:
        """Return the rows of both; a field that either lacks is unknown (nan) in its rows."""
        sides = []
        for mine, theirs in ((self.a, other.a), (self.b, other.b)):
            names = dict.fromkeys((*mine, *theirs))
            unknown = [np.full(len(t), np.nan) for t in (self, other)]
            sides.append(
                {n: np.concatenate([mine.get(n, unknown[0]), theirs.get(n, unknown[1])]) for n in names}
            )
        both = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in _COLUMNS}
        return replace(self, a=sides[0], b=sides[1], notes=(*self.notes, *other.notes), **both)


def load_contrasts(path: str | Path | None = None) -> ContrastTable:
    """Read comparisons from a CSV, the published ones that the package ships, or those of our own runs.

    Args:
        path: of the file; None for the published ones, "own-long" for the models of one size among our own
            runs (`load_runs("own-long")`), a row a seed, which the shipped law was not fitted to.

    Columns: id, source, corpus, loss_a and loss_b in nats a token, and what is known of the models
    (`FIELDS`), with _a and _b where they differ; noise, where seeds tell it, is the standard deviation of
    the log loss of one run (0.005: half a percent); equal_params and note are for people. A line that
    begins with # is a comment.

    Raises:
        InvalidInput: the file cannot be read, a column is not known, a loss is in another unit, a number is
            missing or not above 0, or a row compares a model with itself; the message says which.

    >>> table = load_contrasts()
    >>> len(set(table.study)), str(table.name[0]), round(100 * float(table.log_ratio[0]), 2)
    (6, 'tpa_medium_mqa', -0.27)
    """
    where = str(path) if path not in _SHIPPED else _SHIPPED[path]
    if path in _SHIPPED:
        found, _ = parse_table((files("scalesim.data") / where).read_text(encoding="utf-8"), where)
        notes: list[str] = []
    else:
        found, notes = read_table(str(path), "contrasts")
    columns = list(found)
    _check_columns(columns, where)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*found.values(), strict=True)]
    table = _table(rows, columns, where)
    return replace(table, notes=(*table.notes, *notes))


def _check_columns(columns: list[str], where: str) -> None:
    for name in columns:
        stem = name.removesuffix("_a").removesuffix("_b")
        unit = next((u for word, u in _OTHER_UNITS.items() if word in stem.lower().split("_")), None)
        if unit is not None:
            raise InvalidInput(
                f"{where}: column {name} holds {unit}; loss_a and loss_b in nats a token are needed "
                f"({'log(perplexity)' if unit == 'perplexity' else 'bits times log 2, by the token'})."
            )
        if name not in (*_TEXT, "noise") and stem not in (*FIELDS, "loss"):
            fields = (f"{f}{e}" for f in FIELDS for e in ("", "_a", "_b"))
            known = (*_TEXT, "noise", *fields, "loss_a", "loss_b")
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; a model's fields are {', '.join(FIELDS)}."
            raise InvalidInput(f"{where}: column {name!r} is not known{hint}")
    for needed in ("loss_a", "loss_b", "source"):
        if needed not in columns:
            raise InvalidInput(f"{where} has no column {needed}; its columns are {', '.join(columns)}.")


def _table(rows: list[dict[str, str]], columns: list[str], where: str) -> ContrastTable:
    names = [row.get("id") or f"row {i + 1}" for i, row in enumerate(rows)]

    def numbers(column: str, needed: bool) -> np.ndarray:
        values = []
        for name, row in zip(names, rows, strict=True):
            text = row.get(column, "")
            try:
                value = float(text) if text or needed else np.nan
            except ValueError:
                raise InvalidInput(f"{where}: {column} of {name} is {text!r}, which is no number.") from None
            if (not value > 0 and not np.isnan(value)) or np.isinf(value):
                raise InvalidInput(f"{where}: {column} of {name} must be positive, but is {text}.")
            values.append(value)
        return np.array(values)

    sides: dict[str, dict[str, np.ndarray]] = {}
    for side in "ab":
        held = {f: numbers(f, False) for f in FIELDS if f in columns}
        sides[side] = held | {f: numbers(f"{f}_{side}", False) for f in FIELDS if f"{f}_{side}" in columns}
    losses = [numbers(f"loss_{side}", True) for side in "ab"]
    for column, values in zip(("loss_a", "loss_b"), losses, strict=True):
        for name, value in zip(names, values, strict=True):
            if not _LOSSES[0] < value < _LOSSES[1]:
                raise InvalidInput(
                    f"{where}: {column} of {name} is {value:g}, which no loss in nats a token is "
                    f"({_LOSSES[0]} to {_LOSSES[1]}); perplexities want a logarithm, bits a factor log 2."
                )
    noise = numbers("noise", False)
    for name, value in zip(names, noise, strict=True):
        if value > _NOISIEST:
            raise InvalidInput(
                f"{where}: noise of {name} is {value:g}: the standard deviation of a log loss is wanted "
                f"(0.005 is half a percent), at most {_NOISIEST}."
            )
    for i, name in enumerate(names):
        pairs = [(sides["a"][f][i], sides["b"][f][i]) for f in sides["a"] if f in sides["b"]]
        if all(x == y or (np.isnan(x) and np.isnan(y)) for x, y in pairs):
            raise InvalidInput(f"{where}: the models of {name} differ in no field, so they compare nothing.")
    source, corpus = (np.array([row.get(c, "") for row in rows]) for c in ("source", "corpus"))
    table = ContrastTable(
        sides["a"], sides["b"], losses[0], losses[1], np.array(names), source, corpus, noise=noise
    )
    return replace(table, notes=tuple(_notes(table, where)))


def _notes(table: ContrastTable, where: str) -> list[str]:
    """Say which studies have one row, and which rows contradict each other."""
    notes, study, ratio = [], table.study, table.log_ratio
    for source in dict.fromkeys(study):
        if np.sum(study == source) == 1:
            name = table.name[study == source][0]
            notes.append(f"{where}: {source} has one comparison ({name}): its own noise cannot be separated.")
    sides = [np.stack([side[f] for f in sorted(side)]) for side in (table.a, table.b)]
    for i in range(len(table)):
        for j in range(i):
            if study[i] != study[j] or table.corpus[i] != table.corpus[j]:
                continue
            for other, sign in ((sides, 1), (sides[::-1], -1)):
                same = len(sides[0]) == len(sides[1]) and all(
                    np.array_equal(mine[:, i], theirs[:, j], equal_nan=True)
                    for mine, theirs in zip(sides, other, strict=True)
                )
                if same and abs(ratio[i] - sign * ratio[j]) > _APART:
                    apart = 100 * abs(ratio[i] - sign * ratio[j])
                    notes.append(
                        f"{where}: {table.name[j]} and {table.name[i]} compare the same two models and "
                        f"contradict each other by {apart:.1f}% of loss; both are kept, as two measurements."
                    )
    return notes
