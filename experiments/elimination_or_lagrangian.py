"""Two ways to hold the loss to its target: eliminate the size by a root, or an augmented Lagrangian.

`python -m experiments.elimination_or_lagrangian` solves 200 random questions over real-valued heads. The
library's search eliminates: at any heads N* is a root, differentiated implicitly, so two unknowns are left
and the loss holds at every step. The augmented Lagrangian keeps log N as a third unknown and minimises

    log cost + y c + r/2 c^2,   c = loss - target,   y <- y + r c after every round,

by Adam from the same starts (each at its N*, a help that it would not have elsewhere).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import RESULTS, Row, machine_load, print_rows, random_queries, shipped, write_csv
from scalesim.design import PAPER, Problem, Query
from scalesim.design.lattice import STARTS
from scalesim.design.relaxation import heads_at, relax
from scalesim.numerics.penalty import ITERATIONS
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, paler, save
from scalesim.shape import count_params

__all__ = ["main"]

QUERIES = 200
SCHEDULES = ((4, 10), (8, 25), (10, 100))
"""Rounds of the multiplier, and steps in each."""
PENALTY = 30.0
LEARNING_RATE = 0.12
FEASIBLE = 1e-3
"""Nats by which the loss may miss its target before a start counts as failed."""


def lagrangian(problem: Problem, query: Query, rounds: int, steps: int) -> tuple[Any, Any, Any]:
    """Return the heads and log N of the best start: that of least cost among those that hold the loss."""
    start = jnp.asarray(STARTS)
    low, high = jnp.array([0.0, 0.0, jnp.log(1e5)]), jnp.array([1.0, 1.0, jnp.log(1e14)])

    def parts(x: Any) -> tuple[Any, Any]:
        n_head, n_kv_head = heads_at(x[:2], PAPER.max_head)
        shape = problem.relaxed_shape(x[2], n_head, n_kv_head)
        c = problem.loss_at(x[2], n_head, n_kv_head, query) - query.target_loss
        return jnp.log(query.cost(shape)), c

    def augmented(x: Any, y: Any) -> Any:
        f, c = parts(x)
        return f + y * c + PENALTY / 2 * c**2

    def one(x: Any) -> Any:
        optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, rounds * steps), b1=0.8, b2=0.95)

        def step(state: Any, _: None) -> tuple[Any, None]:
            x, y, moments = state
            updates, moments = optimiser.update(jax.grad(augmented)(x, y), moments)
            x = optax.projections.projection_box(optax.apply_updates(x, updates), low, high)
            return (x, y, moments), None

        def round_(state: Any, _: None) -> tuple[Any, None]:
            (x, y, moments), _ = jax.lax.scan(step, state, length=steps)
            return (x, y + PENALTY * parts(x)[1], moments), None

        (x, _, _), _ = jax.lax.scan(round_, (x, jnp.asarray(0.0), optimiser.init(x)), length=rounds)
        return x

    log_n = problem.size_for_loss(query, *heads_at(start, PAPER.max_head))
    ends = jax.vmap(one)(jnp.concatenate([start, log_n[:, None]], axis=1))
    f, c = jax.vmap(parts)(ends)
    best = ends[jnp.argmin(jnp.where(jnp.abs(c) < FEASIBLE, f, 1e3 + jnp.abs(c)))]
    return (*heads_at(best[:2], PAPER.max_head), best[2])


def eliminated(problem: Problem, query: Query) -> tuple[Any, Any, Any]:
    """Return the heads and log N of the library's relaxed optimum."""
    found = relax(problem, query, PAPER)
    log_n = jnp.log(count_params(found.designs.shape, "paper"))
    return found.n_head, found.n_kv_head, log_n


def grid(problem: Problem, query: Query, size: int = 65) -> tuple[Any, Any, Any]:
    """Return the best of a fine grid over the unit square of heads: what no local search can miss."""
    axis = jnp.linspace(0.0, 1.0, size)
    n_head, n_kv_head = heads_at(jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2), PAPER.max_head)
    sized = problem.sized(query, n_head, n_kv_head)
    best = jnp.argmin(sized.cost)
    log_n = jnp.log(count_params(sized.at(best).shape, "paper"))
    return n_head[best], n_kv_head[best], log_n


@jax.jit
def exact(problem: Problem, queries: Query, ends: Any) -> tuple[Any, Any]:
    """Return the log cost of each end's heads at exactly the target loss, and the loss less the target."""

    def one(query: Query, end: Any) -> tuple[Any, Any]:
        n_head, n_kv_head, log_n = end
        shape = problem.sized(query, n_head[None], n_kv_head[None])
        loss = problem.loss_at(log_n, n_head, n_kv_head, query)
        return jnp.log(shape.cost[0]), loss - query.target_loss

    return jax.vmap(one)(queries, ends)


def timed(solve: Callable[..., Any], problem: Problem, queries: Query) -> tuple[Any, float]:
    """Return the ends of a solver over all queries in one call, and the warm seconds (the least of five)."""
    compiled = jax.jit(lambda problem, queries: jax.vmap(partial(solve, problem))(queries))
    ends = jax.block_until_ready(compiled(problem, queries))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(compiled(problem, queries))
        seconds.append(time.perf_counter() - start)
    return ends, min(seconds)


def main(folder: Path = RESULTS, queries: int = QUERIES) -> list[Row]:
    solvers: dict[str, tuple[Callable[..., Any], int]] = {
        f"elimination, {ITERATIONS} steps": (eliminated, ITERATIONS)
    }
    for rounds, steps in SCHEDULES:
        solve = partial(_with_schedule, rounds=rounds, steps=steps)
        solvers[f"Lagrangian, {rounds} x {steps} steps"] = (solve, rounds * steps)
    with jax.enable_x64(True):
        problem, asked = Problem(law=shipped()["all evidence"]), random_queries(queries, seed=1)
        ends = {name: timed(solve, problem, asked) for name, (solve, _) in solvers.items()}
        judged = {
            name: [np.asarray(v) for v in exact(problem, asked, end)] for name, (end, _) in ends.items()
        }
        on_grid, _ = exact(problem, asked, jax.jit(jax.vmap(partial(grid, problem)))(asked))
    best = np.minimum(np.min([cost for cost, _ in judged.values()], axis=0), np.asarray(on_grid))
    excess = {name: np.exp(cost - best) - 1 for name, (cost, _) in judged.items()}
    rows: list[Row] = [
        {
            "solver": name,
            "queries": queries,
            "gradients_a_query": steps * len(STARTS),
            "warm_ms_for_all": 1e3 * ends[name][1],
            "mean_excess_percent": 100 * float(excess[name].mean()),
            "share_within_0.1_percent": float(np.mean(excess[name] <= 1e-3)),
            "largest_excess_percent": 100 * float(excess[name].max()),
            "median_violation_nats": float(np.median(np.abs(judged[name][1]))),
            "largest_violation_nats": float(np.abs(judged[name][1]).max()),
            "share_of_failures": float(np.mean(np.abs(judged[name][1]) >= FEASIBLE)),
        }
        for name, (_, steps) in solvers.items()
    ]
    write_csv(folder / "elimination_or_lagrangian.csv", rows)
    draw(folder / "elimination_or_lagrangian.png", excess, judged, rows)
    print_rows(f"{queries} questions, one call ({machine_load()})", rows)
    print(sentence(rows))
    return rows


def sentence(rows: list[Row]) -> str:
    """Return which is better, in a sentence."""
    ours, *others = rows
    good = [row for row in others if not row["share_of_failures"] and row["share_within_0.1_percent"] == 1]
    if not good:
        return "No augmented Lagrangian tried solves every question; elimination is better."
    other = min(good, key=lambda row: row["gradients_a_query"])
    slower, miss = other["warm_ms_for_all"] / ours["warm_ms_for_all"], other["largest_violation_nats"]
    return (
        "Elimination is better: the first augmented Lagrangian to solve every question takes "
        f"{other['gradients_a_query']:,} gradients a question to elimination's {ours['gradients_a_query']}, "
        f"{slower:.1f} times as long, and misses the loss by up to {miss:.1g} nats; elimination never does."
    )


def _with_schedule(problem: Problem, query: Query, rounds: int, steps: int) -> Any:
    return lagrangian(problem, query, rounds, steps)


def draw(path: Path, excess: dict[str, Any], judged: dict[str, Any], rows: list[Row]) -> None:
    """Draw the share of questions solved to within any excess of cost, and to within any miss of the loss."""
    names = list(excess)
    colours: list[Any] = [BEST, FAINT, paler(BASELINE, 0.4), BASELINE]
    with figure(1, 2, (10.0, 4.2), sharey=True) as (canvas, axes):
        for name, colour, row in zip(names, colours, rows, strict=True):
            label = f"{name} ({row['warm_ms_for_all']:.0f} ms)"
            width = 2.2 if name == names[0] else 1.4
            for axis, values, floor in (
                (axes[0], 100 * excess[name], 1e-8),
                (axes[1], np.abs(judged[name][1]), 1e-16),
            ):
                x = np.sort(np.maximum(values, floor))
                share = 100 * np.arange(1, len(x) + 1) / len(x)
                axis.step(x, share, where="post", color=colour, lw=width, label=label)
        axes[0].set(
            xscale="log", xlim=(1e-8, 100), xlabel="cost above the best known, at the target loss (%)"
        )
        axes[1].set(xscale="log", xlim=(1e-16, 1), xlabel="miss of the target loss (nats)", ylim=(0, 102))
        axes[0].set_ylabel("questions (%)")
        axes[0].axvline(0.1, color=INK, lw=0.7, ls=":")
        axes[1].axvline(FEASIBLE, color=INK, lw=0.7, ls=":")
        title = f"{rows[0]['queries']} questions: share solved to within ..."
        canvas.suptitle(title, x=0.01, ha="left", weight="bold")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        save(canvas, path)


if __name__ == "__main__":
    main()
