"""Many queries in one compiled call: relax, round to the lattice, and check against all of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.search.lattice import Lattice, evaluate
from scalesim.search.problem import Problem, Query, Sized
from scalesim.search.relaxation import Relaxed, relax

__all__ = ["Found", "exhaustive", "gradient_search", "log_costs", "stack_queries"]

Num = Any

NEIGHBOURS = 24
"""At most so many lattice points around a relaxed optimum are tried in rounding, and at most a quarter."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Found:
    """The chosen lattice point of a query: its place in the lattice, its design, and what was evaluated."""

    index: Num
    sized: Sized
    evaluations: Num


def stack_queries(queries: list[Query]) -> Query:
    """Stack queries of one structure into a batch: every leaf gets a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, float) for leaf in leaves]), *queries)


def _choose(problem: Problem, query: Query, lattice: Lattice, indices: Num) -> Found:
    n_head, n_kv_head = (jnp.asarray(axis)[indices] for axis in lattice.arrays())
    designs = evaluate(problem, query, lattice, n_head, n_kv_head)
    best = jnp.argmin(designs.cost)
    return Found(
        index=indices[best],
        sized=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape)[best], designs),
        evaluations=jnp.asarray(n_head.shape[0]),
    )


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
    return jax.vmap(lambda query: _choose(problem, query, lattice, every))(queries)


def _at_most(problem: Problem, query: Query, lattice: Lattice, relaxed: Relaxed, found: Found) -> Relaxed:
    """Return the relaxed optimum, or the chosen heads' relaxed design should that be the lesser."""
    shape = found.sized.shape
    rounded = problem.sized(query, shape.n_head[None], shape.n_kv_head[None], lattice.depth_slack)
    other = Relaxed(
        n_head=shape.n_head,
        n_kv_head=shape.n_kv_head,
        sized=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (1,))[0], rounded),
        starts_agreeing=relaxed.starts_agreeing,
    )
    less = other.sized.cost < relaxed.sized.cost
    return jax.tree.map(lambda a, b: jnp.where(less, a, b), other, relaxed)


@partial(jax.jit, static_argnums=2)
def gradient_search(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Relaxed, Found]:
    """Return, for each of a batch of queries, the relaxed optimum and the best lattice point around it.

    Rounding tries the lattice points nearest the relaxed optimum in (log n_head, log n_kv_head), each
    brought to the target loss anew.
    """

    def one(query: Query) -> tuple[Relaxed, Found]:
        relaxed = relax(problem, query, lattice)
        n_head, n_kv_head = lattice.arrays()
        distance = (jnp.log(n_head) - jnp.log(relaxed.n_head)) ** 2 + (
            jnp.log(n_kv_head) - jnp.log(relaxed.n_kv_head)
        ) ** 2
        tried = min(NEIGHBOURS, max(len(lattice.heads) // 4, 1))
        _, nearest = jax.lax.top_k(-distance, tried)
        found = _choose(problem, query, lattice, nearest)
        return _at_most(problem, query, lattice, relaxed, found), found

    return jax.vmap(one)(queries)
