"""How a size becomes a whole shape, and which points of a lattice rounding tries about a relaxed optimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.problem import Priced, Problem, Query
from scalesim.design.relaxation import Relaxed
from scalesim.pytree import register
from scalesim.shape import Shape, count_params
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.design.lattice import Lattice

__all__ = ["FFN_RATIO_SLACK", "Found", "evaluate", "evaluate_at", "least", "round_to"]

FFN_RATIO_SLACK = 1.25
"""How far d_ff / d_model may be from the family's, either way, to bring a whole shape to its size."""
NEIGHBOURS = 24
"""At most so many lattice points are tried in rounding, and at most a quarter; with constraints half."""
STEP = 12
"""So many at a time, each time around the best so far."""


def evaluate(problem: Problem, query: Query, lattice: Lattice, n_head: Num, n_kv_head: Num) -> Priced:
    """Return the cheapest design of `lattice` with these heads that reaches the target loss, elementwise.

    A relaxed lattice takes the family's shape at N*. A real one takes whole sizes with at least N*
    parameters: the depth is the family's, rounded (the law cannot see depth against width, and a much
    shallower model would look cheaper for nothing); the width is the multiple of the tile, among the five
    nearest the family's, that costs least; d_ff is the least multiple that reaches N*, its ratio to
    d_model kept near the family's.
    """
    if not lattice.real:
        return problem.sized(query, n_head, n_kv_head)
    relaxed, _, loss_excess = problem.located(query, n_head, n_kv_head)

    def built(offset: Num) -> Priced:
        shape = _built(problem, relaxed, lattice.tile, offset)
        return problem.priced(query, shape, loss_excess=loss_excess)

    designs = jax.vmap(built)(jnp.arange(-2.0, 3.0))
    # The cheapest width whose FFN ratio is in reach; failing that (tiny models), the nearest ratio.
    best = jnp.argmin(designs.cost * (1 + 1e3 * _excess_ratio(problem, designs.shape)), axis=0)
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, best[None], axis=0)[0], designs)


def _built(problem: Problem, shape: Shape, tile: int, offset: Num) -> Shape:
    """Return a whole shape of at least a relaxed one's parameters, `offset` tiles wider than the family."""
    family = problem.family
    n_params = count_params(shape, "paper")
    n_layer = jnp.maximum(jnp.round(shape.n_layer), 1.0)
    ideal = family.at_depth(n_params, n_layer, shape.n_head, shape.n_kv_head)
    d_model = jnp.maximum(jnp.round(ideal.d_model / tile) + offset, 1.0) * tile
    attention = 2.0 * family.head_dim * (shape.n_head + shape.n_kv_head)
    d_ff = (n_params / n_layer / d_model - attention) / family.ffn_matrices
    d_ff = jnp.maximum(jnp.ceil(d_ff / tile - 1e-9), 1.0) * tile
    real = family.shape(n_layer, d_model, shape.n_head, shape.n_kv_head, d_ff=d_ff)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_layer.shape), real)


def _excess_ratio(problem: Problem, shape: Shape) -> Num:
    """Return by how much (in log) the FFN ratio is beyond its slack, 0 within."""
    off = jnp.abs(jnp.log(shape.d_ff / shape.d_model / problem.family.ffn_ratio))
    return jnp.maximum(off - np.log(FFN_RATIO_SLACK), 0.0)


@register
@dataclass(frozen=True, kw_only=True)
class Found:
    """The chosen lattice point of a query: its place in the lattice, its design, and what was evaluated."""

    index: Num
    design: Priced
    evaluations: Num


def least(designs: Priced, indices: Num) -> Found:
    """Return the cheapest of some designs, which stand at `indices` of the lattice."""
    best = jnp.argmin(designs.cost)
    count = indices.shape[0]
    design = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count,))[best], designs)
    return Found(index=indices[best], design=design, evaluations=jnp.asarray(count))


def evaluate_at(problem: Problem, query: Query, lattice: Lattice, indices: Num) -> Priced:
    """Return the designs that stand at `indices` of the lattice (see `evaluate`)."""
    n_head, n_kv_head = (jnp.asarray(axis)[indices] for axis in lattice.arrays())
    return evaluate(problem, query, lattice, n_head, n_kv_head)


def round_to(
    relaxed: Relaxed, lattice: Lattice, constrained: bool, designs_at: Callable[[Num], Priced]
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
    return least(designs, jnp.concatenate(indices))
