"""Where a fit starts: points spread over a law's ranges, those of the user, and their linear coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.fitting.coordinates import coefficients
from scalesim.fitting.problem import FitProblem
from scalesim.fitting.setup import Setup
from scalesim.numerics.descent import solve

__all__ = ["ANNEAL", "given_starts", "project", "start_pool"]

ANNEAL = 30.0
"""Where annealing starts: thirty times the final tolerance of every residual."""
RANKED = 4096
"""Rows that starts are ranked by, at most."""


def start_pool(setup: Setup, count: int) -> np.ndarray:
    """Return `count` starts (count, p), spread evenly over the ranges that the law declares.

    The points are those of the R_d sequence (Roberts 2018): additive recurrence by powers of the
    generalised golden ratio, which covers any dimension evenly at any length.
    """
    layout = setup.layout
    spread = [slot for slot in layout.slots if slot.free]
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (len(spread) + 1))
    powers = ratio ** -np.arange(1.0, len(spread) + 1)
    u = (0.5 + np.arange(1, count + 1)[:, None] * powers[None, :]) % 1.0
    values: dict[str, Any] = {}
    column = 0
    for slot, pinned in zip(layout.slots, setup.problem.pinned, strict=True):
        if not slot.free:
            values[slot.name] = np.broadcast_to(pinned, (count, *np.shape(pinned)))
            continue
        low, high = slot.bounds or slot.spec.start
        part = u[:, column]
        drawn = low * (high / low) ** part if slot.spec.positive else low + (high - low) * part
        values[slot.name] = np.repeat(drawn[:, None], slot.size, axis=1) if slot.size else drawn
        column += 1
    return layout.encode_many(values, setup.problem.centres)


def given_starts(setup: Setup, starts: Mapping[str, Any]) -> np.ndarray:
    """Return the user's starts as points; coefficients that they leave out keep the template's value."""
    own = coefficients(setup.template)
    unknown = [name for name in starts if name not in own]
    if unknown:
        raise InvalidInput(f"starts name {unknown[0]!r}, which is no coefficient; they are {', '.join(own)}.")
    lengths = {len(np.atleast_1d(v)) for v in starts.values()}
    if len(lengths) != 1:
        raise InvalidInput(f"starts must all have one length, but have {sorted(lengths)}.")
    count = lengths.pop()
    values = {
        name: np.asarray(starts[name], float)
        if name in starts
        else np.broadcast_to(np.asarray(value), (count, *np.shape(value)))
        for name, value in own.items()
    }
    return setup.layout.encode_many(values, setup.problem.centres)


def project(problem: FitProblem, pool: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve each start's linear coordinates by least squares on the points, given its other ones.

    For starts `pool` (K, p), returns the starts with their linear coordinates replaced, and each one's
    score: its sum of squares, or its annealed objective where nothing is linear. The normal equations
    are one product of the weights with columns that no resample changes, so over many resamples
    (vmapped weights or losses) they are a matrix product.
    """
    points, layout = problem.points, problem.layout
    if points is not None and len(points.loss) > RANKED:
        # Seeds need not see every row of a large table, and all columns at once would not fit.
        stride = -(-len(points.loss) // RANKED)
        few = {k: v[::stride] for k, v in points.x.items()}
        rows = {k: getattr(points, k)[::stride] for k in ("loss", "weight", "sigma")}
        points = replace(points, x=few, **rows)
    linear = layout.linear()
    if points is None or not linear:
        return pool, jax.vmap(lambda z: problem.objective(z, ANNEAL))(pool)
    index = np.array(linear)
    positive = np.concatenate([[slot.spec.positive] * slot.width for slot in layout.slots]).astype(bool)[
        index
    ]
    directions = np.eye(pool.shape[1])[index]
    base = np.where(positive, 1.0, 0.0)
    k = len(linear)

    def columns(z: jax.Array) -> jax.Array:
        """Return the affine function's basis, and its offset as the last column: (rows, k + 1)."""
        z = z.at[index].set(0.0)
        f, push = jax.linearize(lambda z: problem.law(z).loss(points.x) + jnp.zeros_like(points.loss), z)
        basis = jax.vmap(push, out_axes=1)(jnp.asarray(directions, z.dtype))
        return jnp.concatenate([basis, (f - basis @ base)[:, None]], axis=1)

    basis = jax.vmap(columns)(pool)  # (K, rows, k + 1)
    # Small log residuals are relative ones.
    scale = points.weight / (points.sigma * points.loss if points.log_space else points.sigma) ** 2
    products = (basis[:, :, :, None] * basis[:, :, None, :]).reshape(*basis.shape[:2], (k + 1) ** 2)
    gram = jnp.tensordot(scale, products, axes=(0, 1)).reshape(-1, k + 1, k + 1)
    along = jnp.tensordot(scale * points.loss, basis, axes=(0, 1))
    inner, cross = gram[:, :k, :k], along[:, :k] - gram[:, :k, k]
    total = jnp.sum(scale * points.loss**2) - 2 * along[:, k] + gram[:, k, k]
    u, gain = jax.vmap(_nonnegative, in_axes=(0, 0, None))(inner, cross, positive)
    found = jnp.where(positive[None, :], jnp.log(jnp.maximum(u, 1e-12)), u)
    squares = total - gain
    usable = jnp.isfinite(squares)
    projected = pool.at[:, index].set(jnp.where(usable[:, None], found, pool[:, index]))
    return projected, jnp.where(usable, squares, jnp.inf)


def _nonnegative(gram: jax.Array, cross: jax.Array, positive: Any) -> tuple[jax.Array, jax.Array]:
    """Solve gram u = cross, lift what should be positive off zero; return u and the squares it saves.

    Good enough to rank starts and to begin from: an optimum with a coefficient at 0 is rare.
    """
    diagonal = jnp.diagonal(gram)
    u = solve(gram + jnp.diag(1e-10 * diagonal + 1e-300), cross)
    u = jnp.where(jnp.isfinite(u), u, cross / jnp.maximum(diagonal, 1e-300))
    u = jnp.where(positive, jnp.maximum(u, 1e-3 * jnp.max(jnp.abs(u))), u)
    along, across = cross @ u, u @ gram @ u
    u = u * jnp.where(along > 0, along / across, 1.0)
    return u, jnp.where(along > 0, along**2 / across, -jnp.inf)
