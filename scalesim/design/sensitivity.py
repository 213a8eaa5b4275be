"""Which way the optimum moves: its exact derivatives, and where the discrete choice changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.design import Design
from scalesim.design.lattice import Lattice, exhaustive
from scalesim.design.problem import NOTHING_FREE, Problem, Query
from scalesim.design.relaxation import DesignSet
from scalesim.errors import InvalidInput, Unreachable
from scalesim.numerics.roots import newton_system
from scalesim.programs import beside, kept_jit
from scalesim.types import Num

__all__ = ["Choice", "Optimum", "Sensitivity", "choices_over_context", "polished", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """How one number of the question moves the optimum.

    Attributes:
        name: "context_length", "target_loss", "limit of" a constraint, a field of the objective, or a
            coefficient of the law.
        value: where it stands.
        cost: d log(cost) / d log(value) at the optimum. For target_loss: d log(cost) / d value, per nat, the
            shadow price of the loss constraint.
        n_params, n_head, n_kv_head: the same derivative of the optimum's log size and heads; 0 for heads
            that are held at an edge (n_kv_head at 1, n_head at the lattice's most).
        others: the same of depth, width and what else a `DesignSpace` chooses.
    """

    name: str
    value: float
    cost: float
    n_params: float
    n_head: float
    n_kv_head: float
    others: dict[str, float] = field(default_factory=dict)


def sensitivity(design: Design) -> list[Sensitivity]:
    """Return how each number of a design's question moves its relaxed optimum, the strongest first.

    By implicit differentiation of the conditions of optimality (`scalesim.design.optimality`). With f the log
    cost over the relaxed coordinates x, the loss constraint eliminated, and g the log excess of the limits
    that hold the optimum:

        f_x + lambda g_x = 0 on the coordinates that no edge holds,   g = 0

    so x and lambda follow theta, and d f*/dtheta = f_theta + lambda g_theta (the envelope theorem). The
    optimum here is on the family itself. A constraint's own row, "limit of ...", has its shadow price as
    `cost`: by how many percent cost changes for 1% more of the limit; a limit that does not bind has no row.
    A number that stands in several places with the same value (a bandwidth in objective and constraint) is
    moved in all of them.

    Raises:
        InvalidInput: the objective or a constraint had no gradient.
        Unreachable: the optimum could not be found to the precision that this needs.

    >>> import scalesim as ss
    >>> design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    >>> by_name = {s.name: s for s in sensitivity(design)}
    >>> by_name["context_length"].n_head < 0 < by_name["context_length"].cost
    True
    """
    if design.relaxed is None:
        raise InvalidInput(
            "sensitivity differentiates the optimum of the gradient search, but the design was found without "
            "a gradient; a smooth objective and smooth constraints would do."
        )
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: np.asarray(leaf, float), (design.problem, design.query))
        designs = design.lattice
        problem, query = theta
        free = design.relaxed_free or NOTHING_FREE
        start = np.asarray(designs.position_of(design.relaxed.shape, free, problem.family), float)
        limits = len(query.constraints) + len(designs.size_excesses(design.relaxed.shape))
        with _compiled_beside(problem, query, designs, len(start), limits):
            optimum = polished(problem, query, designs, start)
        total = derivatives(problem, query, designs, optimum)
    rows: dict[str, dict[str, float]] = {}
    values: dict[str, float] = {}
    for i, (name, value) in enumerate(_named(theta)):
        values[name] = value
        row = rows.setdefault(name, dict.fromkeys(total, 0.0))
        for measure, slopes in total.items():
            row[measure] += float(slopes[i]) * (1.0 if name == "target_loss" else value)
    # What is not chosen follows from size and heads, or stays.
    moving = [
        name
        for name in designs.chooses
        if name in total and any(abs(row[name]) > 1e-9 for row in rows.values())
    ]
    chosen = [*_ALWAYS, *moving]
    found = []
    for name, row in rows.items():
        if any(abs(row[measure]) > 1e-12 for measure in chosen):
            others = {measure: row[measure] for measure in moving}
            always = {measure: row[measure] for measure in _ALWAYS}
            found.append(Sensitivity(name=name, value=values[name], **always, others=others))
    return sorted(found, key=lambda row: -abs(row.cost))


_ALWAYS = ("cost", "n_params", "n_head", "n_kv_head")


def _named(theta: tuple[Problem, Query]) -> list[tuple[str, float]]:
    """Return name and value of each single number of (problem, query).

    The name is its field's; where another of that name has another value, after what it belongs to.
    """
    seen: dict[str, float] = {}
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(theta)[0]:
        if jnp.ndim(leaf):
            continue
        value = float(leaf)
        fields = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
        names = [fields[-1], ".".join(fields[-2:]), ".".join(fields[1:])]
        if fields[1] == "constraints" and fields[-1] == "limit":
            names[0] = f"limit of {theta[1].constraints[int(fields[2])].name}"
        name = next((name for name in names if seen.get(name, value) == value), names[-1])
        seen[name] = value
        found.append((name, value))
    return found


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
    >>> design = ss.search(fit, job, 2.615, lattice=ss.PAPER)
    >>> [(c.n_head, c.n_kv_head) for c in choices_over_context(design)][-2:]
    [(8, 1), (4, 1)]
    """

    lattice = design.lattice
    if not isinstance(lattice, Lattice):
        raise InvalidInput(
            "choices_over_context compares the head configurations of a lattice, but the design is of a "
            "DesignSpace; one of scalesim.design.buildable() would do."
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


# The conditions of the relaxed optimum: solved to rounding error, and differentiated by the question.

NEWTON_STEPS = 12
NEAR = 0.01
"""Log excess from which on a limit is first taken to hold the optimum."""
RESIDUAL = 1e-7
"""Residual of the conditions that counts as none."""
CHANGES = 40
"""Times that what holds the optimum may change."""


@dataclass(frozen=True)
class Optimum:
    """A point that satisfies the conditions of optimality, on the family itself.

    Attributes:
        position: in the unit box, (k,).
        multipliers: by how much log cost would fall for each unit of log excess allowed, (m,), at least 0:
            the constraints of the question first, then the ranges of sizes.
        active: which limits hold the optimum, (m,).
        held, edge: which coordinates are held at an edge of the box, and at which, (k,).
        inverse: of the derivative of the conditions by position and multipliers, (k + m, k + m).
        logs: of cost, n_params, heads and what else is chosen.
    """

    position: np.ndarray
    multipliers: np.ndarray
    active: np.ndarray
    held: np.ndarray
    edge: np.ndarray
    inverse: np.ndarray
    logs: dict[str, float]


def _logs_and_limits(problem: Problem, query: Query, designs: DesignSet, at: Num) -> tuple[Any, Num]:
    """Return the logs of cost, size, heads and what else is chosen at a point (k,), and the limits (m,)."""
    n_head, n_kv_head, free = designs.relaxed_at(at[None], problem.family)
    asked = free.applied(query)
    log_n = problem.size_for_loss(asked, n_head, n_kv_head, free=free)
    shape = problem.relaxed_shape(log_n, n_head, n_kv_head, free=free)
    found = {
        "cost": asked.cost(shape),
        "n_params": jnp.exp(log_n),
        "n_head": shape.n_head,
        "n_kv_head": shape.n_kv_head,
        "n_layer": shape.n_layer,
        "d_model": shape.d_model,
        "d_ff": shape.d_ff,
        "head_dim": shape.head_dim,
        "tokens_per_param": free.tokens_per_param,
        "kv_bits": free.kv_bits,
    }
    limits = asked.excesses(shape) + designs.size_excesses(shape)
    logs = {name: jnp.log(_only(value)) for name, value in found.items() if value is not None}
    return logs, jnp.stack([_only(limit) for limit in limits]) if limits else jnp.zeros(0)


def _only(value: Num) -> Num:
    return jnp.reshape(jnp.broadcast_to(jnp.asarray(value, float), (1,)), ())


def _residual(problem: Problem, query: Query, designs: DesignSet, z: Num, sets: Any) -> tuple[Num, Any]:
    """Return the conditions' residual at position and multipliers (k + m,), and limits and slopes there."""
    active, held, edge = sets
    at, multipliers = z[: len(held)], z[len(held) :]

    def lagrangian(at: Num) -> tuple[Num, Num]:
        logs, limits = _logs_and_limits(problem, query, designs, at)
        return logs["cost"] + jnp.sum(jnp.where(active, multipliers, 0.0) * limits), limits

    # Forward, as coordinates are few: a gradient in reverse takes twice as long to compile.
    slope, limits = jax.jacfwd(lagrangian, has_aux=True)(at)
    conditions = jnp.where(held, at - edge, slope), jnp.where(active, limits, multipliers)
    return jnp.concatenate(conditions), (limits, slope)


@partial(kept_jit, static_argnums=2)
def _solved(problem: Problem, query: Query, designs: DesignSet, z: Num, sets: Any) -> Any:
    """Return where Newton's method ends with these limits and coordinates held, and the conditions there."""

    z, value, (limits, slope), inverse = newton_system(
        lambda z: _residual(problem, query, designs, z, sets), z, steps=NEWTON_STEPS, watched=len(sets[1])
    )
    return z, value, limits, slope, inverse


@partial(kept_jit, static_argnums=2)
def _logs(problem: Problem, query: Query, designs: DesignSet, at: Num) -> Any:
    return _logs_and_limits(problem, query, designs, at)


def polished(problem: Problem, query: Query, designs: DesignSet, start: np.ndarray) -> Optimum:
    """Return the optimum near a point, where the gradient of the Lagrangian is zero to rounding error.

    An active-set method: Newton's on the conditions with some limits held at zero and some coordinates at an
    edge; a limit whose multiplier is negative and an edge that nothing presses against are let go, a limit
    that is exceeded and an edge that is passed are held, one at a time, until all is in order.

    Raises:
        Unreachable: no such point was found.
    """
    start = np.asarray(start, float)
    _, limits = map(np.asarray, jax.tree.leaves(_logs(problem, query, designs, start))[-2:])
    held = (start < 1e-6) | (start > 1 - 1e-6)
    edge = np.round(start)
    active = np.zeros(len(limits), bool)
    active[np.argsort(-limits)[: max(int((~held).sum()), 0)]] = True
    active &= limits > -NEAR
    z = np.concatenate([start, np.zeros(len(limits))])
    for _ in range(CHANGES):
        z, residual, limits, slope, inverse = jax.device_get(
            _solved(problem, query, designs, z, (active, held, edge))
        )
        at, multipliers = np.where(held, edge, z[: len(start)]), z[len(start) :]
        if not np.isfinite(z).all():
            break
        passed = np.where(held, 0.0, np.maximum(-at, at - 1))
        exceeded = np.where(active, -np.inf, limits)
        # How much would be gained by letting go.
        inward = np.where(held, np.where(edge > 0.5, slope, -slope), -np.inf)
        loose = np.concatenate([inward, np.where(active, -multipliers, -np.inf)])
        if passed.max(initial=-np.inf) > 1e-9:
            i = int(passed.argmax())
            held[i], edge[i] = True, float(at[i] > 0.5)
        elif exceeded.max(initial=-np.inf) > RESIDUAL:
            active[int(exceeded.argmax())] = True
        elif loose.max() > RESIDUAL:
            i = int(loose.argmax())
            if i < len(start):
                held[i] = False
            else:
                active[i - len(start)] = False
        elif np.abs(residual).max() < RESIDUAL:
            logs, _ = jax.device_get(_logs(problem, query, designs, at))
            found = {name: float(value) for name, value in logs.items()}
            return Optimum(at, np.where(active, multipliers, 0.0), active, held, edge, inverse, found)
        else:
            break
        z = np.concatenate([np.clip(at, 0.0, 1.0), np.where(active, multipliers, 0.0)])
    raise Unreachable(
        "The relaxed optimum could not be found to the precision that derivatives need: several of its "
        "limits hold at once, or only designs shallower than the family satisfy them. Looser limits would do."
    )


def derivatives(
    problem: Problem, query: Query, designs: DesignSet, optimum: Optimum
) -> dict[str, np.ndarray]:
    """Return the derivatives of each of the optimum's logs by the n single numbers of (problem, query), (n,).

    The conditions F(z, theta) = 0 hold in position and multipliers z = (x, lambda), so

        dz/dtheta = -F_z^-1 F_theta,   d log m/dtheta = m_theta + m_x dx/dtheta.

    Numbers are in the order of the leaves; arrays (the lengths of a mix of contexts) are left out.
    """
    z = np.concatenate([optimum.position, optimum.multipliers])
    # A coordinate at an edge stays there.
    inverse = np.where(optimum.held[:, None], 0.0, optimum.inverse[: len(optimum.position)])
    sets = (optimum.active, optimum.held, optimum.edge)
    return jax.device_get(_derivatives(problem, query, designs, z, sets, inverse))


@contextmanager
def _compiled_beside(
    problem: Problem, query: Query, designs: DesignSet, axes: int, limits: int
) -> Iterator[None]:
    """Compile the program of `derivatives` beside what is done meanwhile, the first time in a process."""
    sets = (np.zeros(limits, bool), np.zeros(axes, bool), np.zeros(axes))
    z, inverse = np.zeros(axes + limits), np.zeros((axes, axes + limits))
    z[:axes] = 0.5
    threads = []
    if not _derivatives.n_programs():
        threads = beside(lambda: _derivatives(problem, query, designs, z, sets, inverse))
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


@partial(kept_jit, static_argnums=2)
def _derivatives(problem: Problem, query: Query, designs: DesignSet, z: Num, sets: Any, inverse: Num) -> Any:
    axes = len(sets[1])
    slopes = jax.jacfwd(lambda at: _logs_and_limits(problem, query, designs, at)[0])(z[:axes])
    leaves, tree = jax.tree.flatten((problem, query))
    single = [i for i, leaf in enumerate(leaves) if not jnp.ndim(leaf)]

    def weighted(values: Num) -> Any:
        """Return m(theta) - m_x F_z^-1 F(theta) of each log, the position and the other weights held."""
        changed = dict(zip(single, values, strict=True))
        theta = jax.tree.unflatten(tree, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])
        logs = _logs_and_limits(theta[0], theta[1], designs, z[:axes])[0]
        conditions = inverse @ _residual(theta[0], theta[1], designs, z, sets)[0]
        return {name: log - slopes[name] @ conditions for name, log in logs.items()}

    # Forward too: the numbers are some dozens, and in reverse a roofline takes a minute to compile.
    return jax.jacfwd(weighted)(jnp.stack([leaves[i] for i in single]))
