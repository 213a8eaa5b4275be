"""A table of training runs: what was trained, and the loss it reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.schema import whole

__all__ = ["RunTable"]


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs, one a row: columns named as in `scalesim.laws.FIELDS`, and the loss reached.

    Attributes:
        columns: each field's values, float64 of shape (rows,).
        loss: nats a token, (rows,); finite and above 0.
        group: a label for each row (a run, a data set, a configuration), or None.
        weight: how much each row counts, at least 0, or None for 1 each.
        error: the measurement error of each loss, in nats, or None if it is not known.
        source: where the rows came from.
        notes: what was converted or dropped on the way, a sentence each.
        unread: columns of the file that were taken for no field.

    Raises:
        InvalidInput: no rows, columns of different lengths, or a value that is not positive and finite;
            the message names the first offending row.

    >>> runs = RunTable({"n_params": [1e8, 1e9]}, [3.0, 2.5])
    >>> len(runs), float(runs["n_params"][1])
    (2, 1000000000.0)
    """

    columns: Mapping[str, Any]
    loss: Any
    group: Any = None
    weight: Any = None
    error: Any = None
    source: str = "given in the call"
    notes: tuple[str, ...] = field(default=())
    unread: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "columns", {k: _vector(k, v) for k, v in self.columns.items()})
        set_(self, "loss", _vector("loss", self.loss))
        if not len(self.loss):
            raise InvalidInput(f"The run table ({self.source}) holds no rows; at least one is needed.")
        for name in ("weight", "error"):
            value = getattr(self, name)
            if value is not None:
                set_(self, name, _vector(name, value))
        if self.group is not None:
            set_(self, "group", np.asarray(self.group).astype(str))
        self._check()

    def _check(self) -> None:
        rows = len(self.loss)
        named = {"loss": self.loss, **self.columns}
        optional = {"weight": self.weight, "error": self.error, "group": self.group}
        for name, values in {**named, **{k: v for k, v in optional.items() if v is not None}}.items():
            if len(values) != rows:
                raise InvalidInput(f"Column {name} has {len(values)} rows, but loss has {rows}.")
        for name, values in named.items():
            bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            if len(bad):
                raise InvalidInput(
                    f"{name} must be positive and finite, but row {bad[0]} of {self.source} holds "
                    f"{values[bad[0]]:g}{f' (and {len(bad) - 1} more rows)' if len(bad) > 1 else ''}."
                )
        if self.weight is not None and not (np.all(self.weight >= 0) and np.any(self.weight > 0)):
            raise InvalidInput("weight must be at least 0 in every row and above 0 in one.")
        if self.error is not None and not np.all(self.error > 0):
            raise InvalidInput("error must be above 0 in every row.")

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, name: str) -> np.ndarray:
        if name == "loss":
            return self.loss
        if name not in self.columns:
            raise InvalidInput(f"The run table ({self.source}) has no column {name}; {self.stated(name)}")
        return self.columns[name]

    def stated(self, missing: str) -> str:
        """Say what the table has, for a message that something is missing."""
        known = f"it has {', '.join([*sorted(self.columns), 'loss'])}."
        if not self.unread:
            return known
        others = ", ".join(map(repr, self.unread[:16]))
        return (
            f"{known} Of the file's columns {others} are no field: --column {missing}=NAME says that one is."
        )

    def take(self, rows: Any) -> RunTable:
        """Return the rows given by a mask or by indices, in that order."""
        optional: dict[str, Any] = {
            k: None if getattr(self, k) is None else getattr(self, k)[rows]
            for k in ("group", "weight", "error")
        }
        columns = {k: v[rows] for k, v in self.columns.items()}
        return replace(self, columns=columns, loss=self.loss[rows], **optional)

    def with_columns(self, **columns: Any) -> RunTable:
        """Return the table with columns added or replaced."""
        return replace(self, columns={**self.columns, **columns})

    def with_group(self, by: str | Sequence[str]) -> RunTable:
        """Return the table grouped by the values of one or more columns.

        >>> runs = RunTable({"n_head": [8, 8, 4], "n_kv_head": [1, 1, 1]}, [3.0, 2.9, 3.1])
        >>> runs.with_group(("n_head", "n_kv_head")).group.tolist()
        ['8,1', '8,1', '4,1']
        """
        names = [by] if isinstance(by, str) else list(by)
        values = np.stack([self[name] for name in names], axis=1)
        return replace(self, group=[",".join(f"{v:g}" for v in row) for row in values])

    def drop_largest(self, count: int) -> RunTable:
        """Return the table without the rows of the `count` largest losses."""
        count = whole(0, len(self) - 1)(count, "drop_largest")
        kept = np.sort(np.argsort(self.loss, kind="stable")[: len(self) - count])
        note = f"{count} rows with the largest losses were dropped."
        return replace(self.take(kept), notes=(*self.notes, note)) if count else self

    @staticmethod
    def concatenate(tables: Iterable[RunTable], names: Sequence[str] | None = None) -> RunTable:
        """Join tables on the columns that all have; `names` label each table's rows as one group."""
        tables = list(tables)
        shared = set.intersection(*(set(t.columns) for t in tables))
        labels = None
        if names is not None:
            labels = np.concatenate(
                [np.full(len(t), name, object) for t, name in zip(tables, names, strict=True)]
            )
        return RunTable(
            {k: np.concatenate([t[k] for t in tables]) for k in tables[0].columns if k in shared},
            np.concatenate([t.loss for t in tables]),
            group=labels,
            source="; ".join(t.source for t in tables),
            notes=tuple(note for t in tables for note in t.notes),
        )


def _vector(name: str, values: Any) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"Column {name} must hold numbers: {error}.") from None
    if vector.ndim != 1:
        raise InvalidInput(f"Column {name} must be one-dimensional, but has shape {vector.shape}.")
    return vector
