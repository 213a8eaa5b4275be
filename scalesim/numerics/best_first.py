"""Best-first search over whole numbers, many points at a time, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.pytree import register
from scalesim.types import Num

__all__ = ["Pool", "best_first", "box_moves", "pair_moves"]


KEPT = 128
"""Points that each of the two pools keeps between turns."""
MARKED = 3_935_563
"""Points that are surely distinguished; beyond, two may share a mark, and one of them is then never tried.

A prime far from powers of two and round numbers, so that points near each other do not.
"""
GIVEN, WALKING, CHECKING, ENDED = range(4)
"""Stages of a search."""


@register
@dataclass(frozen=True, kw_only=True)
class Pool:
    """The best points seen, best first: `index` (KEPT, k) whole numbers, `merit` (KEPT,)."""

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

    def joined(self, found: Num, merit: Num) -> Pool:
        """Return the pool with more points, none of which it holds."""
        index = jnp.concatenate([self.index, found])
        value = jnp.concatenate([self.merit, merit])
        expanded = jnp.concatenate([self.expanded, jnp.zeros(len(found), bool)])
        _, kept = jax.lax.top_k(-value, KEPT)
        return Pool(index=index[kept], merit=value[kept], expanded=expanded[kept])


@dataclass(frozen=True)
class _Marks:
    """Which points have been tried: a table with a place for each, `NEW` or `TRIED`.

    In between, a place holds which of a turn's candidates came there first.
    """

    sizes: np.ndarray

    NEW = np.iinfo(np.int16).max
    TRIED = -1

    @property
    def count(self) -> int:
        return min(int(np.prod(self.sizes, dtype=float)), MARKED)

    def blank(self) -> Num:
        return jnp.full(self.count, self.NEW, jnp.int16)

    def place(self, index: Num) -> Num:
        """Return each point's place: its number in the lattice, wrapped where the table is shorter."""
        place, count = jnp.zeros(index.shape[:-1], jnp.uint32), np.uint32(self.count)
        for i, size in enumerate(self.sizes):
            place = (place * np.uint32(size) + index[..., i].astype(jnp.uint32)) % count
        return place.astype(jnp.int32)

    def choose(self, table: Num, index: Num, wanted: Num, width: int) -> tuple[Num, Num, Num]:
        """Return which of the points to try: the first `width` of those wanted and new, each once.

        Returns:
            Their positions in `index` (width,), how many there are (beyond `width`, for the next turn), and
            the table with the chosen marked.
        """
        place = jnp.where(wanted, self.place(index), self.count)  # beyond the table: dropped
        order = jnp.arange(len(index), dtype=jnp.int16)
        table = table.at[place].min(order, mode="drop")
        new = wanted & (table[jnp.minimum(place, self.count - 1)] == order)
        rank = jnp.cumsum(new)
        mark = jnp.where(rank <= width, self.TRIED, self.NEW).astype(jnp.int16)
        table = table.at[jnp.where(new, place, self.count)].set(mark, mode="drop")
        (chosen,) = jnp.nonzero(new, size=width, fill_value=0)
        return chosen, rank[-1], table


@register
@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Where a search stands: `idle` turns in a row have found nothing better; `best` before the check."""

    stage: Num
    turn: Num
    idle: Num
    strict: Pool
    lenient: Pool
    marks: Num
    best: Num
    tried: Num


def best_first(
    merits: Callable[[Num], tuple[Num, Num]],
    start: Num,
    neighbours: Callable[[Num], Num],
    around: Callable[[Num], Num],
    sizes: np.ndarray,
    *,
    canonical: Callable[[Num], tuple[Num, Num]] | None = None,
    rounds: int,
    patience: int,
    expand: int,
    width: int,
) -> tuple[Pool, Num, Num]:
    """Return the best points found from `start` by expanding, turn by turn, the best not yet expanded.

    A greedy walk stops at the first point that is better than its neighbours; whole numbers make many of
    those. Here the walk goes on from the next best, so that it fills the basin around the optimum; and half
    of it goes by a merit in which what is forbidden is merely dear, so that it crosses to where the
    constraints can be met again. No point is tried twice. At the end every point around the best is tried,
    then around the new best if there is one, until there is none: the answer is the best of all around it.

    Args:
        merits: (n, k) whole numbers -> two (n,), both to be minimised: the one that counts, and the one that
            forgives.
        start: (n, k).
        neighbours: (n, k) -> (n, M, k), the nearest first.
        around: (1, k) -> (1, B, k), all that the answer is to be better than.
        sizes: whole numbers along each axis: 0 <= index < sizes.
        canonical: (n, k) -> the one name of each point, where several are alike (n, k), and whether it is
            there to be tried (n,). None: all are, by one name.
        rounds: how often to expand, at most.
        patience: turns in a row that may find nothing better before the walk ends.
        expand: points expanded in a turn, half of them from each pool.
        width: points tried in a turn: of what is new about the expanded ones, the first.

    Returns:
        The pool by the merit that counts, the best merit before the last check, and how many points were
        evaluated (a multiple of `width`).
    """
    dimensions, half = start.shape[-1], expand // 2
    marks = _Marks(np.asarray(sizes))
    walked = 2 * half * jax.eval_shape(neighbours, start).shape[1]
    most = max(len(start), walked, jax.eval_shape(around, start[:1]).shape[1])

    def padded(points: Num) -> Num:
        """Fill up with copies of the last point, so that all stages have one form."""
        points = points.reshape(-1, dimensions)
        return jnp.pad(points, [(0, most - len(points)), (0, 0)], mode="edge")

    def at_given(strict: Pool, lenient: Pool) -> tuple[Num, Pool, Pool]:
        return padded(start), strict, lenient

    def walking(strict: Pool, lenient: Pool) -> tuple[Num, Pool, Pool]:
        by_strict, strict = strict.take(half)
        by_lenient, lenient = lenient.take(half)
        parents = jnp.stack([by_strict, by_lenient], 1).reshape(-1, dimensions)
        return padded(neighbours(parents)), strict, lenient

    def checking(strict: Pool, lenient: Pool) -> tuple[Num, Pool, Pool]:
        return padded(around(strict.index[:1])), strict, lenient

    def one_turn(walk: _Walk) -> _Walk:
        """Choose what is new about what the stage goes by, try it, and see whether the stage is over."""
        points, strict, lenient = jax.lax.switch(
            walk.stage, (at_given, walking, checking), walk.strict, walk.lenient
        )
        points = jnp.clip(points, 0, jnp.asarray(sizes)[None] - 1)
        points, wanted = (points, jnp.ones(most, bool)) if canonical is None else canonical(points)
        chosen, new, table = marks.choose(walk.marks, points, wanted, width)
        found, real = points[chosen], jnp.arange(width) < new
        counted, forgiving = (jnp.where(real, merit, jnp.inf) for merit in merits(found))
        after = strict.joined(found, counted)
        better = after.merit[0] < strict.merit[0]
        idle = jnp.where(better | (walk.stage != WALKING), 0, walk.idle + 1)
        turn = walk.turn + (walk.stage == WALKING)
        walked_out = (idle > patience) | (turn >= rounds)
        over = jnp.stack([new <= width, walked_out, ~better & (new <= width)])[walk.stage]
        return _Walk(
            stage=walk.stage + over,
            turn=turn,
            idle=idle,
            strict=after,
            lenient=lenient.joined(found, forgiving),
            marks=table,
            best=jnp.where(walk.stage == CHECKING, walk.best, after.merit[0]),
            tried=walk.tried + width,
        )

    nothing = Pool.empty(start[0])
    begun = _Walk(
        stage=jnp.asarray(GIVEN),
        turn=jnp.asarray(0),
        idle=jnp.asarray(0),
        strict=nothing,
        lenient=nothing,
        marks=marks.blank(),
        best=jnp.asarray(jnp.inf),
        tried=jnp.asarray(0),
    )
    ended = jax.lax.while_loop(lambda walk: walk.stage < ENDED, one_turn, begun)
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
