"""Search on a wide lattice: the relaxation's optima, rounded by a search over whole numbers.

At every whole design what is left continuous is solved for anew (see `DesignSpace`), so each reaches the
target loss or is known not to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.families import ShapeFamily
from scalesim.roots import newton_root
from scalesim.search.constraints import worst_excess
from scalesim.search.integer import best_first, box_moves, pair_moves
from scalesim.search.newton import ITERATIONS
from scalesim.search.problem import Freed, Problem, Query
from scalesim.search.relaxation import Descended, Relaxed, descend
from scalesim.search.space import N_STARTS, Axes, DesignSpace
from scalesim.shape import Shape

__all__ = ["TOLERANCE", "Built", "Settled", "build", "rounded_places", "settled", "wide_search"]

Num = Any

ROUNDS = 30
"""Of the walk over whole designs, at most."""
PATIENCE = 15
"""Rounds in a row without anything better that end the walk."""
EXPANDED = 20
"""Designs whose neighbours are looked at in a round."""
TRIED = 300
"""Designs tried a round: all rounds together are less than a hundredth of a lattice of a million."""
ANSWERS = 32
"""Designs that an answer holds, the best first."""
SPREAD = 64
"""Points spread over the lattice, where there is no gradient to say where to begin."""
TOLERANCE = 1e-9
"""Log excess that counts as none."""
TOLL = 6.0
"""Log cost of a violation of 1 where it is forgiven: a limit exceeded by a hundredth must save 6% of cost."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Built:
    """Whole designs of a space, elementwise.

    Attributes:
        shape: sizes, whole numbers held as floats.
        freed: tokens_per_param and kv_bits, where they are chosen.
        value: the objective, whether the design does what is asked or not.
        excess: by how much, in log, the worst constraint is exceeded (-inf without constraints; inf where
            the heads are not real).
        loss_excess: log(loss / target).
    """

    shape: Shape
    freed: Freed
    value: Num
    excess: Num
    loss_excess: Num

    @property
    def violation(self) -> Num:
        """By how much the design misses what was asked; a thousandth of loss counts as a hundredth."""
        return jnp.maximum(jnp.maximum(self.excess, 10.0 * self.loss_excess), 0.0)

    @property
    def cost(self) -> Num:
        """The objective; infinite where the target loss or a constraint is not met."""
        met = (self.excess <= TOLERANCE) & (self.loss_excess <= TOLERANCE)
        return jnp.where(met, self.value, jnp.inf)

    @property
    def merits(self) -> tuple[Num, Num]:
        """What is minimised: log cost, or above every cost the violation; and log cost with a toll."""
        log_value = jnp.log(self.value)
        strict = jnp.where(jnp.isfinite(self.cost), log_value, 1e6 * (1.0 + self.violation))
        return strict, log_value + TOLL * self.violation


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Settled:
    """The answer to one question.

    Attributes:
        relaxed: the relaxed optimum (None without a gradient).
        index: place of the best designs seen in the space, best first (P, 7).
        built: those designs.
        merit_before: the best merit before all designs within one step along every axis were tried.
        evaluations: whole designs that were built and priced.
        gradients: relaxed designs whose gradient was taken.
    """

    relaxed: Relaxed | None
    index: Num
    built: Built
    merit_before: Num
    evaluations: Num
    gradients: Num


def build(problem: Problem, query: Query, space: DesignSpace, index: Num) -> Built:
    """Return the designs at some places of a space (n, 7), each brought to the target loss if it can be."""
    axes = space.axes(problem.family)
    shape, possible, kv_bits = _unclosed(space, axes, problem.family, index)
    freed = Freed(kv_bits=kv_bits)
    if space.tokens_per_param is not None:
        per_param = _close_by_tokens(problem, freed.asked(query), shape, freed, space.tokens_per_param)
        freed = Freed(kv_bits=kv_bits, tokens_per_param=per_param)
    else:
        shape = _close_by_width(problem, freed.asked(query), shape, freed, space)
    return priced(problem, query, shape, freed, possible)


def priced(problem: Problem, query: Query, shape: Shape, freed: Freed, possible: Num) -> Built:
    """Return whole shapes with their cost, and by how much they miss the loss or a constraint."""
    asked = freed.asked(query)
    like = jnp.zeros(jnp.broadcast_shapes(jnp.shape(possible), jnp.shape(shape.d_ff)))
    loss = jnp.log(problem.loss_of(shape, asked.workload, freed) / query.target_loss)
    excess = worst_excess(asked.constraints, shape, asked.workload, like)
    return Built(
        shape=shape,
        freed=freed,
        value=asked.objective(shape, asked.workload) + like,
        excess=jnp.where(possible, excess, jnp.inf),
        loss_excess=loss + like,
    )


def _unclosed(
    space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num
) -> tuple[Shape, Num, Num | None]:
    """Return the shapes at some places, d_ff by the ratio's axis; whether their heads are real; KV bits."""
    along = [jnp.asarray(values)[index[..., i]] for i, values in enumerate(axes.values)]
    n_layer, _, ratio, n_head, _, head_dim, kv_bits = along
    d_model = jnp.asarray(space.widths(family))[index[..., 0], index[..., 1]]
    if space.n_head is None:
        n_head = jnp.maximum(jnp.round(d_model / head_dim), 1.0)
    table = jnp.asarray(axes.kv_table)
    row = jnp.clip(n_head, 0, len(table) - 1).astype(index.dtype)
    n_kv_head = table[row, index[..., 4]]
    unit = space.tile * space.tensor
    shape = Shape(
        n_layer=n_layer,
        d_model=d_model,
        n_head=n_head,
        n_kv_head=jnp.maximum(n_kv_head, 1.0),
        head_dim=head_dim,
        d_ff=jnp.maximum(jnp.round(ratio * d_model / unit), 1.0) * unit,
        vocab_size=family.vocab_size,
        gated_ffn=family.gated_ffn,
    )
    shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, d_model.shape), shape)
    return shape, n_kv_head > 0, kv_bits if space.kv_bits is not None else None


def _close_by_tokens(
    problem: Problem, query: Query, shape: Shape, freed: Freed, limits: tuple[float, float]
) -> Num:
    """Return the training tokens a parameter at which each shape has the target loss, within the limits."""
    bounds = tuple(np.log(limits))

    def excess(log_tokens: Num) -> Num:
        more = Freed(kv_bits=freed.kv_bits, tokens_per_param=jnp.exp(log_tokens))
        return problem.loss_of(shape, query.workload, more) - query.target_loss

    # From the fewest tokens: Newton climbs a falling convex law without overshooting.
    start = jnp.full_like(shape.d_ff, bounds[0])
    # A hair more than the root, so that rounding does not leave it above the target.
    return jnp.exp(jnp.minimum(newton_root(excess, start, bounds=bounds) + 1e-11, bounds[1]))


def _close_by_width(problem: Problem, query: Query, shape: Shape, freed: Freed, space: DesignSpace) -> Shape:
    """Return each shape with the least d_ff that reaches the target loss (that of least loss, if none does).

    Where the law has a best FFN ratio, loss falls up to it and rises beyond: what reaches the target or is
    beyond the least loss is all at the upper end, and is bisected for.
    """
    low, high = space.ffn_limits(problem.family)
    unit = float(space.tile * space.tensor)
    first = jnp.maximum(jnp.ceil(low * shape.d_model / unit - 1e-9), 1.0)
    last = jnp.maximum(jnp.floor(high * shape.d_model / unit + 1e-9), first)

    def loss_at(tiles: Num) -> Num:
        return problem.loss_of(replace(shape, d_ff=tiles * unit), query.workload, freed)

    def halve(_: int, ends: tuple[Num, Num]) -> tuple[Num, Num]:
        below, reaches = ends
        middle = jnp.floor((below + reaches) / 2)
        loss, slope = jax.jvp(loss_at, (middle,), (jnp.ones_like(middle),))
        good = (loss <= query.target_loss * (1 + TOLERANCE)) | (slope >= 0)
        return jnp.where(good, below, middle), jnp.where(good, middle, reaches)

    widest = (high - low) * float(space.widths(problem.family).max()) / unit
    steps = int(np.ceil(np.log2(widest + 2.0))) + 1
    _, reaches = jax.lax.fori_loop(0, steps, halve, (first - 1.0, last))
    return replace(shape, d_ff=jnp.maximum(reaches, first) * unit)


def rounded_places(space: DesignSpace, axes: Axes, family: ShapeFamily, ends: Descended) -> Num:
    """Return the places nearest each relaxed design, with up to two axes at the second nearest, at its size.

    The depth follows from the size, and is tried one step more and less.
    """
    shape, freed = ends.sized.shape, ends.freed
    count = shape.d_ff.shape
    at = {
        "n_layer": shape.n_layer,
        "d_model": shape.d_model,
        "ffn_ratio": shape.d_ff / shape.d_model,
        "n_head": shape.n_head,
        "n_kv_head": shape.n_kv_head,
        "head_dim": shape.head_dim,
        "kv_bits": freed.kv_bits,
    }
    nearest, others = [], []
    for name, values in zip(axes.names, axes.values, strict=True):
        if len(values) == 1:
            places = jnp.zeros((*count, 2), int)
        elif name == "d_model" and space.d_model is None:
            places = jnp.full((*count, 2), len(values) // 2)
        else:
            distance = jnp.abs(jnp.log(jnp.broadcast_to(at[name], count))[:, None] - np.log(values)[None])
            places = jax.lax.top_k(-distance, 2)[1]
        nearest.append(places[:, 0])
        others.append(places[:, 1])
    first, second = jnp.stack(nearest, -1), jnp.stack(others, -1)
    others_free = [i for i in axes.free if i != 0]
    flips = np.unique(np.maximum(pair_moves(others_free, len(axes.sizes), reach=1), 0), axis=0)
    flipped = first[None] + flips[:, None] * (second - first)[None]
    size = jnp.log(shape.n_layer) + _log_layer(space, family, shape)
    resized = _resized(space, axes, family, flipped, size[None])
    deeper = np.eye(len(axes.sizes), dtype=int)[None, :1]
    return jnp.concatenate([resized - deeper, resized, resized + deeper]).reshape(-1, len(axes.sizes))


def _log_layer(space: DesignSpace, family: ShapeFamily, shape: Shape) -> Num:
    """Return the log of the parameters of one layer; d_ff, where it closes, in mid-range."""
    d_ff = shape.d_ff
    if space.tokens_per_param is None:
        low, high = space.ffn_limits(family)
        d_ff = np.sqrt(low * high) * shape.d_model
    heads = 2.0 * shape.head_dim * (shape.n_head + shape.n_kv_head)
    return jnp.log(shape.d_model * (heads + family.ffn_matrices * d_ff))


def _resized(space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num, log_size: Num) -> Num:
    """Return places with the depth that brings them nearest a size (by `_log_layer`).

    Where width follows depth, as they are.
    """
    if space.d_model is None or len(axes.values[0]) == 1:
        return index
    log_depth = log_size - _log_layer(space, family, _unclosed(space, axes, family, index)[0])
    depths = np.log(axes.values[0]).reshape((1,) * log_depth.ndim + (-1,))
    place = jnp.argmin(jnp.abs(log_depth[..., None] - depths), axis=-1)
    return index.at[..., 0].set(place.astype(index.dtype))


def _neighbours(space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num) -> Num:
    """Return what is near some places: (n, 7) -> (n, M, 7).

    Depth by up to three steps; every other axis by up to two and every pair of them by one each (width
    against FFN by two), at the depth that keeps the size (alone, also one step more and less).
    """
    dimensions = len(axes.sizes)
    near = np.concatenate([pair_moves([i for i in axes.free if i != 0], dimensions, 2), _trades(axes)])[None]
    alone = near[:, (near[0] != 0).sum(1) == 1]
    deeper = np.eye(dimensions, dtype=int)[None, :1] * (axes.sizes[0] > 1)
    depth = jnp.asarray(axes.values[0])[index[:, 0]]
    layer = _log_layer(space, family, _unclosed(space, axes, family, index)[0])
    size = (jnp.log(depth) + layer)[:, None]
    index = index[:, None]
    kept = _resized(space, axes, family, _moved(space, axes, family, index, near), size)
    single = _resized(space, axes, family, _moved(space, axes, family, index, alone), size)
    depths = index + np.array([-3, -2, -1, 1, 2, 3])[None, :, None] * deeper
    return jnp.concatenate([kept, single - deeper, single + deeper, depths], axis=1)


def _kv_row(space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num) -> Num:
    """Return the row of the tables of KV heads: the query heads."""
    n_head = _unclosed(space, axes, family, index)[0].n_head
    return jnp.clip(n_head, 0, len(axes.kv_table) - 1).astype(index.dtype)


def _moved(space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num, moves: np.ndarray) -> Num:
    """Return places after some moves (..., 7): KV heads move among those that go with the query heads."""
    moved = jnp.minimum(
        jnp.maximum(index + moves, 0), (axes.sizes - 1).reshape((1,) * (moves.ndim - 1) + (-1,))
    )
    row = _kv_row(space, axes, family, moved)
    rank = jnp.asarray(axes.kv_rank)[row, index[..., 4]] + moves[..., 4]
    place = jnp.asarray(axes.kv_place)[row, jnp.clip(rank, 0, axes.sizes[4] - 1)]
    return moved.at[..., 4].set(place.astype(index.dtype))


def _tidy(space: DesignSpace, axes: Axes, family: ShapeFamily, index: Num) -> tuple[Num, Num]:
    """Return the one place of each design (several values may stand for the same KV heads); if it is real."""
    row = _kv_row(space, axes, family, index)
    rank = jnp.asarray(axes.kv_rank)[row, index[..., 4]]
    place = jnp.asarray(axes.kv_place)[row, rank].astype(index.dtype)
    return index.at[..., 4].set(place), jnp.asarray(axes.kv_table)[row, place] > 0


def _trades(axes: Axes) -> np.ndarray:
    """Return moves of width against FFN ratio, by more than one step of either: size stays about the same.

    Where depth is at its least it can make up for neither.
    """
    if not {1, 2} <= set(axes.free):
        return np.zeros((0, len(axes.sizes)), int)
    moves = [(1, -2), (2, -1), (2, -2), (-1, 2), (-2, 1), (-2, 2)]
    return np.array([[0, *move, *[0] * (len(axes.sizes) - 3)] for move in moves])


def _spread(axes: Axes, count: int = SPREAD) -> np.ndarray:
    """Return places spread over the lattice (a Kronecker sequence)."""
    ratio = 2.0
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (len(axes.sizes) + 1))
    steps = ratio ** -np.arange(1.0, len(axes.sizes) + 1)
    parts = (0.5 + np.outer(np.arange(count), steps)) % 1.0
    return np.floor(parts * axes.sizes).astype(int)


@partial(jax.jit, static_argnums=(2, 3))
def wide_search(problem: Problem, queries: Query, space: DesignSpace, gradient: bool = True) -> Settled:
    """Return the best design of a space for each of a batch of queries.

    The relaxed optima (with `gradient`; else points spread over the lattice) are rounded to the nearest
    whole designs. From there a best-first search moves one or two coordinates at a time; at last every design
    within one step of the best along all axes is tried, until none of them is better.
    """
    axes = space.axes(problem.family)
    box = box_moves(axes.free, len(axes.sizes))
    near = partial(_neighbours, space, axes, problem.family)
    around = partial(_moved, space, axes, problem.family, moves=box[None])

    def one(query: Query) -> Settled:
        def merits(index: Num) -> tuple[Num, Num]:
            return build(problem, query, space, index).merits

        if gradient:
            ends = descend(problem, query, space)
            relaxed, start = ends.best, rounded_places(space, axes, problem.family, ends)
        else:
            relaxed, start = None, jnp.asarray(_spread(axes))
        pool, before, tried = best_first(
            merits,
            start,
            near,
            lambda at: around(at[:, None]),
            axes.sizes,
            tidy=partial(_tidy, space, axes, problem.family),
            rounds=ROUNDS,
            patience=PATIENCE,
            expand=EXPANDED,
            width=TRIED,
        )
        answers = pool.index[:ANSWERS]
        return Settled(
            relaxed=relaxed,
            index=answers,
            built=build(problem, query, space, answers),
            merit_before=before,
            evaluations=tried + ANSWERS,
            gradients=jnp.asarray(N_STARTS * ITERATIONS if gradient else 0),
        )

    return jax.lax.map(one, queries)


def settled(problem: Problem, queries: Query, space: DesignSpace, gradient: bool = True) -> Settled:
    """Return `wide_search` on the host."""
    return jax.device_get(wide_search(problem, queries, space, gradient))
