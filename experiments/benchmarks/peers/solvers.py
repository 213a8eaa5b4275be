"""The peers: scipy's differential_evolution and SLSQP, Optuna's TPE and pymoo's GA, run until time is up.

Each takes whole numbers and limits by its own means. Settings are the peers' defaults but where a comment
says otherwise; those were chosen, for the peers, on other problems than the benchmark's (seed 900).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers.posed import Posed, Trace

__all__ = ["PEERS"]


def differential_evolution(posed: Posed, trace: Trace, seed: int) -> None:
    """Run scipy's: 15 members a variable, best1bin, limits by Lampinen's rule; converged, it starts anew."""
    from scipy.optimize import NonlinearConstraint
    from scipy.optimize import differential_evolution as evolve

    known: dict[bytes, float] = {}

    def limits(x: np.ndarray) -> np.ndarray:
        # One call measures both; scipy then asks for the cost of the designs that keep the limits.
        rows = np.ascontiguousarray(x.T).reshape(-1, len(posed.lower))
        log_cost, excess = trace(rows)
        known.clear()
        known.update(zip((row.tobytes() for row in rows), log_cost.tolist(), strict=True))
        return excess.T if x.ndim == 2 else excess[0]

    def cost(x: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(x.T)
        if not posed.limits:
            return trace(rows)[0]
        return np.array([known[row.tobytes()] for row in rows])

    constraints = (NonlinearConstraint(limits, -np.inf, 0.0),) if posed.limits else ()
    for again in range(100_000):
        evolve(
            cost, list(zip(posed.lower, posed.upper, strict=True)), integrality=posed.whole,
            constraints=constraints, vectorized=True, updating="deferred", polish=False,
            # Costs are logs, so their spread is compared with a number, not with their mean.
            tol=0, atol=1e-6, rng=np.random.default_rng([seed, again]),
        )  # fmt: skip


def slsqp(posed: Posed, trace: Trace, seed: int) -> None:
    """Run scipy's SLSQP from random starts, with exact gradients, and try whole designs where each ends."""
    from scipy.optimize import minimize

    loose, rng = posed.loose, np.random.default_rng(seed)
    seen: set[bytes] = set()
    memo: dict[bytes, Any] = {}

    def at(x: np.ndarray) -> Any:
        if (key := x.tobytes()) not in memo:
            trace.count(1)
            memo.clear()
            memo[key] = [np.asarray(a) for a in loose.at(x)]
        return memo[key]

    while True:
        found = minimize(
            lambda x: (float(at(x)[0]), at(x)[1]), rng.uniform(loose.lower, loose.upper), jac=True,
            method="SLSQP", bounds=list(zip(loose.lower, loose.upper, strict=True)),
            constraints={"type": "ineq", "fun": lambda x: -at(x)[2], "jac": lambda x: -at(x)[3]},
        )  # fmt: skip
        if np.isfinite(found.x).all():
            places = loose.near(np.clip(found.x, loose.lower, loose.upper))
            if places.tobytes() not in seen:  # many starts end at one place
                seen.add(places.tobytes())
                loose.tried(places, trace)


def tpe(posed: Posed, trace: Trace, seed: int) -> None:
    """Run Optuna's TPE, its multivariate default, limits by `Trial.set_constraint`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def tried(trial: Any) -> float:
        x = [
            trial.suggest_int(str(i), int(low), int(high))
            if whole
            else trial.suggest_float(str(i), low, high)
            for i, (low, high, whole) in enumerate(zip(posed.lower, posed.upper, posed.whole, strict=True))
        ]
        log_cost, excess = trace(np.array([x], float))
        for i, value in enumerate(excess[0]):
            trial.set_constraint(str(i), float(value))
        return float(log_cost[0])

    study.optimize(tried, n_trials=10**9)


def genetic(posed: Posed, trace: Trace, seed: int) -> None:
    """Run pymoo's GA, real-coded with whole numbers by repair, limits as its G; at 100 generations anew."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.sampling.rnd import FloatRandomSampling
    from pymoo.optimize import minimize

    class Whole(Problem):
        def __init__(self) -> None:
            super().__init__(
                n_var=len(posed.lower), n_obj=1, n_ieq_constr=posed.limits, xl=posed.lower, xu=posed.upper
            )

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
            log_cost, excess = trace(x)
            out["F"] = log_cost[:, None]
            if posed.limits:
                out["G"] = excess

    class RoundWhole(Repair):
        def _do(self, problem: Any, x: np.ndarray, **_: Any) -> np.ndarray:
            return np.where(posed.whole, np.round(x), x)

    for again in range(100_000):
        algorithm = GA(
            pop_size=400,  # of 100 it converges too early, whether it starts anew at 60 or 400 generations
            sampling=FloatRandomSampling(),
            crossover=SBX(prob=0.9, eta=15, repair=RoundWhole()),
            mutation=PM(prob=0.9, eta=20, repair=RoundWhole()),
            repair=RoundWhole(),  # the first population too
            eliminate_duplicates=True,
        )
        minimize(Whole(), algorithm, ("n_gen", 100), seed=seed + 1000 * again, verbose=False)


PEERS: dict[str, Callable[[Posed, Trace, int], None]] = {
    "scipy differential_evolution": differential_evolution,
    "scipy SLSQP, many starts": slsqp,
    "Optuna TPE": tpe,
    "pymoo GA": genetic,
}
