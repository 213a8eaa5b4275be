"""What a search answers: a design beside what everybody copies, with its costs, in plain Python numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.objectives import reported_cost
from scalesim.cost.paper import Parts
from scalesim.data.effects import Caution, cautions
from scalesim.design.problem import NOTHING_FREE, FreeVariables, Priced, Problem, Query
from scalesim.design.relaxation import DesignSet
from scalesim.errors import Unreachable
from scalesim.faces import Face, Shown
from scalesim.families import HeadRule
from scalesim.programs import kept_jit
from scalesim.pytree import register
from scalesim.shape import Convention, Shape, count_params
from scalesim.types import Num
from scalesim.units import format_bytes, format_context, format_count, format_flops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Candidate", "Design", "candidate", "plain_candidate", "plain_candidates", "plain_shape"]


@register
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape with its size, predicted loss and costs.

    Attributes:
        shape: sizes, as Python numbers; integers if the shape is real.
        n_params: the paper's count, attention and FFN matrices (what the loss law sees).
        n_params_non_embedding, n_params_total: by those conventions.
        loss: predicted, nats a token.
        objective: the cost that was minimised.
        memory: bytes, in its two parts.
        flops: FLOPs, in its two parts (per token or whole sequence as the objective says).
        n_tokens: training tokens.
        kv_bits: bits of a cached value.
    """

    shape: Shape
    n_params: Num
    n_params_non_embedding: Num
    n_params_total: Num
    loss: Num
    objective: Num
    memory: Parts
    flops: Parts
    n_tokens: Num
    kv_bits: Num

    def savings_over(self, other: Candidate) -> dict[str, float]:
        """Return 1 - self/other for memory, FLOPs and the objective."""
        return {
            "memory": 1 - self.memory.total / other.memory.total,
            "flops": 1 - self.flops.total / other.flops.total,
            "objective": 1 - self.objective / other.objective,
        }

    def label(self) -> str:
        """Return what sentences call it: `19 × 2624, heads 12 : 1`."""
        s = self.shape
        sizes = " × ".join(f"{float(size):.4g}" for size in (s.n_layer, s.d_model))
        return f"{sizes}, heads {float(s.n_head):.4g} : {float(s.n_kv_head):.4g}"


def candidate(problem: Problem, query: Query, shape: Shape, free: FreeVariables = NOTHING_FREE) -> Candidate:
    """Return a shape with its sizes, its loss and its costs as a query reckons them; elementwise."""
    asked = free.applied(query)
    reported = reported_cost(asked.objective)

    def count(convention: Convention) -> Num:
        return count_params(shape, convention) * 1.0

    return Candidate(
        shape=shape,
        n_params=count("paper"),
        n_params_non_embedding=count("non_embedding"),
        n_params_total=count("total"),
        loss=problem.loss_of(shape, asked),
        objective=asked.cost(shape),
        memory=reported.memory(shape, asked.workload),
        flops=reported.flops(shape, asked.workload),
        n_tokens=asked.plan.tokens(shape),
        kv_bits=asked.workload.kv_bits,
    )


def candidates(
    problem: Problem, query: Query, designs: Mapping[str, tuple[Shape, FreeVariables]]
) -> dict[str, Candidate]:
    """Return the candidate of each of some designs; those of one structure are traced together."""
    alike: dict[Any, list[str]] = {}
    for name, design in designs.items():
        alike.setdefault(jax.tree.structure(design), []).append(name)
    found: dict[str, Candidate] = {}
    for names in alike.values():
        several = (designs[name] for name in names)
        both = jax.tree.map(lambda *leaves: jnp.stack([leaf * jnp.ones(()) for leaf in leaves]), *several)
        each = jax.vmap(lambda design: candidate(problem, query, *design))(both)
        found |= {name: jax.tree.map(lambda leaf, i=i: leaf[i], each) for i, name in enumerate(names)}
    return found


def plain_shape(shapes: Shape, real: bool, index: tuple[int, ...] = ()) -> Shape:
    """Return a shape (of several, the one at `index`) in Python numbers, whole where sizes are.

    Heads of which n_kv_head does not divide n_head, as of some models of the paper, stay floats.
    """

    def number(leaf: Num) -> int | float:
        value = float(np.asarray(leaf)[index])
        return round(value) if real or value.is_integer() else value

    return jax.tree.map(number, shapes)


_candidate = kept_jit(candidate)


def plain_candidate(problem: Problem, query: Query, shape: Shape, real: bool) -> Candidate:
    """Return a shape with its sizes, its loss and its costs, in Python numbers."""
    with jax.enable_x64(True):
        found = jax.device_get(_candidate(problem, query, jax.tree.map(float, shape)))
    return plain_candidates(jax.tree.map(lambda leaf: np.reshape(leaf, 1), found), real)[0]


def plain_candidates(found: Candidate, real: bool) -> list[Candidate]:
    """Return each of several candidates, whose leaves are (n,), in Python numbers.

    Counts are rid of the rounding of a fractional FFN width.
    """
    whole = jax.tree.map(lambda leaf: np.asarray(leaf, float).tolist(), found)
    columns: dict[str, Any] = {name: getattr(whole, name) for name in _COUNTS}
    counts = {name: [round(value, 3) for value in column] for name, column in columns.items()}
    of_shape, tree = jax.tree.flatten(whole.shape, is_leaf=lambda x: isinstance(x, list))
    sizes = [[round(x) if real or x.is_integer() else x for x in column] for column in of_shape]
    plain = dataclasses.replace(whole, shape=jax.tree.unflatten(tree, sizes), **counts)
    each, tree = jax.tree.flatten(plain, is_leaf=lambda x: isinstance(x, list))
    whole_heads = zip(plain.shape.n_head, plain.shape.n_kv_head, strict=True)
    uneven = [all(isinstance(n, int) for n in heads) and heads[0] % heads[1] > 0 for heads in whole_heads]
    rows = [jax.tree.unflatten(tree, row) for row in zip(*each, strict=True)]
    return [_with_float_heads(row) if odd else row for row, odd in zip(rows, uneven, strict=True)]


_COUNTS = ("n_params", "n_params_non_embedding", "n_params_total")


def _with_float_heads(plain: Candidate) -> Candidate:
    """Return a candidate whose whole heads are floats, as KV heads do not divide query heads."""
    shape = plain.shape
    shape = shape.replace(n_head=float(shape.n_head), n_kv_head=float(shape.n_kv_head))
    return dataclasses.replace(plain, shape=shape)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Design(Shown):
    """The answer to one query.

    Attributes:
        problem, query: the question: law and family; workload, plan, target loss, objective, constraints.
        lattice: what the choice is from: a `Lattice` or a `DesignSpace`.
        rule: the baseline's rule for heads, or None if the baseline is a given shape.
        reached: whether there is a design that does what is asked; if not, `status` says why.
        baseline: what everybody copies: the rule's whole shape nearest the target loss, or a given shape.
        baseline_at_target: the rule's relaxed shape at exactly the target loss (None for a given shape).
        relaxed: the optimum over real-valued heads and sizes (see `relax`): a bound from below; None if
            there was no gradient.
        designs: every configuration of a lattice, or the best designs of a space that were seen, as arrays.
        gap_to_relaxed: how far `best` is above the bound, as a fraction of it. (With constraints that count
            embeddings or layers the relaxed shape is no strict bound of whole ones: it may be below 0.)
        gap_to_exhaustive: how far the gradient search's own choice was above the best of the whole lattice,
            which is the answer. Of a `DesignSpace`: above the best of all designs within one step of it along
            every axis.
        evaluations: whole designs that the rounding of the gradient search tried.
        starts_agreeing: starts of the gradient search that ended within 0.1% of its best.
        extrapolation: how far each field is beyond the law's evidence, as value over nearest limit.
        loss_interval: 90% interval of the predicted loss, or None if the law came without its uncertainty.
        status: what to know about this answer, in a sentence.
    """

    problem: Problem
    query: Query
    lattice: DesignSet
    rule: HeadRule | None
    _best: Candidate | None
    baseline: Candidate
    baseline_at_target: Candidate | None
    relaxed: Candidate | None
    relaxed_free: FreeVariables | None
    designs: Priced
    gap_to_relaxed: float | None
    gap_to_exhaustive: float
    evaluations: int
    starts_agreeing: int
    extrapolation: dict[str, float]
    loss_interval: tuple[float, float] | None
    status: str

    @property
    def reached(self) -> bool:
        """Whether a design does what is asked."""
        return self._best is not None

    @property
    def best(self) -> Candidate:
        """The chosen design.

        Raises:
            Unreachable: there is none; the message is the status.
        """
        if self._best is None:
            raise Unreachable(self.status)
        return self._best

    @property
    def context_length(self) -> float:
        """Tokens of context."""
        return float(self.query.workload.context_length)

    @property
    def target_loss(self) -> float:
        """The loss to reach, nats a token."""
        return float(self.query.target_loss)

    @property
    def shape(self) -> Shape:
        """The chosen shape."""
        return self.best.shape

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What published evidence warns of in the best shape, where loss does not tell."""
        return tuple(cautions(self._best.shape)) if self._best is not None else ()

    @property
    def savings(self) -> dict[str, float]:
        """Savings over the baseline as it stands, as fractions of memory, FLOPs and the objective."""
        return self.best.savings_over(self.baseline)

    @property
    def savings_at_equal_loss(self) -> dict[str, float]:
        """Savings over the baseline at exactly the target loss (over a given shape as it stands)."""
        return self.best.savings_over(self.baseline_at_target or self.baseline)

    @property
    def candidates(self) -> tuple[tuple[float, ...], ...]:
        """The designs that reach the loss, by objective: every head configuration, or the best seen.

        (n_head, n_kv_head, n_params, objective, memory bytes, FLOPs) each.
        """
        designs = self.designs
        asked = designs.free.applied(self.query)
        reported, shape = reported_cost(asked.objective), designs.shape
        memory = reported.memory(shape, asked.workload).total
        flops = reported.flops(shape, asked.workload).total
        n_params = count_params(shape, "paper")
        columns = [shape.n_head, shape.n_kv_head, n_params, designs.cost, memory, flops]
        rows = np.stack([np.broadcast_to(c, designs.cost.shape) for c in columns], axis=1).astype(float)
        rows = rows[np.isfinite(designs.cost)]
        return tuple(map(tuple, rows[np.argsort(rows[:, 3], kind="stable")].tolist()))

    def _face(self) -> Face:
        asked = f"loss {self.target_loss:g} at {format_context(self.context_length)} context"
        if self._best is None:
            return Face(f"No design for {asked}", notes=(self.status,))
        objective = self.query.objective

        def row(name: str, c: Candidate) -> tuple[Any, ...]:
            return (
                name,
                c.label(),
                format_count(c.n_params),
                f"{c.loss:.3f}",
                format_bytes(c.memory.total),
                format_flops(c.flops.total),
                objective.value_text(c.objective),
            )

        rows = [row("best", self._best), row("baseline", self.baseline)]
        if self.baseline_at_target is not None:
            rows.append(row("baseline at this loss", self.baseline_at_target))
        if self.relaxed is not None:
            rows.append(row("relaxed optimum", self.relaxed))
        columns = ("", "shape", "parameters", "loss", "memory", "FLOPs", objective.label)
        saved = ", ".join(f"{name} {100 * part:.1f}%" for name, part in self.savings_at_equal_loss.items())
        notes = [f"Saves over the baseline at equal loss: {saved}."]
        if self.loss_interval:
            low, high = self.loss_interval
            notes.append(f"The loss is predicted to lie between {low:.3f} and {high:.3f} (90%).")
        warned = [f"Caution: {caution}" for caution in self.cautions]
        return Face(f"Cheapest design for {asked}", columns, rows, (*notes, self.status, *warned))

    def plot(self) -> Figure:
        """Return a figure of loss against memory, FLOPs and the objective: every configuration, and this."""
        from scalesim.report.design_figure import draw_designs

        return draw_designs([[self]])

    def report(self, *, html: bool = False) -> str:
        """Return the answer as text, or in HTML as one self-contained page with the figure within."""
        from scalesim.report.web import results_page

        if not html:
            return repr(self) + "\n"
        return results_page(
            f"Cheapest design for loss {self.target_loss:g}", self.status, [("", self, self.plot())]
        )

    def explore(self, **how: Any) -> Any:
        """Show the question on a page beside the notebook, with sliders; see `scalesim.explore`."""
        import scalesim

        return scalesim.explore(self, **how)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values that JSON can hold, as `scalesim design --json` prints it."""
        from scalesim.report.design_table import design_json

        return design_json(self)
