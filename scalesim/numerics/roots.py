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
