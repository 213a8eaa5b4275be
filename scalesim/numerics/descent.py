"""Going downhill from one start: damped steps of the second order, or any optax transformation.

Nothing here knows what is minimised. But for `newton`, all is written for one start; callers vmap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["MAX_STEP", "chosen", "clipped", "curvature", "damped_step", "descend", "newton", "solve"]

MAX_STEP = 2.0
"""No coordinate moves further in one step."""


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Return x of `matrix` x = `right` for a positive definite matrix; nan where it is not."""
    factor = jnp.linalg.cholesky(matrix)
    half = jax.lax.linalg.triangular_solve(factor, right[:, None], left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, 0]


def damped_step(bend: jax.Array, slope: jax.Array, damping: Any) -> jax.Array:
    """Return Levenberg and Marquardt's step, -(H + R)^-1 g for a curvature H that is never negative.

    The ridge R is `damping` times the diagonal of H, and a hundredth of its largest entry: that share
    holds back coordinates that do not matter yet, which would run off. The step is nan where H + R is not
    positive definite.

    >>> damped_step(jnp.diag(jnp.array([2.0, 4.0])), jnp.array([2.0, 4.0]), 0.0).round(3).tolist()
    [-1.0, -1.0]
    """
    chex.assert_rank([slope, bend], [1, 2])
    diagonal = jnp.diagonal(bend)
    most = jnp.max(diagonal)
    ridge = damping * (diagonal + 1e-2 * most) + 1e-12 * most + 1e-30
    return solve(bend + jnp.diag(ridge), -slope)


def clipped(step: jax.Array, most: float = MAX_STEP) -> jax.Array:
    """Return a step, shortened so that no coordinate moves further than `most`; 0 where it is no number."""
    step = step * jnp.minimum(1.0, most / jnp.maximum(jnp.max(jnp.abs(step)), 1e-30))
    return jnp.where(jnp.isfinite(step), step, 0.0)


def chosen(better: jax.Array, new: Any, old: Any) -> Any:
    """Return what is tried where it is better, else what is held: trees whose last axes are `better`'s.

    >>> chosen(jnp.array([True, False]), {"x": jnp.ones((3, 2))}, {"x": jnp.zeros((3, 2))})["x"][0].tolist()
    [1.0, 0.0]
    """
    rank = jnp.ndim(better)

    def one(new: Any, old: Any) -> jax.Array:
        mask = better.reshape((1,) * (jnp.ndim(old) - rank) + better.shape)
        return jnp.where(mask, new, old)

    return jax.tree.map(one, new, old)


def curvature(objective: Callable[[jax.Array], jax.Array], z: jax.Array) -> tuple[jax.Array, ...]:
    """Return an objective, its gradient (p,) and its Hessian (p, p) at z (p,).

    >>> [part.tolist() for part in curvature(lambda z: (z**2).sum(), jnp.array([1.0, 2.0]))]
    [5.0, [2.0, 4.0], [[2.0, 0.0], [0.0, 2.0]]]
    """

    def gradient(z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # Forward over forward compiles in half the time, but costs p^2: too much for many coefficients.
        if z.size > 12:
            value, slope = jax.value_and_grad(objective)(z)
        else:
            slope, value = jax.jacfwd(lambda z: (v := objective(z), v), has_aux=True)(z)
        return slope, (value, slope)

    hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(z)
    return value, slope, hessian


def newton(
    evaluate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]], z: np.ndarray, steps: int = 30
) -> tuple[np.ndarray, ...]:
    """Carry points z (m, p) to their optimum by damped Newton steps on the exact objective.

    The loop is NumPy's: a compiled one would hold the Hessian's program within it, and take a third as long
    again to compile. Where the objective bends down, a step goes along the slope all the same.

    Args:
        evaluate: points (m, p), and which of them are still on their way (m,) -> objectives (m,),
            gradients (m, p), Hessians (m, p, p); of the others it may return anything.
        z: the points.
        steps: at most.

    Returns:
        Points, objectives, gradient norms and Hessians.

    >>> at = jax.vmap(lambda z: curvature(lambda z: jnp.cosh(z - 3.0).sum(), z))
    >>> z, value, *_ = newton(lambda z, busy: at(z), np.zeros((1, 2)))
    >>> z.round(6).tolist(), value.round(6).tolist()
    ([[3.0, 3.0]], [2.0])
    """
    value, slope, bend = (np.array(part) for part in evaluate(z, np.ones(len(z), bool)))
    z, damping = np.array(z), np.full(len(z), 1e-10)
    for _ in range(steps):
        scale = 1 / np.sqrt(np.abs(np.einsum("mii->mi", bend)) + 1e-300)
        scaled = bend * scale[:, :, None] * scale[:, None, :]
        finite = np.isfinite(scaled).all((1, 2))
        scaled[~finite] = np.eye(z.shape[1])
        values, vectors = np.linalg.eigh(scaled)
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


def descend(
    objective: Callable[[jax.Array, Any], jax.Array],
    z: jax.Array,
    solver: Any,
    steps: int,
    widen: Callable[[Any], Any] = jnp.ones_like,
    residual: Callable[[jax.Array, Any], Any] | None = None,
) -> jax.Array:
    """Return where `steps` of an optax transformation lead from z (p,).

    Args:
        objective: (z, anneal) -> a number.
        z: the start.
        solver: any optax transformation. Those with extra arguments are given the objective as `value_fn`,
            its `value` and `grad`, and the residuals, if there are, as `residual_fn`.
        steps: how many.
        widen: the share of the steps that is over -> by how much tolerances are widened (`anneal`).
        residual: (z, anneal) -> `Rows`.
    """
    import optax

    transformation = optax.with_extra_args_support(solver)

    def step(carry: tuple[jax.Array, Any], i: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
        z, state = carry
        anneal = widen(i / steps)

        def at(z: jax.Array, residual_fn: Any = None) -> jax.Array:
            # Optax's line searches insist that the objective takes every extra argument.
            return objective(z, anneal)

        more = {} if residual is None else {"residual_fn": lambda z: residual(z, anneal)}
        value, slope = jax.value_and_grad(at)(z)
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        update, state = transformation.update(slope, state, z, value=value, grad=slope, value_fn=at, **more)
        new = optax.apply_updates(z, update)
        return (jnp.where(jnp.isfinite(new), new, z), state), None

    (z, _), _ = jax.lax.scan(step, (z, transformation.init(z)), jnp.arange(steps))
    return z
