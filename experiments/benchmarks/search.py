"""A thousand random questions in one call: the gradient search beside the exhaustive one.

`python -m experiments.benchmarks.search` times both cold (compilation and all) and warm, over the paper's 21
candidates, the 119 buildable configurations and those up to 256 heads (beyond the law's evidence: a matter of
time alone), and says how far the gradient search's choice and its bound are from the exhaustive optimum.
Times depend on the machine and on what else it does: its load is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS, Row, machine_load, print_rows, random_queries, shipped, write_csv
from scalesim.design import PAPER, Problem, buildable, exhaustive, gradient_search

__all__ = ["main"]

QUERIES = 1000
REPEATS = 5
LATTICES = {"paper": PAPER, "buildable": buildable(), "buildable to 256 heads": buildable(256)}


def timed(search: Callable[..., Any], *given: Any) -> tuple[float, float, Any]:
    """Return the seconds of a first call, the least of five more, and the result."""
    jax.clear_caches()
    start = time.perf_counter()
    result = jax.block_until_ready(search(*given))
    cold = time.perf_counter() - start
    warm = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(search(*given))
        warm.append(time.perf_counter() - start)
    return cold, min(warm), result


def main(folder: Path = RESULTS, queries: int = QUERIES) -> list[Row]:
    rows: list[Row] = []
    with jax.enable_x64(True):
        problem, asked = Problem(law=shipped()["all evidence"]), random_queries(queries)
        for name, lattice in LATTICES.items():
            cold_g, warm_g, (relaxed, found) = timed(gradient_search, problem, asked, lattice)
            cold_e, warm_e, best = timed(exhaustive, problem, asked, lattice)
            gap = np.asarray(found.design.cost / best.design.cost) - 1
            bound = 1 - np.asarray(relaxed.designs.cost / best.design.cost)
            rows.append(
                {
                    "lattice": name,
                    "configurations": len(lattice.heads),
                    "queries": queries,
                    "gradient_cold_s": cold_g,
                    "gradient_warm_s": warm_g,
                    "exhaustive_cold_s": cold_e,
                    "exhaustive_warm_s": warm_e,
                    "gradient_points_a_query": int(np.max(found.evaluations)),
                    "within_0.1_percent": float(np.mean(gap <= 1e-3)),
                    "same_choice": float(np.mean(np.asarray(found.index) == np.asarray(best.index))),
                    "largest_gap_percent": 100 * float(gap.max()),
                    "bound_violations": int(np.sum(bound < -1e-9)),
                    "largest_bound_violation_percent": 100 * max(0.0, -float(bound.min())),
                    "median_bound_below_percent": 100 * float(np.median(bound)),
                }
            )
    write_csv(folder / "benchmark_search.csv", rows)
    columns: list[Row] = [
        {"": name.replace("_", " "), **{row["lattice"]: row[name] for row in rows}}
        for name in rows[0]
        if name != "lattice"
    ]
    print_rows(f"{queries:,} questions in one call ({machine_load()})", columns)
    return rows


if __name__ == "__main__":
    main()
