"""The design of least loss that a budget buys: `search` the other way round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from scalesim.cost.measure import PLAN, AtMost
from scalesim.cost.paper import FIGURE_2
from scalesim.design.design import Design
from scalesim.design.feasibility import searchable
from scalesim.design.lattice import Lattice, buildable
from scalesim.design.problem import Problem, Query, law_of, stack_queries
from scalesim.design.search import check_kinds, search, solve
from scalesim.design.space import DesignSpace
from scalesim.errors import Unreachable, check_kind, check_number
from scalesim.families import FIGURE, HeadRule, ShapeFamily
from scalesim.fitting.result import Fit
from scalesim.laws.base import Law
from scalesim.shape import Shape
from scalesim.workload import TrainingPlan, Workload

__all__ = ["least_loss"]

_LOSSES = 64


def least_loss(
    law: Law | Fit,
    workload: Workload,
    budget: float,
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice | DesignSpace | None = None,
    baseline: str | Shape | HeadRule = "llama3-gqa",
    constraints: Sequence[AtMost] = (),
    plan: TrainingPlan = PLAN,
    solver: optax.GradientTransformation | None = None,
    tolerance: float = 1e-9,
) -> Design:
    """Return the design of least loss whose objective is at most `budget`.

    The least cost falls as the loss rises, so the least loss within the budget is where they meet: 64 losses
    are tried at a time, every configuration of the lattice at each (or a search of the `DesignSpace`), and
    the bracket shrinks 63 times a round until it is narrower than a millionth of a nat. The design at that
    loss is then searched as any other.

    Args:
        law, workload, objective, family, lattice, baseline, constraints, plan, solver, tolerance: as for
            `search`.
        budget: the most the objective may be, in its own units.

    Raises:
        InvalidInput: a budget that is not positive and finite.
        Unreachable: the budget buys no model of the lattice.

    >>> import scalesim as ss
    >>> fit, job = ss.named_fit("default"), ss.Workload(context_length=131072)
    >>> budget = ss.search(fit, job, 2.7).best.objective
    >>> abs(least_loss(fit, job, budget).target_loss - 2.7) < 2e-3
    True
    """
    check_number("budget", budget)
    check_kind("workload", workload, Workload, "a Workload")
    check_kinds(family, lattice, baseline, constraints, plan)
    lattice = lattice or buildable()
    limits = tuple(constraints)
    query = Query(
        workload=workload,
        target_loss=2.0,
        objective=objective,
        constraints=limits,
        plan=plan,
        tolerance=tolerance,
    )
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), family=family)
        lattice.check(problem.law)
        low, high = 1e-6, 12.0
        batch = stack_queries([searchable(query)[0]] * _LOSSES)
        while high - low > 1e-6:
            losses = np.linspace(low, high, _LOSSES)
            asked = dataclasses.replace(batch, target_loss=losses)
            found = solve(problem, asked, lattice, None, not lattice.enumerates)
            costs = np.asarray(found.designs.cost).min(axis=1)
            within = np.flatnonzero(costs <= budget)
            if not len(within):
                finite = costs[np.isfinite(costs)]
                least = f"; the least that any costs is {finite.min():.4g}" if len(finite) else ""
                raise Unreachable(f"budget {budget:g} buys no model of the {lattice.name} lattice{least}.")
            first = int(within[0])
            low, high = losses[max(first - 1, 0)], losses[first]
            if first == 0:
                break
    return search(
        law,
        workload,
        float(high),
        objective=objective,
        family=family,
        lattice=lattice,
        baseline=baseline,
        constraints=limits,
        plan=plan,
        solver=solver,
        tolerance=tolerance,
    )
