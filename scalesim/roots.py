"""Roots of smooth monotone functions, elementwise and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["newton_root"]


def newton_root(
    f: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int = 10,
    bounds: tuple[Any, Any] = (-jnp.inf, jnp.inf),
) -> jax.Array:
    """Return x with f(x) = 0 for every element, by Newton's method from `start`.

    `f` acts elementwise and may close over anything. From any start Newton lands, at the latest after its
    first step, on the side where f and f'' agree in sign, and from there converges monotonically, if f is
    convex and monotone. Ten steps take such an f in log-log coordinates to rounding error.

    Derivatives with respect to what `f` closes over are those of the implicit function theorem,
    dx = -f'(x)^-1 df, to any order; the iteration itself is not differentiated.

    Args:
        f: the function, elementwise.
        start: where to begin, of the shape of the result.
        steps: Newton steps.
        bounds: where the iterate is kept, against a first step too far.

    >>> x = newton_root(lambda u: jnp.exp(u) - 2.0, jnp.array(1.0))
    >>> round(float(x), 5)
    0.69315
    """

    def solve(g: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        def step(_: int, x: jax.Array) -> jax.Array:
            y, slope = jax.jvp(g, (x,), (jnp.ones_like(x),))
            return jnp.clip(x - y / slope, *bounds)

        return jax.lax.fori_loop(0, steps, step, x)

    def divide(slope: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        return y / slope(jnp.ones_like(y))

    return jax.lax.custom_root(f, jax.lax.stop_gradient(start), solve, divide)
