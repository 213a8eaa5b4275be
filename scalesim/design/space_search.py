"""Search of a design space: the relaxation's optima, rounded by a best-first search over whole numbers.

At every whole design what is left continuous is solved for anew (see `DesignSpace`), so each reaches the
target loss or is known not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.feasibility import contradiction, nearest_to_all
from scalesim.design.problem import FreeVariables, Priced, Problem, Query, stack_queries
from scalesim.design.relaxation import Compared, Solved, Solver, descend
from scalesim.design.space_moves import Moves
from scalesim.families import HeadRule
from scalesim.numerics.best_first import best_first
from scalesim.numerics.penalty import ITERATIONS
from scalesim.numerics.roots import newton_root
from scalesim.programs import kept_jit
from scalesim.shape import Shape
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.design.space import DesignSpace

__all__ = ["N_STARTS", "build", "merits", "search_space", "under_all", "what_binds"]


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
NO_LIMIT = 1e300
"""A limit that nothing reaches."""


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


@partial(kept_jit, static_argnums=(2, 3))
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


@partial(kept_jit, static_argnums=(2, 3, 4))
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
