"""Gradient search over the continuous relaxation: log n_head and log n_kv_head, size eliminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalesim.search.lattice import Lattice
from scalesim.search.problem import Problem, Query, Sized

__all__ = ["Relaxed", "relax"]

Num = Any

STARTS = np.array([[0.15, 0.1], [0.5, 0.1], [0.85, 0.1], [0.5, 0.8], [0.9, 0.8]])
"""Where the search starts, in its unit square: few, middling and many heads; shared and separate KV heads."""
STEPS = 40
LEARNING_RATE = 0.12
PENALTIES = np.array([3.0, 10.0, 30.0, 100.0, 300.0])
"""Of the augmented Lagrangian, round by round; one round of steps at each."""
TOLERANCE = 1e-3
"""Relative excess of a constraint that the relaxed optimum may have."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """The relaxed optimum of one query: real-valued heads, size and cost.

    Attributes:
        n_head, n_kv_head: the optimum.
        sized: its size, relaxed shape and cost.
        starts_agreeing: how many starts ended within 0.1% of the best cost.
    """

    n_head: Num
    n_kv_head: Num
    sized: Sized
    starts_agreeing: Num


def heads_at(position: Num, max_head: float) -> tuple[Num, Num]:
    """Map the unit square to heads: log n_head = s log(max_head), log n_kv_head = t log n_head.

    The square is exactly 1 <= n_kv_head <= n_head <= max_head, and its edges are MQA and MHA.
    """
    log_head = position[..., 0] * np.log(max_head)
    return jnp.exp(log_head), jnp.exp(position[..., 1] * log_head)


def relax(problem: Problem, query: Query, lattice: Lattice) -> Relaxed:
    """Return the least cost over real-valued heads, by projected Adam from several starts at once.

    The relaxation holds every design of the lattice: where the lattice rounds the depth, the relaxed shape
    is half a layer shallower than the family. So its optimum bounds the lattice's from below.

    Every step re-solves N* from the last step's root (two Newton steps do), so the loss constraint holds
    exactly all along and the gradient is that of the constrained problem. Other constraints enter as an
    augmented Lagrangian of their log excess, whose multipliers are renewed between rounds of steps.
    """
    max_head, slack = lattice.max_head, lattice.depth_slack
    start = jnp.asarray(STARTS)

    def lagrangian(position: Num, log_n: Num, multipliers: Num, penalty: Num) -> tuple[Num, Any]:
        n_head, n_kv_head = heads_at(position, max_head)
        log_n = problem.size_for_loss(query, n_head, n_kv_head, start=log_n, steps=2)
        shape = problem.relaxed_shape(log_n, n_head, n_kv_head, slack)
        value = jnp.log(query.objective(shape, query.workload))
        excesses = jnp.stack([c.excess(shape, query.workload) for c in query.constraints] or [0 * value])
        if query.constraints:
            pressed = jnp.maximum(multipliers + penalty * excesses, 0.0)
            value = value + (pressed**2 - multipliers**2).sum(0) / (2 * penalty)
        return value.sum(), jax.lax.stop_gradient((log_n, excesses))

    def descend(state: tuple[Num, Num, Num], penalty: Num) -> tuple[tuple[Num, Num, Num], None]:
        position, log_n, multipliers = state
        optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS), b1=0.8, b2=0.95)

        def step(state: tuple[Num, Num, Num], _: None) -> tuple[tuple[Num, Num, Num], None]:
            position, log_n, moments = state
            gradient, (log_n, _) = jax.grad(lagrangian, has_aux=True)(position, log_n, multipliers, penalty)
            updates, moments = optimiser.update(gradient, moments)
            position = optax.projections.projection_box(optax.apply_updates(position, updates), 0.0, 1.0)
            return (position, log_n, moments), None

        (position, log_n, _), _ = jax.lax.scan(step, (position, log_n, optimiser.init(start)), length=STEPS)
        _, (log_n, excesses) = lagrangian(position, log_n, multipliers, penalty)
        return (position, log_n, jnp.maximum(multipliers + penalty * excesses, 0.0)), None

    first = problem.size_for_loss(query, *heads_at(start, max_head))
    multipliers = jnp.zeros((max(len(query.constraints), 1), len(STARTS)))
    # Without constraints one round is the whole search.
    penalties = PENALTIES if query.constraints else PENALTIES[:1]
    (position, _, _), _ = jax.lax.scan(descend, (start, first, multipliers), jnp.asarray(penalties))
    n_head, n_kv_head = heads_at(position, max_head)
    sized = problem.sized(query, n_head, n_kv_head, slack, tolerance=TOLERANCE)
    best = jnp.argmin(sized.cost)
    return Relaxed(
        n_head=n_head[best],
        n_kv_head=n_kv_head[best],
        sized=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape)[best], sized),
        starts_agreeing=jnp.sum(sized.cost <= sized.cost[best] * 1.001),
    )
