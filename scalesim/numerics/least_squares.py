"""Robust least squares: how residuals count, and Levenberg-Marquardt on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from scalesim.numerics.descent import MAX_STEP, chosen, clipped, damped_step

__all__ = ["March", "Rows", "influence", "levenberg_marquardt", "march", "rho", "total", "weight"]

LEAST, MOST = 1e-12, 1e12
"""Damping, at least and at most."""
FALL, RISE = 0.1, 5.0
"""What becomes of it after a step that lowers the loss, and after one that does not."""
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

    @classmethod
    def squared(cls, residual: jax.Array) -> Rows:
        """Return residuals that count as half their square, however large."""
        ones = jnp.ones_like(residual)
        return cls(residual, ones, jnp.inf * ones, ones)


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


class _Held(NamedTuple):
    """The point held: z (p,), its gradient and curvature, the step that they make, its damping."""

    z: jax.Array
    slope: jax.Array
    bend: jax.Array
    step: jax.Array
    damping: jax.Array


def _tried(held: _Held, trial: jax.Array, rows: Rows, jacobian: jax.Array, better: jax.Array) -> _Held:
    """Go on to a trial point if it is better, else stay with more damping; and make the next step.

    The one loop of Levenberg and Marquardt, `march` and the optax form alike, is this over and over. Each
    pass evaluates one trial point with its derivatives, so that a program holds a single copy of them: to
    try again on the residuals alone, in a loop within, took 1.6 to 2.2 times as long for a thousand resamples
    and compiled 1.3 to 1.5 times as long. Where the trial was no better the gradient and the curvature of
    the point held still serve: kept instead of the Jacobian, they halve the traffic.
    """
    damping = jnp.where(better, jnp.maximum(held.damping * FALL, LEAST), held.damping * RISE)
    z, slope, bend = chosen(better, (trial, *_model(rows, jacobian)), held[:3])
    return _Held(z, slope, bend, damped_step(bend, slope, damping), damping)


def _nothing_held(z: jax.Array, damping: Any) -> _Held:
    """Return what is held before anything was tried."""
    flat = jnp.zeros_like(z)
    return _Held(z, flat, jnp.outer(flat, flat), flat, jnp.asarray(damping, z.dtype))


class March(NamedTuple):
    """A start on its way: z (p,), damping, age in steps, cost, gradient norm, and whether it is done."""

    z: Any
    damping: Any
    age: Any
    cost: Any
    gradient: Any
    done: Any


class _State(NamedTuple):
    held: _Held
    residual: jax.Array
    trial: jax.Array
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

    After a step that was no better, the gradient and the curvature that still serve may be of the tolerance
    before.

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
        now = _tried(s.held, s.trial, Rows(r, count, delta, asymmetry), jacobian, better)
        promised = -0.5 * (now.slope @ now.step)
        idle = (promised <= IDLE * jnp.where(better, cost, held)) | (now.damping > 1e9)
        r = jnp.where(better, r, s.residual)
        return _State(now, r, now.z + clipped(now.step), s.step + 1, idle & (wide <= 1.0))

    shape = jax.eval_shape(lambda z: rows(z, 1.0).residual, z).shape
    none = jnp.asarray(0)
    # The first trial is the start itself, which is always taken: it gives one step of damping back.
    first = _State(_nothing_held(z, damping * RISE), jnp.full(shape, jnp.inf, z.dtype), z, none, none > 0)
    s = jax.lax.while_loop(lambda s: (s.step < steps) & ~s.done, body, first)
    held, how = s.held, rows(s.held.z, 1.0)
    cost = jnp.sum(how.weight * rho(s.residual, how.delta, how.asymmetry))
    return March(held.z, held.damping, age + s.step, cost, jnp.linalg.norm(held.slope), s.done)


def levenberg_marquardt(damping: float = 1e-2, *, max_step: float = MAX_STEP) -> Any:
    """Return Levenberg-Marquardt as an optax transformation, for least squares and robust losses.

    A step solves (H + R) s = -g, g and H = J^T W J being the gradient and the Gauss-Newton curvature of
    sum_i w_i rho(r_i), and R a ridge of `damping` times H's diagonal (see `damped_step`). An update tries one
    step: one that lowers the loss is made, and the damping falls to a tenth; after one that does not the
    parameters stay, and the damping rises fivefold. So no update ever raises the loss. Where something
    else has moved the parameters since, as in a chain, the derivatives are taken there first.

    `update` needs `params` and, as an extra argument, `residual_fn`: params -> residuals, an array of any
    shape, or `Rows` that say how each counts. Parameters are one array or a pytree of arrays.
    `ss.fit(..., solver=levenberg_marquardt())` passes it.

    Args:
        damping: at first.
        max_step: no coordinate moves further in one update.

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

    def init(params: Any) -> _Held:
        z = ravel_pytree(params)[0]
        return _nothing_held(jnp.full_like(z, jnp.inf), damping)

    def update(
        updates: Any, state: _Held, params: Any = None, *, residual_fn: Any = None, **more: Any
    ) -> tuple[Any, _Held]:
        if params is None or residual_fn is None:
            raise ValueError("levenberg_marquardt's update needs params and residual_fn=.")
        z, tree = ravel_pytree(params)

        def rows(z: jax.Array) -> Rows:
            found = residual_fn(tree(z))
            if isinstance(found, Rows):
                return found
            r = ravel_pytree(found)[0]
            return Rows.squared(r)

        # What was handed out comes back rounded, unless something else moved it: then look there first.
        rounding = 8 * jnp.finfo(z.dtype).eps * jnp.max(jnp.abs(z))

        def again(carry: tuple[_Held, jax.Array, jax.Array]) -> tuple[_Held, jax.Array, jax.Array]:
            held = carry[0]
            elsewhere = jnp.any(jnp.abs(z - held.z) > rounding)
            step = jnp.where(elsewhere, 0.0, clipped(held.step, max_step))
            there, jacobian = _linearised(rows, z + step)
            better = elsewhere | (total(there) < total(rows(z)))
            kept = jnp.where(elsewhere, held.damping / FALL, held.damping)
            now = _tried(held._replace(z=z, damping=kept), z + step, there, jacobian, better)
            return now, jnp.where(better, step, 0.0), elsewhere

        unknown = jnp.asarray(True)
        held, step, _ = jax.lax.while_loop(lambda carry: carry[2], again, (state, jnp.zeros_like(z), unknown))
        return tree(step), held._replace(damping=jnp.minimum(held.damping, MOST))

    return optax.GradientTransformationExtraArgs(init, update)
