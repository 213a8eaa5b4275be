"""What public evidence says of the second grid's equal-size pairs, before they are trained.

`python -m experiments.long_runs_prediction` writes long_runs_predicted.csv: for each size of long_runs.toml
and each of its head configurations beside 8 query heads and 1 KV head, 100 log(loss / loss of 8:1) by the
shipped law, with the 90% interval for a measurement on another corpus. The law sees no context: one row
serves all. `--sizes` writes long_runs_sizes.csv: the loss of 8:1 at each size that is not trained yet, from
the sizes that are (`long_runs.csv`). Two sizes do not tell the floor: it is held at 0.3 to 1.2 nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from scalesim.data import ContrastTable
from scalesim.fitting import predict_contrasts
from scalesim.shape import Shape, count_params
from scalesim.training import load_grid

__all__ = ["BASE", "GRID", "pairs", "predicted"]

GRID = Path(__file__).parent / "grids" / "long_runs.toml"
BASE = (8, 1)
FLOORS = np.linspace(0.3, 1.2, 7)
FIELDS = ("n_head", "n_kv_head", "head_dim", "n_layer", "d_model")


def pairs() -> list[tuple[Shape, Shape]]:
    """Return the base and each other model of its size, size by size."""
    shapes = sorted(
        {run.shape for run in load_grid(GRID).runs}, key=lambda s: (s.d_model, s.n_head, s.n_kv_head)
    )
    base = {s.d_model: s for s in shapes if (s.n_head, s.n_kv_head) == BASE}
    return [(base[s.d_model], s) for s in shapes if s is not base[s.d_model]]


def predicted() -> list[Row]:
    """Return a row a pair: sizes, heads, the log ratio of losses in percent, and its interval."""
    found = pairs()

    def side(shapes: list[Shape]) -> dict[str, np.ndarray]:
        columns = {name: np.array([float(getattr(s, name)) for s in shapes]) for name in FIELDS}
        return {**columns, "n_params": np.array([float(count_params(s, "paper")) for s in shapes])}

    unknown = np.full(len(found), np.nan)
    names = np.array([f"{b.d_model}: {b.n_head}:{b.n_kv_head}" for _, b in found])
    sources, corpora = np.full(len(found), "long_runs.toml"), np.full(len(found), "standard library")
    sides = side([a for a, _ in found]), side([b for _, b in found])
    table = ContrastTable(*sides, unknown, unknown, names, sources, corpora)
    said = predict_contrasts(ss.named_fit("default"), table)
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
    runs = ss.load_runs(str(RESULTS / "long_runs.csv"))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", action="store_true", help="the losses of larger sizes, from the smaller ones"
    )
    if parser.parse_args().sizes:
        rows, title, name = sizes(), "Loss of 8:1, nats a byte", "long_runs_sizes.csv"
    else:
        title, name = "100 log(loss / loss of 8:1), by public evidence", "long_runs_predicted.csv"
        rows = predicted()
    print_rows(title, rows)
    write_csv(RESULTS / name, rows)


if __name__ == "__main__":
    main()
