"""Gradient search over a continuous relaxation: a unit box of logarithms, size eliminated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.problem import TIED, Freed, Problem, Query, Sized, bits_seen
from scalesim.families import ShapeFamily
from scalesim.numerics.penalty import minimise
from scalesim.pytree import register
from scalesim.shape import Shape

__all__ = ["Descended", "Relaxable", "Relaxed", "descend", "heads_at", "relax"]

Num = Any

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


@register
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


@register
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
    """Minimise the cost over the relaxation of some designs, from several starts at once.

    Every step re-solves N* from the last step's root (two Newton steps do), so the loss constraint holds all
    along and the derivatives are those of the constrained problem. The other constraints, and the ranges of
    the sizes, are limits of their log excess (see `minimise`).
    """
    family, slack = problem.family, designs.depth_slack

    def sized(position: Num, log_n: Num | None) -> tuple[Query, Num, Shape, Any]:
        """Return the question as asked of these designs, their size and shape, and what was chosen."""
        n_head, n_kv_head, freed = designs.relaxed_at(position.T, family)
        asked = freed.asked(query)
        steps = {} if log_n is None else {"start": log_n, "steps": 2}
        log_n = problem.size_for_loss(asked, n_head, n_kv_head, freed=freed, **steps)
        shape = problem.relaxed_shape(log_n, n_head, n_kv_head, slack, freed)
        return asked, log_n, shape, (n_head, n_kv_head, freed)

    def functions(position: Num, log_n: Num) -> tuple[Num, Num]:
        asked, log_n, shape, _ = sized(position, log_n)
        value = jnp.log(asked.objective(shape, asked.workload))
        limits = [c.excess(shape, asked.workload) for c in asked.constraints]
        limits += designs.size_excesses(shape)
        return jnp.stack([value, *(limit + 0 * value for limit in limits)]), jax.lax.stop_gradient(log_n)

    start = jnp.asarray(designs.starts(family)).T
    position, values, _ = minimise(functions, start, sized(start, None)[1])
    asked, log_n, shape, (n_head, n_kv_head, freed) = sized(position, None)
    context, bits = query.workload.context_length, bits_seen(problem.law, asked.workload)
    loss = problem.loss_at(log_n, n_head, n_kv_head, context, freed, **bits)
    excess = jnp.max(values[1:], axis=0, initial=-jnp.inf)
    allowed = (jnp.abs(loss / query.target_loss - 1) < 1e-7) & (excess <= TOLERANCE)
    cost = jnp.where(allowed, jnp.exp(values[0]), jnp.inf)
    found = Sized(log_n_params=log_n, shape=shape, cost=cost, excess=excess)
    return Descended(n_head=n_head, n_kv_head=n_kv_head, freed=freed, sized=found)


def relax(problem: Problem, query: Query, designs: Relaxable) -> Relaxed:
    """Return the least cost over the relaxation of some designs: the best end of `descend`.

    The relaxation holds every design of a `Lattice`: where that rounds the depth, the relaxed shape is half
    a layer shallower than the family. So its optimum bounds the lattice's from below.
    """
    return descend(problem, query, designs).best
