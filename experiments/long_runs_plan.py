"""Which head configurations the second grid of our own needs most, by public evidence.

`python -m experiments.long_runs_plan` ranks one run more of each head configuration of long_runs.toml by how
much it would shrink the uncertainty of a design's cost at 128K (`ss.next_runs`), under the paper's form of
law fitted to the paper's runs. Our first grid cannot be asked: it does not tell the exponent of KV heads from
nothing, which `ss.next_runs` says.
"""

from __future__ import annotations

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from scalesim.training import load_grid

GRID = "experiments/grids/long_runs.toml"
SIZE = 1e8  # of the candidates, parameters: the ranking of heads is asked for, not that of sizes


def ranked() -> list[Row]:
    """Return each head configuration of the grid, the most useful first."""
    fit = ss.fit(ss.HeadLaw, ss.load_runs("paper"), fixed={"E": 1.97, "k": None, "g": None})
    design = ss.search(fit, ss.Workload(context_length=131_072), 2.615)
    heads = sorted({(r.shape.n_head, r.shape.n_kv_head) for r in load_grid(GRID).runs})
    n_head, n_kv_head = np.array(heads, float).T
    found = ss.next_runs(
        fit, design, {"n_params": np.full(len(heads), SIZE), "n_head": n_head, "n_kv_head": n_kv_head}
    )
    found.sort(key=lambda s: -s.shrinks)
    return [
        {
            "n_head": round(s.run["n_head"]),
            "n_kv_head": round(s.run["n_kv_head"]),
            "error_shrinks_percent": 100 * s.shrinks,
        }
        for s in found
    ]


if __name__ == "__main__":
    rows = ranked()
    print_rows("One run more, the most useful first", rows)
    write_csv(RESULTS / "long_runs_plan.csv", rows)
