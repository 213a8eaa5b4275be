"""The numerics of one start: least-squares seeds, robust Levenberg-Marquardt, the exact curvature.

Everything here is written for one start and one problem; callers vmap. Loops over batches of starts, and
Newton's few last steps, are NumPy's: programs stay small, and compiling them is what a user waits for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.fitting.noise import influence, rho, weight
from scalesim.fitting.problem import Problem

__all__ = ["ANNEAL", "March", "curvature", "march", "newton", "project"]

ANNEAL = 30.0
"""Where annealing starts: thirty times the final tolerance of every residual."""
COOLING = 0.4
MAX_STEP = 2.0
"""No coordinate moves further in one step; coordinates are logs, so this is a factor of 7."""
RANKED = 4096
OUTSIDE = 0.1
IDLE = 1e-11
"""A step that promises less than this fraction of the cost is no step."""


class March(NamedTuple):
    """A start on its way: z (p,), damping, age in steps, cost, gradient norm, and whether it is done."""

    z: Any
    damping: Any
    age: Any
    cost: Any
    gradient: Any
    done: Any


class _State(NamedTuple):
    z: jax.Array
    residual: jax.Array
    slope: jax.Array
    bend: jax.Array
    trial: jax.Array
    damping: jax.Array
    step: jax.Array
    done: jax.Array


def _solve(h: jax.Array, g: jax.Array) -> jax.Array:
    """Return -h^-1 g for a positive definite h; nan where it is not."""
    factor = jnp.linalg.cholesky(h)
    half = jax.lax.linalg.triangular_solve(factor, -g[:, None], left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, 0]


def march(problem: Problem, z: jax.Array, damping: Any, age: Any, steps: Any) -> March:
    """Take at most `steps` Levenberg-Marquardt steps on the robust loss, from z (p,).

    The curvature of a step is J^T diag(w) J, where w is influence / residual inside the Huber threshold
    and a tenth of it outside: w alone gives a parabola above the loss, which is safe but several times
    as slow, and damping catches what a tenth overshoots. Thresholds and temperatures begin `ANNEAL`
    times too wide: far from the optimum the problem is least squares, whose basin is wide.

    Each pass evaluates one trial point, so that the loop holds a single copy of the law's derivatives.
    """

    def evaluate(z: jax.Array, heat: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        def residual(z: jax.Array) -> tuple[jax.Array, Any]:
            rows = problem.rows(z, heat)
            return rows.residual, rows[1:]

        r, push, how = jax.linearize(residual, z, has_aux=True)
        return r, jax.vmap(push)(jnp.eye(z.size, dtype=z.dtype)), how

    def body(s: _State) -> _State:
        heat = jnp.maximum(1.0, ANNEAL * COOLING ** (age + s.step).astype(z.dtype))
        r, jacobian, (row_weight, delta, asymmetry) = evaluate(s.trial, heat)
        delta = delta * heat
        cost = jnp.sum(row_weight * rho(r, delta, asymmetry))
        held = jnp.sum(row_weight * rho(s.residual, delta, asymmetry))
        better = jnp.isfinite(cost) & ((cost < held) | (s.step == 0))
        point = jnp.where(better, s.trial, s.z)
        damping = jnp.where(better, jnp.maximum(s.damping * 0.1, 1e-12), s.damping * 5.0)
        bend = row_weight * weight(r, delta, asymmetry) * jnp.where(jnp.abs(r) > delta, OUTSIDE, 1.0)
        # After a step that was no better, the gradient and the curvature of the point held still serve,
        # though they may be of the heat before: kept instead of the Jacobian, they halve the traffic.
        slope = jnp.where(better, jacobian @ (row_weight * influence(r, delta, asymmetry)), s.slope)
        h = jnp.where(better, (jacobian * bend[None, :]) @ jacobian.T, s.bend)
        r = jnp.where(better, r, s.residual)
        diagonal = jnp.diagonal(h)
        most = jnp.max(diagonal)
        # The share of the largest holds back coordinates that do not matter yet: they would run off.
        ridge = damping * (diagonal + 1e-2 * most) + 1e-12 * most + 1e-30
        step = _solve(h + jnp.diag(ridge), slope)
        promised = -0.5 * (slope @ step)
        step = step * jnp.minimum(1.0, MAX_STEP / jnp.maximum(jnp.max(jnp.abs(step)), 1e-30))
        idle = (promised <= IDLE * jnp.where(better, cost, held)) | (damping > 1e9)
        step = jnp.where(jnp.isfinite(step), step, 0.0)
        return _State(point, r, slope, h, point + step, damping, s.step + 1, idle & (heat <= 1.0))

    shape = jax.eval_shape(lambda z: problem.rows(z).residual, z).shape
    far = jnp.full(shape, jnp.inf, z.dtype)
    flat = jnp.zeros_like(z)
    step = jnp.asarray(0)
    first = _State(z, far, flat, jnp.outer(flat, flat), z, damping * 5.0, step, step > 0)
    s = jax.lax.while_loop(lambda s: (s.step < steps) & ~s.done, body, first)
    how = problem.rows(s.z)
    cost = jnp.sum(how.weight * rho(s.residual, how.delta, how.asymmetry))
    return March(s.z, s.damping, age + s.step, cost, jnp.linalg.norm(s.slope), s.done)


def curvature(problem: Problem, z: jax.Array) -> tuple[jax.Array, ...]:
    """Return the objective, its gradient (p,) and its Hessian (p, p) at z."""

    def gradient(z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # Forward over forward compiles in half the time, but costs p^2: too much for many coefficients.
        if z.size > 12:
            value, slope = jax.value_and_grad(problem.objective)(z)
        else:
            slope, value = jax.jacfwd(lambda z: (v := problem.objective(z), v), has_aux=True)(z)
        return slope, (value, slope)

    hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(z)
    return value, slope, hessian


def newton(evaluate: Any, z: np.ndarray, steps: int = 30) -> tuple[np.ndarray, ...]:
    """Carry points z (m, p) to their optimum by damped Newton steps on the exact objective.

    `evaluate` maps (m, p), and which of them are still on their way (m,), to objectives (m,), gradients
    (m, p) and Hessians (m, p, p); of the others it may return anything. Returns points, objectives,
    gradient norms and Hessians.
    """
    value, slope, bend = (np.array(part) for part in evaluate(z, np.ones(len(z), bool)))
    z, damping = np.array(z), np.full(len(z), 1e-10)
    for _ in range(steps):
        diagonal = np.abs(np.einsum("mii->mi", bend)) + 1e-300
        scale = 1 / np.sqrt(diagonal)
        scaled = bend * scale[:, :, None] * scale[:, None, :]
        finite = np.isfinite(scaled).all((1, 2))
        scaled[~finite] = np.eye(z.shape[1])
        values, vectors = np.linalg.eigh(scaled)
        # Where the objective bends down, step along the slope all the same.
        lifted = np.maximum(np.abs(values), 1e-13) + damping[:, None]
        within = np.einsum("mij,mi->mj", vectors, np.where(finite[:, None], slope * scale, 0.0))
        step = -np.einsum("mij,mj->mi", vectors, within / lifted) * scale
        promised = 0.5 * np.sum(within**2 / lifted, axis=1)
        busy = promised > 1e-13 * np.abs(value)
        if not busy.any():
            break
        step *= np.minimum(1.0, MAX_STEP / np.maximum(np.abs(step).max(1), 1e-300))[:, None]
        new_value, new_slope, new_bend = (np.asarray(part) for part in evaluate(z + step, busy))
        better = busy & (new_value < value)
        z[better] += step[better]
        value[better], slope[better], bend[better] = new_value[better], new_slope[better], new_bend[better]
        damping = np.where(better, damping * 0.1, np.maximum(damping, 1e-6) * 10.0)
        if not (better | (busy & (damping < 1e6))).any():
            break
    return z, value, np.linalg.norm(slope, axis=1), bend


def project(problem: Problem, pool: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve each start's linear coordinates by least squares on the points, given its other ones.

    For starts `pool` (K, p), returns the starts with their linear coordinates replaced, and each one's
    score: its sum of squares, or its annealed objective where nothing is linear. The normal equations
    are one product of the weights with columns that no resample changes, so over many resamples
    (vmapped weights or losses) they are a matrix product.
    """
    points, layout = problem.points, problem.layout
    if points is not None and len(points.loss) > RANKED:
        # Seeds need not see every row of a large table, and all columns at once would not fit.
        stride = -(-len(points.loss) // RANKED)
        few = {k: v[::stride] for k, v in points.x.items()}
        rows = {k: getattr(points, k)[::stride] for k in ("loss", "weight", "sigma")}
        points = replace(points, x=few, **rows)
    linear = layout.linear()
    if points is None or not linear:
        return pool, jax.vmap(lambda z: problem.objective(z, ANNEAL))(pool)
    index = np.array(linear)
    positive = np.concatenate([[slot.spec.positive] * slot.width for slot in layout.slots]).astype(bool)[
        index
    ]
    directions = np.eye(pool.shape[1])[index]
    base = np.where(positive, 1.0, 0.0)
    k = len(linear)

    def columns(z: jax.Array) -> jax.Array:
        """Return the affine function's basis, and its offset as the last column: (rows, k + 1)."""
        z = z.at[index].set(0.0)
        f, push = jax.linearize(lambda z: problem.law(z).loss(points.x) + jnp.zeros_like(points.loss), z)
        basis = jax.vmap(push, out_axes=1)(jnp.asarray(directions, z.dtype))
        return jnp.concatenate([basis, (f - basis @ base)[:, None]], axis=1)

    basis = jax.vmap(columns)(pool)  # (K, rows, k + 1)
    # Small log residuals are relative ones.
    scale = points.weight / (points.sigma * points.loss if points.log_space else points.sigma) ** 2
    products = (basis[:, :, :, None] * basis[:, :, None, :]).reshape(*basis.shape[:2], (k + 1) ** 2)
    gram = jnp.tensordot(scale, products, axes=(0, 1)).reshape(-1, k + 1, k + 1)
    along = jnp.tensordot(scale * points.loss, basis, axes=(0, 1))
    inner, cross = gram[:, :k, :k], along[:, :k] - gram[:, :k, k]
    total = jnp.sum(scale * points.loss**2) - 2 * along[:, k] + gram[:, k, k]
    u, gain = jax.vmap(_nonnegative, in_axes=(0, 0, None))(inner, cross, positive)
    found = jnp.where(positive[None, :], jnp.log(jnp.maximum(u, 1e-12)), u)
    squares = total - gain
    usable = jnp.isfinite(squares)
    projected = pool.at[:, index].set(jnp.where(usable[:, None], found, pool[:, index]))
    return projected, jnp.where(usable, squares, jnp.inf)


def _nonnegative(gram: jax.Array, cross: jax.Array, positive: Any) -> tuple[jax.Array, jax.Array]:
    """Solve gram u = cross, lift what should be positive off zero; return u and the squares it saves.

    Good enough to rank starts and to begin from: an optimum with a coefficient at 0 is rare.
    """
    diagonal = jnp.diagonal(gram)
    u = _solve(gram + jnp.diag(1e-10 * diagonal + 1e-300), -cross)
    u = jnp.where(jnp.isfinite(u), u, cross / jnp.maximum(diagonal, 1e-300))
    u = jnp.where(positive, jnp.maximum(u, 1e-3 * jnp.max(jnp.abs(u))), u)
    along, across = cross @ u, u @ gram @ u
    u = u * jnp.where(along > 0, along / across, 1.0)
    return u, jnp.where(along > 0, along**2 / across, -jnp.inf)
