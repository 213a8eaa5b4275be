"""Many queries in one compiled call: relax, round to the lattice, and check against all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.lattice import Lattice, evaluate
from scalesim.design.problem import Problem, Query, Sized
from scalesim.design.relaxation import Relaxed, relax
from scalesim.pytree import register

__all__ = ["Found", "checked_search", "exhaustive", "gradient_search", "log_costs", "stack_queries"]

Num = Any

NEIGHBOURS = 24
"""At most so many lattice points are tried in rounding, and at most a quarter; with constraints half."""
STEP = 12
"""So many at a time, each time around the best so far."""


@register
@dataclass(frozen=True, kw_only=True)
class Found:
    """The chosen lattice point of a query: its place in the lattice, its design, and what was evaluated."""

    index: Num
    sized: Sized
    evaluations: Num


def stack_queries(queries: list[Query]) -> Query:
    """Stack queries of one structure into a batch: every leaf gets a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, float) for leaf in leaves]), *queries)


def _least(lattice: Lattice, designs: Sized, indices: Num) -> Found:
    """Return the cheapest of some designs, which stand at `indices` of the lattice."""
    best = jnp.argmin(designs.cost)
    count = indices.shape[0]
    return Found(
        index=indices[best],
        sized=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count,))[best], designs),
        evaluations=jnp.asarray(count),
    )


def _evaluate(problem: Problem, query: Query, lattice: Lattice, indices: Num) -> Sized:
    n_head, n_kv_head = (jnp.asarray(axis)[indices] for axis in lattice.arrays())
    return evaluate(problem, query, lattice, n_head, n_kv_head)


def _round(
    relaxed: Relaxed, lattice: Lattice, constrained: bool, designs_at: Callable[[Num], Sized]
) -> Found:
    """Return the best of the lattice points that rounding tries, near in log n_head and log n_kv_head.

    First those nearest the relaxed optimum. With constraints, a limit on whole layers or widths leaves
    islands of designs, and the best of them need not be near: so more follow, a few at a time, the best found
    so far.
    """
    logs = jnp.log(jnp.stack(lattice.arrays(), -1))
    count = min(NEIGHBOURS, max(len(lattice.heads) // 4, 1))
    step = STEP if constrained else count
    count = max(len(lattice.heads) // 2, 1) if constrained else count
    merit = jnp.full(len(logs), jnp.inf)
    centre = jnp.log(jnp.stack([jnp.asarray(relaxed.n_head), jnp.asarray(relaxed.n_kv_head)]))
    indices, parts = [], []
    for place in range(0, count, step):
        away = ((logs - centre[None]) ** 2).sum(-1)
        untried = -jnp.where(jnp.isfinite(merit), jnp.inf, away)
        near = jax.lax.top_k(untried, min(step, count - place))[1]
        tried = designs_at(near)
        found = jax.tree.map(partial(jnp.broadcast_to, shape=near.shape), tried)
        # Log cost, or above every cost by how much the worst constraint is exceeded.
        missed = 1e6 * (1 + jnp.maximum(found.excess, 0.0))
        merit = merit.at[near].set(jnp.where(jnp.isfinite(found.cost), jnp.log(found.cost), missed))
        indices.append(near)
        parts.append(found)
        centre = logs[jnp.argmin(merit)]
    designs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return _least(lattice, designs, jnp.concatenate(indices))


def _at_most(lattice: Lattice, relaxed: Relaxed, found: Found) -> Relaxed:
    """Return the relaxed optimum, or the chosen design where that is relaxed too and less by rounding."""
    if lattice.real:
        return relaxed
    shape = found.sized.shape
    other = Relaxed(
        n_head=shape.n_head,
        n_kv_head=shape.n_kv_head,
        sized=found.sized,
        starts_agreeing=relaxed.starts_agreeing,
        freed=relaxed.freed,
    )
    less = found.sized.cost < relaxed.sized.cost
    return jax.tree.map(lambda a, b: jnp.where(less, a, b), other, relaxed)


def log_costs(problem: Problem, queries: Query, lattice: Lattice) -> Num:
    """Return log cost [Q, K] of every relaxed lattice point at its target loss, differentiable in the law.

    Where the loss is out of reach the size is held at the limit, so the cost is huge but finite: what a
    soft choice among the candidates needs.
    """
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def one(query: Query) -> Num:
        log_n = problem.size_for_loss(query, n_head, n_kv_head)
        shape = problem.family.at(jnp.exp(log_n), n_head, n_kv_head)
        return jnp.log(query.objective(shape, query.workload))

    return jax.vmap(one)(queries)


@partial(jax.jit, static_argnums=2)
def exhaustive(problem: Problem, queries: Query, lattice: Lattice) -> Found:
    """Return the best of the whole lattice for each of a batch of queries (the paper's recipe)."""
    every = jnp.arange(len(lattice.heads))
    return jax.vmap(lambda query: _least(lattice, _evaluate(problem, query, lattice, every), every))(queries)


@partial(jax.jit, static_argnums=2)
def gradient_search(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Relaxed, Found]:
    """Return, for each of a batch of queries, the relaxed optimum and the best lattice point around it.

    Rounding tries lattice points about the relaxed optimum, each brought to the target loss anew.
    """

    def one(query: Query) -> tuple[Relaxed, Found]:
        relaxed = relax(problem, query, lattice)
        found = _round(
            relaxed, lattice, bool(query.constraints), lambda near: _evaluate(problem, query, lattice, near)
        )
        return _at_most(lattice, relaxed, found), found

    return jax.vmap(one)(queries)


@partial(jax.jit, static_argnums=(2, 3))
def checked_search(
    problem: Problem, queries: Query, lattice: Lattice, gradient: bool = True
) -> tuple[Relaxed | None, Found, Sized]:
    """Return what `gradient_search` returns, and all of the lattice's designs to check it by.

    The choice is among the same points as there; it is looked up rather than evaluated twice. Without
    `gradient` the lattice alone is searched, all of it, and there is no relaxed optimum.
    """
    every = jnp.arange(len(lattice.heads))

    def one(query: Query) -> tuple[Relaxed | None, Found, Sized]:
        designs = _evaluate(problem, query, lattice, every)
        anywhere = _least(lattice, designs, every)
        if not gradient:
            return None, anywhere, designs
        relaxed = relax(problem, query, lattice)
        whole = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, every.shape), designs)
        found = _round(
            relaxed,
            lattice,
            bool(query.constraints),
            lambda near: jax.tree.map(lambda leaf: leaf[near], whole),
        )
        # Where constraints leave none of the points around the relaxed optimum, any other will do.
        none = jnp.isinf(found.sized.cost)
        found = jax.tree.map(lambda a, b: jnp.where(none, a, b), anywhere, found)
        return _at_most(lattice, relaxed, found), found, designs

    return jax.vmap(one)(queries)
