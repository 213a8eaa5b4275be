"""Kinds of layers beside plain attention at one size and 1,024 tokens: what was said before, and measured.

    python -m experiments.long_runs_mixers --predict    # before grids/mixers.toml is trained
    python -m experiments.long_runs_mixers              # from out/mixers, whose rows it keeps

100 log(loss / loss of the plain model), 8:1 at 39 thousand parameters and 8:4 at 98 thousand, over the seeds
that both have. Of latent attention and shared keys and values published comparisons say something
(`ss.effects`); of windows no evidence that ships does, and what is said is what one of 256 did at 39 thousand
parameters (context_tune.csv), from nothing to twice that, and half of it for every second layer. Writes
long_runs_mixers.csv, and mixers.csv (a row a run).
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.long_runs_check import KEPT

__all__ = ["main"]

TUNED, TRAINED, FOUND = (RESULTS / f"{n}.csv" for n in ("context_tune", "mixers", "long_runs_mixers"))
SIZES = {40: ("8", "1"), 64: ("8", "4")}
KINDS = {
    "window 128": "window",
    "window 128, full": "window",
    "full, shared": "shared keys and values",
    "latent 16": "latent attention",
    "latent 32": "latent attention",
}
SAID = ("d_model", "layers", "predicted_percent", "low", "high")

Rows = list[dict[str, str]]


def _rows(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def _losses(rows: Rows, chosen: Callable[[dict[str, str]], bool]) -> dict[int, float]:
    """Return the losses by seed."""
    return {int(r["seed"]): float(r["loss"]) for r in rows if chosen(r)}


def _plain(width: int) -> dict[int, float]:
    """Return the plain model's losses in the second grid, 20 tokens a parameter, 1,024 tokens."""
    which = (str(width), "1024", *SIZES[width])
    names = ("d_model", "context_length", "n_head", "n_kv_head")
    return _losses(
        _rows(KEPT),
        lambda r: tuple(r[n] for n in names) == which and float(r["n_tokens"]) < 40 * float(r["n_params"]),
    )


def predicted() -> list[Row]:
    """Return what is said of each kind of layers, percent of loss, with its 90%."""
    windowed = _losses(_rows(TUNED), lambda r: r["layers"] == "window 256")[0]
    window = 100 * float(np.log(windowed / _plain(40)[0]))
    found: list[Row] = []
    for width in SIZES:
        for layers, kind in KINDS.items():
            if layers == ("latent 32" if width == 40 else "latent 16"):
                continue
            if kind == "window":
                middle = window * (1 if layers == "window 128" else 0.5)
                low, high = 2 * middle, 0.0
            else:
                effect = ss.effects()[kind]
                middle, reach = effect.percent, 1.645 * effect.spread
                low, high = middle - reach, middle + reach
            values = (width, layers, middle, low, high)
            found.append(dict(zip(SAID, values, strict=True)))
    return found


def measured(said: Rows) -> list[Row]:
    """Return the predictions that are measured, with what was found beside them."""
    trained = _rows(TRAINED)
    found: list[Row] = []
    for row in said:
        which = (row["d_model"], row["layers"])
        mine = _losses(trained, lambda r, which=which: (r["d_model"], r["layers"]) == which)  # type: ignore[misc]
        plain = _plain(int(row["d_model"]))
        seeds = sorted(mine.keys() & plain.keys())
        percents = [100 * float(np.log(mine[s] / plain[s])) for s in seeds]
        percent = float(np.mean(percents)) if percents else float("nan")
        inside = float(row["low"]) <= percent <= float(row["high"]) if percents else None
        each = " ".join(f"{p:.2f}" for p in percents)
        found.append(
            {**{n: row[n] for n in SAID}, "measured_percent": percent, "seeds": each, "inside": inside}
        )
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
        rows = measured(_rows(FOUND))
    print_rows("100 log(loss / loss of the plain model)", rows)
    write_csv(FOUND, rows)


if __name__ == "__main__":
    main()
