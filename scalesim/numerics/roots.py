"""Roots: of smooth monotone functions, elementwise and differentiable; of systems of equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

__all__ = ["newton_root", "newton_system"]


def newton_root(
    f: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int = 40,
    bounds: tuple[Any, Any] = (-jnp.inf, jnp.inf),
) -> jax.Array:
    """Return x with f(x) = 0 for every element, by Newton's method from `start`.

    `f` acts elementwise and may close over anything. From any start Newton lands, at the latest after its
    first step, on the side where f and f'' agree in sign, and from there converges monotonically, if f is
    convex and monotone. The iteration ends when no element has moved by more than a step whose square,
    which is what is left after it, is below rounding error.

    Derivatives with respect to what `f` closes over are those of the implicit function theorem,
    dx = -f'(x)^-1 df, to any order; the iteration itself is not differentiated.

    Args:
        f: the function, elementwise.
        start: where to begin, of the shape of the result.
        steps: Newton steps at most.
        bounds: where the iterate is kept, against a first step too far.

    >>> x = newton_root(lambda u: jnp.exp(u) - 2.0, jnp.array(1.0))
    >>> round(float(x), 5)
    0.69315
    """

    def solve(g: Callable[[jax.Array], jax.Array], first: jax.Array) -> jax.Array:
        tolerance = 0.1 * jnp.finfo(first.dtype).eps ** 0.5

        def step(state: tuple[Any, jax.Array, Any]) -> tuple[Any, jax.Array, Any]:
            taken, x, _ = state
            y, slope = jax.jvp(g, (x,), (jnp.ones_like(x),))
            new = jnp.clip(x - y / slope, *bounds)
            return taken + 1, new, jnp.any(jnp.abs(new - x) > tolerance * (1 + jnp.abs(x)))

        def unfinished(state: tuple[Any, jax.Array, Any]) -> Any:
            taken, _, moving = state
            return moving & (taken < steps)

        return jax.lax.while_loop(unfinished, step, (0, first, True))[1]

    def divide(slope: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        return y / slope(jnp.ones_like(y))

    return jax.lax.custom_root(f, jax.lax.stop_gradient(start), solve, divide)


def newton_system(
    f: Callable[[jax.Array], tuple[jax.Array, Any]],
    start: jax.Array,
    *,
    steps: int = 12,
    watched: int | None = None,
    reach: float = 0.25,
) -> tuple[jax.Array, jax.Array, Any, jax.Array]:
    """Return where Newton's method on F(z) = 0 ends, z (n,), and what is known there.

    A step is -J^+ F, with the pseudo-inverse of the Jacobian, so that equations which say the same twice do
    no harm; it is shortened where one of the first `watched` unknowns (all by default) would move further
    than `reach`.

    Args:
        f: z -> F (n,), and anything else that is wanted at the end.
        start: (n,).
        steps: evaluations of F and its Jacobian.
        watched, reach: see above.

    Returns:
        The last point evaluated, F there, what else `f` returned, and the pseudo-inverse (n, n).

    >>> circle = lambda z: (jnp.stack([z @ z - 2.0, z[0] - z[1]]), None)
    >>> z, value, _, inverse = newton_system(circle, jnp.array([2.0, 0.5]))
    >>> z.round(4).tolist()
    [1.0, 1.0]
    """
    chex.assert_rank(start, 1)

    def residual(z: jax.Array) -> tuple[jax.Array, Any]:
        value, others = f(z)
        return value, (value, others)

    def step(_: int, state: Any) -> Any:
        """Go on to the next point; what is known of the last goes with it."""
        z = state[0]
        jacobian, (value, others) = jax.jacfwd(residual, has_aux=True)(z)
        inverse = jnp.linalg.pinv(jacobian)
        move = -inverse @ value
        longest = jnp.abs(move[:watched]).max()
        return z + move * jnp.minimum(1.0, reach / jnp.maximum(longest, 1e-12)), z, value, others, inverse

    nothing = jax.eval_shape(lambda z: step(0, (z,)), start)
    first = (start, *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing[1:]))
    return jax.lax.fori_loop(0, steps, step, first)[1:]
