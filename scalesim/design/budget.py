"""The dual question: the least loss within a budget."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from scalesim.cost.paper import FIGURE_2
from scalesim.design.constraints import AtMost
from scalesim.design.design import Design, law_of, search
from scalesim.design.lattice import Lattice, buildable
from scalesim.design.problem import Problem, Query
from scalesim.design.solve import exhaustive, stack_queries
from scalesim.design.space import DesignSpace
from scalesim.design.wide import settled
from scalesim.errors import InvalidInput, Unreachable
from scalesim.workload import Workload

__all__ = ["least_loss"]

_LOSSES = 64


def _least_costs(problem: Problem, queries: Query, lattice: Lattice | DesignSpace) -> np.ndarray:
    if isinstance(lattice, DesignSpace):
        lattice.check(problem.law)
        return settled(problem, queries, lattice).built.cost[:, 0]
    return np.asarray(exhaustive(problem, queries, lattice).sized.cost)


def least_loss(
    law: Any, workload: Workload, budget: float, *, objective: Any = FIGURE_2, **options: Any
) -> Design:
    """Return the design of least loss whose objective is at most `budget`.

    The least cost falls as the loss rises, so the least loss within the budget is where they meet: 64 losses
    are tried at a time, every configuration of the lattice at each (or a search of the `DesignSpace`), and
    the bracket shrinks 63 times a round until it is narrower than a millionth of a nat. The design at that
    loss is then searched as any other.

    Args:
        law, workload, objective: as for `search`.
        budget: the most the objective may be, in its own units.
        options: further arguments of `search` (family, lattice, constraints, baseline, ...).

    Raises:
        InvalidInput: a budget that is not positive and finite.
        Unreachable: the budget buys no model of the lattice.

    >>> import scalesim as ss
    >>> fit, job = ss.named_fit("default"), ss.Workload(context_length=131072)
    >>> budget = ss.search(fit, job, 2.7).best.objective
    >>> abs(least_loss(fit, job, budget).target_loss - 2.7) < 2e-3
    True
    """
    if isinstance(budget, bool) or not (np.isfinite(budget) and budget > 0):
        raise InvalidInput(f"budget must be above 0 and finite, but is {budget!r}.")
    lattice = options.get("lattice") or buildable()
    constraints: tuple[AtMost, ...] = tuple(options.get("constraints", ()))
    shared = {k: v for k, v in options.items() if k in ("family", "tokens_per_param")}
    if jax.tree.leaves(objective) == [objective] and callable(objective):
        objective = jax.tree_util.Partial(objective)
    query = Query(workload=workload, target_loss=2.0, objective=objective, constraints=constraints)
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), **shared)
        low, high = 0.5, 12.0
        batch = stack_queries([query] * _LOSSES)
        while high - low > 1e-6:
            losses = np.linspace(low, high, _LOSSES)
            asked = dataclasses.replace(batch, target_loss=losses)
            costs = _least_costs(problem, asked, lattice)
            within = np.flatnonzero(costs <= budget)
            if not len(within):
                finite = costs[np.isfinite(costs)]
                least = f"; the least that any costs is {finite.min():.4g}" if len(finite) else ""
                raise Unreachable(f"budget {budget:g} buys no model of the {lattice.name} lattice{least}.")
            first = int(within[0])
            low, high = losses[max(first - 1, 0)], losses[first]
            if first == 0:
                break
    return search(law, workload, float(high), objective=objective, **options)
