"""Where a search of a design space can go: from an index to shapes, to what is near, to all around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.axes import Axes
from scalesim.design.relaxation import Relaxed
from scalesim.families import ShapeFamily
from scalesim.numerics.best_first import box_moves, pair_moves
from scalesim.shape import Shape
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.design.space import DesignSpace

__all__ = ["Moves", "kronecker"]

SPREAD = 64
"""Points spread over the lattice, where there is no gradient to say where to begin."""


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
