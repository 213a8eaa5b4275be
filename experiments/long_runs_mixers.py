"""Kinds of layers beside plain attention at one size and 1,024 tokens: what was said before, and measured.

    python -m experiments.long_runs_mixers --predict    # before grids/mixers.toml is trained
    python -m experiments.long_runs_mixers              # from out/mixers, whose rows it keeps

100 log(loss / loss of plain 8:4 of the same size). Of latent attention and shared keys and values
published comparisons say something (`ss.effects`); of windows no evidence that ships does, and what is said
is what one did at 39 thousand parameters (context_tune.csv), from nothing to twice that, a half of it for
every second layer. Writes long_runs_mixers.csv, and mixers.csv and context_tune.csv (a row a run).
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.long_runs_check import KEPT

__all__ = ["main"]

TUNED, TRAINED, FOUND = (RESULTS / f"{n}.csv" for n in ("context_tune", "mixers", "long_runs_mixers"))
KINDS = {
    "latent 32": "latent attention",
    "full, shared": "shared keys and values",
    "window 128": "window",
    "window 128, full": "window",
}


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _plain(**which: str) -> float:
    """Return the loss of the second grid's run at 1,024 tokens and seed 0."""
    which |= {"context_length": "1024", "seed": "0"}
    rows = [r for r in _rows(KEPT) if which.items() <= r.items()]
    return float(rows[0]["loss"]) if rows else float("nan")


def predicted() -> list[Row]:
    """Return what is said of each kind of layers, percent of loss, with its 90%."""
    [windowed] = [float(r["loss"]) for r in _rows(TUNED) if r["layers"] == "window 256"]
    plain = _plain(d_model="40", n_head="8", n_kv_head="1", n_tokens="1048576")
    window = 100 * float(np.log(windowed / plain))
    found: list[Row] = []
    for layers, kind in KINDS.items():
        if kind == "window":
            middle = window * (1 if layers == "window 128" else 0.5)
            low, high = 2 * middle, 0.0
        else:
            effect = ss.effects()[kind]
            middle, reach = effect.percent, 1.645 * effect.spread
            low, high = middle - reach, middle + reach
        found.append({"layers": layers, "predicted_percent": middle, "low": low, "high": high})
    return found


def measured(said: list[dict[str, Any]]) -> list[Row]:
    """Return the predictions with what was measured beside them."""
    plain = _plain(d_model="64", n_head="8", n_kv_head="4", n_tokens="2359296")
    losses = {r["layers"]: (float(r["loss"]), r["recall"]) for r in _rows(TRAINED)}
    found: list[Row] = []
    for row in said:
        loss, recall = losses.get(row["layers"], (float("nan"), ""))
        percent = 100 * float(np.log(loss / plain))
        inside = float(row["low"]) <= percent <= float(row["high"])
        found.append({**row, "loss": loss, "measured_percent": percent, "inside": inside, "recall": recall})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predict", action="store_true", help="say it before anything is trained")
    parser.add_argument("--kept", action="store_true", help="read the rows that are kept")
    options = parser.parse_args()
    if options.predict:
        rows = predicted()
    else:
        if not options.kept:
            shutil.copy("out/mixers/runs.csv", TRAINED)
        names = ("layers", "predicted_percent", "low", "high")
        rows = measured([{n: r[n] for n in names} for r in _rows(FOUND)])
    print_rows("100 log(loss / loss of plain 8:4)", rows)
    write_csv(FOUND, rows)


if __name__ == "__main__":
    main()
