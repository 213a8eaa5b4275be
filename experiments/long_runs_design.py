"""The design question of the second grid: what public evidence would build at 2,048 tokens.

`python -m experiments.long_runs_design` asks the shipped law, which no run of ours entered, for the cheapest
design with the loss of 2 x 64 and 8:8 heads (98 thousand parameters), each token served at 2,048 tokens, and
writes long_runs_design.csv: both shapes, what they cost, and 100 log(loss / loss of 8:8) with its 90%. Both
are trained with seeds that no other run has (grids/long_design.toml), 24 tokens a parameter.
"""

from __future__ import annotations

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.long_runs_prediction import GRID, contrasts
from scalesim.design.lattice import buildable
from scalesim.families import ShapeFamily
from scalesim.shape import Shape, count_params
from scalesim.training import load_grid

SERVED = 2048
BASELINE = Shape(
    n_layer=2, d_model=64, n_head=8, n_kv_head=8, head_dim=16, d_ff=85, vocab_size=256, tied_embeddings=True
)


def family() -> ShapeFamily:
    """Return the aspect ratios of the grid's sizes."""
    found = {run.shape.d_model: run.shape for run in load_grid(GRID).runs}
    shapes = [found[width] for width in sorted(found)]
    logs = [float(np.log(float(count_params(s, "paper")))) for s in shapes]
    aspects = [float(s.d_model / s.n_layer) for s in shapes]
    return ShapeFamily("long_runs.toml", tuple(logs), tuple(aspects), head_dim=16, vocab_size=256)


def asked() -> ss.Design:
    """Return the design for the baseline's loss."""
    law = ss.named_fit("default")
    target = float(
        law.law.loss(
            {
                "n_params": float(count_params(BASELINE, "paper")),
                "n_head": float(BASELINE.n_head),
                "n_kv_head": float(BASELINE.n_kv_head),
                "head_dim": float(BASELINE.head_dim),
            }
        )
    )
    return ss.search(
        law,
        ss.Workload(context_length=SERVED),
        target,
        family=family(),
        lattice=buildable(8, tile=8),
        baseline=BASELINE,
    )


def rows() -> list[Row]:
    """Return a row for the baseline and one for the design."""
    design = asked()
    best = design.best.shape
    said = contrasts([(BASELINE, best)])
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
    found: list[Row] = []
    for name, shape, member in (("baseline", BASELINE, design.baseline), ("design", best, design.best)):
        found.append(
            {
                "model": name,
                **{n: round(float(getattr(shape, n))) for n in names},
                "n_params": round(float(count_params(shape, "paper"))),
                "cost": float(member.objective),
                "predicted_percent": 0.0 if name == "baseline" else float(said.percent[0]),
                "low": 0.0 if name == "baseline" else float(said.low[0]),
                "high": 0.0 if name == "baseline" else float(said.high[0]),
            }
        )
    return found


if __name__ == "__main__":
    table = rows()
    print_rows(f"For the loss of 8:8, served at {SERVED} tokens", table)
    write_csv(RESULTS / "long_runs_design.csv", table)
