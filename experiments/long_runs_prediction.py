"""What public evidence says of the second grid's equal-size pairs, before they are trained.

`python -m experiments.long_runs_prediction` writes long_runs_predicted.csv: for each size of long_runs.toml
and each of its head configurations beside 8 query heads and 1 KV head, 100 log(loss / loss of 8:1) by the
shipped law, with the 90% interval for a measurement on another corpus. The law sees no context: one row
serves all.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    rows = predicted()
    print_rows("100 log(loss / loss of 8:1), by public evidence", rows)
    write_csv(RESULTS / "long_runs_predicted.csv", rows)
