"""Lattices of head configurations: how a size becomes a real shape, and the search among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.feasibility import contradiction, nearest_to_all, out_of_reach
from scalesim.design.problem import (
    MAX_PARAMS,
    MIN_PARAMS,
    NOTHING_FREE,
    FreeVariables,
    Priced,
    Problem,
    Query,
)
from scalesim.design.relaxation import Compared, Relaxed, Solved, Solver, heads_at, relax
from scalesim.errors import InvalidInput, choose
from scalesim.families import HeadRule, ShapeFamily
from scalesim.laws.base import Law
from scalesim.pytree import register
from scalesim.shape import Shape, count_params
from scalesim.types import Num

__all__ = [
    "HEADS",
    "PAPER",
    "Found",
    "Lattice",
    "buildable",
    "evaluate",
    "exhaustive",
    "gradient_search",
    "log_costs",
    "named_lattice",
]


HEADS = ("n_head", "n_kv_head")
STARTS = np.array([[0.15, 0.1], [0.5, 0.1], [0.85, 0.1], [0.5, 0.8], [0.9, 0.8]])
"""Where the search starts, in its unit square: few, middling and many heads; shared and separate KV heads."""
FFN_RATIO_SLACK = 1.25
"""How far d_ff / d_model may be from the family's, either way, to bring a whole shape to its size."""
NEIGHBOURS = 24
"""At most so many lattice points are tried in rounding, and at most a quarter; with constraints half."""
STEP = 12
"""So many at a time, each time around the best so far."""


@dataclass(frozen=True)
class Lattice:
    """Head configurations to choose among, and whether a choice is built as a real shape.

    Attributes:
        name: what reports call it.
        heads: (n_head, n_kv_head) pairs.
        real: whole sizes (see `evaluate`), or the family's relaxed shape at exactly the target loss.
        tile: what d_model and d_ff of a real shape are multiples of.

    Raises:
        InvalidInput: no pairs, or one whose n_kv_head does not divide its n_head.

    >>> Lattice("two", ((8, 1), (8, 8)), real=False).max_head
    8
    """

    name: str
    heads: tuple[tuple[int, int], ...]
    real: bool
    tile: int = 64

    def __post_init__(self) -> None:
        if not self.heads:
            raise InvalidInput(f"lattice {self.name!r} has no head configurations; at least one is needed.")
        for n_head, n_kv_head in self.heads:
            if not 1 <= n_kv_head <= n_head or n_head % n_kv_head:
                raise InvalidInput(
                    f"lattice {self.name!r} holds (n_head, n_kv_head) = ({n_head}, {n_kv_head}), "
                    "but n_kv_head must be at least 1 and divide n_head."
                )

    @property
    def max_head(self) -> int:
        """Most query heads of any configuration."""
        return max(n_head for n_head, _ in self.heads)

    @property
    def enumerates(self) -> bool:
        """Every configuration is looked at."""
        return True

    @property
    def depth_slack(self) -> float:
        """Layers by which a design may be shallower than its family: half of one, where depth is rounded."""
        return 0.5 if self.real else 0.0

    @property
    def chooses(self) -> tuple[str, ...]:
        """Nothing beside size and heads."""
        return ()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return n_head and n_kv_head as two float arrays."""
        pairs = np.asarray(self.heads, float)
        return pairs[:, 0], pairs[:, 1]

    def check(self, law: Law) -> None:
        """Accept any law: heads that it does not see cost what they cost."""

    def starts(self, family: ShapeFamily) -> np.ndarray:
        """Return where the gradient search starts in its unit square."""
        return STARTS

    def relaxed_at(self, position: Num, family: ShapeFamily) -> tuple[Num, Num, FreeVariables]:
        """Return the heads at points of the unit square; nothing else is chosen."""
        return (*heads_at(position, self.max_head), NOTHING_FREE)

    def position_of(self, shape: Shape, free: FreeVariables, family: ShapeFamily) -> np.ndarray:
        """Return where in the unit square a relaxed design's heads are."""
        log_head, log_kv = (np.log(float(n)) for n in (shape.n_head, shape.n_kv_head))
        found = [log_head / max(np.log(self.max_head), 1e-12), log_kv / max(log_head, 1e-12)]
        return np.clip(found, 0.0, 1.0)

    def size_excesses(self, shape: Shape) -> list[Num]:
        """Return nothing: sizes have no ranges here."""
        return []

    def solve(self, problem: Problem, queries: Query, solver: Solver = None, gradient: bool = True) -> Solved:
        """Return, for a batch of queries, all designs and what the gradient search chose among them.

        Rounding tries lattice points about the relaxed optimum; the choice is looked up among all designs
        rather than evaluated twice. Without `gradient` there is no relaxed optimum.
        """
        every = jnp.arange(len(self.heads))

        def one(query: Query) -> Solved:
            designs = _evaluate(problem, query, self, every)
            designs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, every.shape), designs)
            relaxed, found = None, _least(designs, every)
            if gradient:
                anywhere, relaxed = found, relax(problem, query, self, solver)
                found = _round(
                    relaxed,
                    self,
                    bool(query.constraints),
                    lambda near: jax.tree.map(lambda leaf: leaf[near], designs),
                )
                # Where constraints leave none of the points around the optimum, any other will do.
                none = jnp.isinf(found.design.cost)
                found = jax.tree.map(lambda a, b: jnp.where(none, a, b), anywhere, found)
                relaxed = _at_most(self, relaxed, found)
            return Solved(
                relaxed=relaxed,
                designs=designs,
                index=every[:, None],
                own_cost=found.design.cost,
                evaluations=found.evaluations,
                gradients=jnp.asarray(0),
            )

        return jax.vmap(one)(queries)

    def why_none(self, problem: Problem, query: Query, designs: Priced, gradient: bool = True) -> str:
        """Return why no design does what is asked: the loss is out of reach, or which limits contradict."""
        heads = self.arrays()
        limits = (np.full_like(heads[0], np.log(size)) for size in (MAX_PARAMS, MIN_PARAMS))
        least, most = (problem.loss_at(limit, *heads, query) for limit in limits)
        beyond = out_of_reach(query, float(np.min(least)), float(np.max(most)))
        if beyond:
            return beyond
        loss = float(query.target_loss)
        if not query.constraints:
            return f"target_loss {loss:g} is out of reach of every configuration tried."
        reached = np.isfinite(designs.loss_excess)
        worst = np.where(reached, designs.excess, np.inf)
        nearest = int(np.argmin(worst))
        excess = np.stack([np.broadcast_to(e, worst.shape) for e in query.excesses(designs.shape)])
        excess = np.where(reached, excess, np.inf)
        said = nearest_to_all(query, f"{self.heads[nearest]}", excess[:, nearest])
        apart = contradiction(
            query, lambda subsets: [excess[:, int(np.argmin(excess[list(s)].max(0)))] for s in subsets]
        )
        return f"{said} {apart} A higher target_loss, or that much more, would do."

    def under(
        self,
        problem: Problem,
        query: Query,
        laws: Law,
        chosen: Shape,
        rule: HeadRule | None,
        gradient: bool = True,
    ) -> Compared:
        """Return every configuration under every law."""
        designs, baseline = _under_all(problem, query, self, rule, laws)
        own = self.heads.index((int(chosen.n_head), int(chosen.n_kv_head)))
        return Compared(HEADS, np.asarray(self.heads), own, designs, baseline)


_OCTAVES = (1, 2, 4, 8, 16, 32)

PAPER = Lattice("paper", tuple((h, k) for h in _OCTAVES for k in _OCTAVES if k <= h), real=False)
"""The paper's 21 candidates, n_head and n_kv_head in {1, 2, ..., 32}, at non-integer depth and width."""


_MOST_HEADS, _MOST_TILE = 1024, 1 << 16


def buildable(max_head: int = 32, tile: int = 64, tensor: int = 1) -> Lattice:
    """Return every configuration up to `max_head` query heads, built as whole shapes.

    Under `tensor` parallelism each accelerator has n_head / tensor query heads and at least one KV head:
    n_head must be a multiple of `tensor`, and n_kv_head a multiple or a divisor of it. Widths are
    multiples of `tile` on each accelerator.

    Raises:
        InvalidInput: a number below 1, or max_head below tensor.

    >>> len(buildable(32).heads)
    119
    """
    if max_head < 1 or tile < 1 or tensor < 1:
        raise InvalidInput(
            f"max_head, tile and tensor must be at least 1, but are {max_head}, {tile} and {tensor}."
        )
    if max_head > _MOST_HEADS or tile > _MOST_TILE:
        raise InvalidInput(
            f"max_head must be at most {_MOST_HEADS:,} and tile at most {_MOST_TILE:,}, but are "
            f"{max_head:,} and {tile:,}."
        )
    if max_head < tensor:
        raise InvalidInput(f"max_head must be at least tensor = {tensor}, but is {max_head}.")
    heads = tuple(
        (h, k)
        for h in range(tensor, max_head + 1, tensor)
        for k in range(1, h + 1)
        if h % k == 0 and (k % tensor == 0 or tensor % k == 0)
    )
    return Lattice("buildable", heads, real=True, tile=tile * tensor)


def named_lattice(name: str, max_head: int = 32, tile: int = 64, tensor: int = 1) -> Lattice:
    """Return "paper" or "buildable"."""
    choose("lattice", name, ("paper", "buildable"))
    return PAPER if name == "paper" else buildable(max_head, tile, tensor)


def evaluate(problem: Problem, query: Query, lattice: Lattice, n_head: Num, n_kv_head: Num) -> Priced:
    """Return the cheapest design of `lattice` with these heads that reaches the target loss, elementwise.

    A relaxed lattice takes the family's shape at N*. A real one takes whole sizes with at least N*
    parameters: the depth is the family's, rounded (the law cannot see depth against width, and a much
    shallower model would look cheaper for nothing); the width is the multiple of the tile, among the five
    nearest the family's, that costs least; d_ff is the least multiple that reaches N*, its ratio to
    d_model kept near the family's.
    """
    relaxed = problem.sized(query, n_head, n_kv_head)
    if not lattice.real:
        return relaxed

    def built(offset: Num) -> Priced:
        shape = _built(problem, relaxed, lattice.tile, offset)
        return problem.priced(query, shape, loss_excess=relaxed.loss_excess)

    designs = jax.vmap(built)(jnp.arange(-2.0, 3.0))
    # The cheapest width whose FFN ratio is in reach; failing that (tiny models), the nearest ratio.
    best = jnp.argmin(designs.cost * (1 + 1e3 * _excess_ratio(problem, designs.shape)), axis=0)
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, best[None], axis=0)[0], designs)


def _built(problem: Problem, relaxed: Priced, tile: int, offset: Num) -> Shape:
    """Return a whole shape of at least N* parameters, `offset` tiles wider than the family."""
    family, shape = problem.family, relaxed.shape
    n_params = count_params(shape, "paper")
    n_layer = jnp.maximum(jnp.round(shape.n_layer), 1.0)
    ideal = family.at_depth(n_params, n_layer, shape.n_head, shape.n_kv_head)
    d_model = jnp.maximum(jnp.round(ideal.d_model / tile) + offset, 1.0) * tile
    attention = 2.0 * family.head_dim * (shape.n_head + shape.n_kv_head)
    d_ff = (n_params / n_layer / d_model - attention) / family.ffn_matrices
    d_ff = jnp.maximum(jnp.ceil(d_ff / tile - 1e-9), 1.0) * tile
    real = family.shape(n_layer, d_model, shape.n_head, shape.n_kv_head, d_ff=d_ff)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_layer.shape), real)


def _excess_ratio(problem: Problem, shape: Shape) -> Num:
    """Return by how much (in log) the FFN ratio is beyond its slack, 0 within."""
    off = jnp.abs(jnp.log(shape.d_ff / shape.d_model / problem.family.ffn_ratio))
    return jnp.maximum(off - np.log(FFN_RATIO_SLACK), 0.0)


@register
@dataclass(frozen=True, kw_only=True)
class Found:
    """The chosen lattice point of a query: its place in the lattice, its design, and what was evaluated."""

    index: Num
    design: Priced
    evaluations: Num


def _least(designs: Priced, indices: Num) -> Found:
    """Return the cheapest of some designs, which stand at `indices` of the lattice."""
    best = jnp.argmin(designs.cost)
    count = indices.shape[0]
    design = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count,))[best], designs)
    return Found(index=indices[best], design=design, evaluations=jnp.asarray(count))


def _evaluate(problem: Problem, query: Query, lattice: Lattice, indices: Num) -> Priced:
    n_head, n_kv_head = (jnp.asarray(axis)[indices] for axis in lattice.arrays())
    return evaluate(problem, query, lattice, n_head, n_kv_head)


def _round(
    relaxed: Relaxed, lattice: Lattice, constrained: bool, designs_at: Callable[[Num], Priced]
) -> Found:
    """Return the best of the lattice points that rounding tries, near in log n_head and log n_kv_head.

    First those nearest the relaxed optimum. With constraints, a limit on whole layers or widths leaves
    islands of designs, and the best of them need not be near: so more follow, a few at a time, the best found
    so far.
    """
    logs = jnp.log(jnp.stack(lattice.arrays(), -1))
    count = min(NEIGHBOURS, max(len(lattice.heads) // 4, 1))
    step = STEP if constrained else count
    count = max(len(lattice.heads) // 2, 1) if constrained else count
    merit = jnp.full(len(logs), jnp.inf)
    centre = jnp.log(jnp.stack([jnp.asarray(relaxed.n_head), jnp.asarray(relaxed.n_kv_head)]))
    indices, parts = [], []
    for place in range(0, count, step):
        away = ((logs - centre[None]) ** 2).sum(-1)
        untried = -jnp.where(jnp.isfinite(merit), jnp.inf, away)
        near = jax.lax.top_k(untried, min(step, count - place))[1]
        tried = designs_at(near)
        found = jax.tree.map(partial(jnp.broadcast_to, shape=near.shape), tried)
        # Log cost, or above every cost by how much the worst constraint is exceeded.
        missed = 1e6 * (1 + jnp.maximum(found.excess, 0.0))
        merit = merit.at[near].set(jnp.where(jnp.isfinite(found.cost), jnp.log(found.cost), missed))
        indices.append(near)
        parts.append(found)
        centre = logs[jnp.argmin(merit)]
    designs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return _least(designs, jnp.concatenate(indices))


def _at_most(lattice: Lattice, relaxed: Relaxed, found: Found) -> Relaxed:
    """Return the relaxed optimum, or the chosen design where that is relaxed too and less by rounding."""
    if lattice.real:
        return relaxed
    shape = found.design.shape
    other = replace(relaxed, n_head=shape.n_head, n_kv_head=shape.n_kv_head, designs=found.design)
    less = found.design.cost < relaxed.designs.cost
    return jax.tree.map(lambda a, b: jnp.where(less, a, b), other, relaxed)


def log_costs(problem: Problem, queries: Query, lattice: Lattice) -> Num:
    """Return log cost [Q, K] of every relaxed lattice point at its target loss, differentiable in the law.

    Where the loss is out of reach the size is held at the limit, so the cost is huge but finite: what a
    soft choice among the candidates needs.
    """
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def one(query: Query) -> Num:
        log_n = problem.size_for_loss(query, n_head, n_kv_head)
        return jnp.log(query.cost(problem.family.at(jnp.exp(log_n), n_head, n_kv_head)))

    return jax.vmap(one)(queries)


@partial(jax.jit, static_argnums=2)
def exhaustive(problem: Problem, queries: Query, lattice: Lattice) -> Found:
    """Return the best of the whole lattice for each of a batch of queries (the paper's recipe)."""
    every = jnp.arange(len(lattice.heads))
    return jax.vmap(lambda query: _least(_evaluate(problem, query, lattice, every), every))(queries)


@partial(jax.jit, static_argnums=2)
def gradient_search(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Relaxed, Found]:
    """Return, for each of a batch of queries, the relaxed optimum and the best lattice point around it.

    Rounding tries lattice points about the relaxed optimum, each brought to the target loss anew.
    """

    def one(query: Query) -> tuple[Relaxed, Found]:
        relaxed = relax(problem, query, lattice)
        found = _round(
            relaxed, lattice, bool(query.constraints), lambda near: _evaluate(problem, query, lattice, near)
        )
        return _at_most(lattice, relaxed, found), found

    return jax.vmap(one)(queries)


@partial(jax.jit, static_argnums=(2, 3))
def _under_all(
    problem: Problem, query: Query, lattice: Lattice, rule: HeadRule | None, laws: Any
) -> tuple[Priced, Shape | None]:
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def under(law: Any) -> Any:
        own = problem.under(law)
        designs = evaluate(own, query, lattice, n_head, n_kv_head)
        designs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape), designs)
        return designs, None if rule is None else own.ruled(query, rule)

    return jax.vmap(under)(laws)
