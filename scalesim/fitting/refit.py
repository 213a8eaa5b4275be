"""Many starts of many problems that differ in weights, losses, thresholds or pinned values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.fitting.coordinates import resolve
from scalesim.fitting.problem import FitProblem
from scalesim.fitting.setup import Setup
from scalesim.fitting.starts import ANNEAL, project, start_pool
from scalesim.numerics.least_squares import March, march
from scalesim.programs import beside, kept_jit

__all__ = ["CHUNK", "Refits", "Replicas", "predict_many", "refit"]

CHUNK = 4096
"""Replicas at a time, few enough for bounded memory."""
BATCH = 64
"""Starts marched at a time: enough to fill a processor's vectors, few enough for its caches."""
VALUES = 1 << 21
"""Rows times starts in one batch, at most."""
LANES = 1 << 16
"""Rows times starts that step together: what a processor's caches hold. Those of a batch go in turn, so
that no start waits for the slowest of many."""
FIRST, BURST, MOST, AGE = 5, 6, 120, 2
"""Steps of the short pass, of a burst, and at most; replicas begin as if they had cooled for `AGE` steps."""


class Refits(NamedTuple):
    """Points z (R, p), objectives (R,) and gradient norms (R,) of R fits."""

    z: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray


class Replicas:
    """A problem of which some leaves differ by replica: {leaf index: (R, ...)}."""

    def __init__(self, problem: FitProblem, changed: Mapping[int, np.ndarray] | None = None) -> None:
        self.leaves, self.tree = jax.tree.flatten(problem)
        self.changed = dict(changed or {})
        self.axes = tuple(0 if i in self.changed else None for i in range(len(self.leaves)))

    def at(self, replica: np.ndarray) -> list[Any]:
        """Return the leaves for these replicas, one problem each."""
        return [self.changed[i][replica] if i in self.changed else leaf for i, leaf in enumerate(self.leaves)]

    def light(self) -> Replicas:
        """Return the same in single precision, in which a step takes half the time."""
        problem = jax.tree.unflatten(self.tree, [_single(leaf) for leaf in self.leaves])
        return Replicas(problem, {i: _single(values) for i, values in self.changed.items()})


def _single(leaf: Any) -> Any:
    leaf = np.asarray(leaf)
    return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf


def _many(leaves: list, tree: Any, axes: tuple, each: int) -> bool:
    """Say whether so many starts of each replica are so much work that a program's speed is waited for."""
    replicas = max((len(leaf) for leaf, axis in zip(leaves, axes, strict=True) if axis == 0), default=1)
    return is_long(jax.tree.unflatten(tree, leaves), replicas * each)


def is_long(problem: FitProblem, points: int) -> bool:
    """Say whether evaluating a problem at so many points is waited for longer than its program."""
    return problem.size * points > 8 * LANES


@partial(
    kept_jit,
    static_argnums=(2, 3, 4),
    heavy=lambda leaves, pool, tree, axes, keep: _many(leaves, tree, axes, len(pool)),
)
def _seed(leaves: list, pool: jax.Array, tree: Any, axes: tuple, keep: int) -> jax.Array:
    def one(leaves: list) -> jax.Array:
        projected, score = project(jax.tree.unflatten(tree, leaves), pool)
        _, best = jax.lax.top_k(-jnp.where(jnp.isnan(score), jnp.inf, score), keep)
        return projected[best]

    return _over(one, axes)(leaves)


# Starts of replicas come batch after batch; those of one problem once.
@partial(
    kept_jit,
    static_argnums=(3, 4),
    heavy=lambda leaves, start, steps, tree, axes: (
        any(axis == 0 for axis in axes) or _many(leaves, tree, axes, len(start.z))
    ),
)
def _march(leaves: list, start: March, steps: jax.Array, tree: Any, axes: tuple) -> March:
    def one(leaves: list, z: jax.Array, damping: jax.Array, age: jax.Array) -> March:
        rows = jax.tree.unflatten(tree, leaves).rows
        return march(rows, z, damping, age, steps, anneal=ANNEAL)

    own = [leaf if axis == 0 else None for leaf, axis in zip(leaves, axes, strict=True)]

    def each(of: tuple) -> March:
        mine = [leaf if new is None else new for leaf, new in zip(leaves, of[0], strict=True)]
        return one(mine, *of[1:])

    points = jax.tree.unflatten(tree, leaves).points
    rows = 1 if points is None else points.loss.shape[-1]
    together = 1 << max(LANES // rows, 1).bit_length() - 1
    of = (own, start.z, start.damping, start.age)
    if together >= len(start.z) or len(start.z) % together:
        return jax.vmap(each)(of)
    return jax.lax.map(each, of, batch_size=together if together > 1 else None)


def _over(one: Callable, axes: tuple) -> Callable:
    return jax.vmap(one, in_axes=(list(axes),)) if any(axis == 0 for axis in axes) else one


_SEEN: set[Any] = set()


def ahead(replicas: Replicas, *works: Callable[[], Any]) -> list[Thread]:
    """Compile the programs of calls that do nothing, once a process for problems of one form."""
    key = (replicas.tree, replicas.axes, *((np.shape(x), np.asarray(x).dtype) for x in replicas.leaves))
    if key in _SEEN:
        return []
    _SEEN.add(key)
    return beside(*works)


def seeds(replicas: Replicas, pool: np.ndarray, keep: int, replica: np.ndarray | None = None) -> np.ndarray:
    """Return the best `keep` starts of each replica, (R, keep, p); (keep, p) where there are no replicas."""
    leaves = replicas.leaves if replica is None else replicas.at(replica)
    return np.asarray(_seed(leaves, pool, replicas.tree, replicas.axes, keep))


def run(
    replicas: Replicas,
    z: np.ndarray,
    replica: np.ndarray,
    steps: int,
    most: int,
    batch: int = BATCH,
    age: Any = 0,
) -> March:
    """March starts z (B, p), each on its replica, in bursts of `steps` until idle or `most` steps old.

    Finished starts leave the batch between bursts, so that a slow one does not hold up the others.
    Replicas, which are many or soon will be, have one program whatever their number.
    """
    count = len(z)
    size = batch if replicas.changed else min(batch, max(8, 1 << (count - 1).bit_length()))
    fill = np.zeros(count, z.dtype)
    damping, far = np.full_like(fill, 1e-2), np.full_like(fill, np.inf)
    out = March(np.array(z), damping, np.full(count, age), far, fill, np.zeros(count, bool))
    waiting = np.arange(count)
    while len(waiting):
        for first in range(0, len(waiting), size):
            some = waiting[first : first + size]
            rows = np.resize(some, size)  # a short batch repeats itself: one program for all
            start = March(*(part[rows] for part in out))
            ends = _march(replicas.at(replica[rows]), start, np.asarray(steps), replicas.tree, replicas.axes)
            for kept, part in zip(out, ends, strict=True):
                kept[some] = np.asarray(part)[: len(some)]
        waiting = waiting[~out.done[waiting] & (out.age[waiting] < most)]
    return out


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
        keep: how many of a replica's starts to follow, besides `warm`.
        chunk: replicas at a time.
        progress: called with the number of replicas done so far.
    """
    replicas = Replicas(setup.problem, _changes(setup, weight, loss, delta, pinned or {}))
    total = len(next(iter(replicas.changed.values())))
    size = min(chunk, 1 << (total - 1).bit_length())
    rows = len(setup.problem.points.loss) if setup.problem.points is not None else 1
    batch = int(np.clip(VALUES // rows, 8, min(BATCH, max(chunk, 8))))
    parts = []
    with jax.enable_x64(True):
        pool = start_pool(setup, starts)
        warm = np.broadcast_to(warm, (total, setup.layout.size))
        none = np.zeros((1, setup.layout.size)), np.zeros(1, int), 0, 0, batch
        light = replicas.light()
        threads = ahead(
            replicas,
            lambda: run(light, none[0].astype(np.float32), *none[1:]),
            lambda: run(replicas, *none),
        )
        for first in range(0, total, size):
            index = np.arange(first, min(first + size, total))
            parts.append(
                _refit_some(replicas, light, threads, pool, warm, index, size, min(keep, starts), batch)
            )
            if progress is not None:
                progress(int(index[-1]) + 1)
    return Refits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _refit_some(
    replicas: Replicas,
    light: Replicas,
    threads: list[Thread],
    pool: np.ndarray,
    warm: np.ndarray,
    index: np.ndarray,
    size: int,
    keep: int,
    batch: int,
) -> Refits:
    count = len(index)
    starts = warm[index][:, None, :]
    if keep:
        found = seeds(replicas, pool, keep, np.resize(index, size))[:count]
        starts = np.concatenate([starts, found], axis=1)
    for thread in threads:
        thread.join()
    each = starts.shape[1]
    owner = np.repeat(np.arange(count), each)
    # A short pass on every start, in single precision; then only those that may still win go on.
    flat = starts.reshape(count * each, -1).astype(np.float32)
    ends = run(light, flat, index[owner], FIRST, 0, batch, AGE)
    cost = np.where(np.isfinite(ends.cost), ends.cost, np.inf).reshape(count, each)
    least = cost.min(1, keepdims=True)
    rank = np.argsort(np.argsort(cost, axis=1, kind="stable"), axis=1, kind="stable")
    near = (cost <= least * 1.05) & (cost > least * (1 + 1e-4))
    follow = np.flatnonzero(((rank == 0) | near).ravel())
    last = run(replicas, ends.z[follow].astype(float), index[owner[follow]], BURST, MOST, batch, AGE + FIRST)
    final = np.full((count * each,), np.inf)
    final[follow] = np.where(np.isfinite(last.cost), last.cost, np.inf)
    winner = final.reshape(count, each).argmin(1) + np.arange(count) * each
    at = np.searchsorted(follow, winner)
    return Refits(last.z[at], last.cost[at], last.gradient[at])


def _changes(
    setup: Setup, weight: Any, loss: Any, delta: Any, pinned: Mapping[str, Any]
) -> dict[int, np.ndarray]:
    """Return the problem's leaves that differ by replica: {index of the leaf: values (R, ...)}."""
    problem = setup.problem
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
    leaves = enumerate(jax.tree.leaves(swapped))
    return {i: leaf.values for i, leaf in leaves if isinstance(leaf, _Marked)}


class _Marked:
    """An opaque leaf that stands for values by replica."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


def _pad(values: np.ndarray, length: int, filler: float) -> np.ndarray:
    values = np.asarray(values, float)
    return np.pad(values, ((0, 0), (0, length - values.shape[1])), constant_values=filler)


@kept_jit
def _predict(problem: FitProblem, z: jax.Array, x: Mapping[str, jax.Array]) -> jax.Array:
    return jax.vmap(lambda z: jnp.asarray(problem.law(z).loss(x)))(z)


def predict_many(setup: Setup, z: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
    """Return the losses (R, rows) of R points z (R, p) at x, each field (rows,)."""
    with jax.enable_x64(True):
        return np.asarray(_predict(setup.problem, z, {k: np.asarray(v) for k, v in x.items()}))
