"""The fit itself: one compiled call over all starts, and what can be said of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.caching import ByDefinition
from scalesim.errors import InvalidInput, Unreachable, check_kind, check_number
from scalesim.fitting.coordinates import coefficients
from scalesim.fitting.diagnosis import diagnose, local
from scalesim.fitting.noise import Noise
from scalesim.fitting.problem import FitProblem
from scalesim.fitting.refit import LANES, Replicas, ahead, is_long, run, seeds
from scalesim.fitting.result import Fit, LocalOptimum, Origin
from scalesim.fitting.setup import EvidenceLike, LawLike, Setup, prepare
from scalesim.fitting.starts import ANNEAL, given_starts, project, start_pool
from scalesim.laws.base import Law
from scalesim.numerics.descent import curvature, descend, newton
from scalesim.numerics.least_squares import March
from scalesim.programs import kept_jit
from scalesim.schema import whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from optax import GradientTransformation

__all__ = ["fit", "solve"]

POLISH = 7
MANY = 64
AGREE = 1e-8
"""Relative difference of objective within which two starts have found the same optimum."""


def fit(
    law: LawLike,
    evidence: EvidenceLike,
    *,
    noise: Noise | None = None,
    fixed: Mapping[str, float | None] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    per_group: Sequence[str] = (),
    by: str | Sequence[str] | None = None,
    starts: int | Mapping[str, ArrayLike] = 64,
    polish: int | None = None,
    bootstrap: int = 0,
    solver: GradientTransformation | None = None,
    steps: int | None = None,
    tolerance: float = 1e-4,
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
        polish: how many of the best to carry to convergence; 7 by default, all of given starts.
        bootstrap: resamples for `Fit.bootstrap`; `scalesim.fitting.bootstrap` has the options.
        solver: any optax transformation (`optax.lbfgs()`, `optax.adam(0.05)`, a chain, one of your own) in
            place of our Levenberg-Marquardt, for laws and evidence that are not like least squares. It
            minimises the objective in the fit's own coordinates, which are of order 1; those with extra
            arguments get `value`, `grad`, `value_fn`, and `residual_fn`. Newton ends the fit all the same.
        steps: of that solver; 400 by default.
        tolerance: the largest gradient, over its scale, at which the fit counts as converged.
        throw: raise where the status is "not_converged" or "unidentified", rather than say so in it.

    Raises:
        InvalidInput: the call was wrong; the message says what would do.
        Unreachable: no start led to a finite objective, or `throw` is set and the fit failed.

    >>> import scalesim as ss
    >>> paper = ss.load_runs("paper").take(slice(0, 6))
    >>> found = fit("power", paper, fixed={"E": 1.97})
    >>> found.status, round(found.law.b, 3)
    ('converged', 0.188)

    A law is a function of its coefficients, so a plain optax loop fits one too: in the logs of what is
    positive, and in some thousands of steps where the fit takes twenty.

    >>> import jax, jax.numpy as jnp, optax
    >>> def objective(logs):
    ...     law = ss.PowerLaw(a=1e8 * jnp.exp(logs["a"]), b=jnp.exp(logs["b"]), E=1.97)
    ...     residual = jnp.log(law.loss({"n_params": paper["n_params"]})) - jnp.log(paper.loss)
    ...     return optax.losses.huber_loss(residual, delta=1e-3).sum()
    >>> logs, adam = {"a": jnp.array(0.0), "b": jnp.array(-1.5)}, optax.adam(1e-2)
    >>> def step(carry, _):
    ...     updates, state = adam.update(jax.grad(objective)(carry[0]), carry[1])
    ...     return (optax.apply_updates(carry[0], updates), state), None
    >>> (logs, _), _ = jax.lax.scan(step, (logs, adam.init(logs)), length=3000)
    >>> round(float(jnp.exp(logs["b"])), 3)
    0.188
    """
    if solver is None and steps is not None:
        raise InvalidInput(f"steps={steps} counts the steps of `solver`, which is not given; leave it out.")
    check_number("tolerance", tolerance)
    check_kind("noise", noise, (Noise, type(None)), "Huber(...) or Squared(...)")
    if not isinstance(starts, Mapping):
        whole(1, 1 << 20)(starts, "starts")
    with jax.enable_x64(True):
        setup = prepare(
            law, evidence, noise=noise, fixed=fixed, bounds=bounds, priors=priors, per_group=per_group, by=by
        )
        ends = solve(setup, starts, polish, solver, 400 if steps is None else steps)
        found = _finish(setup, ends, tolerance, throw)
    if bootstrap:
        from scalesim.fitting.bootstrap import with_bootstrap

        found = with_bootstrap(found, bootstrap)
    return found


class Ends(NamedTuple):
    """Where polished starts ended, best first: z (m, p), objectives (m,), gradient norms (m,), Hessians."""

    z: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray
    hessian: np.ndarray


def solve(
    setup: Setup,
    starts: int | Mapping[str, Any] = 64,
    polish: int | None = None,
    solver: GradientTransformation | None = None,
    steps: int = 400,
) -> Ends:
    """Carry the best of many starts to convergence."""
    replicas = Replicas(setup.problem)
    compiling = _compile_ahead(setup, replicas)
    own = setup.layout.encode(setup.template, setup.problem.centres)
    if isinstance(starts, int):
        if starts < 1:
            raise InvalidInput(f"starts must be at least 1, but is {starts}.")
        keep = min(polish or POLISH, starts)
        z = seeds(replicas, start_pool(setup, starts), keep)
        z = np.concatenate([z, own[None, :]])
    else:
        z = given_starts(setup, starts)
    for thread in compiling:
        thread.join()
    given = not isinstance(starts, int)
    if solver is not None:
        return _polished(setup, np.asarray(_descended(setup.problem, z, ByDefinition(solver), steps)))
    ends = run(replicas, z, np.zeros(len(z), int), 40, 80 if given else 40)
    for _ in range(3 if given else 0):
        ends = _revived(setup, replicas, ends)
    if given and polish is not None:
        ends = March(*(part[np.argsort(ends.cost, kind="stable")[:polish]] for part in ends))
    if len(ends.z) > MANY:
        return _best_polished(setup, ends)
    return _polished(setup, ends.z)


def _best_polished(setup: Setup, ends: March) -> Ends:
    """Carry the best few of many on by Newton; the others stand where they stopped, without a Hessian."""
    cost = np.where(np.isfinite(ends.cost), ends.cost, np.inf)
    order = np.argsort(cost, kind="stable")
    top = _polished(setup, ends.z[order[: POLISH + 1]])
    rest = order[POLISH + 1 :]
    return Ends(
        np.concatenate([top.z, ends.z[rest]]),
        np.concatenate([top.objective, cost[rest]]),
        np.concatenate([top.gradient_norm, ends.gradient[rest]]),
        top.hessian,
    )


def _polished(setup: Setup, z: np.ndarray) -> Ends:
    parts = newton(lambda z, busy: _curvature(setup.problem, z, busy), z)
    order = np.argsort(np.where(np.isfinite(parts[1]), parts[1], np.inf), kind="stable")
    return Ends(*(part[order] for part in parts))


def _revived(setup: Setup, replicas: Replicas, ends: March, chunk: int = 256) -> March:
    """March again those starts that ended above the best, with their linear coordinates solved anew.

    A term that a start has driven to nothing has no gradient left; least squares brings it back.
    """
    cost = np.where(np.isfinite(ends.cost), ends.cost, np.inf)
    stuck = np.flatnonzero(cost > cost.min() * (1 + AGREE))
    for first in range(0, len(stuck), chunk):
        some = stuck[first : first + chunk]
        again = np.asarray(_projected(setup.problem, ends.z[np.resize(some, chunk)]))[: len(some)]
        new = run(replicas, again, np.zeros(len(some), int), 20, 200)
        better = new.cost < cost[some]
        for kept, part in zip(ends, new, strict=True):
            kept[some[better]] = part[better]
    return ends


@partial(kept_jit, heavy=lambda problem, pool: is_long(problem, len(pool)))
def _projected(problem: FitProblem, pool: jax.Array) -> jax.Array:
    return project(problem, pool)[0]


def _compile_ahead(setup: Setup, replicas: Replicas) -> list[Thread]:
    """Compile the later programs of a first fit beside its first one: compiling is most of the wait."""
    some = np.zeros((POLISH + 1, setup.layout.size))

    def later() -> None:
        _curvature(setup.problem, some, np.ones(len(some), bool))
        local(setup.problem, some[0])

    return ahead(replicas, lambda: run(replicas, some, np.zeros(len(some), int), 0, 0), later)


@partial(kept_jit, heavy=lambda problem, z, busy: is_long(problem, len(z)))
def _curvature(problem: FitProblem, z: jax.Array, busy: jax.Array) -> tuple[jax.Array, ...]:
    """Return the objective, its gradient and its Hessian at each of z; of long tables, where it is busy."""
    at = partial(curvature, problem.objective)
    rows = 1 if problem.points is None else len(problem.points.loss)
    if rows * len(z) > LANES:
        empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(at, z[0]))
        return jax.lax.map(lambda of: jax.lax.cond(of[1], at, lambda _: empty, of[0]), (z, busy))
    return jax.vmap(at)(z)


@partial(jax.jit, static_argnames=("solver", "steps"))
def _descended(problem: FitProblem, z: jax.Array, solver: ByDefinition, steps: int) -> jax.Array:
    """Return where an optax solver leads from each of z (m, p); the first fifth of the steps is annealed."""

    def widen(share: Any) -> jax.Array:
        return ANNEAL ** jnp.maximum(0.0, 1.0 - 5.0 * share)

    def rows(z: jax.Array, anneal: Any) -> Any:
        at = problem.rows(z, anneal)
        return at._replace(delta=anneal * at.delta)

    return jax.vmap(lambda z: descend(problem.objective, z, solver.value, steps, widen, rows))(z)


def _finish(setup: Setup, ends: Ends, tolerance: float, throw: bool) -> Fit:
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
    diagnosis = diagnose(
        setup, best, ends.hessian[0], agreeing, len(ends.objective), float(ends.gradient_norm[0]), tolerance
    )
    found = Fit(
        law=law,
        objective=float(ends.objective[0]),
        gradient_norm=float(ends.gradient_norm[0]),
        starts_agreeing=agreeing,
        starts_polished=len(ends.objective),
        optima=_distinct(setup, ends),
        provenance={"evidence": setup.describe()},
        origin=Origin(setup, best),
        **diagnosis,
    )
    if throw and found.status in ("not_converged", "unidentified"):
        raise Unreachable(found.message)
    return found


def _law(setup: Setup, z: np.ndarray) -> Law:
    """Return the law at z, its coefficients plain floats (or NumPy vectors, by group)."""
    law = jax.tree.map(np.asarray, setup.problem.law(np.asarray(z)))
    return jax.tree.map(lambda leaf: float(leaf) if leaf.ndim == 0 else leaf, law)


def _distinct(setup: Setup, ends: Ends, most: int = 5) -> tuple[LocalOptimum, ...]:
    """Group the ends by objective, best first."""
    found: list[LocalOptimum] = []
    values = ends.objective[np.isfinite(ends.objective)]
    at = 0
    while at < len(values) and len(found) < most:
        same = int(np.sum(values[at:] <= values[at] * (1 + 1e-6) + 1e-300))
        found.append(LocalOptimum(float(values[at]), same, coefficients(_law(setup, ends.z[at]))))
        at += same
    return tuple(found)
