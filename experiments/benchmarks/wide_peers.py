"""The wide search beside scipy, Optuna and pymoo on the same constrained problems.

    python -m experiments.benchmarks.wide_peers [--problems 24] [--seconds 5] [--peers PYTHON]

`--peers` names an interpreter that has scipy, optuna and pymoo beside this package's own requirements (a
virtual environment of its own; this one by default); a peer that it lacks is left out with the reason. All
peers call the same compiled function of one or many whole designs, each brought to the target loss as ours
are, ranked by cost and, where a limit is broken, by how far (Deb's rule). SLSQP has the relaxation with its
exact gradients, our rounding and many starts. Compilation is not counted, for anyone. Each peer has
`--seconds` a problem, or until it has found as good a design as ours; from its trace come what it had found
after our number of evaluations and after our time, and when it had found as good.

Writes results/wide_peers.csv, a row for each problem and peer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.wide_problems import CASES, OBJECTIVES, Drawn, cases, draw, problem_of, query_of
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.families import FIGURE
from scalesim.search import stack_queries
from scalesim.search.wide import build, settled

__all__ = ["main"]

PEERS = ("scipy differential_evolution", "scipy SLSQP, many starts", "Optuna TPE", "pymoo GA")
COMPARED = ("tokens and KV precision",)
"""The lattices: that of seven axes."""
AS_GOOD = 1e-6
POPULATION = 64


class Enough(Exception):
    """The peer's time is up, or it has found as good a design as ours."""


class Trace:
    """What a peer has found, when, and after how many evaluations."""

    def __init__(self, merit: Callable[[np.ndarray], np.ndarray], seconds: float, goal: float) -> None:
        self.merit, self.seconds, self.goal = merit, seconds, goal
        self.best, self.evaluations = np.inf, 0
        self.points: list[tuple[float, int, float]] = []
        self.start = time.perf_counter()

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """Return the merit of designs (n, 7)."""
        return self.told(self.merit(index), len(index))

    def told(self, merit: np.ndarray, evaluations: int) -> np.ndarray:
        self.evaluations += evaluations
        elapsed = time.perf_counter() - self.start
        if len(merit) and merit.min() < self.best:
            self.best = float(merit.min())
            self.points.append((elapsed, self.evaluations, self.best))
        if elapsed > self.seconds or self.best <= self.goal:
            raise Enough
        return merit


def differential_evolution(trace: Trace, sizes: np.ndarray, free: list[int], seed: int, _: Any) -> None:
    from scipy.optimize import differential_evolution as de

    def merit(x: np.ndarray) -> np.ndarray:
        return trace(placed(np.round(x.T).astype(int), sizes, free))

    bounds = [(0, sizes[i] - 1) for i in free]
    for again in range(1000):  # a converged population starts anew
        de(
            merit, bounds, integrality=[True] * len(free), vectorized=True, updating="deferred", polish=False,
            popsize=POPULATION // len(free) + 1, maxiter=10_000, tol=0,
            rng=np.random.default_rng(seed + again),
        )  # fmt: skip


def slsqp(trace: Trace, sizes: np.ndarray, free: list[int], seed: int, relaxed: Any) -> None:
    from scipy.optimize import minimize

    value, limits, rounded, dimensions = relaxed
    rng = np.random.default_rng(seed)

    def counted(x: np.ndarray) -> tuple[float, np.ndarray]:
        trace.told(np.array([]), 1)
        f, g = value(x)
        return float(f), np.asarray(g)

    while True:
        found = minimize(
            counted, rng.uniform(0.05, 0.95, dimensions), jac=True, method="SLSQP",
            bounds=[(0, 1)] * dimensions,
            constraints={
                "type": "ineq",
                "fun": lambda x: -np.asarray(limits(x)[0]),
                "jac": lambda x: -np.asarray(limits(x)[1]),
            },
            options={"maxiter": 60},
        )  # fmt: skip
        if np.isfinite(found.x).all():
            trace(np.asarray(rounded(np.clip(found.x, 0, 1))))


def tpe(trace: Trace, sizes: np.ndarray, free: list[int], seed: int, _: Any) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def merit(trial: Any) -> float:
        place = np.array([[trial.suggest_int(str(i), 0, int(sizes[i]) - 1) for i in free]])
        return float(trace(placed(place, sizes, free))[0])

    study.optimize(merit, n_trials=10**9)


def genetic(trace: Trace, sizes: np.ndarray, free: list[int], seed: int, _: Any) -> None:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem as Posed
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Whole(Posed):
        def __init__(self) -> None:
            super().__init__(
                n_var=len(free), n_obj=1, xl=0, xu=np.array([sizes[i] - 1 for i in free]), vtype=int
            )

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = trace(placed(np.asarray(x, int), sizes, free))[:, None]

    for again in range(1000):
        algorithm = GA(
            pop_size=POPULATION,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=0.9, eta=20, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        minimize(Whole(), algorithm, ("n_gen", 400), seed=seed + again, verbose=False)


RUN = dict(zip(PEERS, (differential_evolution, slsqp, tpe, genetic), strict=True))


def placed(chosen: np.ndarray, sizes: np.ndarray, free: list[int]) -> np.ndarray:
    index = np.zeros((len(chosen), len(sizes)), int)
    index[:, free] = chosen
    return index


def compiled(name: str) -> tuple[Any, Any]:
    """Return (query -> merit of whole designs) and (query -> the relaxation SLSQP gets) of one lattice."""
    from scalesim.search.relaxation import Descended
    from scalesim.search.wide import _rounded

    case = cases()[CASES.index(name)]
    problem, space = problem_of(case), case.space
    axes = space.axes(FIGURE)

    @jax.jit
    def merit(query: Any, index: Any) -> Any:
        return build(problem, query, space, index).merits[0]

    def at(query: Any, x: Any) -> Any:
        n_head, n_kv_head, freed = space.relaxed_at(x[None], FIGURE)
        return (
            n_head,
            n_kv_head,
            freed,
            problem.sized(query, n_head, n_kv_head, freed=freed, tolerance=np.inf),
        )

    def log_cost(x: Any, query: Any) -> Any:
        *_, freed, sized = at(query, x)
        asked = freed.asked(query)
        return jnp.log(asked.objective(sized.shape, asked.workload))[0]

    def excesses(x: Any, query: Any) -> Any:
        *_, freed, sized = at(query, x)
        asked = freed.asked(query)
        found = [c.excess(sized.shape, asked.workload) for c in asked.constraints]
        return jnp.maximum(jnp.stack(found + space.size_excesses(sized.shape))[:, 0], -5.0)

    @jax.jit
    def rounded(x: Any, query: Any) -> Any:
        n_head, n_kv_head, freed, sized = at(query, x)
        ends = Descended(n_head=n_head, n_kv_head=n_kv_head, freed=freed, sized=sized)
        return jnp.clip(_rounded(space, axes, FIGURE, ends), 0, axes.sizes - 1)

    value = jax.jit(jax.value_and_grad(log_cost))
    limits = jax.jit(lambda x, query: (excesses(x, query), jax.jacrev(excesses)(x, query)))
    dimensions = space.starts(FIGURE).shape[1]

    def relaxed(query: Any) -> Any:
        return (
            lambda x: value(x, query),
            lambda x: limits(x, query),
            lambda x: rounded(x, query),
            dimensions,
        )

    def merit_of(query: Any) -> Callable[[np.ndarray], np.ndarray]:
        def of(index: np.ndarray) -> np.ndarray:
            # Filled up to a few lengths, so that nothing compiles while the clock runs.
            length = next(n for n in (1, POPULATION, 256, 1024) if n >= len(index))
            filled = np.concatenate([index, np.repeat(index[-1:], length - len(index), axis=0)])
            return np.asarray(merit(query, filled))[: len(index)]

        return of

    return merit_of, relaxed


def run_peers(asked: dict[str, Any]) -> None:
    """Run every peer that is there on the problems of a file's content, and print a JSON line for each."""
    for name, goals in asked["goals"].items():
        drawn = problems_of(name, asked["problems"])
        axes = cases()[CASES.index(name)].space.axes(FIGURE)
        merit_of, relaxed = compiled(name)
        for i, (problem, goal) in enumerate(zip(drawn, goals, strict=True)):
            query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query_of(problem))
            merit, loose = merit_of(query), relaxed(query)
            if not i:
                middle = np.full(loose[3], 0.5)
                near = np.asarray(loose[2](middle))
                for n in (1, POPULATION, 256, 1024):
                    merit(np.resize(near, (n, near.shape[1])))
                jax.block_until_ready((loose[0](middle), loose[1](middle)))
            for peer, run in RUN.items():
                trace = Trace(merit, asked["seconds"], goal + AS_GOOD)
                said = None
                try:
                    run(trace, axes.sizes, axes.free, i, loose)
                except Enough:
                    pass
                except ImportError as error:
                    said = str(error)
                line = {"lattice": name, "problem": i, "peer": peer, "trace": trace.points, "absent": said,
                        "evaluations": trace.evaluations}  # fmt: skip
                print(json.dumps(line), flush=True)


def problems_of(name: str, count: int) -> list[Drawn]:
    return list(draw(cases()[CASES.index(name)], count, seed=100 + CASES.index(name)))


def ours(name: str, count: int) -> list[dict[str, float]]:
    """Return our answers, each question alone: log cost, seconds (warm), evaluations."""
    case, drawn = cases()[CASES.index(name)], problems_of(name, count)
    problem, answers = problem_of(case), []
    settled(problem, stack_queries([query_of(drawn[0])]), case.space)
    for d in drawn:
        query, times = stack_queries([query_of(d)]), []
        for _ in range(3):
            start = time.perf_counter()
            found = settled(problem, query, case.space)
            times.append(time.perf_counter() - start)
        answers.append(
            {
                "merit": float(np.log(found.built.cost[0, 0])),
                "seconds": float(np.median(times)),
                "evaluations": int(found.evaluations[0] + found.gradients[0]),
            }
        )
    return answers


def compared(line: dict[str, Any], answer: dict[str, float], seconds: float, drawn: Drawn) -> Row:
    """Return what a peer had found after our evaluations and our time, and when it had as good."""

    def excess(points: list[Any]) -> float | None:
        best = min((p[2] for p in points), default=np.inf)
        return None if best > 1e5 else 100 * float(np.expm1(best - answer["merit"]))

    trace = line["trace"]
    good = [p[0] for p in trace if p[2] <= answer["merit"] + AS_GOOD]
    better = min((p[2] for p in trace), default=np.inf) - answer["merit"]
    return {
        "lattice": line["lattice"],
        "problem": line["problem"],
        "objective": OBJECTIVES[drawn.objective],
        "constraints": drawn.binding,
        "peer": line["peer"],
        "our_s": answer["seconds"],
        "our_evaluations": answer["evaluations"],
        "excess_percent_at_our_evaluations": excess([p for p in trace if p[1] <= answer["evaluations"]]),
        "excess_percent_at_our_time": excess([p for p in trace if p[0] <= answer["seconds"]]),
        "excess_percent_at_the_end": excess(trace),
        "better_than_ours": bool(better < -AS_GOOD),
        "as_good_after_s": good[0] if good else None,
        "gave_up_after_s": None if good else seconds,
        "evaluations": line["evaluations"],
    }


def main(
    folder: Path = RESULTS, problems: int = 24, seconds: float = 5.0, python: str | None = None
) -> list[Row]:
    with jax.enable_x64(True):
        answers = {name: ours(name, problems) for name in COMPARED}
        drawn = {name: problems_of(name, problems) for name in COMPARED}
    goals = {name: [a["merit"] for a in some] for name, some in answers.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"goals": goals, "problems": problems, "seconds": seconds}, file)
        file.flush()
        command = [python or sys.executable, "-m", "experiments.benchmarks.wide_peers", "--inside", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        print(f"The peers did not run: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    lines = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
    for peer in PEERS:
        why = {line["absent"] for line in lines if line["peer"] == peer and line["absent"]}
        if why:
            print(f"{peer}: absent ({why.pop()}); --peers names an interpreter that has it")
    rows = [
        compared(x, answers[x["lattice"]][x["problem"]], seconds, drawn[x["lattice"]][x["problem"]])
        for x in lines
        if not x["absent"]
    ]
    write_csv(folder / "wide_peers.csv", rows)
    print_rows(
        f"The wide search beside its peers ({machine_load()})", [summary(p, rows) for p in PEERS if rows]
    )
    print(said(rows))
    return rows


def _as_good(rows: list[Row], key: str) -> int:
    return sum(row[key] is None or row[key] >= -100 * AS_GOOD for row in rows)


def summary(peer: str, rows: list[Row]) -> Row:
    own = [row for row in rows if row["peer"] == peer]
    times = [(row["as_good_after_s"] or row["gave_up_after_s"]) / row["our_s"] for row in own]
    ends = [row["excess_percent_at_our_evaluations"] for row in own]
    found = [value for value in ends if value is not None]
    return {
        "peer": peer,
        "problems": len(own),
        "ours at least as good, equal evaluations": _as_good(own, "excess_percent_at_our_evaluations"),
        "equal time": _as_good(own, "excess_percent_at_our_time"),
        "its median excess %, equal evaluations": float(np.median(found)) if found else None,
        "nothing feasible": len(ends) - len(found),
        "ever as good": sum(row["as_good_after_s"] is not None for row in own),
        "ever better": sum(row["better_than_ours"] for row in own),
        "median times our time (or more)": float(np.median(times)) if times else None,
    }


def said(rows: list[Row]) -> str:
    """Return how much sooner ours is than the best peer of each problem."""
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        key = (row["lattice"], row["problem"])
        times = (row["as_good_after_s"] or np.inf) / row["our_s"]
        best[key] = min(best.get(key, np.inf), times)
    if not best:
        return "No peer was there."
    reached = [value for value in best.values() if np.isfinite(value)]
    sooner = sum(value >= 20 for value in best.values())
    middle = (
        f"; there, the best of them took {np.median(reached):.0f} times as long (median)" if reached else ""
    )
    return (
        f"On {len(reached)} of {len(best)} problems some peer found as good a design in its time{middle} "
        f"(median). Ours came at least 20 times sooner than the best of them on {sooner}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers", default=os.environ.get("SCALESIM_PEERS_PYTHON"))
    parser.add_argument("--inside", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is None:
        main(problems=options.problems, seconds=options.seconds, python=options.peers)
    else:
        with jax.enable_x64(True):
            run_peers(json.loads(Path(options.inside).read_text()))
