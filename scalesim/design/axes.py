"""The axes of a design space beside one family of shapes: what an index of the space stands for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from scalesim.families import ShapeFamily

if TYPE_CHECKING:
    from scalesim.design.space import DesignSpace

__all__ = ["OFFSETS", "TIED_KV", "Axes", "axes_of"]

OFFSETS = (-2, -1, 0, 1, 2)
"""Tiles by which d_model may differ from the family's, where it follows the family."""
TIED_KV = 8
"""KV heads where they are not chosen, or the greatest divisor of n_head below: Llama-3's rule."""


@dataclass(frozen=True)
class Axes:
    """A space's axes beside one family: the values along each, and which KV heads go with which query heads.

    Attributes:
        names: of the axes, in the order of an index.
        values: along each.
        kv_table: [h, j] is the n_kv_head that stands for value j where n_head is h; 0 where there is none.
        kv_rank: [h, j] is which of the n_kv_head that go with h that is, counted from the least.
        kv_place: [h, r] is the first j whose rank is r (of the greatest rank, where r is beyond it).
    """

    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    kv_table: np.ndarray
    kv_rank: np.ndarray
    kv_place: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Values along each axis."""
        return np.array([len(values) for values in self.values])

    @property
    def free(self) -> list[int]:
        """The axes along which there is a choice."""
        return [i for i, size in enumerate(self.sizes) if size > 1]


@cache
def axes_of(space: DesignSpace, family: ShapeFamily) -> Axes:
    """Return the axes of a space beside a family."""
    ratios: tuple[float, ...] = (0.0,)  # d_ff closes
    if space.tokens_per_param is not None:
        ratios = tuple(sorted(space.ffn_ratio)) if space.ffn_ratio is not None else (family.ffn_ratio,)
    values = (
        space.n_layer,
        space.d_model or OFFSETS,
        ratios,
        space.n_head or (0,),
        space.n_kv_head or (TIED_KV,),
        space.head_dim or (family.head_dim,),
        space.kv_bits or (0.0,),
    )
    names = ("n_layer", "d_model", "ffn_ratio", "n_head", "n_kv_head", "head_dim", "kv_bits")
    table = space.kv_table
    rank, place = np.zeros((2, *table.shape), int)
    for h, row in enumerate(table):
        _, first, rank[h] = np.unique(row, return_index=True, return_inverse=True)
        place[h] = np.pad(first, (0, len(row) - len(first)), mode="edge")
    return Axes(names, tuple(np.array(v, float) for v in values), table, rank, place)
