"""Solvers: starts by variable projection, robust Levenberg-Marquardt with annealing, Newton at the end.

All are written for one start; callers vmap them over starts and over resamples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scalesim.fit.noise import influence, rho, weight
from scalesim.fit.problem import Problem

__all__ = ["Solution", "levenberg_marquardt", "newton", "project"]

ANNEAL = 30.0
"""Where annealing starts: thirty times the final tolerance of every residual."""
COOLING = 0.5
MAX_STEP = 2.0


class Solution(NamedTuple):
    """A point z (p,), the objective there, the norm of its gradient and the iterations taken."""

    z: Any
    objective: Any
    gradient_norm: Any
    iterations: Any


class _State(NamedTuple):
    z: jax.Array
    damping: jax.Array
    step: jax.Array  # iterations so far
    done: jax.Array


def _solve(h: jax.Array, g: jax.Array) -> jax.Array:
    """Return -h^-1 g for a positive definite h; nan where it is not."""
    factor = jnp.linalg.cholesky(h)
    half = jax.lax.linalg.triangular_solve(factor, -g[:, None], left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, 0]


def _damped_step(h: jax.Array, g: jax.Array, damping: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the step of (h + damping diag(h)) and the decrease that the parabola promises for it."""
    diagonal = jnp.abs(jnp.diagonal(h))
    floor = 1e-12 * jnp.max(diagonal) + 1e-30
    step = _solve(h + jnp.diag(damping * diagonal + floor), g)
    step = step * jnp.minimum(1.0, MAX_STEP / jnp.maximum(jnp.max(jnp.abs(step)), 1e-30))
    promised = -(g @ step) - 0.5 * step @ h @ step
    return step, promised


def _descend(
    problem: Problem, z: jax.Array, steps: int, local_model: Any, anneal: float, damping: float
) -> _State:
    """Iterate damped steps of a local model (z, anneal -> cost, gradient, curvature) until they are idle."""

    def body(s: _State) -> _State:
        heat = jnp.maximum(1.0, anneal * COOLING ** s.step.astype(z.dtype))
        cost, g, h = local_model(s.z, heat)
        step, promised = _damped_step(h, g, s.damping)
        trial = s.z + step
        new = problem.objective(trial, heat)
        better = jnp.isfinite(new) & (new < cost)
        # Idle: the parabola has nothing left to promise, or no step however short is better.
        idle = ((promised >= 0) & (promised <= 1e-15 * cost)) | (s.damping > 1e10)
        return _State(
            jnp.where(better, trial, s.z),
            jnp.where(better, jnp.maximum(s.damping * 0.2, 1e-12), s.damping * 5.0),
            s.step + 1,
            idle & (heat <= 1.0),
        )

    start = _State(z, jnp.asarray(damping, z.dtype), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(lambda s: (s.step < steps) & ~s.done, body, start)


def levenberg_marquardt(
    problem: Problem, z: jax.Array, *, steps: int = 40, anneal: float = ANNEAL
) -> jax.Array:
    """Return z after at most `steps` Levenberg-Marquardt steps on the robust loss, from z (p,).

    The curvature is J^T diag(w) J with w = influence / residual, so that every step is least squares on
    a parabola above the loss. Huber thresholds and temperatures start `anneal` times too wide and halve
    each step: far away the problem is least squares, whose basin is wide.
    """

    def local_model(z: jax.Array, heat: jax.Array) -> tuple[jax.Array, ...]:
        r, push = jax.linearize(lambda z: problem.rows(z, heat).residual, z)
        jacobian = jax.vmap(push, out_axes=1)(jnp.eye(z.size, dtype=z.dtype))
        how = problem.rows(z, heat)
        cost = jnp.sum(how.weight * rho(r, how.delta, how.asymmetry))
        pull = how.weight * influence(r, how.delta, how.asymmetry)
        curvature = how.weight * weight(r, how.delta, how.asymmetry)
        # Rows of weight 0 must not turn a stray nan into the sum's.
        jacobian = jnp.where(how.weight[:, None] > 0, jacobian, 0.0)
        return cost, jacobian.T @ pull, (jacobian.T * curvature[None, :]) @ jacobian

    return _descend(problem, z, steps, local_model, anneal, 1e-2).z


def newton(problem: Problem, z: jax.Array, *, steps: int = 30) -> Solution:
    """Return the optimum near z by damped Newton steps on the exact objective."""
    gradient = jax.grad(problem.objective)

    def local_model(z: jax.Array, heat: jax.Array) -> tuple[jax.Array, ...]:
        g, push = jax.linearize(gradient, z)
        return problem.objective(z), g, jax.vmap(push)(jnp.eye(z.size, dtype=z.dtype))

    end = _descend(problem, z, steps, local_model, 1.0, 1e-4)
    return Solution(end.z, problem.objective(end.z), jnp.linalg.norm(gradient(end.z)), end.step)


def project(problem: Problem, pool: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve each start's linear coordinates by least squares on the points, given its other ones.

    For starts `pool` (K, p), returns the starts with their linear coordinates replaced, and each one's
    sum of squares. The normal equations are one product of the weights with precomputed columns, so over
    many resamples (vmapped weights or losses) it is a matrix product. Positive coefficients are kept so,
    by coordinate descent.
    """
    points, layout = problem.points, problem.layout
    linear = layout.linear()
    if points is None or not linear:
        return pool, jnp.zeros(pool.shape[0])
    index = jnp.array(linear)
    positive = _positive(layout)[index]
    base = jnp.where(positive, 1.0, 0.0)

    def columns(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the basis (rows, k) and the offset (rows,) of the affine function of the coefficients."""
        z = z.at[index].set(0.0)
        f, push = jax.linearize(lambda z: problem.law(z).loss(points.x) + jnp.zeros_like(points.loss), z)
        basis = jax.vmap(push, out_axes=1)(jnp.eye(z.size, dtype=z.dtype)[index])
        return basis, f - basis @ base

    basis, offset = jax.vmap(columns)(pool)  # (K, rows, k), (K, rows)
    # Small log residuals are relative ones. The scale does not depend on the weights or losses of a resample.
    reference = points.loss if points.log_space else jnp.ones_like(points.loss)
    scale = 1.0 / (points.sigma * reference) ** 2
    k = len(linear)
    products = (basis[..., :, None] * basis[..., None, :]).reshape(*basis.shape[:2], k * k)
    gram = jnp.tensordot(points.weight * scale, products, axes=(0, 1)).reshape(-1, k, k)
    cross = jnp.tensordot(points.weight * scale * points.loss, basis, axes=(0, 1)) - jnp.tensordot(
        points.weight * scale, basis * offset[..., None], axes=(0, 1)
    )
    total = (
        jnp.sum(points.weight * scale * points.loss**2)
        - 2 * jnp.tensordot(points.weight * scale * points.loss, offset, axes=(0, 1))
        + jnp.tensordot(points.weight * scale, offset**2, axes=(0, 1))
    )
    u = jax.vmap(_nonnegative, in_axes=(0, 0, None))(gram, cross, positive)
    squares = total - 2 * jnp.sum(cross * u, -1) + jnp.einsum("ki,kij,kj->k", u, gram, u)
    found = jnp.where(positive[None, :], jnp.log(jnp.maximum(u, 1e-12)), u)
    projected = pool.at[:, index].set(jnp.where(jnp.isfinite(found), found, pool[:, index]))
    return projected, jnp.where(jnp.isfinite(squares), squares, jnp.inf)


def _positive(layout: Any) -> jax.Array:
    flags = []
    for slot in layout.slots:
        flags += [slot.spec.positive] * slot.width
    return jnp.array(flags)


def _nonnegative(gram: jax.Array, cross: jax.Array, positive: jax.Array, sweeps: int = 12) -> jax.Array:
    """Minimise u G u / 2 - c u with u above 0 where `positive`, by projected coordinate descent."""
    diagonal = jnp.maximum(jnp.diagonal(gram), 1e-300)
    u = _solve(gram + jnp.diag(1e-10 * diagonal), -cross)
    u = jnp.where(jnp.isfinite(u), u, cross / diagonal)
    floor = 1e-3 * jnp.max(jnp.abs(u)) + 1e-300

    def sweep(_: int, u: jax.Array) -> jax.Array:
        for j in range(u.size):
            free = u[j] + (cross[j] - gram[j] @ u) / diagonal[j]
            u = u.at[j].set(jnp.where(positive[j], jnp.maximum(free, floor), free))
        return u

    u = jnp.where(positive, jnp.maximum(u, floor), u)
    return jax.lax.fori_loop(0, sweeps, sweep, u)
