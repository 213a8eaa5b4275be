"""The main job: a law, a workload and a target loss in; the cheapest design, and what it saves, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from scalesim.cost.paper import FIGURE_2, Parts
from scalesim.errors import InvalidInput, Unreachable
from scalesim.families import FIGURE, ShapeFamily
from scalesim.laws.base import Law
from scalesim.laws.grouped import Grouped
from scalesim.search.baseline import HeadRule, named_baseline, rule_shapes, whole
from scalesim.search.constraints import AtMost
from scalesim.search.doubt import extrapolation, in_words, loss_interval
from scalesim.search.lattice import Lattice, buildable
from scalesim.search.problem import MAX_PARAMS, MIN_PARAMS, Problem, Query, bits_seen
from scalesim.search.solve import checked_search, stack_queries
from scalesim.shape import Convention, Shape, count_params
from scalesim.workload import Workload

__all__ = ["Candidate", "Design", "candidate_of", "reported_cost", "search"]

Num = Any


@dataclass(frozen=True)
class Candidate:
    """A shape with its size, predicted loss and costs.

    Attributes:
        shape: sizes as Python numbers; integers if the shape is real.
        n_params: the paper's count, attention and FFN matrices (what the loss law sees).
        n_params_non_embedding, n_params_total: by those conventions.
        loss: predicted, nats a token.
        objective: the cost that was minimised.
        memory: bytes, in its two parts.
        flops: FLOPs, in its two parts (per token or whole sequence as the objective says).
    """

    shape: Shape
    n_params: float
    n_params_non_embedding: float
    n_params_total: float
    loss: float
    objective: float
    memory: Parts
    flops: Parts

    def savings_over(self, other: Candidate) -> dict[str, float]:
        """Return 1 - self/other for memory, FLOPs and the objective."""
        return {
            "memory": 1 - self.memory.total / other.memory.total,
            "flops": 1 - self.flops.total / other.flops.total,
            "objective": 1 - self.objective / other.objective,
        }


@dataclass(frozen=True)
class Design:
    """The answer to one query.

    Attributes:
        problem, query: the question: law and family; workload, target loss and objective.
        lattice: what the choice is from.
        rule: the baseline's rule for heads, or None if the baseline is a given shape.
        best: the chosen design.
        baseline: what everybody copies: the rule's whole shape nearest the target loss, or a given shape.
        baseline_at_target: the rule's relaxed shape at exactly the target loss (None for a given shape).
        relaxed: the optimum over real-valued heads and sizes (see `relax`): a bound from below.
        candidates: every head configuration of the lattice, (n_head, n_kv_head, n_params, objective,
            memory bytes, FLOPs), by objective; those that cannot reach the loss are left out.
        savings: of `best` over `baseline`, as fractions: memory, flops, objective.
        savings_at_equal_loss: of `best` over `baseline_at_target` (over `baseline` for a given shape).
        gap_to_relaxed: how far `best` is above the bound, as a fraction of it. (With constraints that count
            embeddings or layers the relaxed shape is no strict bound of whole ones: it may be below 0.)
        gap_to_exhaustive: how far the gradient search's own choice was above the best of the whole lattice,
            which is the answer.
        evaluations: lattice points that the rounding of the gradient search tried.
        starts_agreeing: starts of the gradient search that ended within 0.1% of its best.
        extrapolation: how far each field is beyond the law's evidence, as value over nearest limit.
        loss_interval: 90% interval of the predicted loss, or None if the law came without its doubt.
        status: what to know about this answer, in a sentence.
    """

    problem: Problem
    query: Query
    lattice: Lattice
    rule: HeadRule | None
    best: Candidate
    baseline: Candidate
    baseline_at_target: Candidate | None
    relaxed: Candidate
    candidates: tuple[tuple[float, ...], ...]
    gap_to_relaxed: float
    gap_to_exhaustive: float
    evaluations: int
    starts_agreeing: int
    extrapolation: dict[str, float]
    loss_interval: tuple[float, float] | None
    status: str

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
    def savings(self) -> dict[str, float]:
        """Savings over the baseline as it stands."""
        return self.best.savings_over(self.baseline)

    @property
    def savings_at_equal_loss(self) -> dict[str, float]:
        """Savings over the baseline at exactly the target loss."""
        return self.best.savings_over(self.baseline_at_target or self.baseline)


@partial(jax.jit, static_argnums=2)
def _reach(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Num, Num]:
    """Return, for each query, the least and the greatest loss that any candidate can have."""
    heads = lattice.arrays()

    def one(query: Query) -> tuple[Num, Num]:
        bits = bits_seen(problem.law, query.workload)
        at = partial(problem.loss_at, context_length=query.workload.context_length, **bits)
        limits = (np.full_like(heads[0], np.log(size)) for size in (MAX_PARAMS, MIN_PARAMS))
        least, most = (at(limit, *heads) for limit in limits)
        return least.min(), most.max()

    return jax.vmap(one)(queries)


def search(
    law: Any,
    workload: Workload | Sequence[Workload],
    target_loss: float | Sequence[float],
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | None = None,
    baseline: str | Shape | HeadRule = "llama3-gqa",
    constraints: Sequence[AtMost] = (),
    tokens_per_param: float = 20.0,
) -> Any:
    """Return the cheapest design that reaches a target loss at a workload.

    The gradient search relaxes the heads to real numbers, eliminates the loss constraint (N* by root
    finding, differentiated implicitly), rounds to the lattice, and is checked against all of the lattice.

    Args:
        law: a `Law`, or a fit that holds one as `.law`.
        workload: where the model serves. A sequence of workloads or of losses gives a list of designs,
            every workload with every loss, solved in one compiled call.
        target_loss: nats a token.
        objective: (shape, workload) -> cost, any JAX function or callable pytree; the paper's Z in
            Figure 2's units by default.
        family: depth and width by size.
        lattice: the designs to choose from; `buildable()` by default.
        baseline: "llama3-gqa", "mha", "mqa", or a shape.
        constraints: what the design must not exceed besides (`AtMost`, `fits`, `max_params`, ...).
        tokens_per_param: training tokens for each parameter, for laws that see tokens.

    Returns:
        A `Design`, or a list of them if `workload` or `target_loss` is a sequence.

    Raises:
        InvalidInput: a target loss that is not positive and finite, or a law with a group to each
            head configuration, between which there is no gradient.
        Unreachable: no head configuration reaches the loss (the message gives the nearest reachable), or
            none satisfies the constraints (it says which binds, and by how much).

    >>> from scalesim.laws import HeadLaw
    >>> law = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
    >>> from scalesim.search import PAPER
    >>> best = search(law, Workload(context_length=131072), 2.615, lattice=PAPER).best
    >>> int(best.shape.n_head), int(best.shape.n_kv_head)
    (8, 1)
    """
    lattice = buildable() if lattice is None else lattice
    many = isinstance(workload, Sequence) or isinstance(target_loss, Sequence)
    workloads = list(workload) if isinstance(workload, Sequence) else [workload]
    losses = list(target_loss) if isinstance(target_loss, Sequence) else [target_loss]
    for loss in losses:
        if isinstance(loss, bool) or not (np.isfinite(loss) and loss > 0):
            raise InvalidInput(f"target_loss must be above 0 and finite (nats a token), but is {loss!r}.")
    if jax.tree.leaves(objective) == [objective] and callable(objective):
        objective = jax.tree_util.Partial(objective)  # a plain function: part of the program, not of its data
    against = named_baseline(baseline) if isinstance(baseline, str) else baseline
    queries = [
        Query(workload=w, target_loss=float(loss), objective=objective, constraints=tuple(constraints))
        for w in workloads
        for loss in losses
    ]
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), family=family, tokens_per_param=tokens_per_param)
        # Padded, so that a few more questions do not compile anew.
        padded = queries + queries[-1:] * (_padded_size(len(queries)) - len(queries))
        rule = against if isinstance(against, HeadRule) else None
        stacked = stack_queries(padded)
        solved = jax.device_get(
            (
                *checked_search(problem, stacked, lattice),
                _reach(problem, stacked, lattice),
                None if rule is None else rule_shapes(problem, stacked, rule),
            )
        )
        designs = [
            _design(law, problem, query, lattice, against, jax.tree.map(lambda leaf, i=i: leaf[i], solved))
            for i, query in enumerate(queries)
        ]
    return designs if many else designs[0]


def law_of(law: Any) -> Law:
    """Return the law itself, of a law or of a fit that holds one."""
    found = law if isinstance(law, Law) else law.law
    if isinstance(found, Grouped):
        raise InvalidInput(
            "law must be smooth in the heads, but is a Grouped one, which knows only its own groups. A joint "
            "law such as HeadLaw would do; scalesim.search.exhaustive takes a grouped law over its groups."
        )
    return found


def _padded_size(n: int) -> int:
    return 1 if n == 1 else max(16, 1 << (n - 1).bit_length())


def _design(
    law: Any, problem: Problem, query: Query, lattice: Lattice, against: HeadRule | Shape, solved: Any
) -> Design:
    relaxed, found, every, (least, most), rule_relaxed = solved
    _check_reach(query, float(least), float(most))
    least_cost = int(np.argmin(every.cost))
    if not np.isfinite(every.cost[least_cost]):
        raise Unreachable(_what_binds(problem, query, lattice, every))
    # The check has seen every design: where the gradient search missed the best of them, that is the answer.
    chosen = found.sized.shape
    if found.sized.cost > every.cost[least_cost]:
        chosen = jax.tree.map(lambda leaf: np.broadcast_to(leaf, every.cost.shape)[least_cost], every.shape)
    best = candidate_of(problem, query, _plain(chosen, lattice.real))
    bound = candidate_of(problem, query, _plain(relaxed.sized.shape, False))
    if isinstance(against, HeadRule):
        at_target = candidate_of(problem, query, _plain(rule_relaxed, False))
        baseline = candidate_of(problem, query, whole(rule_relaxed, against, problem))
    else:
        at_target, baseline = None, candidate_of(problem, query, against)
    context = float(query.workload.context_length)
    sizes = {"n_params": best.n_params, "n_head": best.shape.n_head, "n_kv_head": best.shape.n_kv_head}
    outside = extrapolation(law, {**sizes, "context_length": context, "loss": float(query.target_loss)})
    return Design(
        problem=problem,
        query=query,
        lattice=lattice,
        rule=against if isinstance(against, HeadRule) else None,
        best=best,
        baseline=baseline,
        baseline_at_target=at_target,
        relaxed=bound,
        candidates=_table(query, lattice, every),
        gap_to_relaxed=best.objective / bound.objective - 1,
        gap_to_exhaustive=float(found.sized.cost) / float(np.min(every.cost)) - 1,
        evaluations=int(found.evaluations),
        starts_agreeing=int(relaxed.starts_agreeing),
        extrapolation=outside,
        loss_interval=loss_interval(law, best.shape, problem.tokens_per_param * best.n_params, context),
        status=in_words(law, outside, "context_length" in problem.law.fields),
    )


def _check_reach(query: Query, least: float, most: float) -> None:
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


def _what_binds(problem: Problem, query: Query, lattice: Lattice, every: Any) -> str:
    """Return a sentence on the design that comes nearest to satisfying the constraints."""
    if not query.constraints:
        return f"target_loss {float(query.target_loss):g} is out of reach of every configuration tried."
    nearest = int(np.argmin(every.excess))
    shape = jax.tree.map(lambda leaf: leaf[nearest], every.shape)
    values = [(float(c.measure(shape, query.workload)), c) for c in query.constraints]
    value, binding = max(values, key=lambda pair: pair[0] / float(pair[1].limit))
    limit, loss = float(binding.limit), float(query.target_loss)
    heads = lattice.heads[nearest]
    return (
        f"No design satisfies the constraints at target_loss {loss:g}: the nearest, {heads}, "
        f"has {binding.name} = {value:.4g}, {100 * (value / limit - 1):.1f}% above its limit of {limit:.4g}. "
        "A higher target_loss, or that much more, would do."
    )


def _plain(shape: Shape, real: bool) -> Shape:
    """Return a shape with Python numbers in its fields: whole ones where they are meant to be."""

    def number(name: str, value: Num) -> int | float:
        whole_number = real or (name in ("n_head", "n_kv_head") and float(value).is_integer())
        return round(float(value)) if whole_number else float(value)

    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    sizes: dict[str, Any] = {name: number(name, getattr(shape, name)) for name in names}
    return dataclasses.replace(shape, **sizes)


def _count(shape: Shape, convention: Convention) -> float:
    """Return a parameter count, rid of the rounding error of a fractional FFN width."""
    return round(float(count_params(shape, convention)), 3)


def reported_cost(objective: Any) -> Any:
    """Return the cost whose memory and FLOPs are reported: the objective, or Figure 2's if it has none."""
    return objective if hasattr(objective, "memory") else FIGURE_2


def candidate_of(problem: Problem, query: Query, shape: Shape) -> Candidate:
    """Return a shape with its sizes, its loss and its costs as a query reckons them."""
    context = query.workload.context_length
    tokens = problem.tokens_per_param * _count(shape, "paper")
    reported = reported_cost(query.objective)
    return Candidate(
        shape=shape,
        n_params=_count(shape, "paper"),
        n_params_non_embedding=_count(shape, "non_embedding"),
        n_params_total=_count(shape, "total"),
        loss=float(problem.law(shape, n_tokens=tokens, context_length=context)),
        objective=float(query.objective(shape, query.workload)),
        memory=jax.tree.map(float, reported.memory(shape, query.workload)),
        flops=jax.tree.map(float, reported.flops(shape, query.workload)),
    )


def _table(query: Query, lattice: Lattice, every: Any) -> tuple[tuple[float, ...], ...]:
    reported = reported_cost(query.objective)
    memory = reported.memory(every.shape, query.workload).total
    flops = reported.flops(every.shape, query.workload).total
    n_head, n_kv_head = lattice.arrays()
    columns = np.stack([n_head, n_kv_head, np.exp(every.log_n_params), every.cost, memory, flops], axis=1)
    reached = columns[np.isfinite(every.cost)]
    return tuple(map(tuple, reached[np.argsort(reached[:, 3])].tolist()))
