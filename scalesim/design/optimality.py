"""The conditions of the relaxed optimum: solved to rounding error, and differentiated by the question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.problem import Problem, Query
from scalesim.design.relaxation import Relaxable
from scalesim.errors import Unreachable

__all__ = ["Optimum", "derivatives", "polished"]

Num = Any

NEWTON_STEPS = 12
NEAR = 0.01
"""Log excess from which on a limit is first taken to hold the optimum."""
SETTLED = 1e-7
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


def _logs_and_limits(problem: Problem, query: Query, designs: Relaxable, at: Num) -> tuple[Any, Num]:
    """Return the logs of cost, size, heads and what else is chosen at a point (k,), and the limits (m,)."""
    n_head, n_kv_head, freed = designs.relaxed_at(at[None], problem.family)
    asked = freed.asked(query)
    log_n = problem.size_for_loss(asked, n_head, n_kv_head, freed=freed)
    shape = problem.relaxed_shape(log_n, n_head, n_kv_head, freed=freed)
    found = {
        "cost": asked.objective(shape, asked.workload),
        "n_params": jnp.exp(log_n),
        "n_head": shape.n_head,
        "n_kv_head": shape.n_kv_head,
        "n_layer": shape.n_layer,
        "d_model": shape.d_model,
        "d_ff": shape.d_ff,
        "head_dim": shape.head_dim,
        "tokens_per_param": freed.tokens_per_param,
        "kv_bits": freed.kv_bits,
    }
    limits = [c.excess(shape, asked.workload) for c in asked.constraints]
    limits += designs.size_excesses(shape)
    logs = {name: jnp.log(_only(value)) for name, value in found.items() if value is not None}
    return logs, jnp.stack([_only(limit) for limit in limits]) if limits else jnp.zeros(0)


def _only(value: Num) -> Num:
    return jnp.reshape(jnp.broadcast_to(jnp.asarray(value, float), (1,)), ())


def _residual(problem: Problem, query: Query, designs: Relaxable, z: Num, sets: Any) -> tuple[Num, Any]:
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


@partial(jax.jit, static_argnums=2)
def _solved(problem: Problem, query: Query, designs: Relaxable, z: Num, sets: Any) -> Any:
    """Return where Newton's method ends with these limits and coordinates held, and the conditions there."""

    def residual(z: Num) -> tuple[Num, Any]:
        value, others = _residual(problem, query, designs, z, sets)
        return value, (value, *others)

    def step(_: int, state: Any) -> Any:
        """Go on to the next point; what is known of the last goes with it."""
        z = state[0]
        turn, (value, limits, slope) = jax.jacfwd(residual, has_aux=True)(z)
        inverse = jnp.linalg.pinv(turn)
        move = -inverse @ value
        longest = jnp.abs(move[: len(sets[1])]).max()
        return (
            z + move * jnp.minimum(1.0, 0.25 / jnp.maximum(longest, 1e-12)),
            z,
            value,
            limits,
            slope,
            inverse,
        )

    nothing = jax.eval_shape(partial(step, 0), (z,))
    first = (z, *(jnp.zeros(leaf.shape, leaf.dtype) for leaf in nothing[1:]))
    return jax.lax.fori_loop(0, NEWTON_STEPS, step, first)[1:]


@partial(jax.jit, static_argnums=2)
def _logs(problem: Problem, query: Query, designs: Relaxable, at: Num) -> Any:
    return _logs_and_limits(problem, query, designs, at)


def polished(problem: Problem, query: Query, designs: Relaxable, start: np.ndarray) -> Optimum:
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
        elif exceeded.max(initial=-np.inf) > SETTLED:
            active[int(exceeded.argmax())] = True
        elif loose.max() > SETTLED:
            i = int(loose.argmax())
            if i < len(start):
                held[i] = False
            else:
                active[i - len(start)] = False
        elif np.abs(residual).max() < SETTLED:
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
    problem: Problem, query: Query, designs: Relaxable, optimum: Optimum
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


@partial(jax.jit, static_argnums=2)
def _derivatives(problem: Problem, query: Query, designs: Relaxable, z: Num, sets: Any, inverse: Num) -> Any:
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
