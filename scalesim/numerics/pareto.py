"""What nothing else betters: the exact filter behind every frontier."""

from __future__ import annotations

import numpy as np

from scalesim.errors import InvalidInput

__all__ = ["non_dominated"]

BLOCK = 1024
"""Rows compared with one another at a time."""


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Return which rows [n, m] no other row betters: a mask (n,), exact, where less is better.

    A row betters another where it is at most as large in every column and less in one. Rows that are equal in
    every column do not better each other: all of them stay. A row with a value that is not finite never
    stays.

    Two columns take one sort; more take a pass over the rows in lexicographic order, in which a row can be
    bettered by earlier ones alone, against those kept so far.

    Raises:
        InvalidInput: `values` is not a table of at least one column.

    >>> non_dominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0], [3.0, 1.0]])).tolist()
    [True, True, False, True, True]
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.shape[1]:
        raise InvalidInput(f"values must be [designs, measures], but have the shape {values.shape}.")
    mask = np.zeros(len(values), bool)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(finite):
        return mask
    # Equal rows stay or go together, so one of each is enough to look at.
    rows, copy_of = np.unique(values[finite], axis=0, return_inverse=True)
    keep = _of_two(rows) if rows.shape[1] <= 2 else _of_many(rows)
    mask[finite] = keep[copy_of.reshape(-1)]
    return mask


def _of_two(rows: np.ndarray) -> np.ndarray:
    """Return the mask for distinct sorted rows of one or two columns: those below all before them."""
    if rows.shape[1] == 1:
        return np.arange(len(rows)) == 0
    least: np.ndarray = np.minimum.accumulate(rows[:, 1])
    return np.concatenate([[True], rows[1:, 1] < least[:-1]])


def _of_many(rows: np.ndarray) -> np.ndarray:
    """Return the mask for distinct rows in lexicographic order."""
    keep: np.ndarray = np.ones(len(rows), bool)
    kept = rows[:0]
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        alive = ~_bettered(block, kept)
        block = block[alive]
        # Distinct rows: one that is at most another in every column betters it, unless it is that very row.
        alive[alive] = ~_bettered(block, block, own=True)
        keep[first : first + BLOCK] = alive
        kept = np.concatenate([kept, rows[first : first + BLOCK][alive]])
    return keep


def _bettered(rows: np.ndarray, by: np.ndarray, own: bool = False) -> np.ndarray:
    """Return which rows have one in `by` that is at most as large in every column; `own`: by is rows."""
    found: np.ndarray = np.zeros(len(rows), bool)
    for first in range(0, len(by), BLOCK):
        some = by[first : first + BLOCK]
        at_most: np.ndarray = np.ones((len(rows), len(some)), bool)
        for column in range(rows.shape[1]):
            at_most &= some[None, :, column] <= rows[:, None, column]
        if own:
            np.fill_diagonal(at_most, False)
        found |= at_most.any(axis=1)
    return found
