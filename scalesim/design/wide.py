"""Search on a wide lattice: the relaxation's optima, rounded by a search over whole numbers.

At every whole design what is left continuous is solved for anew (see `DesignSpace`), so each reaches the
target loss or is known not to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.constraints import worst_excess
from scalesim.design.integer import best_first
from scalesim.design.places import Places
from scalesim.design.problem import Freed, Problem, Query
from scalesim.design.relaxation import Relaxed, descend
from scalesim.design.space import N_STARTS, DesignSpace
from scalesim.numerics.penalty import ITERATIONS
from scalesim.numerics.roots import newton_root
from scalesim.pytree import register
from scalesim.shape import Shape

__all__ = ["TOLERANCE", "Built", "Settled", "build", "settled", "wide_search"]

Num = Any

ROUNDS = 30
"""Of the walk over whole designs, at most."""
PATIENCE = 15
"""Rounds in a row without anything better that end the walk."""
EXPANDED = 20
"""Designs whose neighbours are looked at in a round."""
TRIED = 300
"""Designs tried a round: all rounds together are less than a hundredth of a lattice of a million."""
ANSWERS = 32
"""Designs that an answer holds, the best first."""
TOLERANCE = 1e-9
"""Log excess that counts as none."""
TOLL = 6.0
"""Log cost of a violation of 1 where it is forgiven: a limit exceeded by a hundredth must save 6% of cost."""


@register
@dataclass(frozen=True, kw_only=True)
class Built:
    """Whole designs of a space, elementwise.

    Attributes:
        shape: sizes, whole numbers held as floats.
        freed: tokens_per_param and kv_bits, where they are chosen.
        value: the objective, whether the design does what is asked or not.
        excess: by how much, in log, the worst constraint is exceeded (-inf without constraints; inf where
            the heads are not real).
        loss_excess: log(loss / target).
    """

    shape: Shape
    freed: Freed
    value: Num
    excess: Num
    loss_excess: Num

    @property
    def violation(self) -> Num:
        """By how much the design misses what was asked; a thousandth of loss counts as a hundredth."""
        return jnp.maximum(jnp.maximum(self.excess, 10.0 * self.loss_excess), 0.0)

    @property
    def cost(self) -> Num:
        """The objective; infinite where the target loss or a constraint is not met."""
        met = (self.excess <= TOLERANCE) & (self.loss_excess <= TOLERANCE)
        return jnp.where(met, self.value, jnp.inf)

    @property
    def merits(self) -> tuple[Num, Num]:
        """What is minimised: log cost, or above every cost the violation; and log cost with a toll."""
        log_value = jnp.log(self.value)
        strict = jnp.where(jnp.isfinite(self.cost), log_value, 1e6 * (1.0 + self.violation))
        return strict, log_value + TOLL * self.violation


@register
@dataclass(frozen=True, kw_only=True)
class Settled:
    """The answer to one question.

    Attributes:
        relaxed: the relaxed optimum (None without a gradient).
        index: place of the best designs seen in the space, best first (P, 7).
        built: those designs.
        merit_before: the best merit before all designs within one step along every axis were tried.
        evaluations: whole designs that were built and priced.
        gradients: relaxed designs whose gradient was taken.
    """

    relaxed: Relaxed | None
    index: Num
    built: Built
    merit_before: Num
    evaluations: Num
    gradients: Num


def build(problem: Problem, query: Query, space: DesignSpace, index: Num) -> Built:
    """Return the designs at some places of a space (n, 7), each brought to the target loss if it can be."""
    shape, possible, kv_bits = Places(space, problem.family).shapes(index)
    freed = Freed(kv_bits=kv_bits)
    if space.tokens_per_param is not None:
        per_param = _close_by_tokens(problem, freed.asked(query), shape, freed, space.tokens_per_param)
        freed = Freed(kv_bits=kv_bits, tokens_per_param=per_param)
    else:
        shape = _close_by_width(problem, freed.asked(query), shape, freed, space)
    return priced(problem, query, shape, freed, possible)


def priced(problem: Problem, query: Query, shape: Shape, freed: Freed, possible: Num) -> Built:
    """Return whole shapes with their cost, and by how much they miss the loss or a constraint."""
    asked = freed.asked(query)
    like = jnp.zeros(jnp.broadcast_shapes(jnp.shape(possible), jnp.shape(shape.d_ff)))
    loss = jnp.log(problem.loss_of(shape, asked.workload, freed) / query.target_loss)
    excess = worst_excess(asked.constraints, shape, asked.workload, like)
    return Built(
        shape=shape,
        freed=freed,
        value=asked.objective(shape, asked.workload) + like,
        excess=jnp.where(possible, excess, jnp.inf),
        loss_excess=loss + like,
    )


def _close_by_tokens(
    problem: Problem, query: Query, shape: Shape, freed: Freed, limits: tuple[float, float]
) -> Num:
    """Return the training tokens a parameter at which each shape has the target loss, within the limits."""
    bounds = tuple(np.log(limits))

    def excess(log_tokens: Num) -> Num:
        more = Freed(kv_bits=freed.kv_bits, tokens_per_param=jnp.exp(log_tokens))
        return problem.loss_of(shape, query.workload, more) - query.target_loss

    # From the fewest tokens: Newton climbs a falling convex law without overshooting.
    start = jnp.full_like(shape.d_ff, bounds[0])
    # A hair more than the root, so that rounding does not leave it above the target.
    return jnp.exp(jnp.minimum(newton_root(excess, start, bounds=bounds) + 1e-11, bounds[1]))


def _close_by_width(problem: Problem, query: Query, shape: Shape, freed: Freed, space: DesignSpace) -> Shape:
    """Return each shape with the least d_ff that reaches the target loss (that of least loss, if none does).

    Where the law has a best FFN ratio, loss falls up to it and rises beyond: what reaches the target or is
    beyond the least loss is all at the upper end, and is bisected for.
    """
    low, high = space.ffn_limits(problem.family)
    unit = float(space.tile * space.tensor)
    first = jnp.maximum(jnp.ceil(low * shape.d_model / unit - 1e-9), 1.0)
    last = jnp.maximum(jnp.floor(high * shape.d_model / unit + 1e-9), first)

    def loss_at(tiles: Num) -> Num:
        return problem.loss_of(replace(shape, d_ff=tiles * unit), query.workload, freed)

    def halve(_: int, ends: tuple[Num, Num]) -> tuple[Num, Num]:
        below, reaches = ends
        middle = jnp.floor((below + reaches) / 2)
        loss, slope = jax.jvp(loss_at, (middle,), (jnp.ones_like(middle),))
        good = (loss <= query.target_loss * (1 + TOLERANCE)) | (slope >= 0)
        return jnp.where(good, below, middle), jnp.where(good, middle, reaches)

    widest = (high - low) * float(space.widths(problem.family).max()) / unit
    steps = int(np.ceil(np.log2(widest + 2.0))) + 1
    _, reaches = jax.lax.fori_loop(0, steps, halve, (first - 1.0, last))
    return replace(shape, d_ff=jnp.maximum(reaches, first) * unit)


@partial(jax.jit, static_argnums=(2, 3))
def wide_search(problem: Problem, queries: Query, space: DesignSpace, gradient: bool = True) -> Settled:
    """Return the best design of a space for each of a batch of queries.

    The relaxed optima (with `gradient`; else points spread over the lattice) are rounded to the nearest
    whole designs. From there a best-first search moves one or two coordinates at a time; at last every design
    within one step of the best along all axes is tried, until none of them is better.
    """
    places = Places(space, problem.family)

    def one(query: Query) -> Settled:
        def merits(index: Num) -> tuple[Num, Num]:
            return build(problem, query, space, index).merits

        if gradient:
            ends = descend(problem, query, space)
            relaxed, start = ends.best, places.rounded(ends)
        else:
            relaxed, start = None, jnp.asarray(places.spread())
        pool, before, tried = best_first(
            merits,
            start,
            places.neighbours,
            places.around,
            places.axes.sizes,
            tidy=places.tidy,
            rounds=ROUNDS,
            patience=PATIENCE,
            expand=EXPANDED,
            width=TRIED,
        )
        answers = pool.index[:ANSWERS]
        return Settled(
            relaxed=relaxed,
            index=answers,
            built=build(problem, query, space, answers),
            merit_before=before,
            evaluations=tried + ANSWERS,
            gradients=jnp.asarray(N_STARTS * ITERATIONS if gradient else 0),
        )

    return jax.lax.map(one, queries)


def settled(problem: Problem, queries: Query, space: DesignSpace, gradient: bool = True) -> Settled:
    """Return `wide_search` on the host."""
    return jax.device_get(wide_search(problem, queries, space, gradient))
