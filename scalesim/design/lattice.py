"""The discrete designs: which head configurations may be chosen, and how a size becomes a real shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.candidate import Candidate
from scalesim.design.problem import TIED, Freed, Problem, Query, Sized
from scalesim.design.relaxation import heads_at
from scalesim.errors import InvalidInput
from scalesim.families import ShapeFamily
from scalesim.shape import Shape, count_params

__all__ = ["PAPER", "Lattice", "buildable", "evaluate", "named_lattice"]

Num = Any

STARTS = np.array([[0.15, 0.1], [0.5, 0.1], [0.85, 0.1], [0.5, 0.8], [0.9, 0.8]])
"""Where the search starts, in its unit square: few, middling and many heads; shared and separate KV heads."""
FFN_RATIO_SLACK = 1.25
"""How far d_ff / d_model may be from the family's, either way, to bring a whole shape to its size."""


@dataclass(frozen=True)
class Lattice:
    """Head configurations to choose among, and whether a choice is built as a real shape.

    Attributes:
        name: what reports call it.
        heads: (n_head, n_kv_head) pairs.
        real: whole sizes (see `evaluate`), or the family's relaxed shape at exactly the target loss.
        tile: what d_model and d_ff of a real shape are multiples of.
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
    def depth_slack(self) -> float:
        """Layers by which a design may be shallower than its family: half of one, where depth is rounded."""
        return 0.5 if self.real else 0.0

    def starts(self, family: ShapeFamily) -> np.ndarray:
        """Return where the gradient search starts in its unit square."""
        return STARTS

    def relaxed_at(self, position: Num, family: ShapeFamily) -> tuple[Num, Num, Freed]:
        """Return the heads at points of the unit square; nothing else is chosen."""
        return (*heads_at(position, self.max_head), TIED)

    def position_of(self, relaxed: Candidate, family: ShapeFamily) -> np.ndarray:
        """Return where in the unit square a relaxed design's heads are."""
        log_head, log_kv = (np.log(float(n)) for n in (relaxed.shape.n_head, relaxed.shape.n_kv_head))
        found = [log_head / max(np.log(self.max_head), 1e-12), log_kv / max(log_head, 1e-12)]
        return np.clip(found, 0.0, 1.0)

    def size_excesses(self, shape: Shape) -> list[Num]:
        """Return nothing: sizes have no ranges here."""
        return []

    @property
    def max_head(self) -> int:
        """Most query heads of any configuration."""
        return max(n_head for n_head, _ in self.heads)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return n_head and n_kv_head as two float arrays."""
        pairs = np.asarray(self.heads, float)
        return pairs[:, 0], pairs[:, 1]


_OCTAVES = (1, 2, 4, 8, 16, 32)

PAPER = Lattice("paper", tuple((h, k) for h in _OCTAVES for k in _OCTAVES if k <= h), real=False)
"""The paper's 21 candidates, n_head and n_kv_head in {1, 2, ..., 32}, at non-integer depth and width."""


def buildable(max_head: int = 32, tile: int = 64, tensor: int = 1) -> Lattice:
    """Return every configuration up to `max_head` query heads, built as whole shapes.

    Under `tensor` parallelism each accelerator has n_head / tensor query heads and at least one KV head:
    n_head must be a multiple of `tensor`, and n_kv_head a multiple or a divisor of it. Widths are
    multiples of `tile` on each accelerator.

    >>> len(buildable(32).heads)
    119
    """
    if max_head < 1 or tile < 1 or tensor < 1:
        raise InvalidInput(
            f"max_head, tile and tensor must be at least 1, but are {max_head}, {tile} and {tensor}."
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
    from scalesim.errors import choose

    choose("lattice", name, ("paper", "buildable"))
    return PAPER if name == "paper" else buildable(max_head, tile, tensor)


def evaluate(problem: Problem, query: Query, lattice: Lattice, n_head: Num, n_kv_head: Num) -> Sized:
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
    reached = problem.reachable(query, n_head, n_kv_head)
    offsets = jnp.arange(-2.0, 3.0)

    def built(offset: Num) -> Sized:
        shape = _built(problem, relaxed, lattice.tile, offset)
        return problem.priced(query, jnp.log(count_params(shape, "paper")), shape, reached)

    designs = jax.vmap(built)(offsets)
    # The cheapest width whose FFN ratio is in reach; failing that (tiny models), the nearest ratio.
    best = jnp.argmin(designs.cost * (1 + 1e3 * _excess_ratio(problem, designs.shape)), axis=0)
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, best[None], axis=0)[0], designs)


def _built(problem: Problem, relaxed: Sized, tile: int, offset: Num) -> Shape:
    """Return a whole shape of at least N* parameters, `offset` tiles wider than the family."""
    family, shape = problem.family, relaxed.shape
    n_params = jnp.exp(relaxed.log_n_params)
    n_layer = jnp.maximum(jnp.round(shape.n_layer), 1.0)
    ideal = family.at_depth(n_params, n_layer, shape.n_head, shape.n_kv_head)
    d_model = jnp.maximum(jnp.round(ideal.d_model / tile) + offset, 1.0) * tile
    attention = 2.0 * family.head_dim * (shape.n_head + shape.n_kv_head)
    d_ff = (n_params / n_layer / d_model - attention) / family.ffn_matrices
    d_ff = jnp.maximum(jnp.ceil(d_ff / tile - 1e-9), 1.0) * tile
    real = replace(shape, n_layer=n_layer, d_model=d_model, d_ff=d_ff)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_layer.shape), real)


def _excess_ratio(problem: Problem, shape: Shape) -> Num:
    """Return by how much (in log) the FFN ratio is beyond its slack, 0 within."""
    off = jnp.abs(jnp.log(shape.d_ff / shape.d_model / problem.family.ffn_ratio))
    return jnp.maximum(off - np.log(FFN_RATIO_SLACK), 0.0)
