"""Frontiers: the designs that nothing betters in two or three measures, and the bound between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.measure import PLAN, AtMost, Measure, as_measure
from scalesim.cost.objectives import named_measure
from scalesim.cost.paper import FIGURE_2
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.design.design import Candidate, plain_candidate, plain_shape
from scalesim.design.evidence import extrapolation, extrapolation_text
from scalesim.design.lattice import Lattice, buildable
from scalesim.design.picks import Pick, Table, pick
from scalesim.design.problem import Problem, Query, law_of, over_queries, stack_queries
from scalesim.design.relaxation import TOLERANCE, relax
from scalesim.design.rounding import evaluate
from scalesim.errors import InvalidInput, Unreachable
from scalesim.faces import Face, Shown
from scalesim.families import FIGURE, ShapeFamily
from scalesim.fitting.result import Fit
from scalesim.hardware import Hardware
from scalesim.laws.base import Law
from scalesim.numerics.pareto import non_dominated
from scalesim.programs import kept_jit
from scalesim.shape import Shape
from scalesim.workload import TrainingPlan, Workload

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

__all__ = ["Frontier", "frontier", "values_of"]


SPAN = 0.15
"""Nats on either side of a single target loss."""
MARGIN = 2
"""Losses below the range at which designs are built too, for what they better within it."""
BETWEEN = 48
"""At most so many gradient searches between the lattice's designs."""


@dataclass(frozen=True, eq=False, repr=False)
class Frontier(Shown):
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
            has the least last measure with the others at most what is stated, by gradient.
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
        return plain_candidate(self.problem, self.query, self.shapes[index], self.lattice.real)

    def _face(self) -> Face:
        columns = ("layers × width", "heads", *(m.label for m in self.measures))
        rows = [
            (
                f"{float(s.n_layer):.4g} × {float(s.d_model):.4g}",
                f"{float(s.n_head):.4g} : {float(s.n_kv_head):.4g}",
                *(m.value_text(v) for m, v in zip(self.measures, row, strict=True)),
            )
            for s, row in zip(self.shapes, self.values.tolist(), strict=True)
        ]
        traded = " against ".join(m.label for m in self.measures)
        title = f"Frontier of {traded}: {len(self)} of {self.considered:,} designs"
        return Face(title, columns, rows, (self.status,))

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each design: its sizes, and its measures by their names in JSON."""
        import polars as pl

        names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
        sizes = {name: [getattr(shape, name) for shape in self.shapes] for name in names}
        return pl.DataFrame({**sizes, **{m.key: self.values[:, i] for i, m in enumerate(self.measures)}})

    def to_dict(self) -> dict[str, Any]:
        """Return the frontier as plain values that JSON can hold."""
        from scalesim.report.frontier_table import frontier_json

        return frontier_json(self)

    def plot(self, picks: Sequence[Pick] = ()) -> Figure:
        """Return a figure of every design, the frontier and its bound, with picks marked."""
        from scalesim.report.frontier_figure import draw_frontier

        return draw_frontier(self, picks)

    def pick(
        self,
        *,
        least: str | None = None,
        limits: dict[str, float] | None = None,
        marginal_value: float | None = None,
    ) -> Pick:
        """Return one design of the frontier and why: the knee, unless asked for another.

        Args:
            least: the measure to have least of, among the designs within `limits`.
            limits: the most that measures may be, by name; without `least`, the measure it does not name.
            marginal_value: for two measures: what 1% more of the second must buy of the first (nats, if it
                is loss; else a fraction).

        Raises:
            InvalidInput: a measure that is not the frontier's, or arguments that exclude each other.
            Unreachable: no design is within the limits.

        >>> import scalesim as ss
        >>> job = ss.Workload(context_length=131072)
        >>> front = frontier(ss.named_fit("default"), job, (2.5, 2.8), points=13)
        >>> front.pick(limits={"loss": 2.615}).reason[:44]
        'Least memory of the designs with loss 2.615 '
        """
        return pick(self.table, least=least, limits=limits, marginal_value=marginal_value)


def frontier(
    law: Law | Fit,
    workload: Workload,
    target_loss: float | tuple[float, float],
    measures: Sequence[str | Measure] = ("loss", "memory"),
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | None = None,
    constraints: Sequence[AtMost] = (),
    plan: TrainingPlan = PLAN,
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
        measures: two or three names of `scalesim.cost.MEASURES`, or `Measure`s of your own.
        objective: the cost that chooses the width of a whole shape, and what "objective" measures.
        family, lattice, constraints, plan: as for `search`.
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
    lattice = buildable() if lattice is None else lattice
    if not lattice.enumerates:
        raise InvalidInput(
            "frontier compares the head configurations of a lattice, but is given a DesignSpace; one of "
            "buildable() would do."
        )
    traded = _measures(measures, objective, hardware, parallel)
    losses = _losses(target_loss, any(m.is_loss for m in traded), points)
    query = Query(
        workload=workload,
        target_loss=float(losses[0]),
        objective=objective,
        constraints=tuple(constraints),
        plan=plan,
    )
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), family=family)
        queries = stack_queries([dataclasses.replace(query, target_loss=loss) for loss in losses])
        every, values = jax.device_get(_compared(problem, queries, lattice, traded))
        shapes, values = _distinct(every, np.stack(values, axis=-1))
        if not len(values):
            raise Unreachable(
                f"no design of the {lattice.name} lattice reaches a loss of {losses[0]:g} to {losses[-1]:g} "
                "within the constraints. Higher losses, or wider limits, would do."
            )
        least = [losses[MARGIN] if m.is_loss else 0.0 for m in traded]
        front = np.flatnonzero(non_dominated(values) & (values >= least).all(axis=1))
        front = front[np.lexsort(values[front].T[::-1])]
        chosen = tuple(plain_shape(shapes, lattice.real, (i,)) for i in front.tolist())
        bound_shapes, bound = bound_between(problem, query, lattice, traded, values[front])
    return Frontier(
        problem=problem,
        query=query,
        lattice=lattice,
        measures=traded,
        shapes=chosen,
        values=values[front],
        considered=len(values),
        cloud=values,
        relaxed_shapes=bound_shapes,
        relaxed=bound,
        status=_status(law, problem, query, chosen, traded, values[front]),
    )


def _measures(
    measures: Sequence[str | Measure], objective: Any, hardware: Hardware | None, parallel: Parallel
) -> tuple[Measure, ...]:
    """Return two or three measures, each by its name or given as it is."""
    given = [m if isinstance(m, str) else as_measure(m) for m in measures]
    names = [m if isinstance(m, str) else m.name for m in given]
    if not 2 <= len(set(names)) == len(names) <= 3:
        raise InvalidInput(f"measures must be two or three different ones, but are {', '.join(names)}.")
    return tuple(
        named_measure(m, objective, hardware=hardware, parallel=parallel) if isinstance(m, str) else m
        for m in given
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


@partial(kept_jit, static_argnums=2)
def _compared(problem: Problem, queries: Query, lattice: Lattice, measures: tuple[Measure, ...]) -> Any:
    """Return every design of the lattice at every loss, [Q, K], and its measures; nan where there is none."""
    heads = tuple(map(jnp.asarray, lattice.arrays()))

    def one(query: Query) -> Any:
        found = evaluate(problem, query, lattice, *heads)
        shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, heads[0].shape), found.shape)
        values = values_of(problem, query, measures, shape)
        return shape, [jnp.where(jnp.isfinite(found.cost), value, jnp.nan) for value in values]

    return over_queries(one, queries)


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
    best = plain_candidate(problem, query, shapes[index], False)
    outside = extrapolation(law, best, float(query.workload.context_length), best.loss)
    text = extrapolation_text(law, outside, "context_length" in problem.law.fields)
    return text if at is None else f"At its end of least loss, {best.loss:.3f}: {text[0].lower()}{text[1:]}"


# The bound between the designs: the least of one measure with the others held, by gradient.


def values_of(problem: Problem, query: Query, measures: tuple[Measure, ...], shape: Shape) -> Any:
    """Return each measure of some shapes, in the shape of their fields."""
    count = jnp.shape(shape.n_layer)
    found = [problem.loss_of(shape, query) if m.is_loss else query.measure(m, shape) for m in measures]
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
            AtMost(measure=measures[i], limit=float(row[i])) for i in limited if not measures[i].is_loss
        )
        constraints = (*query.constraints, *limits)
        return dataclasses.replace(query, target_loss=loss, objective=measures[last], constraints=constraints)

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


@partial(kept_jit, static_argnums=2)
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
        limits = dataclasses.replace(query, constraints=constraints, tolerance=TOLERANCE)
        found = relax(problem, query, lattice).designs
        optimum = problem.priced(limits, found.shape, found.free, found.loss_excess)
        own = problem.sized(query, n_head, n_kv_head, lattice.depth_slack)
        at = jnp.argmin(own.cost)
        own = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape)[at], own)

        def values(sized: Any) -> Any:
            shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, ()), sized.shape)
            exists = jnp.isfinite(sized.cost)
            found = values_of(problem, query, measures, shape)
            return shape, [jnp.where(exists, value, jnp.nan) for value in found]

        return jax.tree.map(lambda a, b: jnp.stack([a, b]), values(optimum), values(own))

    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), over_queries(one, queries))
