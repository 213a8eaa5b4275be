"""The main job: a law, a workload and a target loss in; the cheapest design, and what it saves, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from scalesim.cost.paper import FIGURE_2
from scalesim.design.baseline import HeadRule, named_baseline, rule_shapes, whole
from scalesim.design.candidate import Candidate, candidate_of, candidate_table, freed_candidate, plain_shape
from scalesim.design.constraints import AtMost
from scalesim.design.doubt import extrapolation, in_words, loss_interval
from scalesim.design.infeasible import check_reach, what_binds, what_binds_in_space
from scalesim.design.lattice import Lattice, buildable
from scalesim.design.problem import MAX_PARAMS, MIN_PARAMS, TIED, Problem, Query, bits_seen
from scalesim.design.smooth import searchable
from scalesim.design.solve import checked_search, stack_queries
from scalesim.design.space import DesignSpace
from scalesim.design.wide import wide_search
from scalesim.errors import InvalidInput, Unreachable
from scalesim.families import FIGURE, ShapeFamily
from scalesim.laws.base import Law
from scalesim.laws.grouped import Grouped
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = ["Design", "law_of", "search"]

Num = Any


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
            memory bytes, FLOPs), by objective; those that cannot reach the loss are left out. Of a
            `DesignSpace`, the best designs seen.
        savings: of `best` over `baseline`, as fractions: memory, flops, objective.
        savings_at_equal_loss: of `best` over `baseline_at_target` (over `baseline` for a given shape).
        gap_to_relaxed: how far `best` is above the bound, as a fraction of it. (With constraints that count
            embeddings or layers the relaxed shape is no strict bound of whole ones: it may be below 0.)
            None if there was no gradient.
        gap_to_exhaustive: how far the gradient search's own choice was above the best of the whole lattice,
            which is the answer. Of a `DesignSpace`: above the best of all designs within one step of it along
            every axis.
        evaluations: lattice points that the rounding of the gradient search tried.
        starts_agreeing: starts of the gradient search that ended within 0.1% of its best.
        extrapolation: how far each field is beyond the law's evidence, as value over nearest limit.
        loss_interval: 90% interval of the predicted loss, or None if the law came without its doubt.
        status: what to know about this answer, in a sentence.
    """

    problem: Problem
    query: Query
    lattice: Lattice | DesignSpace
    rule: HeadRule | None
    best: Candidate
    baseline: Candidate
    baseline_at_target: Candidate | None
    relaxed: Candidate | None
    candidates: tuple[tuple[float, ...], ...]
    gap_to_relaxed: float | None
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
        context = query.workload.context_length
        limits = (np.full_like(heads[0], np.log(size)) for size in (MAX_PARAMS, MIN_PARAMS))
        least, most = (problem.loss_at(limit, *heads, context, **bits) for limit in limits)
        return least.min(), most.max()

    return jax.vmap(one)(queries)


def search(
    law: Any,
    workload: Workload | Sequence[Workload],
    target_loss: float | Sequence[float],
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | DesignSpace | None = None,
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
        lattice: the designs to choose from: head configurations, `buildable()` by default, or a
            `DesignSpace`, which also frees what else the law sees.
        baseline: "llama3-gqa", "mha", "mqa", or a shape.
        constraints: what the design must not exceed besides (`AtMost`, `fits`, `max_params`, ...).
        tokens_per_param: training tokens for each parameter, for laws that see tokens.

    Returns:
        A `Design`, or a list of them if `workload` or `target_loss` is a sequence.

    Where a user's own objective or constraint has no gradient that leads anywhere (it rounds, counts, or is
    not traceable), the search does without: every design of a lattice, or in a `DesignSpace` an integer
    search from points spread over it. The status says so and why.

    Raises:
        InvalidInput: a target loss that is not positive and finite, a law with a group to each head
            configuration, between which there is no gradient, or a freed field that the law cannot see.
        Unreachable: no design reaches the loss (the message gives the nearest reachable), or none satisfies
            the constraints (it says which binds, by how much, and which two contradict each other).

    >>> from scalesim.laws import HeadLaw
    >>> law = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
    >>> from scalesim.design import PAPER
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
        told, rough = searchable(queries[0])
        if rough is not None:
            queries = [
                dataclasses.replace(q, objective=told.objective, constraints=told.constraints)
                for q in queries
            ]
        padded = queries + queries[-1:] * (_padded_size(len(queries)) - len(queries))
        rule = against if isinstance(against, HeadRule) else None
        stacked = stack_queries(padded)
        ruled = None if rule is None else rule_shapes(problem, stacked, rule)
        asked = _Asked(law, problem, lattice, against, rough)
        if isinstance(lattice, DesignSpace):
            lattice.check(problem.law)
            solved: Any = wide_search(problem, stacked, lattice, rough is None)
        else:
            found = checked_search(problem, stacked, lattice, rough is None)
            solved = (*found, _reach(problem, stacked, lattice))
        each = jax.device_get((solved, ruled))
        designs = [
            asked.answer(query, *jax.tree.map(lambda leaf, i=i: leaf[i], each))
            for i, query in enumerate(queries)
        ]
    return designs if many else designs[0]


def law_of(law: Any) -> Law:
    """Return the law itself, of a law or of a fit that holds one."""
    found = law if isinstance(law, Law) else law.law
    if isinstance(found, Grouped):
        raise InvalidInput(
            "law must be smooth in the heads, but is a Grouped one, which knows only its own groups. A joint "
            "law such as HeadLaw would do; scalesim.design.exhaustive takes a grouped law over its groups."
        )
    return found


def _padded_size(n: int) -> int:
    return 1 if n == 1 else max(16, 1 << (n - 1).bit_length())


@dataclass(frozen=True)
class _Asked:
    """What all questions of one call share, and how an answer is made of what was found."""

    law: Any
    problem: Problem
    lattice: Lattice | DesignSpace
    against: HeadRule | Shape
    rough: str | None

    def answer(self, query: Query, solved: Any, ruled: Any) -> Design:
        wide = isinstance(self.lattice, DesignSpace)
        parts = self._of_space(query, solved) if wide else self._of_lattice(query, *solved)
        problem, best, freed = self.problem, parts["best"], parts.pop("freed")
        if isinstance(self.against, HeadRule):
            at_target = candidate_of(problem, query, plain_shape(ruled, False))
            baseline = candidate_of(problem, query, whole(ruled, self.against, problem))
        else:
            at_target, baseline = None, candidate_of(problem, query, self.against)
        context = float(query.workload.context_length)
        sizes = {"n_params": best.n_params, "n_head": best.shape.n_head, "n_kv_head": best.shape.n_kv_head}
        outside = extrapolation(
            self.law, {**sizes, "context_length": context, "loss": float(query.target_loss)}
        )
        bits = bits_seen(problem.law, freed.asked(query).workload)
        bound = parts["relaxed"]
        return Design(
            problem=problem,
            query=query,
            lattice=self.lattice,
            rule=self.against if isinstance(self.against, HeadRule) else None,
            baseline=baseline,
            baseline_at_target=at_target,
            gap_to_relaxed=None if bound is None else best.objective / bound.objective - 1,
            extrapolation=outside,
            loss_interval=loss_interval(self.law, best.shape, best.n_tokens, context, **bits),
            status=self._said() + in_words(self.law, outside, "context_length" in problem.law.fields),
            **parts,
        )

    def _said(self) -> str:
        if self.rough is None:
            return ""
        instead = (
            "an integer search from points spread over the space took its place"
            if isinstance(self.lattice, DesignSpace)
            else "every design of the lattice was evaluated instead"
        )
        return f"No gradient search: {self.rough}; {instead}. "

    def _of_lattice(
        self, query: Query, relaxed: Any, found: Any, every: Any, reach: tuple[Any, Any]
    ) -> dict[str, Any]:
        lattice, problem = self.lattice, self.problem
        assert isinstance(lattice, Lattice)
        check_reach(query, *map(float, reach))
        least_cost = int(np.argmin(every.cost))
        if not np.isfinite(every.cost[least_cost]):
            raise Unreachable(what_binds(query, lattice, every))
        # The check has seen every design: where the gradient search missed the best, that is the answer.
        chosen = found.sized.shape
        if found.sized.cost > every.cost[least_cost]:
            chosen = jax.tree.map(
                lambda leaf: np.broadcast_to(leaf, every.cost.shape)[least_cost], every.shape
            )
        return {
            "best": candidate_of(problem, query, plain_shape(chosen, lattice.real)),
            "relaxed": None
            if relaxed is None
            else candidate_of(problem, query, plain_shape(relaxed.sized.shape, False)),
            "candidates": candidate_table(
                query, lattice.arrays(), every.shape, every.cost, np.exp(every.log_n_params)
            ),
            "gap_to_exhaustive": float(found.sized.cost) / float(np.min(every.cost)) - 1,
            "evaluations": int(found.evaluations),
            "starts_agreeing": 0 if relaxed is None else int(relaxed.starts_agreeing),
            "freed": TIED,
        }

    def _of_space(self, query: Query, solved: Any) -> dict[str, Any]:
        space, problem = self.lattice, self.problem
        assert isinstance(space, DesignSpace)
        built, relaxed = solved.built, solved.relaxed
        if not np.isfinite(built.cost[0]):
            raise Unreachable(what_binds_in_space(problem, query, space, self.rough is None))
        freed = jax.tree.map(lambda leaf: float(leaf[0]), built.freed)
        shape = jax.tree.map(lambda leaf: np.broadcast_to(leaf, built.cost.shape)[0], built.shape)
        best = freed_candidate(problem, query, plain_shape(shape, True), freed)
        bound = None
        if relaxed is not None:
            # Every whole design lies in the relaxation too: where the descent ended above, it is the bound.
            bound = best
            if relaxed.sized.cost < best.objective:
                loose = plain_shape(relaxed.sized.shape, False)
                bound = freed_candidate(problem, query, loose, jax.tree.map(float, relaxed.freed))
        heads = built.shape.n_head, built.shape.n_kv_head
        asked = built.freed.asked(query)
        n_params = np.asarray(count_params(built.shape, "paper"))
        return {
            "best": best,
            "relaxed": bound,
            "candidates": candidate_table(asked, heads, built.shape, built.cost, n_params),
            "gap_to_exhaustive": float(np.expm1(solved.merit_before - np.log(built.cost[0]))),
            "evaluations": int(solved.evaluations),
            "starts_agreeing": 0 if relaxed is None else int(relaxed.starts_agreeing),
            "freed": freed,
        }
