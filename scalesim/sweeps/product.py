"""A product of ranges: every whole design within a band round a shape family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from scalesim.caching import fingerprint
from scalesim.errors import InvalidInput
from scalesim.families import FIGURE, ShapeFamily
from scalesim.shape.checks import few, whole_sizes
from scalesim.sweeps.block import Block

__all__ = ["Product", "default_product"]

BLOCK_DESIGNS = 1 << 21
"""Designs in a block, about: long enough to hide the call (1%), short enough to answer Ctrl-C at once."""
_AXES = ("n_layer", "d_model", "d_ff", "n_head", "n_kv_head")
_EDGE = 1 + 1e-9  # a ratio exactly at the band's edge is inside, whatever its rounding
_MOST_PAIRS = 50_000_000
_MOST_HEADS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Product:
    """Every design of a product of ranges that is real and near a shape family.

    A design is a *body* (n_layer, d_model, d_ff) with a pair of heads. n_kv_head divides n_head; sizes are
    whole. A law that cannot see depth against width, or the FFN ratio, would let the best design run to an
    absurd shape, so both ratios stay within a factor of the family's:
    1/s <= (d_model / n_layer) / aspect <= s, and the same for d_ff / d_model.

    Designs are numbered: index = body * (pairs of heads) + pair, bodies by (n_layer, d_model, d_ff), pairs
    by (n_head, n_kv_head). Nothing of the size of the product is ever held.

    Attributes:
        n_layer, d_model, d_ff, n_head, n_kv_head: whole numbers above 0 (a `range` will do).
        family: the aspect and FFN ratios, head_dim, vocab_size.
        aspect_slack: s for d_model / n_layer, at least 1; infinity for no band.
        ffn_slack: s for d_ff / d_model.

    Raises:
        InvalidInput: an empty axis, a size that is not whole and above 0, or no design within the bands.

    >>> d_ff = range(5376, 5633, 64)
    >>> space = Product(n_layer=[16], d_model=[2048], d_ff=d_ff, n_head=[8, 12], n_kv_head=[1, 8])
    >>> space.count  # 5 bodies, and (8, 1), (8, 8), (12, 1)
    15
    >>> space.sizes(np.array([14]))
    array([[  16, 2048,   12,    1, 5632]])
    """

    n_layer: Sequence[int]
    d_model: Sequence[int]
    d_ff: Sequence[int]
    n_head: Sequence[int]
    n_kv_head: Sequence[int]
    family: ShapeFamily = FIGURE
    aspect_slack: float = 1.1
    ffn_slack: float = 1.1

    def __post_init__(self) -> None:
        for name in ("aspect_slack", "ffn_slack"):
            if not getattr(self, name) >= 1:
                raise InvalidInput(
                    f"{name} must be at least 1 (1.25: a quarter), but is {getattr(self, name)!r}."
                )
        if not len(self._heads):
            raise InvalidInput(
                f"n_kv_head {few(self._axis('n_kv_head'))} divides none of n_head "
                f"{few(self._axis('n_head'))}; 1 divides all."
            )
        if not self.n_bodies:
            raise InvalidInput(self._why_empty())

    def _axis(self, name: str) -> np.ndarray:
        return whole_sizes(name, getattr(self, name))

    @cached_property
    def _d_ff(self) -> np.ndarray:
        return self._axis("d_ff")

    @cached_property
    def _heads(self) -> np.ndarray:
        n_head, n_kv_head = self._axis("n_head"), self._axis("n_kv_head")
        if len(n_head) * len(n_kv_head) > _MOST_HEADS:
            raise InvalidInput(
                f"n_head and n_kv_head make {len(n_head) * len(n_kv_head):,} pairs; {_MOST_HEADS:,} would do."
            )
        pairs = [(h, k) for h in n_head.tolist() for k in n_kv_head[n_kv_head <= h].tolist() if h % k == 0]
        return np.array(pairs, np.int64).reshape(-1, 2)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Depths and widths within the band, the first d_ff of each, and where its bodies begin (and end)."""
        n_layer, d_model, d_ff = self._axis("n_layer"), self._axis("d_model"), self._d_ff
        if len(n_layer) * len(d_model) > _MOST_PAIRS:
            raise InvalidInput(
                f"n_layer and d_model make {len(n_layer) * len(d_model)} pairs; {_MOST_PAIRS} would do."
            )
        depth, width = (x.ravel() for x in np.meshgrid(n_layer, d_model, indexing="ij"))
        with jax.enable_x64(True):
            aspect = np.asarray(self.family.aspect(12.0 * depth * width.astype(float) ** 2))
        off = width / depth / aspect
        near = (off <= self.aspect_slack * _EDGE) & (off >= 1 / (self.aspect_slack * _EDGE))
        depth, width = depth[near], width[near]
        ideal, slack = width * self.family.ffn_ratio, self.ffn_slack * _EDGE
        first = np.searchsorted(d_ff, ideal / slack, side="left")
        last = np.searchsorted(d_ff, ideal * slack, side="right")
        some = last > first
        begins = np.concatenate([[0], np.cumsum((last - first)[some])])
        return depth[some], width[some], first[some], begins

    def _why_empty(self) -> str:
        ends = {name: self._axis(name) for name in ("n_layer", "d_model", "d_ff")}
        n_layer, d_model, d_ff = ends.values()
        ratios = d_model[-1] / n_layer[0], d_model[0] / n_layer[-1]
        return (
            f"no design is near the family {self.family.name!r}: d_model / n_layer spans {ratios[1]:.4g} to "
            f"{ratios[0]:.4g} and d_ff / d_model {d_ff[0] / d_model[-1]:.3g} to "
            f"{d_ff[-1] / d_model[0]:.3g}, but the bands are a factor {self.aspect_slack:g} round its aspect "
            f"ratio ({min(self.family.aspects):.4g} to {max(self.family.aspects):.4g}) and a factor "
            f"{self.ffn_slack:g} round {self.family.ffn_ratio:.3g}. Other ranges, another "
            "family, or wider slacks would do."
        )

    @property
    def n_bodies(self) -> int:
        """Bodies (n_layer, d_model, d_ff) within the bands."""
        return int(self._pairs[3][-1])

    @property
    def count(self) -> int:
        """Designs."""
        return self.n_bodies * len(self._heads)

    @cached_property
    def _width(self) -> int:
        """Bodies in a block: whole vectors, and the same whatever devices there are."""
        return min(max(64, BLOCK_DESIGNS // len(self._heads) // 64 * 64), -(-self.n_bodies // 64) * 64)

    @property
    def n_blocks(self) -> int:
        """Blocks."""
        return -(-self.n_bodies // self._width)

    @property
    def identity(self) -> str:
        """A digest of the ranges and the bands."""
        axes = [self._axis(name) for name in _AXES]
        return fingerprint((axes, self.family, self.aspect_slack, self.ffn_slack, self._width))

    def _bodies(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        depth, width, first, begins = self._pairs
        at = np.searchsorted(begins, indices, side="right") - 1
        return depth[at], width[at], self._d_ff[first[at] + indices - begins[at]]

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return the sizes of designs by index: whole numbers [n, 5] in the order of `SIZES`."""
        body, pair = np.divmod(np.asarray(indices), len(self._heads))
        n_layer, d_model, d_ff = self._bodies(body)
        return np.stack([n_layer, d_model, *self._heads[pair].T, d_ff], axis=1)

    def block(self, number: int) -> Block | None:
        """Return a block: B bodies with all heads."""
        first = number * self._width
        if first >= self.n_bodies:
            return None
        last = min(first + self._width, self.n_bodies)
        bodies = self._bodies(np.minimum(np.arange(first, first + self._width), last - 1))
        fields = {
            name: values.astype(np.float32)[None, :]
            for name, values in zip(("n_layer", "d_model", "d_ff"), bodies, strict=True)
        }
        for i, name in enumerate(("n_head", "n_kv_head")):
            fields[name] = self._heads[:, i].astype(np.float32)[:, None]

        def pick(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pair, body = np.divmod(flat, self._width)
            inside = body < last - first
            indices = (first + body[inside]) * len(self._heads) + pair[inside]
            return indices, self.sizes(indices)

        pairs = len(self._heads)
        return Block(number, first * pairs, (last - first) * pairs, fields, pick)

    def sample(self, n: int) -> np.ndarray:
        """Return indices and sizes [n, 6] of some designs spread over all (a golden-section sequence)."""
        n = min(n, self.count)
        parts = np.arange(n, dtype=np.float64) * ((math.sqrt(5) - 1) / 2) % 1.0
        indices = np.unique(np.minimum((parts * self.count).astype(np.int64), self.count - 1))
        return np.concatenate([indices[:, None], self.sizes(indices)], axis=1)


def default_product(
    count: float = 1,
    *,
    family: ShapeFamily = FIGURE,
    max_head: int = 32,
    max_layer: int = 128,
    axes: Mapping[str, Sequence[int]] | None = None,
    aspect_slack: float = 1.1,
    ffn_slack: float = 1.1,
) -> Product:
    """Return a product of at least `count` designs round a family.

    n_layer 4 to `max_layer`, n_head 1 to `max_head` (the evidence ends at 32) with every n_kv_head that
    divides it, and d_model and d_ff in multiples of 64, which are halved in turn until there are enough.
    `axes` gives some of the ranges; the slacks are `Product`'s.

    Raises:
        InvalidInput: `count` is not above 0, or more than there are at steps of one.

    >>> default_product(1e8).count
    131812730
    """
    if not (math.isfinite(count) and count > 0):
        raise InvalidInput(f"count must be above 0 and finite, but is {count!r}.")
    given = {name: whole_sizes(name, sizes).tolist() for name, sizes in (axes or {}).items()}
    deepest = max(given.get("n_layer", (max_layer,)), default=max_layer)
    widest = max(family.aspects) * deepest * min(aspect_slack, 8.0)
    widest = max(given.get("d_model", (min(widest, 1 << 17),)), default=1)
    thickest = min(widest * family.ffn_ratio * min(ffn_slack, 8.0), 1 << 20)
    most = 0
    for i in range(13):
        wide, ffn = 64 >> (i // 2), 64 >> ((i + 1) // 2)
        ranges: dict[str, Sequence[int]] = {
            "n_layer": range(4, max_layer + 1),
            "d_model": range(256, int(widest) + 1, wide),
            "d_ff": range(ffn, int(thickest) + 1, ffn),
            "n_head": range(1, max_head + 1),
            "n_kv_head": range(1, max(given.get("n_head", (max_head,)), default=1) + 1),
        }
        slacks = {"aspect_slack": aspect_slack, "ffn_slack": ffn_slack}
        options: dict[str, Any] = {**ranges, **given, **slacks}
        product = Product(**options, family=family)
        most = max(most, product.count)
        if product.count >= count:
            return product
        if {"d_model", "d_ff"} <= given.keys():
            break
    raise InvalidInput(
        f"count {count:.4g} is more than these ranges hold at their finest steps ({most:.4g} designs); a "
        "wider slack, more heads or larger ranges would do."
    )
