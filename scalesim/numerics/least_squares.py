"""Robust least squares: how residuals count, and Levenberg-Marquardt on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from scalesim.numerics.descent import MAX_STEP, clipped, damped_step

__all__ = ["March", "Rows", "influence", "levenberg_marquardt", "march", "rho", "total", "weight"]

LEAST, RISE = 1e-12, 5.0
"""Least damping, and its rise after a step that lowers nothing; after one that does it falls to a tenth."""
IDLE = 1e-11
"""A step that promises less than this fraction of the cost is no step."""
OUTSIDE = 0.1
"""Share of its curvature that a residual beyond its threshold keeps."""


class Rows(NamedTuple):
    """Residuals (rows,), and how each counts: weight * rho(residual, delta, asymmetry)."""

    residual: jax.Array
    weight: jax.Array
    delta: jax.Array
    asymmetry: jax.Array


def rho(r: Any, delta: Any, asymmetry: Any) -> Any:
    """Return Huber's loss of residuals, elementwise: r^2 / 2 up to delta, then delta (|r| - delta / 2).

    `asymmetry` multiplies the loss of those above zero. Huber 1964, Ann. Math. Statist. 35:73.

    >>> [float(v) for v in rho(jnp.array([0.5, -3.0]), 1.0, 1.0)]
    [0.125, 2.5]
    """
    size = jnp.abs(r)
    inner = jnp.minimum(size, delta)
    return _side(r, asymmetry) * inner * (size - 0.5 * inner)


def influence(r: Any, delta: Any, asymmetry: Any) -> Any:
    """Return d rho / d r."""
    return _side(r, asymmetry) * jnp.clip(r, -delta, delta)


def weight(r: Any, delta: Any, asymmetry: Any) -> Any:
    """Return influence / r, the curvature of the tightest parabola that touches rho at r from above.

    Least squares with these weights never overshoots; with half of them outside delta it would be
    Gauss-Newton on the pseudo-residuals sign(r) sqrt(2 rho).
    """
    return _side(r, asymmetry) * jnp.minimum(1.0, delta / jnp.maximum(jnp.abs(r), 1e-300))


def _side(r: Any, asymmetry: Any) -> Any:
    return jnp.where(r > 0, asymmetry, 1.0)


def total(rows: Rows) -> jax.Array:
    """Return the sum of weight * rho over all rows; infinite where it is not a number.

    >>> float(total(Rows(jnp.array([0.5, 3.0]), jnp.array([1.0, 2.0]), 1.0, 1.0)))
    5.125
    """
    value = jnp.sum(rows.weight * rho(rows.residual, rows.delta, rows.asymmetry))
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def _linearised(rows: Callable[[jax.Array], Rows], z: jax.Array) -> tuple[Rows, jax.Array]:
    """Return the rows at z (p,) and the Jacobian of their residuals, transposed: (p, rows)."""

    def residual(z: jax.Array) -> tuple[jax.Array, Any]:
        at = rows(z)
        return at.residual, at[1:]

    r, push, how = jax.linearize(residual, z, has_aux=True)
    chex.assert_rank(r, 1)
    return Rows(r, *how), jax.vmap(push)(jnp.eye(z.size, dtype=z.dtype))


def _model(rows: Rows, jacobian: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradient J w' (p,) and the curvature J diag(w) J^T (p, p) of the robust loss.

    w is influence / residual inside a row's threshold and a tenth of it outside: w alone gives a parabola
    above the loss, which is safe but several times as slow; damping catches what a tenth overshoots.
    """
    r, count, delta, asymmetry = rows
    bend = count * weight(r, delta, asymmetry) * jnp.where(jnp.abs(r) > delta, OUTSIDE, 1.0)
    return jacobian @ (count * influence(r, delta, asymmetry)), (jacobian * bend[None, :]) @ jacobian.T


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


def march(
    rows: Callable[[jax.Array, Any], Rows],
    z: jax.Array,
    damping: Any,
    age: Any,
    steps: Any,
    *,
    anneal: float = 30.0,
    cooling: float = 0.4,
) -> March:
    """Take at most `steps` Levenberg-Marquardt steps on a robust loss, from z (p,).

    Thresholds and temperatures begin `anneal` times too wide, and cool by `cooling` a step: far from the
    optimum the problem is least squares, whose basin is wide.

    Each pass evaluates one trial point, so that the loop holds a single copy of the derivatives. After a
    step that was no better, the gradient and the curvature of the point held still serve, though they may
    be of the tolerance before: kept instead of the Jacobian, they halve the traffic.

    Args:
        rows: (z, anneal) -> `Rows`, whose thresholds are the final ones: they are widened here.
        z, damping, age: where the start is, and how many steps it has taken.
        steps: at most, a traced number.
        anneal, cooling: see above.
    """
    chex.assert_rank(z, 1)

    def body(s: _State) -> _State:
        wide = jnp.maximum(1.0, anneal * cooling ** (age + s.step).astype(z.dtype))
        (r, count, delta, asymmetry), jacobian = _linearised(lambda z: rows(z, wide), s.trial)
        delta = delta * wide
        cost = jnp.sum(count * rho(r, delta, asymmetry))
        held = jnp.sum(count * rho(s.residual, delta, asymmetry))
        better = jnp.isfinite(cost) & ((cost < held) | (s.step == 0))
        point = jnp.where(better, s.trial, s.z)
        damping = jnp.where(better, jnp.maximum(s.damping * 0.1, LEAST), s.damping * RISE)
        slope, bend = _model(Rows(r, count, delta, asymmetry), jacobian)
        slope, bend = jnp.where(better, slope, s.slope), jnp.where(better, bend, s.bend)
        step = damped_step(bend, slope, damping)
        promised = -0.5 * (slope @ step)
        idle = (promised <= IDLE * jnp.where(better, cost, held)) | (damping > 1e9)
        trial = point + clipped(step)
        r = jnp.where(better, r, s.residual)
        return _State(point, r, slope, bend, trial, damping, s.step + 1, idle & (wide <= 1.0))

    shape = jax.eval_shape(lambda z: rows(z, 1.0).residual, z).shape
    far, flat, none = jnp.full(shape, jnp.inf, z.dtype), jnp.zeros_like(z), jnp.asarray(0)
    # The first trial is the start itself, which is always taken: it gives one step of damping back.
    first = _State(z, far, flat, jnp.outer(flat, flat), z, damping * RISE, none, none > 0)
    s = jax.lax.while_loop(lambda s: (s.step < steps) & ~s.done, body, first)
    how = rows(s.z, 1.0)
    cost = jnp.sum(how.weight * rho(s.residual, how.delta, how.asymmetry))
    return March(s.z, s.damping, age + s.step, cost, jnp.linalg.norm(s.slope), s.done)


class LevenbergMarquardtState(NamedTuple):
    """The damping that the last step was taken with."""

    damping: jax.Array


def levenberg_marquardt(damping: float = 1e-2, *, max_step: float = MAX_STEP, tries: int = 12) -> Any:
    """Return Levenberg-Marquardt as an optax transformation, for least squares and robust losses.

    A step solves (H + R) s = -g, g and H = J^T W J being the gradient and the Gauss-Newton curvature of
    sum_i w_i rho(r_i), and R a ridge of `damping` times H's diagonal (see `damped_step`). If it does not
    lower the loss, the damping rises fivefold and the step is solved anew, on the same derivatives; after
    one that does, it falls to a tenth. So no update ever raises the loss.

    `update` needs `params` and, as an extra argument, `residual_fn`: params -> residuals, an array of any
    shape, or `Rows` that say how each counts. Parameters are one array or a pytree of arrays.
    `ss.fit(..., solver=levenberg_marquardt())` passes it.

    Args:
        damping: at first.
        max_step: no coordinate moves further in one update.
        tries: how often an update may raise the damping before it gives up, and moves nowhere.

    Levenberg 1944, Quart. Appl. Math. 2:164; Marquardt 1963, J. SIAM 11:431.

    >>> import optax
    >>> x = jnp.linspace(0.0, 2.0, 20)
    >>> measured = 3.0 * jnp.exp(-1.5 * x)
    >>> residual = lambda p: p["a"] * jnp.exp(-p["k"] * x) - measured
    >>> params, solver = {"a": jnp.array(1.0), "k": jnp.array(0.5)}, levenberg_marquardt()
    >>> state = solver.init(params)
    >>> for _ in range(10):
    ...     updates, state = solver.update(None, state, params, residual_fn=residual)
    ...     params = optax.apply_updates(params, updates)
    >>> round(float(params["a"]), 4), round(float(params["k"]), 4)
    (3.0, 1.5)
    """
    import optax
    from jax.flatten_util import ravel_pytree

    def init(params: Any) -> LevenbergMarquardtState:
        return LevenbergMarquardtState(jnp.asarray(damping, ravel_pytree(params)[0].dtype))

    def update(
        updates: Any, state: LevenbergMarquardtState, params: Any = None, *, residual_fn: Any = None, **_: Any
    ) -> tuple[Any, LevenbergMarquardtState]:
        if params is None or residual_fn is None:
            raise ValueError("levenberg_marquardt's update needs params and residual_fn=.")
        z, tree = ravel_pytree(params)

        def rows(z: jax.Array) -> Rows:
            found = residual_fn(tree(z))
            if isinstance(found, Rows):
                return found
            r = ravel_pytree(found)[0]
            return Rows(r, jnp.ones_like(r), jnp.full_like(r, jnp.inf), jnp.ones_like(r))

        here, jacobian = _linearised(rows, z)
        cost, (slope, bend) = total(here), _model(here, jacobian)

        def stepped(damping: jax.Array) -> jax.Array:
            return clipped(damped_step(bend, slope, damping), max_step)

        def worse(tried: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            count, _, step = tried
            return (count < tries) & ~(total(rows(z + step)) <= cost)

        def again(tried: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            count, damping, _ = tried
            return count + 1, RISE * damping, stepped(RISE * damping)

        first = (jnp.asarray(0), state.damping, stepped(state.damping))
        count, used, step = jax.lax.while_loop(worse, again, first)
        step = jnp.where(count < tries, step, 0.0)
        return tree(step), LevenbergMarquardtState(jnp.maximum(0.1 * used, LEAST))

    return optax.GradientTransformationExtraArgs(init, update)
