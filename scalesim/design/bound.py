"""Between the designs of a frontier: the least of one measure with the others held, by gradient."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.candidate import plain_shape
from scalesim.design.constraints import AtMost
from scalesim.design.lattice import Lattice
from scalesim.design.measures import Measure
from scalesim.design.problem import Problem, Query
from scalesim.design.relaxation import TOLERANCE, relax
from scalesim.design.solve import stack_queries
from scalesim.numerics.pareto import non_dominated
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = ["bound_between", "measured"]

Num = Any

BETWEEN = 48
"""At most so many gradient searches between the lattice's designs."""


def measured(problem: Problem, workload: Workload, measures: tuple[Measure, ...], shape: Shape) -> Any:
    """Return each measure of some shapes, in the shape of their fields."""
    count = jnp.shape(shape.n_layer)
    tokens = problem.tokens_per_param * count_params(shape, "paper")
    found = [
        problem.law(shape, n_tokens=tokens, context_length=workload.context_length)
        if m.is_loss
        else m.function(shape, workload)
        for m in measures
    ]
    return [jnp.broadcast_to(value, count) for value in found]


def bound_between(
    problem: Problem, query: Query, lattice: Lattice, measures: tuple[Measure, ...], values: np.ndarray
) -> tuple[tuple[Shape, ...], np.ndarray]:
    """Solve, halfway between neighbours, for the least last measure with the others at most that much."""
    *limited, last = range(len(measures))
    if measures[last].is_loss:
        # The loss is always a limit: it is eliminated, and something else is minimised.
        limited, last = [last, *limited[1:]], limited[0]
    halfway = np.stack([_middle(m, values[:, i]) for i, m in enumerate(measures)], axis=1)
    some = np.unique(np.linspace(0, len(halfway) - 1, BETWEEN).round().astype(int))
    padded = halfway[np.resize(some, BETWEEN)]

    def asked(row: np.ndarray) -> Query:
        loss = next((row[i] for i in limited if measures[i].is_loss), float(query.target_loss))
        limits = tuple(
            AtMost(measure=measures[i].function, limit=float(row[i]), name=measures[i].name)
            for i in limited
            if not measures[i].is_loss
        )
        constraints = (*query.constraints, *limits)
        return dataclasses.replace(
            query, target_loss=loss, objective=measures[last].function, constraints=constraints
        )

    batch = stack_queries([asked(row) for row in padded])
    shapes, found = jax.device_get(_least(problem, batch, lattice, query.constraints, measures))
    found = np.stack(found, axis=-1)[:, : len(some)].reshape(-1, len(measures))
    shapes = jax.tree.map(lambda leaf: leaf[:, : len(some)].reshape(-1), shapes)
    best = np.flatnonzero(non_dominated(found))
    best = best[np.lexsort(found[best].T[::-1])]
    return tuple(plain_shape(shapes, False, (i,)) for i in best.tolist()), found[best]


def _middle(measure: Measure, values: np.ndarray) -> np.ndarray:
    """Return the values halfway between neighbours: of losses the mean, of costs the geometric one."""
    if len(values) == 1:
        return values
    if measure.is_loss:
        return (values[1:] + values[:-1]) / 2
    return np.sqrt(values[1:] * values[:-1])


@partial(jax.jit, static_argnums=2)
def _least(
    problem: Problem,
    queries: Query,
    lattice: Lattice,
    constraints: tuple[AtMost, ...],
    measures: tuple[Measure, ...],
) -> Any:
    """Return (2, Q) designs: the gradient's optima, and the best of the lattice's own heads at real sizes.

    The gradient's may exceed the halfway limits by what its penalties leave (a part in a thousand): they are
    points of the bound all the same, where they stand. The constraints of the question hold.
    """
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def one(query: Query) -> Any:
        limits = dataclasses.replace(query, constraints=constraints)
        found = relax(problem, query, lattice)
        possible = problem.reachable(query, found.n_head, found.n_kv_head)
        optimum = problem.priced(
            limits, found.sized.log_n_params, found.sized.shape, possible, tolerance=TOLERANCE
        )
        own = problem.sized(query, n_head, n_kv_head, lattice.depth_slack)
        at = jnp.argmin(own.cost)
        own = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape)[at], own)

        def values(sized: Any) -> Any:
            shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, ()), sized.shape)
            exists = jnp.isfinite(sized.cost)
            found = measured(problem, query.workload, measures, shape)
            return shape, [jnp.where(exists, value, jnp.nan) for value in found]

        return jax.tree.map(lambda a, b: jnp.stack([a, b]), values(optimum), values(own))

    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), jax.vmap(one)(queries))
