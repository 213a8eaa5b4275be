"""Frontiers: the designs that nothing betters in two or three measures, and the bound between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.paper import FIGURE_2
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.design.bound import bound_between, measured
from scalesim.design.candidate import Candidate, candidate_of, plain_shape
from scalesim.design.constraints import AtMost
from scalesim.design.design import law_of
from scalesim.design.doubt import extrapolation, in_words
from scalesim.design.lattice import Lattice, buildable, evaluate
from scalesim.design.measures import Measure, named_measures
from scalesim.design.picks import Pick, Table, pick
from scalesim.design.problem import Problem, Query
from scalesim.design.solve import stack_queries
from scalesim.errors import InvalidInput, Unreachable
from scalesim.families import FIGURE, ShapeFamily
from scalesim.hardware import Hardware
from scalesim.numerics.pareto import non_dominated
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = ["Frontier", "frontier"]

Num = Any

SPAN = 0.15
"""Nats on either side of a single target loss."""
MARGIN = 2
"""Losses below the range at which designs are built too, for what they better within it."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """Designs of a lattice that no other of it betters, and the gradient's bound between them.

    Attributes:
        problem, query: the question: law and family; workload, objective and constraints.
        lattice: head configurations.
        measures: what is traded; less of each is better.
        shapes: one a design, the first measure rising.
        values: of the measures, (designs, measures).
        considered: distinct designs of the lattice that were compared.
        cloud: their values, (considered, measures).
        relaxed_shapes, relaxed: the bound: shapes of real-valued sizes and heads, and their measures. Each
        has
            the least last measure with the others at most what is stated, by gradient.
        status: what to know of the frontier's end of least loss, in a sentence.
    """

    problem: Problem
    query: Query
    lattice: Lattice
    measures: tuple[Measure, ...]
    shapes: tuple[Shape, ...]
    values: np.ndarray
    considered: int
    cloud: np.ndarray
    relaxed_shapes: tuple[Shape, ...]
    relaxed: np.ndarray
    status: str

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def table(self) -> Table:
        """The designs and their measures, as picks read them."""
        return Table(self.measures, self.shapes, self.values)

    def candidate(self, index: int) -> Candidate:
        """Return a design of the frontier with its sizes, loss and costs, as `search` reports them."""
        with jax.enable_x64(True):
            return candidate_of(self.problem, self.query, self.shapes[index])

    def pick(
        self,
        *,
        least: str | None = None,
        limits: dict[str, float] | None = None,
        worth: float | None = None,
    ) -> Pick:
        """Return one design of the frontier and why: the knee, unless asked for another.

        Args:
            least: the measure to have least of, among the designs within `limits`.
            limits: the most that measures may be, by name; without `least`, the measure it does not name.
            worth: for two measures: what 1% more of the second must buy of the first (nats, if it is loss;
                else a fraction).

        Raises:
            InvalidInput: a measure that is not the frontier's, or arguments that exclude each other.
            Unreachable: no design is within the limits.

        >>> import scalesim as ss
        >>> job = ss.Workload(context_length=131072)
        >>> front = frontier(ss.named_fit("default"), job, (2.5, 2.8), points=13)
        >>> front.pick(limits={"loss": 2.615}).reason[:44]
        'Least memory of the designs with loss 2.615 '
        """
        return pick(self.table, least=least, limits=limits, worth=worth)


def frontier(
    law: Any,
    workload: Workload,
    target_loss: float | tuple[float, float],
    measures: Sequence[str | Measure] = ("loss", "memory"),
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | None = None,
    constraints: Sequence[AtMost] = (),
    tokens_per_param: float = 20.0,
    hardware: Hardware | None = None,
    parallel: Parallel = ONE_DEVICE,
    points: int = 61,
) -> Frontier:
    """Return the Pareto set of two or three measures of a design.

    With loss among the measures, the lattice is every head configuration at each of `points` losses, brought
    to that loss and, on a real lattice, built as a whole shape (see `evaluate`); without, every
    configuration at the target loss. The filter is exact: nobody in the set is bettered by a design of that
    lattice, and nothing outside it is not. Between neighbours the epsilon-constraint problem is solved by
    gradient over real-valued heads: least of the last measure with the others at most halfway.

    Args:
        law: a `Law`, or a fit that holds one.
        workload: where the model serves.
        target_loss: nats a token; with loss among the measures the range to cover, or its middle.
        measures: two or three names of `scalesim.design.MEASURES`, or `Measure`s of your own.
        objective: the cost that chooses the width of a whole shape, and what "objective" measures.
        family, lattice, constraints, tokens_per_param: as for `search`.
        hardware, parallel: for the measures "tpot", "ttft" and "price".
        points: losses at which every configuration is built.

    Raises:
        InvalidInput: a measure that is not known, or a target loss that is not a positive number or a range.
        Unreachable: no configuration reaches a loss of the range within the constraints.

    >>> import scalesim as ss
    >>> found = frontier(ss.named_fit("default"), ss.Workload(context_length=131072), (2.5, 2.8), points=13)
    >>> len(found) < found.considered, bool((np.diff(found.values[:, 1]) < 0).all())
    (True, True)
    """
    if jax.tree.leaves(objective) == [objective] and callable(objective):
        objective = jax.tree_util.Partial(objective)
    lattice = buildable() if lattice is None else lattice
    asked = named_measures(
        measures, objective, hardware=hardware, parallel=parallel, tokens_per_param=tokens_per_param
    )
    losses = _losses(target_loss, any(m.is_loss for m in asked), points)
    limits = tuple(constraints)
    query = Query(workload=workload, target_loss=float(losses[0]), objective=objective, constraints=limits)
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), family=family, tokens_per_param=tokens_per_param)
        queries = stack_queries([dataclasses.replace(query, target_loss=loss) for loss in losses])
        every, values = jax.device_get(_compared(problem, queries, lattice, asked))
        shapes, values = _distinct(every, np.stack(values, axis=-1))
        if not len(values):
            raise Unreachable(
                f"no design of the {lattice.name} lattice reaches a loss of {losses[0]:g} to {losses[-1]:g} "
                "within the constraints. Higher losses, or wider limits, would do."
            )
        least = [losses[MARGIN] if m.is_loss else 0.0 for m in asked]
        front = np.flatnonzero(non_dominated(values) & (values >= least).all(axis=1))
        front = front[np.lexsort(values[front].T[::-1])]
        chosen = tuple(plain_shape(shapes, lattice.real, (i,)) for i in front.tolist())
        bound_shapes, bound = bound_between(problem, query, lattice, asked, values[front])
    return Frontier(
        problem=problem,
        query=query,
        lattice=lattice,
        measures=asked,
        shapes=chosen,
        values=values[front],
        considered=len(values),
        cloud=values,
        relaxed_shapes=bound_shapes,
        relaxed=bound,
        status=_status(law, problem, query, chosen, asked, values[front]),
    )


def _losses(target: float | tuple[float, float], traded: bool, points: int) -> np.ndarray:
    """Return the losses to build at: one, or a range where loss is traded."""
    ends = np.atleast_1d(np.asarray(target, float))
    if not (np.isfinite(ends).all() and (ends > 0).all() and len(ends) in (1, 2)):
        raise InvalidInput(f"target_loss must be a positive number or a range of two, but is {target!r}.")
    if not traded:
        if len(ends) == 2:
            raise InvalidInput(
                f"target_loss must be one number where loss is not among the measures, but is {target!r}."
            )
        return ends
    if points < 2:
        raise InvalidInput(f"points must be at least 2, but is {points}.")
    low, high = (ends[0] - SPAN, ends[0] + SPAN) if len(ends) == 1 else (ends.min(), ends.max())
    # Whole shapes overshoot: what betters the range's first designs is built for losses just below it.
    step = (high - low) / (points - 1)
    return np.concatenate([low - step * np.arange(MARGIN, 0, -1), np.linspace(low, high, points)])


@partial(jax.jit, static_argnums=2)
def _compared(problem: Problem, queries: Query, lattice: Lattice, measures: tuple[Measure, ...]) -> Any:
    """Return every design of the lattice at every loss, [Q, K], and its measures; nan where there is none."""
    heads = tuple(map(jnp.asarray, lattice.arrays()))

    def one(query: Query) -> Any:
        found = evaluate(problem, query, lattice, *heads)
        shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, heads[0].shape), found.shape)
        values = measured(problem, query.workload, measures, shape)
        return shape, [jnp.where(jnp.isfinite(found.cost), value, jnp.nan) for value in values]

    return jax.vmap(one)(queries)


def _distinct(shapes: Shape, values: np.ndarray) -> tuple[Shape, np.ndarray]:
    """Return the designs that exist, each once: neighbouring losses often build one shape."""
    values = values.reshape(-1, values.shape[-1])
    leaves, kind = jax.tree.flatten(shapes)
    leaves = [np.broadcast_to(leaf, shapes.n_layer.shape).reshape(-1) for leaf in leaves]
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    sizes = np.stack([leaf[finite] for leaf in leaves], axis=1)
    first = finite[np.sort(np.unique(sizes, axis=0, return_index=True)[1])]
    return jax.tree.unflatten(kind, [leaf[first] for leaf in leaves]), values[first]


def _status(
    law: Any,
    problem: Problem,
    query: Query,
    shapes: tuple[Shape, ...],
    measures: tuple[Measure, ...],
    values: np.ndarray,
) -> str:
    """Say how far beyond the evidence the design of least loss is (the largest, where loss is one)."""
    at = next((i for i, m in enumerate(measures) if m.is_loss), None)
    index = 0 if at is None else int(values[:, at].argmin())
    shape, context = shapes[index], float(query.workload.context_length)
    n_params = float(count_params(shape, "paper"))
    tokens = problem.tokens_per_param * n_params
    loss = float(problem.law(shape, n_tokens=tokens, context_length=context))
    sizes = {"n_params": n_params, "n_head": shape.n_head, "n_kv_head": shape.n_kv_head}
    outside = extrapolation(law, {**sizes, "context_length": context, "loss": loss})
    said = in_words(law, outside, "context_length" in problem.law.fields)
    return said if at is None else f"At its end of least loss, {loss:.3f}: {said[0].lower()}{said[1:]}"
