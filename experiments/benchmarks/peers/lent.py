"""A problem with our work lent to the peers.

All call the same compiled function of whole designs, each brought to the target loss as ours are, ranked by
cost and, where a limit is broken, by how far (Deb's rule): only the axes are left to choose, and no limits.
SLSQP has our relaxation - the unit box, with size eliminated - with its exact gradients, and our rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.posed import Loose, Measured, Posed, batched
from experiments.benchmarks.wide_problems import CASES, Drawn, cases, problem_of, query_of
from scalesim.design.relaxation import Relaxed
from scalesim.design.space_moves import Moves
from scalesim.design.space_search import build, merits
from scalesim.families import FIGURE

__all__ = ["pose"]

FAR = 5.0
"""Log below its limit at which a measure is held, so that a limit that is not asked has no slope."""


def pose(name: str) -> Callable[[Drawn], Posed]:
    """Return how a problem of a lattice is posed; what is compiled serves all of them."""
    case = cases()[CASES.index(name)]
    problem, space = problem_of(case), case.space
    axes = space.axes(FIGURE)

    @jax.jit
    def merit(query: Any, chosen: Any) -> tuple[Any, Any]:
        places = jnp.zeros((len(chosen), len(axes.sizes)), int)
        places = places.at[:, np.array(axes.free)].set(jnp.round(chosen).astype(int))
        found = merits(build(problem, query, space, places))[0]
        return found, jnp.zeros((len(found), 0))

    def ends(query: Any, x: Any) -> Relaxed:
        n_head, n_kv_head, free = space.relaxed_at(x[None], FIGURE)
        designs = problem.sized(query, n_head, n_kv_head, free=free)
        return Relaxed(n_head=n_head, n_kv_head=n_kv_head, designs=designs, starts_agreeing=0)

    def limits(x: Any, query: Any) -> tuple[Any, Any]:
        end = ends(query, x)
        asked, shape = end.designs.free.applied(query), end.designs.shape
        found = asked.excesses(shape) + space.size_excesses(shape)
        log_cost = jnp.log(asked.cost(shape))[0]
        return jnp.maximum(jnp.stack(found)[:, 0], -FAR), log_cost

    @jax.jit
    def loose(x: Any, query: Any) -> tuple[Any, Any, Any, Any]:
        excess, log_cost = limits(x, query)
        both = jax.jacrev(lambda x: jnp.append(*limits(x, query)))(x)
        return log_cost, both[-1], excess, both[:-1]

    @jax.jit
    def rounded(x: Any, query: Any) -> Any:
        places = jnp.clip(Moves(space, FIGURE).rounded(ends(query, x)), 0, axes.sizes - 1)
        return places[:, np.array(axes.free)]

    dimensions = space.starts(FIGURE).shape[1]

    def posed(drawn: Drawn) -> Posed:
        query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query_of(drawn))

        def tried(places: np.ndarray, measured: Measured) -> None:
            measured(places)

        return Posed(
            lower=np.zeros(len(axes.free)),
            upper=axes.sizes[axes.free] - 1.0,
            whole=np.ones(len(axes.free), bool),
            limits=0,
            measured=batched(lambda x: merit(query, x)),
            loose=Loose(
                lower=np.zeros(dimensions),
                upper=np.ones(dimensions),
                at=lambda x: loose(x, query),
                near=lambda x: np.asarray(rounded(x, query), float),
                tried=tried,
            ),
        )

    return posed
