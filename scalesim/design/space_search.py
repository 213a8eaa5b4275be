"""Search of a design space: the relaxation's optima, rounded by a best-first search over whole numbers.

At every whole design what is left continuous is solved for anew (see `DesignSpace`), so each reaches the
target loss or is known not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.feasibility import contradiction, nearest_to_all
from scalesim.design.problem import FreeVariables, Priced, Problem, Query, stack_queries
from scalesim.design.relaxation import Compared, Relaxed, Solved, Solver, descend
from scalesim.families import HeadRule, ShapeFamily
from scalesim.numerics.best_first import best_first, box_moves, pair_moves
from scalesim.numerics.penalty import ITERATIONS
from scalesim.numerics.roots import newton_root
from scalesim.shape import Shape
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.design.space import Axes, DesignSpace

__all__ = ["N_STARTS", "Moves", "build", "kronecker", "merits", "search_space", "under_all", "what_binds"]


N_STARTS = 12
"""Points from which the relaxation is descended."""
ROUNDS = 30
"""Of the best-first search over whole designs, at most."""
PATIENCE = 15
"""Rounds in a row without anything better that end it."""
EXPANDED = 20
"""Designs whose neighbours are looked at in a round."""
TRIED = 300
"""Designs tried a round: all rounds together are less than a hundredth of a lattice of a million."""
ANSWERS = 32
"""Designs that an answer holds, the best first."""
PENALTY = 6.0
"""Log cost of a violation of 1, where it is merely dear: a limit exceeded by 1% must save 6% of cost."""
SPREAD = 64
"""Points spread over the lattice, where there is no gradient to say where to begin."""
NO_LIMIT = 1e300
"""A limit that nothing reaches."""


def kronecker(count: int, dimensions: int) -> np.ndarray:
    """Return points spread evenly over the unit box (a Kronecker sequence), (count, dimensions)."""
    ratio = 2.0
    for _ in range(50):  # the generalised golden ratio: x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    return (0.5 + np.outer(np.arange(count), ratio ** -np.arange(1.0, dimensions + 1))) % 1.0


@dataclass(frozen=True)
class Moves:
    """The lattice of a space beside one family: a design is an index along each axis, (7,)."""

    space: DesignSpace
    family: ShapeFamily

    @property
    def axes(self) -> Axes:
        """What there is along each axis."""
        return self.space.axes(self.family)

    def shapes(self, index: Num) -> tuple[Shape, Num, Num | None]:
        """Return the shapes at some indices, d_ff by the ratio's axis; if their heads are real; KV bits."""
        along = [jnp.asarray(values)[index[..., i]] for i, values in enumerate(self.axes.values)]
        n_layer, _, ratio, n_head, _, head_dim, kv_bits = along
        d_model = jnp.asarray(self.space.widths(self.family))[index[..., 0], index[..., 1]]
        if self.space.n_head is None:
            n_head = jnp.maximum(jnp.round(d_model / head_dim), 1.0)
        n_kv_head = jnp.asarray(self.axes.kv_table)[self._kv_row(index, n_head), index[..., 4]]
        unit = self.space.tile * self.space.tensor
        d_ff = jnp.maximum(jnp.round(ratio * d_model / unit), 1.0) * unit
        kv = jnp.maximum(n_kv_head, 1.0)
        shape = self.family.shape(n_layer, d_model, n_head, kv, d_ff=d_ff, head_dim=head_dim)
        shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, d_model.shape), shape)
        return shape, n_kv_head > 0, kv_bits if self.space.kv_bits is not None else None

    def rounded(self, ends: Relaxed) -> Num:
        """Return the indices nearest each relaxed design, up to two axes at the second nearest, at its size.

        The depth follows from the size, and is tried one step more and less.
        """
        shape, free = ends.designs.shape, ends.designs.free
        count = shape.d_ff.shape
        at = {
            "n_layer": shape.n_layer,
            "d_model": shape.d_model,
            "ffn_ratio": shape.d_ff / shape.d_model,
            "n_head": shape.n_head,
            "n_kv_head": shape.n_kv_head,
            "head_dim": shape.head_dim,
            "kv_bits": free.kv_bits,
        }
        nearest, others = [], []
        for name, values in zip(self.axes.names, self.axes.values, strict=True):
            if len(values) == 1:
                nearby = jnp.zeros((*count, 2), int)
            elif name == "d_model" and self.space.d_model is None:
                nearby = jnp.full((*count, 2), len(values) // 2)
            else:
                distance = jnp.abs(jnp.log(jnp.broadcast_to(at[name], count))[:, None] - np.log(values)[None])
                nearby = jax.lax.top_k(-distance, 2)[1]
            nearest.append(nearby[:, 0])
            others.append(nearby[:, 1])
        first, second = jnp.stack(nearest, -1), jnp.stack(others, -1)
        others_free = [i for i in self.axes.free if i != 0]
        flips = np.unique(np.maximum(pair_moves(others_free, len(self.axes.sizes), reach=1), 0), axis=0)
        flipped = first[None] + flips[:, None] * (second - first)[None]
        size = jnp.log(shape.n_layer) + self._log_layer(shape)
        resized = self._resized(flipped, size[None])
        deeper = np.eye(len(self.axes.sizes), dtype=int)[None, :1]
        tried = jnp.concatenate([resized - deeper, resized, resized + deeper])
        return tried.reshape(-1, len(self.axes.sizes))

    def _log_layer(self, shape: Shape) -> Num:
        """Return the log of the parameters of one layer; d_ff, where it closes, in mid-range."""
        d_ff = shape.d_ff
        if self.space.tokens_per_param is None:
            low, high = self.space.ffn_limits(self.family)
            d_ff = np.sqrt(low * high) * shape.d_model
        heads = 2.0 * shape.head_dim * (shape.n_head + shape.n_kv_head)
        return jnp.log(shape.d_model * (heads + self.family.ffn_matrices * d_ff))

    def _resized(self, index: Num, log_size: Num) -> Num:
        """Return indices with the depth that brings them nearest a size (by `_log_layer`).

        Where width follows depth, as they are.
        """
        if self.space.d_model is None or len(self.axes.values[0]) == 1:
            return index
        log_depth = log_size - self._log_layer(self.shapes(index)[0])
        depths = np.log(self.axes.values[0]).reshape((1,) * log_depth.ndim + (-1,))
        place = jnp.argmin(jnp.abs(log_depth[..., None] - depths), axis=-1)
        return index.at[..., 0].set(place.astype(index.dtype))

    def neighbours(self, index: Num) -> Num:
        """Return what is near some indices: (n, 7) -> (n, M, 7).

        Depth by up to three steps; every other axis by up to two and every pair of them by one each (width
        against FFN by two), at the depth that keeps the size (alone, also one step more and less).
        """
        dimensions = len(self.axes.sizes)
        others = [i for i in self.axes.free if i != 0]
        near = np.concatenate([pair_moves(others, dimensions, 2), self._trades()])[None]
        alone = near[:, (near[0] != 0).sum(1) == 1]
        deeper = np.eye(dimensions, dtype=int)[None, :1] * (self.axes.sizes[0] > 1)
        depth = jnp.asarray(self.axes.values[0])[index[:, 0]]
        layer = self._log_layer(self.shapes(index)[0])
        size = (jnp.log(depth) + layer)[:, None]
        index = index[:, None]
        kept = self._resized(self.moved(index, near), size)
        single = self._resized(self.moved(index, alone), size)
        depths = index + np.array([-3, -2, -1, 1, 2, 3])[None, :, None] * deeper
        return jnp.concatenate([kept, single - deeper, single + deeper, depths], axis=1)

    def _kv_row(self, index: Num, n_head: Num | None = None) -> Num:
        """Return the row of the tables of KV heads: the query heads."""
        n_head = self.shapes(index)[0].n_head if n_head is None else n_head
        return jnp.clip(n_head, 0, len(self.axes.kv_table) - 1).astype(index.dtype)

    def moved(self, index: Num, moves: np.ndarray) -> Num:
        """Return indices (n, 1, 7) after moves (1, M, 7); KV heads move among those that go with n_head."""
        moved = jnp.clip(index + moves, 0, (self.axes.sizes - 1)[None, None])
        row = self._kv_row(moved)
        rank = jnp.asarray(self.axes.kv_rank)[row, index[..., 4]] + moves[..., 4]
        place = jnp.asarray(self.axes.kv_place)[row, jnp.clip(rank, 0, self.axes.sizes[4] - 1)]
        return moved.at[..., 4].set(place.astype(index.dtype))

    def canonical(self, index: Num) -> tuple[Num, Num]:
        """Return the one index of each design (several values may mean the same KV heads); if it is real."""
        row = self._kv_row(index)
        rank = jnp.asarray(self.axes.kv_rank)[row, index[..., 4]]
        place = jnp.asarray(self.axes.kv_place)[row, rank].astype(index.dtype)
        return index.at[..., 4].set(place), jnp.asarray(self.axes.kv_table)[row, place] > 0

    def _trades(self) -> np.ndarray:
        """Return moves of width against FFN ratio, by more than one step of either: size stays about equal.

        Where depth is at its least it can make up for neither.
        """
        if not {1, 2} <= set(self.axes.free):
            return np.zeros((0, len(self.axes.sizes)), int)
        moves = [(1, -2), (2, -1), (2, -2), (-1, 2), (-2, 1), (-2, 2)]
        return np.array([[0, *move, *[0] * (len(self.axes.sizes) - 3)] for move in moves])

    def spread(self, count: int = SPREAD) -> np.ndarray:
        """Return indices spread over the lattice."""
        return np.floor(kronecker(count, len(self.axes.sizes)) * self.axes.sizes).astype(int)

    def around(self, index: Num) -> Num:
        """Return all indices within one step along every axis, (n, 7) -> (n, B, 7)."""
        return self.moved(index[:, None], box_moves(self.axes.free, len(self.axes.sizes))[None])


def build(problem: Problem, query: Query, space: DesignSpace, index: Num) -> Priced:
    """Return the designs at some indices of a space (n, 7), each brought to the target loss if it can be."""
    shape, possible, kv_bits = Moves(space, problem.family).shapes(index)
    free = FreeVariables(kv_bits=kv_bits)
    if space.tokens_per_param is not None:
        per_param = _tokens_for_loss(problem, query, shape, free, space.tokens_per_param)
        free = FreeVariables(kv_bits=kv_bits, tokens_per_param=per_param)
    else:
        shape = _d_ff_for_loss(problem, free.applied(query), shape, space)
    return problem.priced(query, shape, free, possible=possible)


def merits(designs: Priced) -> tuple[Num, Num]:
    """Return what is minimised: log cost, or above every cost the violation; and log cost with a penalty."""
    log_value = jnp.log(designs.value)
    strict = jnp.where(jnp.isfinite(designs.cost), log_value, 1e6 * (1.0 + designs.violation))
    return strict, log_value + PENALTY * designs.violation


def _tokens_for_loss(
    problem: Problem, query: Query, shape: Shape, free: FreeVariables, limits: tuple[float, float]
) -> Num:
    """Return the training tokens a parameter at which each shape has the target loss, within the limits."""
    bounds = tuple(np.log(limits))

    def excess(log_tokens: Num) -> Num:
        asked = replace(free, tokens_per_param=jnp.exp(log_tokens)).applied(query)
        return problem.loss_of(shape, asked) - query.target_loss

    # From the fewest tokens: Newton climbs a falling convex law without overshooting.
    start = jnp.full_like(shape.d_ff, bounds[0])
    # A hair more than the root, so that rounding does not leave it above the target.
    return jnp.exp(jnp.minimum(newton_root(excess, start, bounds=bounds) + 1e-11, bounds[1]))


def _d_ff_for_loss(problem: Problem, query: Query, shape: Shape, space: DesignSpace) -> Shape:
    """Return each shape with the least d_ff that reaches the target loss (that of least loss, if none does).

    Where the law has a best FFN ratio, loss falls up to it and rises beyond: what reaches the target or is
    beyond the least loss is all at the upper end, and is bisected for.
    """
    low, high = space.ffn_limits(problem.family)
    unit = float(space.tile * space.tensor)
    first = jnp.maximum(jnp.ceil(low * shape.d_model / unit - 1e-9), 1.0)
    last = jnp.maximum(jnp.floor(high * shape.d_model / unit + 1e-9), first)

    def loss_at(tiles: Num) -> Num:
        return problem.loss_of(shape.replace(d_ff=tiles * unit), query)

    def halve(_: int, ends: tuple[Num, Num]) -> tuple[Num, Num]:
        below, reaches = ends
        middle = jnp.floor((below + reaches) / 2)
        loss, slope = jax.jvp(loss_at, (middle,), (jnp.ones_like(middle),))
        good = (loss <= query.target_loss * (1 + query.tolerance)) | (slope >= 0)
        return jnp.where(good, below, middle), jnp.where(good, middle, reaches)

    widest = (high - low) * float(space.widths(problem.family).max()) / unit
    steps = int(np.ceil(np.log2(widest + 2.0))) + 1
    _, reaches = jax.lax.fori_loop(0, steps, halve, (first - 1.0, last))
    return shape.replace(d_ff=jnp.maximum(reaches, first) * unit)


def search_space(
    problem: Problem, queries: Query, space: DesignSpace, solver: Solver = None, gradient: bool = True
) -> Solved:
    """Return the best designs of a space for each of a batch of queries.

    The relaxed optima (with `gradient`; else points spread over the lattice) are rounded to the nearest
    whole designs. From there a best-first search moves one or two coordinates at a time; at last every design
    within one step of the best along all axes is tried, until none of them is better.
    """
    moves = Moves(space, problem.family)

    def one(query: Query) -> Solved:
        relaxed, start = None, jnp.asarray(moves.spread())
        if gradient:
            ends = descend(problem, query, space, solver)
            relaxed, start = ends.best, moves.rounded(ends)
        pool, before, tried = best_first(
            lambda index: merits(build(problem, query, space, index)),
            start,
            moves.neighbours,
            moves.around,
            moves.axes.sizes,
            canonical=moves.canonical,
            rounds=ROUNDS,
            patience=PATIENCE,
            expand=EXPANDED,
            width=TRIED,
        )
        answers = pool.index[:ANSWERS]
        designs = build(problem, query, space, answers)
        if relaxed is not None:
            # Every whole design lies in the relaxation too: where the descent ended above, it is the bound.
            best = designs.at(jnp.argmin(designs.cost))
            less = best.cost < relaxed.designs.cost
            relaxed = replace(relaxed, designs=_or_relaxed(less, best, relaxed.designs))
        return Solved(
            relaxed=relaxed,
            designs=designs,
            index=answers,
            own_cost=jnp.exp(before),
            evaluations=tried + ANSWERS,
            gradients=jnp.asarray(N_STARTS * ITERATIONS if gradient else 0),
        )

    return jax.lax.map(one, queries)


def _or_relaxed(less: Num, whole: Priced, relaxed: Priced) -> Priced:
    """Return the whole design where it costs less, in the structure of the relaxed one."""
    shape = jax.tree.map(lambda a, b: jnp.where(less, a, b), whole.shape, relaxed.shape)
    free = replace(relaxed.free)
    for name in ("tokens_per_param", "kv_bits"):
        if getattr(free, name) is not None:
            chosen = jnp.where(less, getattr(whole.free, name), getattr(relaxed.free, name))
            free = replace(free, **{name: chosen})
    for name, value in (
        ("aspect", whole.shape.d_model / whole.shape.n_layer),
        ("ffn_ratio", whole.shape.d_ff / whole.shape.d_model),
        ("head_dim", whole.shape.head_dim),
    ):
        if getattr(free, name) is not None:
            free = replace(free, **{name: jnp.where(less, value, getattr(relaxed.free, name))})
    others = ("value", "excess", "loss_excess", "cost")
    return replace(
        relaxed,
        shape=shape,
        free=free,
        **{name: jnp.where(less, getattr(whole, name), getattr(relaxed, name)) for name in others},
    )


@partial(jax.jit, static_argnums=(2, 3))
def _searched(problem: Problem, queries: Query, space: DesignSpace, gradient: bool) -> Priced:
    found = search_space(problem, queries, space, None, gradient).designs
    return jax.tree.map(lambda leaf: leaf[:, 0], found)


def what_binds(problem: Problem, query: Query, space: DesignSpace, gradient: bool = True) -> str:
    """Return why none of a space's designs does what is asked, by searching it with some limits at a time."""

    def search(subsets: Sequence[tuple[int, ...]]) -> Priced:
        asked = [
            replace(
                query,
                constraints=tuple(
                    c if i in some else replace(c, limit=NO_LIMIT) for i, c in enumerate(query.constraints)
                ),
            )
            for some in subsets
        ]
        return jax.device_get(_searched(problem, stack_queries(asked), space, gradient))

    def excesses(found: Priced, i: int) -> np.ndarray:
        shape, free = jax.tree.map(lambda leaf: leaf[i], (found.shape, found.free))
        return np.array([float(excess) for excess in free.applied(query).excesses(shape)])

    tolerance, target = float(query.tolerance), float(query.target_loss)
    every = tuple(range(len(query.constraints)))
    without, bound = (search([some]) for some in ((), every))
    if without.loss_excess[0] > tolerance:
        least = target * float(np.exp(without.loss_excess[0]))
        return (
            f"target_loss {target:g} is out of reach of the {space.name} space: the nearest of its designs "
            f"has a loss of {least:.4g}. A target above that, or wider ranges, would do."
        )

    def nearest_to(subsets: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        found = search(subsets)
        # Where a limit holds, the loss is what gives.
        missed = np.where(found.loss_excess > tolerance, found.loss_excess, 0.0)
        return [np.maximum(excesses(found, i), missed[i]) for i in range(len(subsets))]

    shape = jax.tree.map(lambda leaf: leaf[0], bound.shape)
    name = f"{shape.n_layer:g} x {shape.d_model:g} with heads ({shape.n_head:g}, {shape.n_kv_head:g})"
    lost = float(bound.loss_excess[0])
    if lost > tolerance and max(excesses(bound, 0)) <= tolerance:
        said = (
            f"No design satisfies the constraints at target_loss {target:g}: the nearest, {name}, satisfies "
            f"them with a loss of {target * np.exp(lost):.4g}."
        )
    else:
        said = nearest_to_all(query, name, excesses(bound, 0))
    return f"{said} {contradiction(query, nearest_to)} A higher target_loss, or that much more, would do."


@partial(jax.jit, static_argnums=(2, 3, 4))
def _under_all(
    problem: Problem, query: Query, space: DesignSpace, rule: HeadRule | None, gradient: bool, laws: Any
) -> Any:
    """Return each law's best index (R, 7), the designs at all of these under each law (R, R), baselines."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], query)

    def best(law: Any) -> Num:
        return search_space(problem.under(law), batch, space, None, gradient).index[0, 0]

    def under(law: Any) -> Any:
        own = problem.under(law)
        built = build(own, query, space, places)
        built = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, places.shape[:1]), built)
        return built, None if rule is None else own.ruled(query, rule)

    places = jax.lax.map(best, laws)
    return places, *jax.lax.map(under, laws)


def under_all(
    problem: Problem, query: Query, space: DesignSpace, laws: Any, rule: HeadRule | None, gradient: bool
) -> Compared:
    """Search under every law; the design's own law goes first, and is not one of those asked."""
    laws = jax.tree.map(
        lambda own, many: jnp.concatenate([jnp.asarray(own, float)[None], many]), problem.law, laws
    )
    indices, built, baseline = jax.device_get(_under_all(problem, query, space, rule, gradient, laws))
    # A law that nothing reaches the loss under has no best, so its index is nobody's.
    some = np.isfinite(np.diagonal(np.asarray(built.cost)))
    _, first, which = np.unique(indices[some], axis=0, return_index=True, return_inverse=True)
    kept = np.flatnonzero(some)[first]
    built = jax.tree.map(lambda leaf: leaf[1:, kept], built)
    names = ["n_layer", "d_model", "n_head", "n_kv_head"]
    columns = [np.asarray(getattr(built.shape, name))[0] for name in names]
    axes = space.axes(problem.family)
    for name in ("ffn_ratio", "head_dim", "kv_bits"):
        axis = axes.names.index(name)
        if len(axes.values[axis]) > 1:
            names.append(name)
            columns.append(axes.values[axis][indices[kept, axis]])
    return Compared(
        names=tuple(names),
        configurations=np.stack(columns, axis=1),
        chosen=int(np.ravel(which)[0]),
        designs=built,
        baseline=None if baseline is None else jax.tree.map(lambda leaf: leaf[1:], baseline),
    )
