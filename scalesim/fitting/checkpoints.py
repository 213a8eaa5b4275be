"""Rows that are checkpoints of one run, and so not as many measurements as there are rows."""

from __future__ import annotations

import numpy as np

from scalesim.data.runs import RunTable

__all__ = ["checkpoints"]

FEWEST = 5
"""Rows of one model, at least, before they are taken for checkpoints."""
UNEVEN = 0.05
"""Gaps between checkpoints differ by at most this share of the smallest gap, or are its multiples."""
_SHAPE = ("n_params", "n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "context_length")


def checkpoints(runs: RunTable) -> str:
    """Return a sentence if many rows look like checkpoints of one run, else "".

    Checkpoints are rows of one model (equal n_params, and shape where it is known) at evenly spaced
    tokens; sizes of data that somebody chose are spaced as a geometric series, and few.

    >>> steps = np.arange(1.0, 21.0) * 1e9
    >>> table = RunTable({"n_params": np.full(20, 1e8), "n_tokens": steps}, 2 + 9 * steps**-0.1)
    >>> checkpoints(table)[:44]
    '20 of 20 rows look like checkpoints of 1 run'
    >>> checkpoints(RunTable({"n_params": np.full(8, 1e8), "n_tokens": 2.0 ** np.arange(30, 38)}, np.ones(8)))
    ''
    """
    if "n_params" not in runs.columns or "n_tokens" not in runs.columns:
        return ""
    known = [runs[name] for name in _SHAPE if name in runs.columns]
    models, index = np.unique(np.stack(known, axis=1), axis=0, return_inverse=True)
    inside = [np.flatnonzero(index.ravel() == i) for i in range(len(models))]
    found = [len(rows) for rows in inside if _evenly_spaced(runs["n_tokens"][rows])]
    if sum(found) < len(runs) / 2:
        return ""
    plural = "run" if len(found) == 1 else "runs"
    return (
        f"{sum(found)} of {len(runs)} rows look like checkpoints of {len(found)} {plural}: their errors go "
        "together, so errors from the curvature or from resampled rows are far too small. Resample whole "
        "runs: group the rows by the run (--group COLUMN) and use kind 'cluster' (--kind cluster "
        "--bootstrap 1000), or keep each run's last row."
    )


def _evenly_spaced(tokens: np.ndarray) -> bool:
    """Tell whether most gaps between these are one gap, or small multiples of it."""
    tokens = np.unique(tokens)
    if len(tokens) < FEWEST:
        return False
    gaps = np.diff(tokens)
    times = gaps / np.median(gaps)
    whole = np.abs(times - np.round(times)) <= UNEVEN
    return bool(np.mean(whole) > 0.8 and np.mean(np.round(times) == 1) > 0.5)
