"""Gradient search over a continuous relaxation, and what a set of designs offers to be searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scalesim.design.problem import FreeVariables, Priced, Problem, Query
from scalesim.families import HeadRule, ShapeFamily
from scalesim.laws.base import Law
from scalesim.numerics.penalty import minimise
from scalesim.pytree import register
from scalesim.shape import Shape
from scalesim.types import Num

__all__ = ["Compared", "DesignSet", "Relaxed", "Solved", "descend", "heads_at", "relax"]


TOLERANCE = 1e-3
"""Relative excess of a constraint that the relaxed optimum may have."""


Solver: TypeAlias = optax.GradientTransformation | None
"""None: Newton's method along smoothed penalties; or any optax transformation, on the same penalties."""


@register
@dataclass(frozen=True, kw_only=True)
class Relaxed:
    """Relaxed designs: the end of each start (S,), or the best of them.

    Attributes:
        n_head, n_kv_head: real-valued heads (n_head is None where it is tied to the width).
        designs: size, shape, cost and what else was chosen.
        starts_agreeing: how many starts ended within 0.1% of the best cost.
    """

    n_head: Num | None
    n_kv_head: Num
    designs: Priced
    starts_agreeing: Num

    @property
    def best(self) -> Relaxed:
        """The cheapest end."""
        cost = self.designs.cost
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, cost.shape)[jnp.argmin(cost)], self)


@register
@dataclass(frozen=True, kw_only=True)
class Solved:
    """The answer to one question, or a batch.

    Attributes:
        relaxed: the relaxed optimum (None without a gradient).
        designs: of a `Lattice` all, of a `DesignSpace` the best that were seen, (P,).
        index: places of these designs, (P, k).
        own_cost: cost of what the gradient search itself chose, before the check.
        evaluations: whole designs that the rounding of the gradient search tried.
        gradients: relaxed designs whose gradient was taken.
    """

    relaxed: Relaxed | None
    designs: Priced
    index: Num
    own_cost: Num
    evaluations: Num
    gradients: Num


@dataclass(frozen=True)
class Compared:
    """K configurations under R laws, each brought to the target loss anew; leaves (R, K).

    Attributes:
        names: what tells the configurations apart.
        configurations: the values of these, (K, len(names)).
        chosen: index of the design's own configuration.
        designs: each under each law.
        baseline: the rule's shape under each law, (R,); None: a shape that does not follow the law.
    """

    names: tuple[str, ...]
    configurations: np.ndarray
    chosen: int
    designs: Priced
    baseline: Shape | None


class DesignSet(Protocol):
    """What can be searched: `Lattice`, whose coordinates are heads, and `DesignSpace`, with more of them."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def real(self) -> bool:
        """Whether its designs are whole shapes."""
        ...

    @property
    def enumerates(self) -> bool:
        """Whether every design is looked at."""
        ...

    @property
    def depth_slack(self) -> float:
        """Layers by which a relaxed design may be shallower than its family."""
        ...

    @property
    def chooses(self) -> tuple[str, ...]:
        """Names of `sensitivity` that it chooses beside size and heads."""
        ...

    def check(self, law: Law) -> None:
        """Raise InvalidInput where a field is free whose effect on the loss the law cannot see."""
        ...

    def starts(self, family: ShapeFamily) -> np.ndarray:
        """Return where the search starts in the unit box, (S, k)."""
        ...

    def relaxed_at(self, position: Num, family: ShapeFamily) -> tuple[Num | None, Num, FreeVariables]:
        """Return n_head, n_kv_head and all else that is chosen, at points of the unit box (S, k)."""
        ...

    def position_of(self, shape: Shape, free: FreeVariables, family: ShapeFamily) -> np.ndarray:
        """Return where in the unit box a relaxed design is."""
        ...

    def size_excesses(self, shape: Shape) -> list[Num]:
        """Return by how much, in log, a relaxed shape is beyond each end of the sizes' ranges."""
        ...

    def solve(self, problem: Problem, queries: Query, solver: Solver, gradient: bool) -> Solved:
        """Return the answers to a batch of queries; without `gradient`, by whole designs alone."""
        ...

    def why_none(self, problem: Problem, query: Query, designs: Priced, gradient: bool) -> str:
        """Return a sentence or two on why none of the designs seen does what one query asks."""
        ...

    def under(
        self,
        problem: Problem,
        query: Query,
        laws: Law,
        chosen: Shape,
        rule: HeadRule | None,
        gradient: bool,
    ) -> Compared:
        """Return what each of many laws says of one query's configurations."""
        ...


def heads_at(position: Num, max_head: float) -> tuple[Num, Num]:
    """Map the unit square to heads: log n_head = s log(max_head), log n_kv_head = t log n_head.

    The square is exactly 1 <= n_kv_head <= n_head <= max_head, and its edges are MQA and MHA.
    """
    log_head = position[..., 0] * np.log(max_head)
    return jnp.exp(log_head), jnp.exp(position[..., 1] * log_head)


def descend(problem: Problem, query: Query, designs: DesignSet, solver: Solver = None) -> Relaxed:
    """Minimise the cost over the relaxation of some designs, from several starts at once.

    Every step re-solves N* from the last step's root (two Newton steps do), so the loss constraint holds all
    along and the derivatives are those of the constrained problem. The other constraints, and the ranges of
    the sizes, are limits of their log excess (see `minimise`).
    """
    family, slack = problem.family, designs.depth_slack

    def sized(position: Num, log_n: Num | None) -> tuple[Query, Num, Shape, Any]:
        """Return the question as asked of these designs, their size and shape, and what was chosen."""
        n_head, n_kv_head, free = designs.relaxed_at(position.T, family)
        asked = free.applied(query)
        steps = {} if log_n is None else {"start": log_n, "steps": 2}
        log_n = problem.size_for_loss(asked, n_head, n_kv_head, free, **steps)
        shape = problem.relaxed_shape(log_n, n_head, n_kv_head, slack, free)
        return asked, log_n, shape, (n_head, n_kv_head, free)

    def functions(position: Num, log_n: Num) -> tuple[Num, Num]:
        asked, log_n, shape, _ = sized(position, log_n)
        value = jnp.log(asked.cost(shape))
        limits = asked.excesses(shape) + designs.size_excesses(shape)
        return jnp.stack([value, *(limit + 0 * value for limit in limits)]), jax.lax.stop_gradient(log_n)

    start = jnp.asarray(designs.starts(family)).T
    position, values, _ = minimise(functions, start, sized(start, None)[1], solver=solver)
    asked, log_n, shape, (n_head, n_kv_head, free) = sized(position, None)
    loss = problem.loss_at(log_n, n_head, n_kv_head, asked, free)
    excess = jnp.max(values[1:], axis=0, initial=-jnp.inf)
    missed = jnp.abs(loss / query.target_loss - 1) >= 1e-7
    value = jnp.exp(values[0])
    cost = jnp.where(missed | (excess > TOLERANCE), jnp.inf, value)
    found = Priced(
        shape=shape,
        free=free,
        value=value,
        excess=excess,
        loss_excess=jnp.where(missed, jnp.inf, 0.0),
        cost=cost,
    )
    agreeing = jnp.sum(cost <= cost.min() * 1.001)
    return Relaxed(n_head=n_head, n_kv_head=n_kv_head, designs=found, starts_agreeing=agreeing)


def relax(problem: Problem, query: Query, designs: DesignSet, solver: Solver = None) -> Relaxed:
    """Return the least cost over the relaxation of some designs: the best end of `descend`.

    The relaxation holds every design of a `Lattice`: where that rounds the depth, the relaxed shape is half
    a layer shallower than the family. So its optimum bounds the lattice's from below.
    """
    return descend(problem, query, designs, solver).best
