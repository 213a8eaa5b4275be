"""Which way the optimum moves: its exact derivatives, and where the discrete choice changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.search.design import Design
from scalesim.search.lattice import Lattice
from scalesim.search.problem import Problem, Query
from scalesim.search.relaxation import heads_at
from scalesim.search.solve import exhaustive

__all__ = ["Choice", "Sensitivity", "choices_over_context", "sensitivity"]

Num = Any
NEWTON_STEPS = 8


@dataclass(frozen=True)
class Sensitivity:
    """How one number of the question moves the optimum.

    Attributes:
        name: "context_length", "target_loss", a field of the objective, or a coefficient of the law.
        value: where it stands.
        cost: d log(cost) / d log(value) at the optimum. For target_loss: d log(cost) / d value, per nat, the
            shadow price of the loss constraint.
        n_params, n_head, n_kv_head: the same derivative of the optimum's log size and heads; 0 for heads
            that are held at an edge (n_kv_head at 1, n_head at the lattice's most).
    """

    name: str
    value: float
    cost: float
    n_params: float
    n_head: float
    n_kv_head: float


def _log_optimum(problem: Problem, query: Query, max_head: int, position: Num) -> dict[str, Num]:
    """Return log cost, size and heads of the relaxed design at a point of the unit square (2,)."""
    n_head, n_kv_head = (value[None] for value in heads_at(position, max_head))
    log_n = problem.size_for_loss(query, n_head, n_kv_head)
    shape = problem.relaxed_shape(log_n, n_head, n_kv_head)
    cost = query.objective(shape, query.workload)
    heads = {"n_head": jnp.log(n_head), "n_kv_head": jnp.log(n_kv_head)}
    return {name: v[0] for name, v in {"cost": jnp.log(cost), "n_params": log_n, **heads}.items()}


@partial(jax.jit, static_argnums=3)
def _derivatives(problem: Problem, query: Query, start: Num, max_head: int) -> tuple[Num, Any]:
    """Polish the optimum on its active edges, and differentiate it by problem and query."""

    def log_cost(position: Num, theta: Any) -> Num:
        return _log_optimum(theta[0], theta[1], max_head, position)["cost"]

    theta = (problem, query)
    slope = jax.grad(log_cost)(start, theta)
    at_low, at_high = (start < 1e-6) & (slope > 0), (start > 1 - 1e-6) & (slope < 0)
    free = ~(at_low | at_high)
    edge = jnp.where(at_low, 0.0, jnp.where(at_high, 1.0, start))

    def reduced_hessian(position: Num) -> Num:
        """Return the Hessian among the free coordinates, the identity among the others."""
        hessian = jax.jacfwd(jax.grad(log_cost))(position, theta)
        return jnp.where(free[:, None] & free[None, :], hessian, jnp.eye(2))

    def newton(_: int, position: Num) -> Num:
        slope = jnp.where(free, jax.grad(log_cost)(position, theta), 0.0)
        return jnp.clip(position - jnp.linalg.solve(reduced_hessian(position), slope), 0.0, 1.0)

    position = jax.lax.fori_loop(0, NEWTON_STEPS, newton, edge)
    inverse = jnp.linalg.inv(reduced_hessian(position)) * free[:, None] * free[None, :]

    # d position / d theta = -H^-1 d(grad)/d theta among the free coordinates; the others do not move.
    mixed = jax.jacrev(jax.grad(log_cost), argnums=1)(position, theta)
    moved = jax.tree.map(lambda leaf: -jnp.tensordot(inverse, leaf, 1), mixed)
    by_theta = jax.jacrev(lambda t: _log_optimum(t[0], t[1], max_head, position))(theta)
    by_position = jax.jacrev(lambda p: _log_optimum(problem, query, max_head, p))(position)
    total = {
        name: jax.tree.map(
            lambda direct, m, g=by_position[name]: direct + jnp.tensordot(g, m, 1), by_theta[name], moved
        )
        for name in by_theta
    }
    return position, total


def sensitivity(design: Design) -> list[Sensitivity]:
    """Return how each number of a design's question moves its relaxed optimum, the strongest first.

    By implicit differentiation: with f(x, theta) the log cost over the relaxed heads x, the loss constraint
    eliminated, f_x(x*) = 0 on the coordinates that no edge holds, so dx*/dtheta = -f_xx^-1 f_x,theta, and
    d f*/dtheta = f_theta (the envelope theorem). The optimum here is on the family itself.

    Raises:
        InvalidInput: the design is of a `DesignSpace`, or its objective had no gradient.

    >>> import scalesim as ss
    >>> design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    >>> by_name = {s.name: s for s in sensitivity(design)}
    >>> by_name["context_length"].n_head < 0 < by_name["context_length"].cost
    True
    """
    if not isinstance(design.lattice, Lattice) or design.relaxed is None:
        raise InvalidInput(
            "sensitivity differentiates the relaxed heads of a lattice's gradient search, but the design is "
            "of a DesignSpace or was found without a gradient; one of scalesim.search.buildable() would do."
        )
    with jax.enable_x64(True):
        problem, query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (design.problem, design.query))
        log_head, log_kv = (np.log(float(getattr(design.relaxed.shape, n))) for n in ("n_head", "n_kv_head"))
        start = jnp.array([log_head / np.log(design.lattice.max_head), log_kv / max(log_head, 1e-12)])
        _, total = _derivatives(problem, query, jnp.clip(start, 0.0, 1.0), design.lattice.max_head)
        flat = {measure: _named(derivative) for measure, derivative in total.items()}
        values = _named((problem, query))
    rows = []
    for name, value in values.items():
        scale = 1.0 if name == "target_loss" else value
        by_measure = {measure: float(named[name]) * scale for measure, named in flat.items()}
        if any(by_measure.values()):
            rows.append(Sensitivity(name=name, value=value, **by_measure))
    return sorted(rows, key=lambda row: -abs(row.cost))


def _named(theta: Any) -> dict[str, float]:
    """Return the scalar leaves of (problem, query) by their last name."""
    leaves = jax.tree_util.tree_flatten_with_path(theta)[0]
    return {_last(path): float(leaf) for path, leaf in leaves if jnp.ndim(leaf) == 0}


def _last(path: Any) -> str:
    return str(getattr(path[-1], "name", getattr(path[-1], "key", path[-1])))


@dataclass(frozen=True)
class Choice:
    """A range of contexts over which one head configuration is the cheapest."""

    n_head: int
    n_kv_head: int
    from_context: float
    to_context: float


def choices_over_context(
    design: Design, low: float = 1024.0, high: float = 1048576.0, points: int = 256
) -> list[Choice]:
    """Return which configuration of the design's lattice is best at each context, and where that changes.

    Evaluates the whole lattice at `points` contexts between `low` and `high`, then halves the bracket of
    every change until it is known to a token.

    Raises:
        InvalidInput: the design is of a `DesignSpace`.

    >>> import scalesim as ss
    >>> fit, job = ss.named_fit("default"), ss.Workload(context_length=131072)
    >>> design = ss.search(fit, job, 2.615, lattice=ss.search.PAPER)
    >>> [(c.n_head, c.n_kv_head) for c in choices_over_context(design)][-2:]
    [(4, 1), (2, 1)]
    """

    lattice = design.lattice
    if not isinstance(lattice, Lattice):
        raise InvalidInput(
            "choices_over_context compares the head configurations of a lattice, but the design is of a "
            "DesignSpace; one of scalesim.search.buildable() would do."
        )

    def best(contexts: np.ndarray) -> np.ndarray:
        workload = dataclasses.replace(design.query.workload, context_length=1.0)
        query = dataclasses.replace(design.query, workload=workload)
        batch = jax.tree.map(lambda leaf: np.full(len(contexts), float(leaf)), query)
        batch = dataclasses.replace(
            batch, workload=dataclasses.replace(batch.workload, context_length=contexts)
        )
        return np.asarray(exhaustive(design.problem, batch, lattice).index)

    with jax.enable_x64(True):
        grid = np.geomspace(low, high, points)
        index = best(grid)
        changes = np.flatnonzero(np.diff(index))
        left, right = grid[changes], grid[changes + 1]
        while len(changes) and (right - left).max() > 1.0:
            middle = (left + right) / 2
            padded = np.concatenate([middle, np.full(points - len(middle), low)])
            same = best(padded)[: len(middle)] == index[changes]
            left, right = np.where(same, middle, left), np.where(same, right, middle)
    edges = [low, *((left + right) / 2).tolist(), high]
    kept = [index[0], *index[changes + 1]]
    return [
        Choice(lattice.heads[i][0], lattice.heads[i][1], from_context=a, to_context=b)
        for i, a, b in zip(kept, edges[:-1], edges[1:], strict=True)
    ]
