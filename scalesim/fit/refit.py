"""Many fits of one law that differ in weights, losses, thresholds or pinned values: one compiled call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.fit.coordinates import resolve
from scalesim.fit.problem import Problem
from scalesim.fit.setup import Setup, start_pool
from scalesim.fit.solver import levenberg_marquardt, newton, project

__all__ = ["Refits", "predict_many", "refit"]

CHUNK = 256
"""Replicas solved at a time: enough to fill a processor's vectors, few enough for bounded memory."""


class Refits(NamedTuple):
    """Points z (R, p), objectives (R,) and gradient norms (R,) of R fits."""

    z: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray


def refit(
    setup: Setup,
    warm: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    loss: np.ndarray | None = None,
    delta: np.ndarray | None = None,
    pinned: Mapping[str, np.ndarray] | None = None,
    starts: int = 64,
    keep: int = 2,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> Refits:
    """Fit R replicas of a problem, each from its own best starts and from `warm`.

    Args:
        setup: the problem.
        warm: a start for every replica, (p,) or (R, p): the optimum of the original.
        weight, loss: of the table's rows, (R, rows).
        delta: thresholds of the Huber loss, (R,).
        pinned: values of coefficients that are not free, (R,) each.
        starts: drawn once; each replica solves their linear coefficients on its own rows.
        keep: how many of a replica's starts to polish, besides `warm`.
        chunk: replicas at a time.
        progress: called with the number of replicas done so far.
    """
    parts = list(refit_chunks(setup, warm, weight, loss, delta, pinned, starts, keep, chunk, progress))
    return Refits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def refit_chunks(
    setup: Setup,
    warm: np.ndarray,
    weight: np.ndarray | None,
    loss: np.ndarray | None,
    delta: np.ndarray | None,
    pinned: Mapping[str, np.ndarray] | None,
    starts: int,
    keep: int,
    chunk: int,
    progress: Callable[[int], None] | None,
) -> Iterator[Refits]:
    """Yield the results of `refit`, a chunk at a time."""
    changed = _changes(setup, weight, loss, delta, pinned or {})
    total = len(next(iter(changed.values())))
    size = min(chunk, 1 << (total - 1).bit_length())
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(setup.problem)
        axes = tuple(0 if i in changed else None for i in range(len(leaves)))
        pool = start_pool(setup, starts)
        warm = np.broadcast_to(warm, (total, setup.layout.size))
        for first in range(0, total, size):
            rows = np.minimum(np.arange(first, first + size), total - 1)  # the last chunk repeats its end
            here = [changed[i][rows] if i in changed else leaf for i, leaf in enumerate(leaves)]
            ends = _refit(here, pool, warm[rows], tree, axes, min(keep, starts))
            count = min(size, total - first)
            yield Refits(*(np.asarray(part)[:count] for part in ends))
            if progress is not None:
                progress(first + count)


@partial(jax.jit, static_argnames=("tree", "axes", "keep"))
def _refit(leaves: list, pool: jax.Array, warm: jax.Array, tree: Any, axes: tuple, keep: int) -> Any:
    def one(leaves: list, warm: jax.Array) -> tuple[jax.Array, ...]:
        problem: Problem = jax.tree.unflatten(tree, leaves)
        if keep:
            projected, squares = project(problem, pool)
            _, best = jax.lax.top_k(-squares, keep)
            starts = jnp.concatenate([projected[best], warm[None]])
        else:
            starts = warm[None]
        z = jax.vmap(lambda z: levenberg_marquardt(problem, z))(starts)
        ends = jax.vmap(lambda z: newton(problem, z))(z)
        winner = jnp.argmin(jnp.where(jnp.isnan(ends.objective), jnp.inf, ends.objective))
        return ends.z[winner], ends.objective[winner], ends.gradient_norm[winner]

    return jax.vmap(one, in_axes=(list(axes), 0))(leaves, warm)


def _changes(
    setup: Setup, weight: Any, loss: Any, delta: Any, pinned: Mapping[str, Any]
) -> dict[int, np.ndarray]:
    """Return the problem's leaves that differ by replica: {index of the leaf: values (R, ...)}."""
    problem = setup.problem
    marked: dict[int, np.ndarray] = {}
    points = problem.points
    if points is not None:
        length = len(points.loss)
        if weight is not None:
            points = dataclasses.replace(points, weight=_Marked(_pad(weight, length, 0.0)))
        if loss is not None:
            points = dataclasses.replace(points, loss=_Marked(_pad(loss, length, 1.0)))
        if delta is not None:
            points = dataclasses.replace(points, delta=_Marked(np.asarray(delta, float)))
    values = list(problem.pinned)
    known = {slot.name: i for i, slot in enumerate(setup.layout.slots)}
    for name, value in pinned.items():
        values[resolve(name, known)] = _Marked(np.asarray(value, float))
    swapped = dataclasses.replace(problem, points=points, pinned=tuple(values))
    for i, leaf in enumerate(jax.tree.leaves(swapped)):
        if isinstance(leaf, _Marked):
            marked[i] = leaf.values
    return marked


class _Marked:
    """An opaque leaf that stands for values by replica."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


def _pad(values: np.ndarray, length: int, filler: float) -> np.ndarray:
    values = np.asarray(values, float)
    return np.pad(values, ((0, 0), (0, length - values.shape[1])), constant_values=filler)


@jax.jit
def _predict(problem: Problem, z: jax.Array, x: Mapping[str, jax.Array]) -> jax.Array:
    return jax.vmap(lambda z: problem.law(z).loss(x))(z)


def predict_many(setup: Setup, z: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
    """Return the losses (R, rows) of R points z (R, p) at x, each field (rows,)."""
    with jax.enable_x64(True):
        return np.asarray(_predict(setup.problem, z, {k: jnp.asarray(v) for k, v in x.items()}))
