"""Design spaces: depth, width, FFN, heads, head size, KV precision and training tokens, free one by one."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.axes import OFFSETS, TIED_KV, Axes, axes_of
from scalesim.design.feasibility import FREE, check_visible, visible
from scalesim.design.problem import FreeVariables, Priced, Problem, Query
from scalesim.design.relaxation import Compared, Solved, Solver
from scalesim.design.space_moves import kronecker
from scalesim.design.space_search import N_STARTS, search_space, under_all, what_binds
from scalesim.errors import InvalidInput, choose
from scalesim.families import HeadRule, ShapeFamily
from scalesim.fitting.result import Fit
from scalesim.laws.base import Law
from scalesim.shape import Shape
from scalesim.shape.checks import few, whole_sizes
from scalesim.types import Num

__all__ = ["DesignSpace", "design_space"]


FFN_SLACK = 1.25
"""How far d_ff / d_model may be from the family's, either way, where d_ff brings a shape to its loss."""
FFN_RATIOS = tuple(np.linspace(1.0, 6.0, 41).tolist())
"""d_ff / d_model of the customary ranges."""


@dataclass(frozen=True, kw_only=True)
class DesignSpace:
    """Whole designs over as many axes as a law can see; None leaves a field to the family.

    The size of a model is always free: n_layer has a range, and what closes the gap to the target loss is
    solved for exactly at every design. With `tokens_per_param` given that is the training tokens, a real
    number. Without, d_ff: the least multiple of the tile that reaches the loss, d_ff / d_model within
    `ffn_ratio` (within a quarter of the family's, if that is None).

    Attributes:
        n_layer: depths.
        d_model: widths; None: within two tiles of the family's width at each depth.
        ffn_ratio: d_ff / d_model. Where d_ff closes, only the least and the greatest count; where tokens do,
            d_ff is the multiple of the tile nearest each ratio.
        n_head: query heads; None: d_model / head_dim.
        n_kv_head: KV heads, which divide n_head; None: 8, or the greatest divisor of n_head below.
        head_dim: sizes of a head; None: the family's.
        tokens_per_param: least and most training tokens for each of the paper's parameters.
        kv_bits: bits of a cached value; None: the workload's.
        tile: what d_ff is a multiple of (and d_model, where it follows the family).
        tensor: accelerators that split each matrix: n_head is a multiple, n_kv_head a multiple or a divisor,
            d_model a multiple, and d_ff one of tile x tensor.
        name: what reports call it.

    Raises:
        InvalidInput: an empty range, sizes that are not whole, or KV heads that divide no query heads.

    >>> space = DesignSpace(n_layer=range(8, 25), n_head=range(1, 33), n_kv_head=(1, 2, 4, 8))
    >>> space.free
    ('n_head', 'n_kv_head')
    """

    n_layer: Sequence[int] = range(4, 129)
    d_model: Sequence[int] | None = None
    ffn_ratio: Sequence[float] | None = None
    n_head: Sequence[int] | None = None
    n_kv_head: Sequence[int] | None = None
    head_dim: Sequence[int] | None = None
    tokens_per_param: tuple[float, float] | None = None
    kv_bits: Sequence[float] | None = None
    tile: int = 64
    tensor: int = 1
    name: str = "wide"

    def __post_init__(self) -> None:
        for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(whole_sizes(name, values).tolist()))
        for name in ("ffn_ratio", "kv_bits", "tokens_per_param"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _positive(name, values))
        if self.tile < 1 or self.tensor < 1:
            raise InvalidInput(f"tile and tensor must be at least 1, but are {self.tile} and {self.tensor}.")
        if self.tensor > 1:
            for name in ("n_head", "d_model"):
                self._keep_multiples(name)
        if self.n_head is not None and self.n_kv_head is not None and not self.kv_table.any():
            raise InvalidInput(
                f"n_kv_head {few(self.n_kv_head)} divides none of n_head {few(self.n_head)}"
                + (f" as {self.tensor} accelerators need it" if self.tensor > 1 else "")
                + "; 1 divides all."
            )

    def _keep_multiples(self, name: str) -> None:
        values = getattr(self, name)
        if values is None:
            return
        kept = tuple(v for v in values if v % self.tensor == 0)
        if not kept:
            raise InvalidInput(
                f"{name} {few(values)} holds no multiple of tensor = {self.tensor}; {self.tensor} would do."
            )
        object.__setattr__(self, name, kept)

    @property
    def free(self) -> tuple[str, ...]:
        """The fields that are chosen, by the names of `FREE`."""
        given = {
            "d_model": self.d_model,
            "d_ff": self.ffn_ratio,
            "n_head": self.n_head,
            "n_kv_head": self.n_kv_head,
            "head_dim": self.head_dim,
            "n_tokens": self.tokens_per_param,
            "kv_bits": self.kv_bits,
        }
        return tuple(name for name, values in given.items() if values is not None)

    def check(self, law: Law) -> None:
        """Raise InvalidInput where a field is free whose effect on the loss the law cannot see."""
        check_visible(law, self.free)

    @cached_property
    def kv_table(self) -> np.ndarray:
        """`Axes.kv_table`, which no family changes."""
        most = max(self.n_head) if self.n_head is not None else 1024
        wanted = self.n_kv_head or (TIED_KV,)
        table = np.zeros((most + 1, len(wanted)))
        for h in range(1, most + 1):
            allowed = [
                k
                for k in (self.n_kv_head or range(1, TIED_KV + 1))
                if h % k == 0 and (k % self.tensor == 0 or self.tensor % k == 0)
            ]
            if allowed and (self.n_head is None or h in self.n_head):
                table[h] = [min(allowed, key=lambda k: (abs(math.log(k / want)), k)) for want in wanted]
        return table

    def axes(self, family: ShapeFamily) -> Axes:
        """Return the axes of the lattice beside a family."""
        return axes_of(self, family)

    def count(self, family: ShapeFamily) -> int:
        """Return how many designs the lattice holds; where d_ff closes, each of its multiples is one.

        Training tokens, a real number, are not counted.
        """
        axes = self.axes(family)
        widths = self.widths(family)
        heads = self._head_pairs()
        choices = np.full(widths.shape, len(axes.values[2]))
        if self.tokens_per_param is None:
            low, high = self.ffn_limits(family)
            unit = self.tile * self.tensor
            first = np.maximum(np.ceil(low * widths / unit - 1e-9), 1.0)
            choices = np.maximum(np.floor(high * widths / unit + 1e-9), first) - first + 1
        return int(choices.sum()) * heads * len(axes.values[5]) * len(axes.values[6])

    def _head_pairs(self) -> int:
        if self.n_head is None:
            return 1 if self.n_kv_head is None else len(self.n_kv_head)
        return sum(len(np.unique(row[row > 0])) for row in self.kv_table[list(self.n_head)])

    def ffn_limits(self, family: ShapeFamily) -> tuple[float, float]:
        """Return the least and the greatest d_ff / d_model."""
        if self.ffn_ratio is not None:
            return min(self.ffn_ratio), max(self.ffn_ratio)
        slack = FFN_SLACK if self.tokens_per_param is None else 1.0
        return family.ffn_ratio / slack, family.ffn_ratio * slack

    def widths(self, family: ShapeFamily) -> np.ndarray:
        """Return d_model by depth and place along the width's axis, (n_layer, width)."""
        assert not isinstance(self.n_layer, range)
        if self.d_model is not None:
            return np.broadcast_to(np.array(self.d_model, float), (len(self.n_layer), len(self.d_model)))
        depth, tile = np.array(self.n_layer, float), float(self.tile * self.tensor)
        width = np.full_like(depth, 64.0) * depth
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            for _ in range(60):  # a contraction: the aspect ratio moves slowly with size
                width = np.asarray(family.aspect(12.0 * depth * width**2)) * depth
        tiles = np.round(width / tile)[:, None] + np.array(OFFSETS)
        return np.maximum(tiles, 1.0) * tile

    @property
    def real(self) -> bool:
        """All designs are whole shapes."""
        return True

    @property
    def enumerates(self) -> bool:
        """There are too many designs to look at each."""
        return False

    @property
    def chooses(self) -> tuple[str, ...]:
        """Names of `sensitivity` that it chooses beside size and heads."""
        return ("n_layer", "d_model", "d_ff", "head_dim", "tokens_per_param", "kv_bits")

    # The relaxation.

    @property
    def depth_slack(self) -> float:
        """Depths are relaxed themselves: nothing is held against the family's."""
        return 0.0

    def _coordinates(self, family: ShapeFamily) -> list[tuple[str, float, float]]:
        """Return the relaxed coordinates beside the heads: name, and the log of least and greatest value."""
        found = []
        if self.d_model is not None:
            aspects = min(self.d_model) / max(self.n_layer), max(self.d_model) / min(self.n_layer)
            found.append(("aspect", *aspects))
        low, high = self.ffn_limits(family)
        if high > low:
            found.append(("ffn_ratio", low, high))
        others = {name: getattr(self, name) for name in ("head_dim", "tokens_per_param", "kv_bits")}
        found += [(name, min(values), max(values)) for name, values in others.items() if values is not None]
        return [(name, math.log(low), math.log(high)) for name, low, high in found]

    def starts(self, family: ShapeFamily) -> np.ndarray:
        """Return points spread evenly over the inner four fifths of the unit box (a Kronecker sequence)."""
        dimensions = len(self._coordinates(family)) + (self.n_head is not None) + (self.n_kv_head is not None)
        return 0.1 + 0.8 * kronecker(N_STARTS, dimensions)

    def relaxed_at(self, position: Num, family: ShapeFamily) -> tuple[Num | None, Num, FreeVariables]:
        """Return n_head (None: tied), n_kv_head and the rest at points of the unit box (S, k)."""
        named = self._coordinates(family)
        free = FreeVariables(
            **{
                name: jnp.exp(low + position[..., i] * (high - low))
                for i, (name, low, high) in enumerate(named)
            }
        )
        rest, n_head = len(named), None
        most = jnp.log(float(max(self.n_kv_head or (TIED_KV,))))
        least = jnp.log(float(min(self.n_kv_head))) if self.n_kv_head is not None else most
        if self.n_head is not None:
            low, high = math.log(min(self.n_head)), math.log(max(self.n_head))
            log_head = low + position[..., rest] * (high - low)
            n_head, rest = jnp.exp(log_head), rest + 1
            most, least = jnp.minimum(most, log_head), jnp.minimum(least, log_head)
        at = position[..., rest] if self.n_kv_head is not None else 0.0
        n_kv_head = jnp.exp(least + at * (most - least))
        return n_head, jnp.broadcast_to(n_kv_head, position.shape[:-1]), free

    def position_of(self, shape: Shape, free: FreeVariables, family: ShapeFamily) -> np.ndarray:
        """Return where in the unit box a relaxed design is."""
        values = {
            "aspect": shape.d_model / shape.n_layer,
            "ffn_ratio": shape.d_ff / shape.d_model,
            "head_dim": shape.head_dim,
            "tokens_per_param": free.tokens_per_param,
            "kv_bits": free.kv_bits,
        }
        ends = [(math.log(values[name]), low, high) for name, low, high in self._coordinates(family)]
        log_head = math.log(shape.n_head)
        if self.n_head is not None:
            ends.append((log_head, math.log(min(self.n_head)), math.log(max(self.n_head))))
        if self.n_kv_head is not None:
            least, most = (min(math.log(end(self.n_kv_head)), log_head) for end in (min, max))
            ends.append((math.log(shape.n_kv_head), least, most))
        found = [(value - low) / (high - low) if high > low else 0.0 for value, low, high in ends]
        return np.clip(found, 0.0, 1.0)

    # The search, which stands in `space_search`.

    def solve(self, problem: Problem, queries: Query, solver: Solver = None, gradient: bool = True) -> Solved:
        """Return the best designs that were seen for each of a batch of queries."""
        return search_space(problem, queries, self, solver, gradient)

    def why_none(self, problem: Problem, query: Query, designs: Priced, gradient: bool = True) -> str:
        """Return why no design does what is asked, by searching with some limits at a time."""
        return what_binds(problem, query, self, gradient)

    def under(
        self,
        problem: Problem,
        query: Query,
        laws: Law,
        chosen: Shape,
        rule: HeadRule | None,
        gradient: bool = True,
    ) -> Compared:
        """Return the best design under each law, each found by a search of its own, under every law."""
        return under_all(problem, query, self, laws, rule, gradient)

    def size_excesses(self, shape: Shape) -> list[Num]:
        """Return by how much, in log, depth and width are beyond each end of their ranges."""
        found = [jnp.log(shape.n_layer / max(self.n_layer)), jnp.log(min(self.n_layer) / shape.n_layer)]
        if self.d_model is not None:
            found += [jnp.log(shape.d_model / max(self.d_model)), jnp.log(min(self.d_model) / shape.d_model)]
        return found


def design_space(
    law: Law | Fit,
    free: Collection[str] | None = None,
    *,
    n_layer: Sequence[int] = range(4, 129),
    d_model: Sequence[int] | None = None,
    ffn_ratio: Sequence[float] | None = None,
    n_head: Sequence[int] | None = None,
    n_kv_head: Sequence[int] | None = None,
    head_dim: Sequence[int] | None = None,
    tokens_per_param: tuple[float, float] | None = None,
    kv_bits: Sequence[float] | None = None,
    tile: int = 64,
    tensor: int = 1,
    name: str = "wide",
) -> DesignSpace:
    """Return the space of customary ranges over the fields that are free.

    4 to 128 layers; widths of 256 to 16,384 in steps of 128; d_ff of 1 to 6 widths; 1 to 32 query heads (the
    evidence ends there) and any KV heads that divide them; head sizes of 64, 96, 128, 192 and 256; 4, 8 and
    16 bits a cached value; 5 to 500 training tokens a parameter.

    Args:
        law: a `Law`, or a fit that holds one as `.law`.
        free: names of `FREE`; by default all that the law sees.
        n_layer, d_model, ffn_ratio, n_head, n_kv_head, head_dim, tokens_per_param, kv_bits: ranges instead of
            the customary ones; see `DesignSpace`. A field that is given a range is free by that.
        tile, tensor, name: as for `DesignSpace`.

    Raises:
        InvalidInput: a name that is not known, or a field that the law cannot see.

    >>> from scalesim.laws import AspectRatio, HeadLaw
    >>> design_space(HeadLaw() * AspectRatio()).free
    ('d_model', 'n_head', 'n_kv_head')
    """
    law = law if isinstance(law, Law) else law.law
    names = [name for name in FREE if visible(law, name)] if free is None else list(free)
    for one in names:
        choose("free", one, FREE)

    def usual(field: str, given: Any, values: Any) -> Any:
        return given if given is not None else values if field in names else None

    heads = range(1, 33)
    space = DesignSpace(
        n_layer=n_layer,
        d_model=usual("d_model", d_model, range(256, 16385, 128)),
        ffn_ratio=usual("d_ff", ffn_ratio, FFN_RATIOS),
        n_head=usual("n_head", n_head, heads),
        n_kv_head=usual("n_kv_head", n_kv_head, heads),
        head_dim=usual("head_dim", head_dim, (64, 96, 128, 192, 256)),
        tokens_per_param=usual("n_tokens", tokens_per_param, (5.0, 500.0)),
        kv_bits=usual("kv_bits", kv_bits, (4.0, 8.0, 16.0)),
        tile=tile,
        tensor=tensor,
        name=name,
    )
    space.check(law)
    return space


def _positive(name: str, values: Sequence[float]) -> tuple[float, ...]:
    found = tuple(sorted({float(v) for v in values}))
    if not found:
        raise InvalidInput(f"{name} is an empty range; at least one value is needed.")
    if not (found[0] > 0 and math.isfinite(found[-1])):
        raise InvalidInput(f"{name} must be above 0 and finite, but is {few(found)}.")
    if name == "tokens_per_param" and (len(values) != 2 or values[0] > values[1]):
        raise InvalidInput(
            f"tokens_per_param must be (least, most), but is {tuple(values)!r}; (5, 500) would do."
        )
    return found if name != "tokens_per_param" else (found[0], found[-1])
