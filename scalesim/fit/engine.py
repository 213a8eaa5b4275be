"""The fit itself: one compiled call over all starts, and what can be said of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput, Unreachable
from scalesim.fit.coordinates import coefficients
from scalesim.fit.diagnosis import diagnose
from scalesim.fit.noise import Noise
from scalesim.fit.problem import Problem
from scalesim.fit.result import Fit, Optimum
from scalesim.fit.setup import Setup, prepare, start_pool
from scalesim.fit.solver import ANNEAL, Solution, levenberg_marquardt, newton, project

__all__ = ["fit", "solve"]

AGREE = 1e-8
"""Relative difference of objective within which two starts have found the same optimum."""


def fit(
    law: Any,
    evidence: Any,
    *,
    noise: Noise | None = None,
    fixed: Mapping[str, float | None] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    per_group: Sequence[str] = (),
    by: str | Sequence[str] | None = None,
    starts: int | Mapping[str, Any] = 64,
    polish: int | None = None,
    throw: bool = False,
) -> Fit:
    """Fit a law to runs, and to other evidence, from many starts at once.

    Minimises the sum over all rows of weight * rho(residual) (see `Huber`, `Curves`, `Choices`). Starts
    fill the ranges that the law declares; least squares supplies their linear coefficients; the best
    are carried to convergence by robust Levenberg-Marquardt, then Newton,
    in float64 whatever the caller's setting.

    Args:
        law: a law's class, name, or instance, whose coefficients are then one more start.
        evidence: a run table (or what `load_runs` reads), or one or a list of `Points`, `Curves`, `Choices`.
        noise: how the residuals of a run table count; `Huber(1e-3)` in log space by default.
        fixed: coefficients held at a value, {"E": 1.97}; None holds the instance's own.
        bounds: {"E": (1.5, 2.2)}, kept to strictly.
        priors: {"alpha": (0.34, 0.02)}: mean and deviation of a normal prior, which adds
            ((alpha - mean) / deviation)^2 / 2 to the objective.
        per_group: coefficients that each group of the runs has for itself, the others being shared.
        by: columns that tell the group, ("n_head", "n_kv_head"); by default the table's own group.
        starts: how many to draw, or the starts themselves as {"alpha": (K,), ...}.
        polish: how many of the best to carry to convergence; 16 by default, all of given starts.
        throw: raise where the status is "not_converged" or "unidentified".

    Raises:
        InvalidInput: the call was wrong; the message says what would do.
        Unreachable: no start led to a finite objective, or `throw` is set and the fit failed.

    >>> import scalesim as ss
    >>> paper = ss.load_runs("paper").take(slice(0, 6))
    >>> found = fit("power", paper, fixed={"E": 1.97})
    >>> found.status, round(found.law.b, 3)
    ('converged', 0.187)
    """
    with jax.enable_x64(True):
        setup = prepare(
            law, evidence, noise=noise, fixed=fixed, bounds=bounds, priors=priors, per_group=per_group, by=by
        )
        return _finish(setup, solve(setup, starts, polish), throw)


def solve(setup: Setup, starts: int | Mapping[str, Any] = 64, polish: int | None = None) -> Solution:
    """Return where each polished start ended, best first, as NumPy arrays (m, p), (m,), (m,), (m,)."""
    if isinstance(starts, int):
        if starts < 1:
            raise InvalidInput(f"starts must be at least 1, but is {starts}.")
        pool = start_pool(setup, starts)
        keep, projected = min(polish or 16, starts), True
    else:
        pool = _given(setup, starts)
        keep, projected = min(polish or len(pool), len(pool)), False
    own = setup.layout.encode(setup.template, setup.problem.centres)
    ends = _solve(setup.problem, pool, own, keep, projected)
    order = np.argsort(np.where(np.isfinite(ends.objective), ends.objective, np.inf), kind="stable")
    return Solution(*(np.asarray(part)[order] for part in ends))


@partial(jax.jit, static_argnames=("keep", "projected"))
def _solve(problem: Problem, pool: jax.Array, own: jax.Array, keep: int, projected: bool) -> Solution:
    if projected:
        pool, _ = project(problem, pool)
        score = jax.vmap(lambda z: problem.objective(z, ANNEAL))(pool)
        _, best = jax.lax.top_k(-jnp.where(jnp.isnan(score), jnp.inf, score), keep)
        pool = jnp.concatenate([pool[best], own[None, :]])
    z = jax.vmap(lambda z: levenberg_marquardt(problem, z))(pool)
    return jax.vmap(lambda z: newton(problem, z))(z)


def _given(setup: Setup, starts: Mapping[str, Any]) -> np.ndarray:
    """Return the user's starts as points; coefficients that they leave out keep the template's value."""
    own = coefficients(setup.template)
    unknown = [name for name in starts if name not in own]
    if unknown:
        raise InvalidInput(f"starts name {unknown[0]!r}, which is no coefficient; they are {', '.join(own)}.")
    lengths = {len(np.atleast_1d(v)) for v in starts.values()}
    if len(lengths) != 1:
        raise InvalidInput(f"starts must all have one length, but have {sorted(lengths)}.")
    count = lengths.pop()
    values = {
        name: np.asarray(starts[name], float)
        if name in starts
        else np.broadcast_to(np.asarray(value), (count, *np.shape(value)))
        for name, value in own.items()
    }
    return setup.layout.encode_many(values, setup.problem.centres)


def _finish(setup: Setup, ends: Solution, throw: bool) -> Fit:
    if not np.isfinite(ends.objective[0]):
        raise Unreachable(
            f"{type(setup.template).__name__} gave no finite objective at any start; "
            "check its ranges of starts and the data's units."
        )
    best = ends.z[0]
    law = _law(setup, best)
    # Where the law is exact the objective is rounding error, of which nothing relative can be said.
    rounding = 0.0 if setup.points is None else 1e-14 * len(setup.runs)
    agreeing = int(np.sum(ends.objective <= ends.objective[0] * (1 + AGREE) + rounding))
    diagnosis = diagnose(setup, best, agreeing, len(ends.objective), float(ends.gradient_norm[0]))
    found = Fit(
        law=law,
        objective=float(ends.objective[0]),
        gradient_norm=float(ends.gradient_norm[0]),
        starts_agreeing=agreeing,
        starts_polished=len(ends.objective),
        optima=_distinct(setup, ends),
        provenance={"evidence": setup.describe()},
        setup=setup,
        z=best,
        **diagnosis,
    )
    if throw and found.status in ("not_converged", "unidentified"):
        raise Unreachable(found.message)
    return found


def _law(setup: Setup, z: np.ndarray) -> Any:
    """Return the law at z, its coefficients plain floats (or NumPy vectors, by group)."""
    law = jax.tree.map(np.asarray, setup.problem.law(jnp.asarray(z)))
    return jax.tree.map(lambda leaf: float(leaf) if leaf.ndim == 0 else leaf, law)


def _distinct(setup: Setup, ends: Solution, most: int = 5) -> tuple[Optimum, ...]:
    """Group the ends by objective, best first."""
    found: list[Optimum] = []
    values = ends.objective[np.isfinite(ends.objective)]
    at = 0
    while at < len(values) and len(found) < most:
        same = int(np.sum(values[at:] <= values[at] * (1 + 1e-6) + 1e-300))
        found.append(Optimum(float(values[at]), same, coefficients(_law(setup, ends.z[at]))))
        at += same
    return tuple(found)
