"""Gradient search over a continuous relaxation: a unit box of logarithms, size eliminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalesim.families import ShapeFamily
from scalesim.search.problem import TIED, Freed, Problem, Query, Sized
from scalesim.shape import Shape

__all__ = ["Descended", "Relaxable", "Relaxed", "descend", "heads_at", "relax"]

Num = Any

STEPS = 40
LEARNING_RATE = 0.12
PENALTIES = np.array([3.0, 10.0, 30.0, 100.0, 300.0])
"""Of the augmented Lagrangian, round by round; one round of steps at each."""
TOLERANCE = 1e-3
"""Relative excess of a constraint that the relaxed optimum may have."""


class Relaxable(Protocol):
    """A set of designs that has a relaxation: `Lattice`, whose coordinates are heads, and `DesignSpace`."""

    @property
    def depth_slack(self) -> float:
        """Layers by which a relaxed design may be shallower than its family."""
        ...

    def starts(self, family: ShapeFamily) -> np.ndarray:
        """Return where the search starts in the unit box, (S, k)."""
        ...

    def relaxed_at(self, position: Num, family: ShapeFamily) -> tuple[Num | None, Num, Freed]:
        """Return n_head, n_kv_head and all else that is chosen, at points of the unit box (S, k)."""
        ...

    def size_excesses(self, shape: Shape) -> list[Num]:
        """Return by how much, in log, a relaxed shape is beyond each end of the sizes' ranges."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """The relaxed optimum of one query: real-valued heads, size and cost.

    Attributes:
        n_head, n_kv_head: the optimum (n_head is None where it is tied to the width).
        freed: what else was chosen.
        sized: its size, relaxed shape and cost.
        starts_agreeing: how many starts ended within 0.1% of the best cost.
    """

    n_head: Num | None
    n_kv_head: Num
    sized: Sized
    starts_agreeing: Num
    freed: Freed = TIED


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Descended:
    """Where each start ended: `Relaxed` before the best is chosen; leaves (S,)."""

    n_head: Num | None
    n_kv_head: Num
    freed: Freed
    sized: Sized

    @property
    def best(self) -> Relaxed:
        """The cheapest end."""
        count = self.sized.cost.shape
        best = jnp.argmin(self.sized.cost)
        chosen = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, count)[best], self)
        return Relaxed(
            n_head=chosen.n_head,
            n_kv_head=chosen.n_kv_head,
            freed=chosen.freed,
            sized=chosen.sized,
            starts_agreeing=jnp.sum(self.sized.cost <= self.sized.cost[best] * 1.001),
        )


def heads_at(position: Num, max_head: float) -> tuple[Num, Num]:
    """Map the unit square to heads: log n_head = s log(max_head), log n_kv_head = t log n_head.

    The square is exactly 1 <= n_kv_head <= n_head <= max_head, and its edges are MQA and MHA.
    """
    log_head = position[..., 0] * np.log(max_head)
    return jnp.exp(log_head), jnp.exp(position[..., 1] * log_head)


def descend(problem: Problem, query: Query, designs: Relaxable) -> Descended:
    """Minimise the cost over the relaxation of some designs, by projected Adam from several starts at once.

    Every step re-solves N* from the last step's root (two Newton steps do), so the loss constraint holds
    exactly all along and the gradient is that of the constrained problem. Other constraints, and the ranges
    of the sizes, enter as an augmented Lagrangian of their log excess, whose multipliers are renewed between
    rounds of steps.
    """
    family, slack = problem.family, designs.depth_slack
    start = jnp.asarray(designs.starts(family))

    def chosen(position: Num, log_n: Num) -> tuple[Query, Num, Shape]:
        n_head, n_kv_head, freed = designs.relaxed_at(position, family)
        asked = freed.asked(query)
        log_n = problem.size_for_loss(asked, n_head, n_kv_head, start=log_n, steps=2, freed=freed)
        return asked, log_n, problem.relaxed_shape(log_n, n_head, n_kv_head, slack, freed)

    def lagrangian(position: Num, log_n: Num, multipliers: Num, penalty: Num) -> tuple[Num, Any]:
        asked, log_n, shape = chosen(position, log_n)
        value = jnp.log(asked.objective(shape, asked.workload))
        limits = [c.excess(shape, asked.workload) for c in asked.constraints]
        limits += designs.size_excesses(shape)
        excesses = jnp.stack(limits or [0 * value])
        if limits:
            pressed = jnp.maximum(multipliers + penalty * excesses, 0.0)
            value = value + (pressed**2 - multipliers**2).sum(0) / (2 * penalty)
        return value.sum(), jax.lax.stop_gradient((log_n, excesses))

    def round_of_steps(state: tuple[Num, Num, Num], penalty: Num) -> tuple[tuple[Num, Num, Num], None]:
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

    n_head, n_kv_head, freed = designs.relaxed_at(start, family)
    first = problem.size_for_loss(freed.asked(query), n_head, n_kv_head, freed=freed)
    sizes = designs.size_excesses(problem.relaxed_shape(first, n_head, n_kv_head, freed=freed))
    limited = len(query.constraints) + len(sizes)
    multipliers = jnp.zeros((max(limited, 1), len(start)))
    # Without constraints one round is the whole search.
    penalties = PENALTIES if limited else PENALTIES[:1]
    (position, _, _), _ = jax.lax.scan(round_of_steps, (start, first, multipliers), jnp.asarray(penalties))
    n_head, n_kv_head, freed = designs.relaxed_at(position, family)
    sized = problem.sized(query, n_head, n_kv_head, slack, tolerance=TOLERANCE, freed=freed)
    if sizes:
        excess = jnp.maximum(sized.excess, jnp.stack(designs.size_excesses(sized.shape)).max(0))
        cost = jnp.where(excess <= TOLERANCE, sized.cost, jnp.inf)
        sized = Sized(log_n_params=sized.log_n_params, shape=sized.shape, cost=cost, excess=excess)
    return Descended(n_head=n_head, n_kv_head=n_kv_head, freed=freed, sized=sized)


def relax(problem: Problem, query: Query, designs: Relaxable) -> Relaxed:
    """Return the least cost over the relaxation of some designs: the best end of `descend`.

    The relaxation holds every design of a `Lattice`: where that rounds the depth, the relaxed shape is half
    a layer shallower than the family. So its optimum bounds the lattice's from below.
    """
    return descend(problem, query, designs).best
