"""The general path: any optax solver on the objective itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalesim.fitting.problem import Problem
from scalesim.fitting.solver import ANNEAL

__all__ = ["descend"]


def descend(problem: Problem, z: np.ndarray, solver: Any, steps: int) -> np.ndarray:
    """Return where `steps` of an optax solver lead from each of the starts z (m, p), vmapped.

    The first fifth of the steps is annealed, as in the least-squares path. Solvers with a line search
    (`optax.lbfgs`) are given the objective.
    """
    return np.asarray(_descend(problem, jnp.asarray(z), solver, steps))


@partial(jax.jit, static_argnames=("solver", "steps"))
def _descend(problem: Problem, z: jax.Array, solver: Any, steps: int) -> jax.Array:
    transformation = optax.with_extra_args_support(solver)

    def one(z: jax.Array) -> jax.Array:
        def step(carry: tuple[jax.Array, Any], i: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
            z, state = carry
            heat = ANNEAL ** jnp.maximum(0.0, 1.0 - 5.0 * i / steps)

            def objective(z: jax.Array) -> jax.Array:
                return problem.objective(z, heat)

            value, slope = jax.value_and_grad(objective)(z)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            update, state = transformation.update(
                slope, state, z, value=value, grad=slope, value_fn=objective
            )
            new = optax.apply_updates(z, update)
            return (jnp.where(jnp.isfinite(new), new, z), state), None

        (z, _), _ = jax.lax.scan(step, (z, transformation.init(z)), jnp.arange(steps))
        return z

    return jax.vmap(one)(z)
