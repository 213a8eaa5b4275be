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

__all__ = ["Found", "exhaustive", "gradient_search", "stack_queries"]

Num = Any

NEIGHBOURS = 24
"""Lattice points around a relaxed optimum that rounding tries (all, if the lattice has fewer)."""


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


@partial(jax.jit, static_argnums=2)
def exhaustive(problem: Problem, queries: Query, lattice: Lattice) -> Found:
    """Return the best of the whole lattice for each of a batch of queries (the paper's recipe)."""
    every = jnp.arange(len(lattice.heads))
    return jax.vmap(lambda query: _choose(problem, query, lattice, every))(queries)


@partial(jax.jit, static_argnums=2)
def gradient_search(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Relaxed, Found]:
    """Return, for each of a batch of queries, the relaxed optimum and the best lattice point around it.

    Rounding tries the lattice points nearest the relaxed optimum in (log n_head, log n_kv_head), each
    brought to the target loss anew.
    """

    def one(query: Query) -> tuple[Relaxed, Found]:
        relaxed = relax(problem, query, lattice.max_head)
        n_head, n_kv_head = lattice.arrays()
        distance = (jnp.log(n_head) - jnp.log(relaxed.n_head)) ** 2 + (
            jnp.log(n_kv_head) - jnp.log(relaxed.n_kv_head)
        ) ** 2
        _, nearest = jax.lax.top_k(-distance, min(NEIGHBOURS, len(lattice.heads)))
        return relaxed, _choose(problem, query, lattice, nearest)

    return jax.vmap(one)(queries)
