"""Constrained minimisation of a few variables in the unit box: Newton's method along smoothed penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from scalesim.numerics.descent import chosen

__all__ = ["ITERATIONS", "minimise", "penalty_newton"]

ITERATIONS = 30
"""Points tried from each start: the value and all limits with their first derivatives at each."""
STEPS = 300
"""Steps of an optax transformation, where one is given."""
PENALTY = 20.0
"""Value that an excess of 1 costs: above every multiplier, the penalty is exact."""
SMOOTH = (0.2, 2e-4)
"""How far from a limit its penalty bends, at first and at last."""
CURVATURE = 0.5
"""Of the Lagrangian, before anything is known of it."""
REACH = (0.25, 0.5)
"""The longest step along a coordinate, at first and ever."""


def minimise(
    functions: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    start: jax.Array,
    carried: Any,
    iterations: int = ITERATIONS,
    *,
    solver: optax.GradientTransformation | None = None,
    steps: int = STEPS,
) -> tuple[jax.Array, jax.Array, Any]:
    """Return where each of several starts ends, minimising a value under limits, all in the unit box.

    The limits g_i(x) <= 0 enter as an exact penalty, smoothed at a scale t that falls geometrically:

        minimise f(x) + P sum_i t log(1 + exp(g_i(x) / t)),   0 <= x <= 1

    A step is Newton's: of the penalties the curvature that their slopes tell, P s (1 - s) / t dg dg^T with
    s = sigmoid(g / t); of the Lagrangian f + sum_i P s_i g_i a damped BFGS estimate (Nocedal and Wright,
    Numerical Optimization, Procedure 18.2). Coordinates at an edge that the gradient presses against stay
    there. A step that does not lower the penalised value is taken back, and the next is shorter. In the end
    the points are a few t from the limits that hold them, mostly on the allowed side.

    Args:
        functions: (x (k, S), carried) -> (value and limits (1 + m, S), carried), elementwise in the starts.
            What is carried from call to call has no derivative (the roots that the next call starts from).
        start: (k, S).
        carried: what the first call is given.
        iterations: calls.
        solver: any optax transformation, which takes the place of Newton's steps: it descends the penalised
            value, summed over the starts, and after each step the points are put back into the box.
        steps: that it takes.

    Returns:
        The last points (k, S), value and limits there (1 + m, S), and what was carried there.

    >>> line = lambda x, _: (jnp.stack([(x**2).sum(0), 0.5 - x.sum(0)]), None)  # x + y >= 0.5
    >>> x, (value, limit), _ = minimise(line, jnp.array([[0.1], [0.9]]), None)
    >>> [round(float(v), 3) for v in x[:, 0]], round(float(value[0]), 3)  # a few t inside 0.25, 0.25
    ([0.251, 0.251], 0.126)
    """
    if solver is not None:
        return _descended(functions, start, carried, solver, steps)
    first = _begun(functions, start, carried)
    end = jax.lax.fori_loop(
        0, iterations, lambda _, state: _tried(functions, iterations, *state), (start, first)
    )
    x, values, carried, _ = end[1].best
    return x, values, carried


class PenaltyNewtonState(NamedTuple):
    """Where starts are: `best` is the best point (k, S), value and limits, what was carried, derivatives.

    `step` counts the points tried; `reach` (S,) is the longest next step, `curvature` (k, k, S) the
    Lagrangian's estimate.
    """

    step: jax.Array
    best: tuple[jax.Array, jax.Array, Any, jax.Array]
    reach: jax.Array
    curvature: jax.Array


def penalty_newton(
    functions: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    carried: Any = None,
    iterations: int = ITERATIONS,
) -> optax.GradientTransformation:
    """Return the penalty method of `minimise` as an optax transformation, over points (k, S) in the unit box.

    Every update evaluates the points it is given and leads to the next ones to try, so gradients handed to
    it are not used; `state.best` holds the best so far, which after `iterations` updates is the answer.

    Args:
        functions: (x (k, S), carried) -> (value and limits (1 + m, S), carried).
        carried: what the first call is given.
        iterations: updates over which the penalty sharpens.

    >>> line = lambda x, _: (jnp.stack([(x**2).sum(0), 0.5 - x.sum(0)]), None)  # x + y >= 0.5
    >>> params, solver = jnp.array([[0.1], [0.9]]), penalty_newton(line)
    >>> state = solver.init(params)
    >>> for _ in range(ITERATIONS):
    ...     updates, state = solver.update(None, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> state.best[0][:, 0].round(3).tolist()
    [0.251, 0.251]
    """

    def init(params: jax.Array) -> PenaltyNewtonState:
        return _begun(functions, params, carried)

    def update(_: Any, state: PenaltyNewtonState, params: jax.Array) -> tuple[jax.Array, PenaltyNewtonState]:
        following, state = _tried(functions, iterations, params, state)
        return following - params, state

    return optax.GradientTransformation(init, update)


def _begun(functions: Callable[..., Any], start: jax.Array, carried: Any) -> PenaltyNewtonState:
    """Return the state before anything was tried."""
    chex.assert_rank(start, 2)
    axes, starts = start.shape
    like = jax.eval_shape(functions, start, carried)[0].shape
    nowhere = start, jnp.full(like, jnp.inf), carried, jnp.zeros((axes, *like))
    curvature = jnp.broadcast_to(CURVATURE * jnp.eye(axes)[:, :, None], (axes, axes, starts))
    return PenaltyNewtonState(jnp.asarray(0), nowhere, jnp.full(starts, REACH[0]), curvature)


def _tried(
    functions: Callable[..., Any], iterations: int, x: jax.Array, state: PenaltyNewtonState
) -> tuple[jax.Array, PenaltyNewtonState]:
    """Try a point; stay or move there; and choose the next."""
    i, best, reach, curvature = state
    at, values, carried, slopes = best

    def along(axis: jax.Array) -> Any:
        tangent = jnp.broadcast_to(axis[:, None], x.shape)
        return jax.jvp(lambda x: functions(x, carried), (x,), (tangent,))

    # Value and limits (1 + m, S), what is carried on, and the derivatives (k, 1 + m, S).
    (new_values, after), (new_slopes, _) = jax.vmap(along, out_axes=((None, None), (0, 0)))(jnp.eye(len(x)))
    tried = x, new_values, after, new_slopes
    scale = SMOOTH[0] * (SMOOTH[1] / SMOOTH[0]) ** (i / iterations)
    merit, new = _penalised(values, scale), _penalised(new_values, scale)
    better = new <= merit + 1e-12 * jnp.abs(merit)
    pressed = PENALTY * jax.nn.sigmoid(values[1:] / scale)
    curvature = jnp.where(i > 0, _bfgs(curvature, x - at, _turn(slopes, new_slopes, pressed)), curvature)
    reach = jnp.where(better, jnp.minimum(1.5 * reach, REACH[1]), 0.3 * reach)
    best = chosen(better, tried, best)
    at, values, _, slopes = best
    step = _newton_step(at, values, slopes, curvature, scale)
    longest = jnp.maximum(jnp.abs(step).max(0), 1e-300)
    following = jnp.clip(at + step * jnp.minimum(1.0, reach / longest)[None], 0.0, 1.0)
    return following, PenaltyNewtonState(i + 1, best, reach, curvature)


def _descended(
    functions: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    start: jax.Array,
    carried: Any,
    solver: optax.GradientTransformation,
    steps: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """Return where an optax transformation leads each start: the best point that it met."""
    transformation = optax.with_extra_args_support(solver)

    def one(i: jax.Array, state: Any) -> Any:
        x, carried, inner, best = state
        scale = SMOOTH[0] * (SMOOTH[1] / SMOOTH[0]) ** (i / steps)

        def total(x: jax.Array) -> tuple[jax.Array, Any]:
            values, after = functions(x, carried)
            return _penalised(values, scale).sum(), (values, after)

        (value, (values, after)), slope = jax.value_and_grad(total, has_aux=True)(x)
        better = _penalised(values, SMOOTH[1]) <= _penalised(best[1], SMOOTH[1])
        best = chosen(better, (x, values, after), best)
        update, inner = transformation.update(
            slope, inner, x, value=value, grad=slope, value_fn=lambda x: total(x)[0]
        )
        return jnp.clip(optax.apply_updates(x, update), 0.0, 1.0), after, inner, best

    values, after = functions(start, carried)
    first = (start, carried, transformation.init(start), (start, values, after))
    return jax.lax.fori_loop(0, steps, one, first)[3]


def _penalised(values: jax.Array, scale: jax.Array | float) -> jax.Array:
    return values[0] + PENALTY * scale * jax.nn.softplus(values[1:] / scale).sum(0)


def _turn(before: jax.Array, after: jax.Array, pressed: jax.Array) -> jax.Array:
    """Return by how much the slope of the Lagrangian turned (k, S)."""
    turned = after - before
    return turned[:, 0] + (turned[:, 1:] * pressed[None]).sum(1)


def _newton_step(
    at: jax.Array, values: jax.Array, slopes: jax.Array, curvature: jax.Array, scale: jax.Array
) -> jax.Array:
    """Return the step to the least of the local model (k, S), of coordinates that are free to move."""
    share = jax.nn.sigmoid(values[1:] / scale)
    limits = slopes[:, 1:]
    gradient = slopes[:, 0] + PENALTY * (limits * share[None]).sum(1)
    bent = PENALTY * share * (1.0 - share) / scale
    model = curvature + (limits[:, None] * (limits * bent[None])[None]).sum(2)
    held = ((at <= 0.0) & (gradient > 0.0)) | ((at >= 1.0) & (gradient < 0.0))
    free = jnp.where(held, 0.0, 1.0)
    unit = jnp.eye(len(at))[:, :, None]
    damped = model * (1.0 + 1e-6 * unit) * free[:, None] * free[None] + unit * (1.0 - free)[None]
    return -_solve(damped, gradient * free)


def _bfgs(curvature: jax.Array, moved: jax.Array, turned: jax.Array) -> jax.Array:
    """Return a curvature (k, k, S) after a step, kept positive definite by Powell's damping."""
    ahead = (curvature * moved[None]).sum(1)
    found, expected = (moved * turned).sum(0), (moved * ahead).sum(0)
    trust = jnp.where(found >= 0.2 * expected, 1.0, 0.8 * expected / jnp.maximum(expected - found, 1e-300))
    turned = trust[None] * turned + (1.0 - trust)[None] * ahead
    found = (moved * turned).sum(0)
    updated = (
        curvature
        - ahead[:, None] * ahead[None] / jnp.maximum(expected, 1e-300)[None, None]
        + turned[:, None] * turned[None] / jnp.maximum(found, 1e-300)[None, None]
    )
    known = (expected > 1e-14) & jnp.isfinite(turned).all(0)
    return jnp.where(known[None, None], updated, curvature)


def _solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Return x of `matrix` x = `right`, (k, k, S) positive definite and (k, S), by elimination written out.

    For a few unknowns: LAPACK would be called S times, and loading it takes longer than a search.
    """
    k = len(right)
    rows = [[matrix[i, j] for j in range(k)] for i in range(k)]  # of which the upper triangle is used
    x = [right[i] for i in range(k)]
    for i in range(k):
        for j in range(i + 1, k):
            factor = rows[i][j] / rows[i][i]
            rows[j][j:] = [
                below - factor * above for below, above in zip(rows[j][j:], rows[i][j:], strict=True)
            ]
            x[j] = x[j] - factor * x[i]
    for i in reversed(range(k)):
        x[i] = (x[i] - sum(rows[i][j] * x[j] for j in range(i + 1, k))) / rows[i][i]
    return jnp.stack(x)
