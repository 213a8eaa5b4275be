"""The main job: a law, a workload and a target loss in; the cheapest design, and what it saves, out."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import jax
import numpy as np
import optax

from scalesim.cost.measure import PLAN, AtMost
from scalesim.cost.paper import FIGURE_2
from scalesim.design.design import Candidate, Design, candidates, plain_candidates
from scalesim.design.evidence import extrapolation, extrapolation_text, loss_intervals
from scalesim.design.feasibility import searchable
from scalesim.design.lattice import Lattice, buildable
from scalesim.design.problem import (
    NOTHING_FREE,
    FreeVariables,
    Problem,
    Query,
    law_of,
    over_queries,
    stack_queries,
)
from scalesim.design.relaxation import DesignSet, Solved, Solver
from scalesim.design.space import DesignSpace
from scalesim.errors import InvalidInput, Unreachable, check_kind, check_number
from scalesim.families import FIGURE, HeadRule, ShapeFamily, named_baseline
from scalesim.fitting.result import Fit
from scalesim.laws.base import Law
from scalesim.programs import kept_jit
from scalesim.shape import Shape
from scalesim.workload import TrainingPlan, Workload

__all__ = ["check_kinds", "search", "solve"]


@overload
def search(  # type: ignore[overload-overlap]
    law: Law | Fit,
    workload: Workload,
    target_loss: float,
    *,
    objective: Any = ...,
    family: ShapeFamily = ...,
    lattice: Lattice | DesignSpace | None = ...,
    baseline: str | Shape | HeadRule = ...,
    constraints: Sequence[AtMost] = ...,
    plan: TrainingPlan = ...,
    solver: optax.GradientTransformation | None = ...,
    tolerance: float = ...,
    throw: bool | None = ...,
) -> Design: ...


@overload
def search(
    law: Law | Fit,
    workload: Workload | Sequence[Workload],
    target_loss: float | Sequence[float] | np.ndarray | jax.Array,
    *,
    objective: Any = ...,
    family: ShapeFamily = ...,
    lattice: Lattice | DesignSpace | None = ...,
    baseline: str | Shape | HeadRule = ...,
    constraints: Sequence[AtMost] = ...,
    plan: TrainingPlan = ...,
    solver: optax.GradientTransformation | None = ...,
    tolerance: float = ...,
    throw: bool | None = ...,
) -> list[Design]: ...


def search(
    law: Law | Fit,
    workload: Workload | Sequence[Workload],
    target_loss: float | Sequence[float] | np.ndarray | jax.Array,
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | DesignSpace | None = None,
    baseline: str | Shape | HeadRule = "llama3-gqa",
    constraints: Sequence[AtMost] = (),
    plan: TrainingPlan = PLAN,
    solver: optax.GradientTransformation | None = None,
    tolerance: float = 1e-9,
    throw: bool | None = None,
) -> Design | list[Design]:
    """Return the cheapest design that reaches a target loss at a workload.

    The gradient search relaxes the heads to real numbers, eliminates the loss constraint (N* by root
    finding, differentiated implicitly), rounds to the lattice, and is checked against all of the lattice.

    Args:
        law: a `Law`, or a fit that holds one as `.law`.
        workload: where the model serves, and in what precisions. A sequence of workloads or of losses gives
            a list of designs, every workload with every loss, solved in one compiled call.
        target_loss: nats a token; one, or a list or array of them.
        objective: a `Measure`, or any JAX function or callable pytree of (shape, workload) or (shape,
            workload, plan); the paper's Z in Figure 2's units by default.
        family: depth and width by size.
        lattice: the designs to choose from: head configurations, `buildable()` by default, or a
            `DesignSpace`, in which whatever else the law sees is free too.
        baseline: "llama3-gqa", "mha", "mqa", or a shape.
        constraints: what the design must not exceed besides (`AtMost`, `fits`, `max_params`, ...).
        plan: how it is trained: tokens for laws and measures that see them.
        solver: what descends the relaxation: Newton's method along smoothed penalties by default, or any
            optax transformation, which gets 300 steps on the same penalties.
        tolerance: log excess of a loss or a limit that counts as none.
        throw: whether a question without an answer raises. By default one question does; of several, each
            answer's `reached` and `status` say so, and the others are not lost.

    Returns:
        A `Design`, or a list of them if `workload` or `target_loss` is a sequence.

    Where a user's own objective or constraint has no gradient that leads anywhere (it rounds, counts, or is
    not traceable), the search does without: every design of a lattice, or in a `DesignSpace` an integer
    search from points spread over it. The status says so and why.

    Raises:
        InvalidInput: a target loss that is not positive and finite, a law with a group to each head
            configuration, between which there is no gradient, or a free field that the law cannot see.
        Unreachable: no design reaches the loss (the message gives the nearest reachable), or none satisfies
            the constraints (it says which binds, by how much, and which two contradict each other).

    >>> from scalesim.laws import HeadLaw
    >>> law = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
    >>> from scalesim.design import PAPER
    >>> best = search(law, Workload(context_length=131072), 2.615, lattice=PAPER).best
    >>> int(best.shape.n_head), int(best.shape.n_kv_head)
    (8, 1)
    >>> [found.reached for found in search(law, Workload(context_length=131072), [2.6, 1.9])]
    [True, False]
    """
    many = not isinstance(workload, Workload) or np.ndim(target_loss) > 0
    check_kind("workload", workload, (Workload, list, tuple), "a Workload or a list of them")
    workloads = [workload] if isinstance(workload, Workload) else list(workload)
    for one in workloads:
        check_kind("workload", one, Workload, "a Workload or a list of them")
    check_kinds(family, lattice, baseline, constraints, plan)
    losses = [_checked_loss(loss) for loss in np.atleast_1d(np.asarray(target_loss, dtype=object)).tolist()]
    if not workloads or not losses:
        raise InvalidInput(f"{'workload' if losses else 'target_loss'} is empty; at least one is needed.")
    against = named_baseline(baseline, family) if isinstance(baseline, str) else baseline
    shared = {
        "objective": objective,
        "constraints": tuple(constraints),
        "plan": plan,
        "tolerance": tolerance,
    }
    queries = [Query(workload=w, target_loss=loss, **shared) for w in workloads for loss in losses]
    with jax.enable_x64(True):
        asked = _Asked(law, Problem(law=law_of(law), family=family), lattice or buildable(), against, solver)
        with _uncollected():
            found = asked.answers(queries)
    for design in found:
        if not design.reached and (throw or (throw is None and not many)):
            raise Unreachable(design.status)
    return found if many else found[0]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking over answers in the making: a thousand hold no cycle."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def check_kinds(family: Any, lattice: Any, baseline: Any, constraints: Any, plan: Any) -> None:
    """Refuse what is of another kind than a search takes, before it is traced."""
    check_kind("family", family, ShapeFamily, "a ShapeFamily (named_family, fixed_ratio)")
    check_kind("lattice", lattice, (Lattice, DesignSpace, type(None)), "a Lattice or a DesignSpace")
    check_kind("baseline", baseline, (str, Shape, HeadRule), "a model's name, a Shape or a HeadRule")
    check_kind("constraints", constraints, (list, tuple), "a list of limits (max_memory, max_params)")
    for one in constraints:
        check_kind("constraints", one, AtMost, "limits (max_memory, max_params, AtMost)")
    check_kind("plan", plan, TrainingPlan, "a TrainingPlan")


def _checked_loss(loss: Any) -> float:
    check_number("target_loss", loss, unit=" (nats a token)")
    return float(loss)


def _padded(queries: list[Query]) -> list[Query]:
    """Repeat the last question, so that a few more questions do not compile anew."""
    n = len(queries)
    return queries + queries[-1:] * ((1 if n == 1 else max(16, 1 << (n - 1).bit_length())) - n)


def _are_many(queries: Query) -> bool:
    return len(queries.target_loss) > 16


@partial(kept_jit, static_argnums=(2, 3, 5, 6), heavy=lambda _, queries, *rest: _are_many(queries), most=8)
def _solved(
    problem: Problem,
    queries: Query,
    lattice: DesignSet,
    rule: HeadRule | None,
    given: Shape | None,
    solver: Solver,
    gradient: bool,
) -> tuple[Solved, dict[str, Candidate]]:
    """Return what the search found for each of a batch of queries, and all that its answer reports."""
    solved = lattice.solve(problem, queries, solver, gradient)

    def reported(query: Query, solved: Solved) -> dict[str, Candidate]:
        best = solved.designs.at(solved.designs.cost.argmin())
        found = {"best": (best.shape, best.free)}
        if solved.relaxed is not None:
            found["relaxed"] = (solved.relaxed.designs.shape, solved.relaxed.designs.free)
        if given is not None:
            found["baseline"] = (given, NOTHING_FREE)
        if rule is not None:
            ruled = problem.ruled(query, rule)
            found["baseline_at_target"] = (ruled, NOTHING_FREE)
            found["baseline"] = (problem.family.whole(ruled, rule), NOTHING_FREE)
        return candidates(problem, query, found)

    return solved, over_queries(reported, queries, solved)


@dataclass(frozen=True)
class _Asked:
    """What all questions of one call share, and how answers are made of what was found."""

    law: Any
    problem: Problem
    lattice: DesignSet
    against: HeadRule | Shape
    solver: Solver

    def answers(self, queries: list[Query]) -> list[Design]:
        """Return the design of each question."""
        self.lattice.check(self.problem.law)
        compiled, rough = searchable(queries[0])
        padded = [query.with_measures_of(compiled) for query in _padded(queries)]
        rule = self.against if isinstance(self.against, HeadRule) else None
        given = None if isinstance(self.against, HeadRule) else self.against
        found = _solved(
            self.problem, stack_queries(padded), self.lattice, rule, given, self.solver, rough is None
        )
        solved, reported = jax.device_get(found)
        figures = {
            name: plain_candidates(of, name == "best" and self.lattice.real) for name, of in reported.items()
        }
        asked = padded[: len(queries)]
        reached = np.isfinite(solved.designs.cost.min(axis=1))[: len(queries)].tolist()
        best = [(figures["best"][i], query) for i, query in enumerate(asked) if reached[i]]
        intervals = iter(loss_intervals(self.law, self.problem, best))
        leaves, tree = jax.tree.flatten(solved)
        return [
            self._answer(
                query,
                jax.tree.unflatten(tree, [leaf[i] for leaf in leaves]),
                {name: of[i] for name, of in figures.items()},
                rough,
                next(intervals) if reached[i] else None,
            )
            for i, query in enumerate(asked)
        ]

    def _answer(
        self,
        query: Query,
        solved: Solved,
        plain: dict[str, Candidate],
        rough: str | None,
        interval: tuple[float, float] | None,
    ) -> Design:
        designs = solved.designs
        least = float(np.min(designs.cost))
        reached = np.isfinite(least)
        best, bound = plain["best"], plain.get("relaxed")
        outside: dict[str, float] = {}
        if reached:
            context = float(query.workload.context_length)
            outside = extrapolation(self.law, best, context, float(query.target_loss))
            sees_context = "context_length" in self.problem.law.fields
            status = self._search_text(rough) + extrapolation_text(self.law, outside, sees_context)
        else:
            status = self.lattice.why_none(self.problem, query, designs, rough is None)
        free: FreeVariables | None = None
        if solved.relaxed is not None:
            free = jax.tree.map(float, solved.relaxed.designs.free)
        return Design(
            problem=self.problem,
            query=query,
            lattice=self.lattice,
            rule=self.against if isinstance(self.against, HeadRule) else None,
            _best=best if reached else None,
            baseline=plain["baseline"],
            baseline_at_target=plain.get("baseline_at_target"),
            relaxed=bound,
            relaxed_free=free,
            designs=designs,
            gap_to_relaxed=None if bound is None or not reached else best.objective / bound.objective - 1,
            gap_to_exhaustive=max(float(solved.own_cost) / least - 1, 0.0) if reached else 0.0,
            evaluations=int(solved.evaluations),
            starts_agreeing=0 if solved.relaxed is None else int(solved.relaxed.starts_agreeing),
            extrapolation=outside,
            loss_interval=interval,
            status=status,
        )

    def _search_text(self, rough: str | None) -> str:
        if rough is None:
            return ""
        instead = (
            "every design of the lattice was evaluated instead"
            if self.lattice.enumerates
            else "an integer search from points spread over the space took its place"
        )
        return f"No gradient search: {rough}; {instead}. "


@partial(jax.jit, static_argnums=(2, 3, 4))
def solve(
    problem: Problem, queries: Query, designs: DesignSet, solver: Solver = None, gradient: bool = True
) -> Solved:
    """Return what `search` finds for a batch of queries (`stack_queries`), as arrays: its compiled core."""
    return designs.solve(problem, queries, solver, gradient)
