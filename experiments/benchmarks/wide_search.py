"""Two hundred constrained problems on lattices of a million designs: the search beside every design there is.

    python -m experiments.benchmarks.wide_search [--problems 50] [--seed 3000]

On each of the four lattices of `wide_problems`, so many random problems are searched in one compiled call and
answered exhaustively, one design at a time. Writes results/wide_search.csv (a row a problem) and .png, and
prints by lattice: how many answers are within 0.5% of the best feasible one, the largest gap, whether any
answer breaks a limit, and how many times fewer designs were evaluated. An evaluation is the law and the cost
of one design: a whole one that was built (whatever it took to bring it to the loss), or a relaxed one whose
derivatives were taken. The search's constants were set on draws of other seeds (0 to 3).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.wide_problems import (
    CASES,
    OBJECTIVES,
    best_of_all,
    cases,
    draw,
    problem_of,
    query_of,
)
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.design import solve, stack_queries
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save

__all__ = ["main", "solved_case"]

WITHIN = 0.005
SEED = 3000
"""Of the first lattice; the next are those of the others."""


def solved_case(name: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for each problem of one lattice, searched together and then one by one exhaustively."""
    case = cases()[CASES.index(name)]
    drawn = list(draw(case, count, seed))
    queries, problem = stack_queries([query_of(d) for d in drawn]), problem_of(case)
    start = time.perf_counter()
    jax.block_until_ready(solve(problem, queries, case.space))
    cold = time.perf_counter() - start
    start = time.perf_counter()
    found = jax.device_get(solve(problem, queries, case.space))
    warm = time.perf_counter() - start
    rows = []
    assert found.relaxed is not None
    for i, d in enumerate(drawn):
        start = time.perf_counter()
        best, designs = best_of_all(d)
        took = time.perf_counter() - start
        cost = float(found.designs.cost[i, 0])
        evaluations = int(found.evaluations[i] + found.gradients[i])
        rows.append(
            {
                "lattice": name,
                "objective": OBJECTIVES[d.objective],
                "constraints": d.binding,
                "context_length": d.context_length,
                "batch_size": d.batch_size,
                "target_loss": d.target_loss,
                "cost": cost,
                "best": best,
                "gap_percent": 100 * (cost / best - 1),
                "infeasible": not np.isfinite(found.designs.cost[i, 0]),
                "designs": designs,
                "evaluations": evaluations,
                "times_fewer": designs / evaluations,
                "relaxed_gap_percent": 100 * (float(found.relaxed.designs.cost[i]) / best - 1),
                "search_s": warm / count,
                "compile_s": cold - warm,
                "exhaustive_s": took,
            }
        )
    return rows


def main(
    folder: Path = RESULTS, problems: int = 50, names: tuple[str, ...] = CASES, seed: int = SEED
) -> list[Row]:
    with jax.enable_x64(True):
        by_case = {name: solved_case(name, problems, seed + CASES.index(name)) for name in names}
    rows: list[Row] = [row for some in by_case.values() for row in some]
    write_csv(folder / "wide_search.csv", rows)
    draw_gaps(folder / "wide_search.png", by_case)
    print_rows(
        f"The search beside every design ({machine_load()})", [summary(n, r) for n, r in by_case.items()]
    )
    print(said(rows))
    return rows


def summary(name: str, rows: list[dict[str, Any]]) -> Row:
    gaps = np.array([row["gap_percent"] for row in rows])
    return {
        "lattice": name,
        "problems": len(rows),
        "designs": rows[0]["designs"],
        "evaluations": rows[0]["evaluations"],
        "times fewer": min(row["times_fewer"] for row in rows),
        "within 0.5%": int(np.sum(gaps <= 100 * WITHIN)),
        "exactly the best": int(np.sum(gaps <= 1e-6)),
        "largest gap %": float(gaps.max()),
        "infeasible": sum(row["infeasible"] for row in rows),
        "search s": float(np.mean([row["search_s"] for row in rows])),
        "exhaustive s": float(np.mean([row["exhaustive_s"] for row in rows])),
    }


def said(rows: list[Row]) -> str:
    gaps = np.array([row["gap_percent"] for row in rows])
    infeasible = sum(row["infeasible"] for row in rows)
    return (
        f"{np.sum(gaps <= 100 * WITHIN)} of {len(gaps)} within 0.5% of the best feasible design, largest gap "
        f"{gaps.max():.3f}%, {infeasible} infeasible, at least {min(row['times_fewer'] for row in rows):.0f} "
        "times fewer designs evaluated."
    )


def draw_gaps(path: Path, by_case: dict[str, list[dict[str, Any]]]) -> None:
    """Draw each problem's gap to the best of all, and how many designs either way evaluates."""
    with figure(1, 2, (10.0, 4.0), width_ratios=(1.7, 1.0)) as (canvas, (left, right)):
        first = 0
        for i, (name, rows) in enumerate(by_case.items()):
            gaps = np.sort([max(row["gap_percent"], 0.0) for row in rows])
            place = first + np.arange(len(gaps))
            left.plot(place, gaps, "o", ms=3.2, color=BEST)
            if i:
                left.axvline(first - 0.5, color=FAINT, lw=0.8)
            exact = int(np.sum(gaps <= 1e-6))
            left.annotate(
                f"{name}\n{exact} of {len(gaps)} exactly",
                (first + len(gaps) / 2 - 0.5, 0.97),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                fontsize=8,
            )
            first += len(gaps)
        left.axhline(100 * WITHIN, color=BASELINE, lw=1.0, ls=(0, (4, 2)))
        left.annotate("0.5%", (0, 100 * WITHIN), color=BASELINE, va="bottom", fontsize=8)
        left.set(
            title="cost above the best feasible design of all",
            xlabel="problem, by gap within each lattice",
            ylabel="gap (%)",
            xticks=[],
            ylim=(-0.03, 1.5 * max(100 * WITHIN, left.get_ylim()[1])),
        )
        place = np.arange(len(by_case))
        for shift, key, colour, label in (
            (-0.2, "designs", FAINT, "every design"),
            (0.2, "evaluations", BEST, "the search"),
        ):
            values = [np.mean([row[key] for row in rows]) for rows in by_case.values()]
            bars = right.bar(place + shift, values, 0.36, color=colour, label=label)
            right.bar_label(bars, [f"{v:,.0f}" for v in values], fontsize=7, color=INK, padding=2)
        right.set(title="designs evaluated for one problem", yscale="log", ylim=(1e3, 3e7))
        right.set_xticks(place, [name.replace(" and ", " and\n").replace(", ", ",\n") for name in by_case])
        right.tick_params(axis="x", labelsize=8)
        right.legend(fontsize=8, loc="upper right", ncols=2)
        save(canvas, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--seed", type=int, default=SEED, help="of the problems that are drawn")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    main(folder=options.folder, problems=options.problems, seed=options.seed)
