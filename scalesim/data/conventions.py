"""The several ways in which one run table counts parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalesim.data.runs import RunTable

__all__ = ["conventions", "parameter_counts"]

_COUNTS = re.compile(r"(^|[^a-z])(n_?params|num_?params|params?|parameters?)([^a-z]|$)")
_OTHERWISE = re.compile(
    r"active|ratio|per_|share|fraction|group|token|flop|data|(^|[^n])_?embed(ding)?_params"
)
_SHAPE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
SAME = 1e-3
"""Counts that differ by less than this share in every row are one."""


def parameter_counts(table: Mapping[str, Any], numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a table's counts of parameters beside n_params, by name, for a `RunTable` to keep.

    These are its columns that count parameters, and where the shape stands in its columns, vocabulary
    included, the counts with and without embeddings.

    Args:
        table: the columns as they came.
        numbers: those that were recognised, by field.

    >>> sorted(parameter_counts({"n_params_total": [2e8], "n_params_nonembed": [1e8], "loss": [3.0]}, {}))
    ['n_params_nonembed', 'n_params_total']
    """
    found: dict[str, np.ndarray] = {}
    for name, values in table.items():
        plain = name.lower().strip().replace(" ", "_")
        if plain == "n_params" or not _COUNTS.search(plain) or _OTHERWISE.search(plain):
            continue
        array = np.asarray(values)
        if array.dtype.kind in "iuf" and np.all(np.isfinite(array) & (array > 0)):
            found[plain] = array.astype(float)
    if all(name in numbers for name in _SHAPE) and len(found) < 2:
        from scalesim.shape import Shape, count_params

        given: dict[str, Any] = {name: numbers[name] for name in _SHAPE}
        found["n_params_total"] = np.asarray(count_params(Shape(**given), "total"), float)
        found["n_params_non_embedding"] = np.asarray(count_params(Shape(**given), "non_embedding"), float)
    return found


def conventions(runs: RunTable) -> dict[str, RunTable]:
    """Return the table under each way in which it counts parameters, by name; its own n_params first.

    Tokens stay as they are: where they came from FLOPs, it was by the table's own n_params.

    >>> runs = RunTable({"n_params": [1e8], "n_tokens": [1e9], "n_params_total": [2e8]}, [3.0])
    >>> list(conventions(runs)), float(conventions(runs)["n_params_total"]["n_params"][0])
    (['n_params', 'n_params_total'], 200000000.0)
    """
    if "n_params" not in runs.columns:
        return {"n_params": runs}
    own, same = runs["n_params"], "n_params"
    found: dict[str, RunTable] = {}
    for name in filter(_COUNTS.search, runs.columns):
        if _close(runs[name], own):
            same = name if same == "n_params" else same
        elif not any(_close(runs[name], table["n_params"]) for table in found.values()):
            found[name] = runs.with_columns(n_params=runs[name])
    return {same: runs, **found}


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all(np.abs(one / other - 1) < SAME))
