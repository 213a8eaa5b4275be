"""Why there is no answer: what is out of reach, and which of the constraints contradict each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from scalesim.design.lattice import Lattice
from scalesim.design.problem import MAX_PARAMS, MIN_PARAMS, Problem, Query
from scalesim.design.solve import stack_queries
from scalesim.design.space import DesignSpace
from scalesim.design.wide import TOLERANCE, settled
from scalesim.errors import Unreachable

__all__ = ["check_reach", "what_binds", "what_binds_in_space"]

Num = Any
Nearest = Callable[[Sequence[tuple[int, ...]]], list[np.ndarray]]
OFF = 1e300
"""A limit that nothing reaches."""


def check_reach(query: Query, least: float, most: float) -> None:
    """Raise Unreachable where no size has the target loss, given the least and greatest of all candidates."""
    target = float(query.target_loss)
    if target <= least:
        raise Unreachable(
            f"target_loss {target:g} is out of reach: with {MAX_PARAMS:.0e} parameters the best of the "
            f"candidates has a loss of {least:.4g} under this law. A target above that would do."
        )
    if target >= most:
        raise Unreachable(
            f"target_loss {target:g} is higher than the loss of any model of at least {MIN_PARAMS:.0e} "
            f"parameters ({most:.4g} under this law). A target below that would do."
        )


def what_binds(query: Query, lattice: Lattice, every: Any) -> str:
    """Return a sentence or two on why none of a lattice's designs satisfies the constraints."""
    loss = float(query.target_loss)
    if not query.constraints:
        return f"target_loss {loss:g} is out of reach of every configuration tried."
    nearest = int(np.argmin(every.excess))
    excess = np.stack(
        [
            np.broadcast_to(np.asarray(c.excess(every.shape, query.workload)), every.excess.shape)
            for c in query.constraints
        ]
    )

    def nearest_to(subsets: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        return [excess[:, int(np.argmin(excess[list(some)].max(0)))] for some in subsets]

    said = _nearest_to_all(query, f"{lattice.heads[nearest]}", excess[:, nearest])
    return f"{said} {_contradiction(query, nearest_to)} A higher target_loss, or that much more, would do."


def what_binds_in_space(problem: Problem, query: Query, space: DesignSpace, gradient: bool = True) -> str:
    """Return why none of a space's designs does what is asked, by searching it with some limits at a time."""

    def search(subsets: Sequence[tuple[int, ...]]) -> Any:
        asked = [
            replace(
                query,
                constraints=tuple(
                    c if i in some else replace(c, limit=OFF) for i, c in enumerate(query.constraints)
                ),
            )
            for some in subsets
        ]
        found = settled(problem, stack_queries(asked), space, gradient).built
        return jax.tree.map(lambda leaf: leaf[:, 0], found)

    def excesses(found: Any, i: int) -> np.ndarray:
        shape, freed = jax.tree.map(lambda leaf: leaf[i], (found.shape, found.freed))
        asked = freed.asked(query)
        return np.array([float(c.excess(shape, asked.workload)) for c in asked.constraints])

    every = tuple(range(len(query.constraints)))
    free, bound = (search([some]) for some in ((), every))
    target = float(query.target_loss)
    if free.loss_excess[0] > TOLERANCE:
        least = target * float(np.exp(free.loss_excess[0]))
        return (
            f"target_loss {target:g} is out of reach of the {space.name} space: the nearest of its designs "
            f"has a loss of {least:.4g}. A target above that, or wider ranges, would do."
        )

    def nearest_to(subsets: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        found = search(subsets)
        # Where a limit holds, the loss is what gives.
        missed = np.where(found.loss_excess > TOLERANCE, found.loss_excess, 0.0)
        return [np.maximum(excesses(found, i), missed[i]) for i in range(len(subsets))]

    shape = jax.tree.map(lambda leaf: leaf[0], bound.shape)
    name = f"{shape.n_layer:g} x {shape.d_model:g} with heads ({shape.n_head:g}, {shape.n_kv_head:g})"
    lost = float(bound.loss_excess[0])
    if lost > TOLERANCE and max(excesses(bound, 0)) <= TOLERANCE:
        said = (
            f"No design satisfies the constraints at target_loss {target:g}: the nearest, {name}, satisfies "
            f"them with a loss of {target * np.exp(lost):.4g}."
        )
    else:
        said = _nearest_to_all(query, name, excesses(bound, 0))
    return f"{said} {_contradiction(query, nearest_to)} A higher target_loss, or that much more, would do."


def _nearest_to_all(query: Query, name: str, excess: np.ndarray) -> str:
    worst = int(np.argmax(excess))
    binding = query.constraints[worst]
    limit, loss, more = float(binding.limit), float(query.target_loss), float(excess[worst])
    return (
        f"No design satisfies the constraints at target_loss {loss:g}: the nearest, {name}, has "
        f"{binding.name} = {limit * np.exp(more):.4g}, {100 * np.expm1(more):.1f}% above its limit of "
        f"{limit:.4g}."
    )


def _contradiction(query: Query, nearest_to: Nearest) -> str:
    """Return which constraint contradicts the target loss, or which two each other, and by how much."""
    names = [f"{c.name} <= {float(c.limit):.4g}" for c in query.constraints]
    alone = [(i,) for i in range(len(names))]
    for (i,), excess in zip(alone, nearest_to(alone), strict=True):
        if excess[i] > TOLERANCE:
            return (
                f"{names[i]} and the target_loss contradict each other: with no other limit, the design "
                f"nearest to both misses one by {100 * np.expm1(excess[i]):.1f}%."
            )
    pairs = list(itertools.combinations(range(len(names)), 2))
    if not pairs:
        return ""
    worst = [excess[list(pair)].max() for pair, excess in zip(pairs, nearest_to(pairs), strict=True)]
    most = int(np.argmax(worst))
    if worst[most] <= TOLERANCE:
        return "Any two of them can be met at this loss, but not all."
    first, second = pairs[most]
    return (
        f"{names[first]} and {names[second]} contradict each other: each can be met alone at this loss, but "
        f"the design nearest to both exceeds one by {100 * np.expm1(worst[most]):.1f}%."
    )
