"""Lattices of head configurations, and the search among them."""

from __future__ import annotations

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
    over_queries,
)
from scalesim.design.relaxation import Compared, Relaxed, Solved, Solver, heads_at, relax
from scalesim.design.rounding import Found, evaluate, evaluate_at, least, round_to
from scalesim.errors import InvalidInput, choose
from scalesim.families import HeadRule, ShapeFamily
from scalesim.laws.base import Law
from scalesim.programs import kept_jit
from scalesim.shape import Shape
from scalesim.types import Num

__all__ = [
    "HEADS",
    "PAPER",
    "Lattice",
    "buildable",
    "exhaustive",
    "gradient_search",
    "log_costs",
    "named_lattice",
]


HEADS = ("n_head", "n_kv_head")
STARTS = np.array([[0.15, 0.1], [0.5, 0.1], [0.85, 0.1], [0.5, 0.8], [0.9, 0.8]])
"""Where the search starts, in its unit square: few, middling and many heads; shared and separate KV heads."""


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
            designs = evaluate_at(problem, query, self, every)
            designs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, every.shape), designs)
            relaxed, found = None, least(designs, every)
            if gradient:
                anywhere, relaxed = found, relax(problem, query, self, solver)
                found = round_to(
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

        return over_queries(one, queries)

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


def buildable(max_head: int = 32, tile: int = 64, tensor: int = 1, min_kv_heads: int = 1) -> Lattice:
    """Return every configuration up to `max_head` query heads, built as whole shapes.

    `min_kv_heads` is the fewest KV heads of any.

    Under `tensor` parallelism each accelerator has n_head / tensor query heads and at least one KV head:
    n_head must be a multiple of `tensor`, and n_kv_head a multiple or a divisor of it. Widths are
    multiples of `tile` on each accelerator.

    Raises:
        InvalidInput: a number below 1, or max_head below tensor or min_kv_heads.

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
    return _with_kv_heads(Lattice("buildable", heads, real=True, tile=tile * tensor), min_kv_heads)


def _with_kv_heads(lattice: Lattice, least: int) -> Lattice:
    """Return a lattice's configurations of so many KV heads at least."""
    most = max(n_kv_head for _, n_kv_head in lattice.heads)
    if not 1 <= least <= most:
        raise InvalidInput(
            f"min_kv_heads must be between 1 and {most} for lattice {lattice.name!r}, but is {least}."
        )
    return replace(lattice, heads=tuple(pair for pair in lattice.heads if pair[1] >= least))


def named_lattice(
    name: str, max_head: int = 32, tile: int = 64, tensor: int = 1, min_kv_heads: int = 1
) -> Lattice:
    """Return "paper" or "buildable"."""
    choose("lattice", name, ("paper", "buildable"))
    if name == "paper":
        return _with_kv_heads(PAPER, min_kv_heads)
    return buildable(max_head, tile, tensor, min_kv_heads)


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

    return over_queries(one, queries)


@partial(jax.jit, static_argnums=2)
def exhaustive(problem: Problem, queries: Query, lattice: Lattice) -> Found:
    """Return the best of the whole lattice for each of a batch of queries (the paper's recipe)."""
    every = jnp.arange(len(lattice.heads))
    return over_queries(lambda query: least(evaluate_at(problem, query, lattice, every), every), queries)


@partial(jax.jit, static_argnums=2)
def gradient_search(problem: Problem, queries: Query, lattice: Lattice) -> tuple[Relaxed, Found]:
    """Return, for each of a batch of queries, the relaxed optimum and the best lattice point around it.

    Rounding tries lattice points about the relaxed optimum, each brought to the target loss anew.
    """

    def one(query: Query) -> tuple[Relaxed, Found]:
        relaxed = relax(problem, query, lattice)
        found = round_to(
            relaxed, lattice, bool(query.constraints), lambda near: evaluate_at(problem, query, lattice, near)
        )
        return _at_most(lattice, relaxed, found), found

    return over_queries(one, queries)


@partial(kept_jit, static_argnums=(2, 3))
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
