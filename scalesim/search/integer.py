"""Best-first search over whole numbers, many points at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Pool", "best_first", "box_moves", "pair_moves"]

Num = Any

KEPT = 32
"""Points that each of the two pools keeps between rounds."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Pool:
    """The best points seen, no two alike, best first: `index` (KEPT, k) whole numbers, `merit` (KEPT,)."""

    index: Num
    merit: Num
    expanded: Num

    @staticmethod
    def empty(point: Num) -> Pool:
        """Return a pool that holds nothing: one point over and over, of infinite merit."""
        return Pool(
            index=jnp.broadcast_to(point, (KEPT, len(point))),
            merit=jnp.full(KEPT, jnp.inf),
            expanded=jnp.ones(KEPT, bool),
        )

    def take(self, count: int) -> tuple[Num, Pool]:
        """Return the best `count` points not yet expanded, and the pool with those marked."""
        _, chosen = jax.lax.top_k(-jnp.where(self.expanded, jnp.inf, self.merit), count)
        marked = self.expanded.at[chosen].set(True)
        return self.index[chosen], Pool(index=self.index, merit=self.merit, expanded=marked)

    def joined(self, found: Num, merit: Num, key: Callable[[Num], Num]) -> Pool:
        """Return the pool with more points, each once; of two alike, the one that was expanded."""
        index = jnp.concatenate([self.index, found])
        value = jnp.concatenate([self.merit, merit])
        expanded = jnp.concatenate([self.expanded, jnp.zeros(len(found), bool)])
        keys = key(index)
        order = jnp.lexsort((~expanded, keys))
        index, value, expanded, keys = (part[order] for part in (index, value, expanded, keys))
        again = jnp.concatenate([jnp.array([False]), keys[1:] == keys[:-1]])
        value = jnp.where(again, jnp.inf, value)
        _, kept = jax.lax.top_k(-value, KEPT)
        return Pool(index=index[kept], merit=value[kept], expanded=(expanded | again)[kept])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Where a search stands: `idle` rounds in a row have found nothing better; `best` before the check."""

    turn: Num
    idle: Num
    strict: Pool
    lenient: Pool
    best: Num
    centre: Num
    tried: Num


def best_first(
    merits: Callable[[Num], tuple[Num, Num]],
    start: Num,
    neighbours: Callable[[Num], Num],
    box: np.ndarray,
    sizes: np.ndarray,
    *,
    rounds: int,
    patience: int,
    expand: int,
) -> tuple[Pool, Num, Num]:
    """Return the best points found from `start` by expanding, round by round, the best not yet expanded.

    A greedy walk stops at the first point that is better than its neighbours; whole numbers make many of
    those. Here the walk goes on from the next best, so that it fills the basin around the optimum; and half
    of it goes by a merit in which what is forbidden is merely dear, so that it crosses to where the
    constraints can be met again. At the end every point of `box` about the best is tried: the answer is
    checked against all around it.

    Args:
        merits: (n, k) whole numbers -> two (n,), both to be minimised: the one that counts, and the one that
            forgives.
        start: (n, k).
        neighbours: (n, k) -> (n, M, k).
        box: (B, k), the moves to all around a point.
        sizes: whole numbers along each axis: 0 <= index < sizes.
        rounds: how often to expand, at most.
        patience: rounds in a row that may find nothing better before the walk ends.
        expand: points a round, half of them from each pool.

    Returns:
        The pool by the merit that counts, the best merit before the last check, and how many points were
        evaluated, alike or not.
    """
    dimensions = start.shape[-1]
    half = expand // 2
    width = half * 2 * jax.eval_shape(neighbours, start).shape[1]
    places = np.concatenate([np.cumprod(np.asarray(sizes)[::-1])[-2::-1], [1]]).astype(float)

    def key(index: Num) -> Num:
        return (index * places[None]).sum(-1)

    def batches(points: Num) -> Num:
        """Cut points into rounds of `width`, the last filled up with copies of its last point."""
        count = -(-len(points) // width)
        filled = jnp.pad(points, [(0, count * width - len(points)), (0, 0)], mode="edge")
        return filled.reshape(count, width, dimensions)

    given, boxed = batches(start), batches(jnp.asarray(box))
    first, last = len(given), len(given) + rounds
    end = last + len(boxed)

    def one_round(walk: _Walk) -> _Walk:
        """Try the given points, expand, or try what is around the best; all through one evaluation."""
        i, strict, lenient = walk.turn, walk.strict, walk.lenient
        walking = (i >= first) & (i < last)
        from_strict, strict_after = strict.take(half)
        from_lenient, lenient_after = lenient.take(half)
        chosen = jnp.concatenate([from_strict, from_lenient])
        walked = neighbours(chosen).reshape(-1, dimensions)
        centre = jnp.where(i == last, strict.index[0], walk.centre)
        best = jnp.where(i == last, strict.merit[0], walk.best)
        around = centre[None] + boxed[jnp.clip(i - last, 0, len(boxed) - 1)]
        found = jnp.where(walking, walked, jnp.where(i < first, given[jnp.minimum(i, first - 1)], around))
        found = jnp.clip(found, 0, jnp.asarray(sizes)[None] - 1)
        strict, lenient = jax.tree.map(
            lambda after, before: jnp.where(walking, after, before),
            (strict_after, lenient_after),
            (strict, lenient),
        )
        counted, forgiving = merits(found)
        after = strict.joined(found, counted, key)
        idle = jnp.where(walking & (after.merit[0] >= strict.merit[0]), walk.idle + 1, 0)
        return _Walk(
            turn=jnp.where(walking & (idle >= patience), last, i + 1),
            idle=idle,
            strict=after,
            lenient=lenient.joined(found, forgiving, key),
            best=best,
            centre=centre,
            tried=walk.tried + width,
        )

    nothing = Pool.empty(start[0])
    begun = _Walk(
        turn=jnp.asarray(0),
        idle=jnp.asarray(0),
        strict=nothing,
        lenient=nothing,
        best=jnp.asarray(jnp.inf),
        centre=start[0],
        tried=jnp.asarray(0),
    )
    ended = jax.lax.while_loop(lambda walk: walk.turn < end, one_round, begun)
    return ended.strict, ended.best, ended.tried


def pair_moves(free: list[int], dimensions: int, reach: int = 2) -> np.ndarray:
    """Return moves of one coordinate by up to `reach`, and of two by one each, (M, dimensions).

    >>> pair_moves([0, 1], 2, reach=1).tolist()
    [[-1, 0], [1, 0], [0, -1], [0, 1], [-1, -1], [-1, 1], [1, -1], [1, 1]]
    """
    moves = []
    unit = np.eye(dimensions, dtype=int)
    for i in free:
        moves += [step * unit[i] for step in range(-reach, reach + 1) if step]
    for a, i in enumerate(free):
        for j in free[a + 1 :]:
            moves += [p * unit[i] + q * unit[j] for p in (-1, 1) for q in (-1, 1)]
    return np.array(moves).reshape(-1, dimensions)


def box_moves(free: list[int], dimensions: int) -> np.ndarray:
    """Return the moves to all points within one step along every free coordinate, (3^free, dimensions)."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * len(free), indexing="ij"), -1).reshape(-1, len(free))
    moves = np.zeros((len(steps), dimensions), int)
    moves[:, free] = steps
    return moves
