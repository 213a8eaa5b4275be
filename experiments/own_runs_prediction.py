"""Our own runs' largest size predicted from the smaller ones: the first two steps of the check.

Laws are compared on the three smaller sizes alone (fitted to two, scored on the third); the best predicts the
largest. `experiments/own_runs_check.py` goes on from there.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import print_rows
from scalesim.fitting import Fit, Squared, predict
from scalesim.fitting.bootstrap import with_bootstrap

LAWS = ("power", "separablehead", "additivehead", "squashedhead")


def fitted(law: str, runs: ss.RunTable) -> Fit:
    """Fit a law with a floor and an amplitude of its own for each context, heads and exponent shared."""
    own = ("E", "A") if law != "power" else ("E", "a")
    by = ("context_length",)
    return ss.fit(law, runs, per_group=own, by=by, noise=Squared(0.01), bounds={"E": (0.3, 1.5)})


def x_of(runs: ss.RunTable, fit: Fit) -> dict[str, np.ndarray]:
    return {name: runs[name] for name in fit.law.fields}


def sizes(runs: ss.RunTable) -> np.ndarray:
    """Return each row's size class, 0 the smallest: by depth and width."""
    keys = runs["n_layer"] * 1e6 + runs["d_model"]
    return np.searchsorted(np.unique(keys), keys)


def chosen_law(small: ss.RunTable) -> tuple[str, list[dict[str, Any]]]:
    """Fit each law to all but the largest of the small sizes, and score it there; return the best's name."""
    size = sizes(small)
    rest, last = small.take(size < size.max()), small.take(size == size.max())
    rows = []
    for law in LAWS:
        fit = fitted(law, rest)
        error = np.asarray(fit.law.loss(x_of(last, fit))) - last.loss
        rows.append(
            {
                "law": law,
                "fit_rms": fit.rms,
                "next_size_rms": float(np.sqrt(np.mean(error**2))),
                "next_size_mean_percent": 100 * float(np.mean(np.abs(error) / last.loss)),
                "status": fit.status,
            }
        )
    best = min(range(len(rows)), key=lambda i: float(str(rows[i]["next_size_rms"])))
    return LAWS[best], rows


def seed_noise(runs: ss.RunTable) -> float:
    """Return the standard deviation of runs that differ in seed alone, nats."""
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "context_length")
    keys = np.stack([runs[n] for n in names], axis=1)
    variances, degrees = [], []
    for key in np.unique(keys, axis=0):
        losses = runs.loss[(keys == key).all(axis=1)]
        if len(losses) > 1:
            variances.append(losses.var(ddof=1) * (len(losses) - 1))
            degrees.append(len(losses) - 1)
    return float(np.sqrt(sum(variances) / sum(degrees))) if degrees else float("nan")


def over_seeds(runs: ss.RunTable) -> tuple[ss.RunTable, np.ndarray]:
    """Return one row a model with the mean loss of its seeds, and how many those are."""
    keys = np.stack([runs[n] for n in ("n_head", "n_kv_head", "context_length")], axis=1)
    _, first, row, count = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
    mean = np.bincount(row.reshape(-1), weights=runs.loss) / count
    one = runs.take(first)
    return ss.RunTable(one.columns, mean, group=one.group, source=runs.source), count


def prediction(runs: ss.RunTable) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Predict the largest size from the others; return a row a run, and the summary."""
    size = sizes(runs)
    small, large = runs.take(size < size.max()), runs.take(size == size.max())
    law, table = chosen_law(small)
    print_rows("Fitted to the two smallest sizes, scored on the third", table)
    fit = with_bootstrap(fitted(law, small), 500)
    large, seeds = over_seeds(large)
    predicted = predict(fit, x_of(large, fit))
    rows = [
        {
            **{n: int(large[n][i]) for n in ("n_head", "n_kv_head", "context_length", "n_params")},
            "seeds": int(seeds[i]),
            "loss": large.loss[i],
            "predicted": predicted.loss[i],
            "run_low": predicted.run_low[i],
            "run_high": predicted.run_high[i],
            "error_percent": 100 * (predicted.loss[i] / large.loss[i] - 1),
            "inside": bool(predicted.run_low[i] <= large.loss[i] <= predicted.run_high[i]),
        }
        for i in range(len(large))
    ]
    noise = seed_noise(runs)
    right = total = 0
    for a, b in itertools.combinations(rows, 2):
        gap, apart = a["loss"] - b["loss"], noise * np.sqrt(1 / a["seeds"] + 1 / b["seeds"])
        if a["context_length"] == b["context_length"] and abs(gap) > apart:
            total += 1
            right += (a["predicted"] - b["predicted"]) * gap > 0
    summary = {
        "law": law,
        "seed_noise_nats": noise,
        "mean_error_percent": float(np.mean([abs(r["error_percent"]) for r in rows])),
        "worst_error_percent": float(np.max([abs(r["error_percent"]) for r in rows])),
        "inside_90": f"{sum(r['inside'] for r in rows)} of {len(rows)}",
        "pairs_ordered_right": f"{right} of {total}",
    }
    return rows, summary
