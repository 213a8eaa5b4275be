"""What public evidence says of the second grid's equal-size pairs, before they are trained.

`python -m experiments.long_runs_prediction` writes long_runs_predicted.csv: for each size of long_runs.toml
and each of its head configurations beside 8 query heads and 1 KV head, 100 log(loss / loss of 8:1) by the
shipped law, with the 90% interval for a measurement on another corpus. The law sees no context: one row
serves all; `--grid gpu_runs` does so for the third grid. `--sizes` adds to long_runs_sizes.csv: the loss of
8:1 at each size that is not trained yet, from the sizes that are (`ss.own_runs("long")`). Two sizes do not
tell the floor: it is held at 0.3 to 1.2 nats. `--contexts` adds to long_runs_contexts.csv the loss of 8:1 at
each size and longer context that is not trained yet: that at 256 times what the next smaller size lost by the
context, taken to go with the log of the context. The interval reaches from no loss at all to twice that. What
these two files hold, stays.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from scalesim.data import ContrastTable
from scalesim.fitting import ContrastPrediction, predict_contrasts
from scalesim.shape import Shape, count_params
from scalesim.training import load_grid

__all__ = ["BASE", "GRID", "pairs", "predicted"]

GRID = Path(__file__).parent / "grids" / "long_runs.toml"
BASE = (8, 1)
CONTEXTS = (256, 1024, 2048, 4096)
FLOORS = np.linspace(0.3, 1.2, 7)
FIELDS = ("n_head", "n_kv_head", "head_dim", "n_layer", "d_model")


def pairs(grid: Path = GRID) -> list[tuple[Shape, Shape]]:
    """Return the base and each other model of its size, size by size."""
    shapes = sorted(
        {run.shape for run in load_grid(grid).runs}, key=lambda s: (s.d_model, s.n_head, s.n_kv_head)
    )
    base = {s.d_model: s for s in shapes if (s.n_head, s.n_kv_head) == BASE}
    return [(base[s.d_model], s) for s in shapes if s is not base[s.d_model]]


def contrasts(found: list[tuple[Shape, Shape]]) -> ContrastPrediction:
    """Return what the shipped law says of pairs of models, with the interval of another corpus."""

    def side(shapes: list[Shape]) -> dict[str, np.ndarray]:
        columns = {name: np.array([float(getattr(s, name)) for s in shapes]) for name in FIELDS}
        return {**columns, "n_params": np.array([float(count_params(s, "paper")) for s in shapes])}

    unknown = np.full(len(found), np.nan)
    names = np.array([f"{b.d_model}: {b.n_head}:{b.n_kv_head}" for _, b in found])
    sources, corpora = np.full(len(found), "long_runs.toml"), np.full(len(found), "standard library")
    sides = side([a for a, _ in found]), side([b for _, b in found])
    table = ContrastTable(*sides, unknown, unknown, names, sources, corpora)
    return predict_contrasts(ss.named_fit("default"), table)


def predicted(grid: Path = GRID) -> list[Row]:
    """Return a row a pair: sizes, heads, the log ratio of losses in percent, and its interval."""
    found = pairs(grid)
    said = contrasts(found)
    return [
        {
            "n_layer": b.n_layer,
            "d_model": b.d_model,
            "n_params": round(float(count_params(b, "paper"))),
            "n_head": b.n_head,
            "n_kv_head": b.n_kv_head,
            "predicted_percent": said.percent[i],
            "low": said.low[i],
            "high": said.high[i],
        }
        for i, (_, b) in enumerate(found)
    ]


def sizes() -> list[Row]:
    """Return the loss of the base at each untrained size and context: the middle of the floors, the ends."""
    runs = ss.own_runs("long")
    rows: list[Row] = []
    for context in np.unique(runs["context_length"]):
        near = runs.take((runs["context_length"] == context) & (runs["n_tokens"] < 40 * runs["n_params"]))
        known = set(near["d_model"].tolist())
        new = [base for base in {a.d_model: a for a, _ in pairs()}.values() if base.d_model not in known]
        if len(known) < 2:
            continue
        laws = [ss.fit("power", near, fixed={"E": floor}).law for floor in FLOORS]
        for base in new:
            n_params = float(count_params(base, "paper"))
            losses = [float(law.loss({"n_params": n_params})) for law in laws]
            rows.append(
                {
                    "context_length": int(context),
                    "d_model": base.d_model,
                    "n_params": round(n_params),
                    "from_runs": len(near),
                    "predicted": float(np.median(losses)),
                    "low": min(losses),
                    "high": max(losses),
                }
            )
    return rows


def contexts() -> list[Row]:
    """Return the loss of the base at each longer context that is not trained yet."""
    runs = ss.own_runs("long")
    base = (runs["n_head"] == BASE[0]) & (runs["n_kv_head"] == BASE[1])
    near = runs.take(base & (runs["n_tokens"] < 40 * runs["n_params"]))
    losses: dict[tuple[int, int], list[float]] = {}
    for width, context, loss in zip(near["d_model"], near["context_length"], near.loss, strict=True):
        losses.setdefault((int(width), int(context)), []).append(float(loss))
    known = {key: float(np.mean(each)) for key, each in losses.items()}
    short = CONTEXTS[0]
    slopes = {
        width: float(np.log(loss / known[width, short]) / np.log(context / short))
        for (width, context), loss in sorted(known.items())
        if context > short
    }
    return [
        {
            "d_model": width,
            "context_length": context,
            "from_width": near_by,
            "from_runs": len(near),
            "predicted": loss * (context / short) ** slopes[near_by],
            "low": loss,
            "high": loss * (context / short) ** (2 * slopes[near_by]),
        }
        for (width, trained), loss in sorted(known.items())
        if trained == short
        for context in CONTEXTS[1:]
        if (width, context) not in known
        for near_by in [max((w for w in slopes if w <= width), default=None)]
        if near_by is not None
    ]


def added(name: str, rows: list[Row], by: tuple[str, ...]) -> list[Row]:
    """Return what a file of predictions holds, and what is new."""
    held: list[Row] = []
    if (RESULTS / name).exists():
        with (RESULTS / name).open() as file:
            held = list(csv.DictReader(file))
    there = {tuple(str(row[n]) for n in by) for row in held}
    return [*held, *(row for row in rows if tuple(str(row[n]) for n in by) not in there)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", action="store_true", help="the losses of larger sizes")
    parser.add_argument("--contexts", action="store_true", help="the losses at longer contexts")
    parser.add_argument("--grid", default=GRID.stem, help="whose pairs (gpu_runs: the third grid's)")
    options = parser.parse_args()
    if options.sizes:
        name, rows = "long_runs_sizes.csv", sizes()
        rows = added(name, rows, ("context_length", "d_model", "from_runs"))
    elif options.contexts:
        name, rows = "long_runs_contexts.csv", contexts()
        rows = added(name, rows, ("d_model", "context_length", "from_width"))
    else:
        grid = GRID.with_stem(options.grid)
        name, rows = f"{grid.stem}_predicted.csv", predicted(grid)
    print_rows(name, rows)
    write_csv(RESULTS / name, rows)


if __name__ == "__main__":
    main()
