"""The shape of a decoder-only transformer: a width, a vocabulary and a list of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jax

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes, is_whole
from scalesim.shape.ffn import FFN, Dense
from scalesim.shape.mixers import Attention, Mixer
from scalesim.shape.parameters import Parameter, count_params, vector
from scalesim.types import Num

__all__ = ["PLAIN_SIZES", "Block", "Shape"]


_NORMS = ("attention_norm", "ffn_norm", "attention_post_norm", "ffn_post_norm")
# Where a plain decoder's options live in a block, by their names there.
_PLAIN = {
    **{n: ("mixer", n) for n in ("n_head", "n_kv_head", "head_dim", "window")},
    **{n: ("mixer", n) for n in ("qkv_bias", "output_bias", "qk_norm")},
    **{"d_ff": ("ffn", "d_ff"), "gated_ffn": ("ffn", "gated"), "ffn_bias": ("ffn", "bias")},
}
PLAIN_SIZES = ("n_layer", *_PLAIN, "norms_per_layer")
"""What `Shape` takes of a plain decoder instead of blocks."""


@register
@dataclass(frozen=True, kw_only=True)
class Block:
    """Layers of one kind: how many, what mixes their tokens, and what follows.

    Attributes:
        count: layers.
        mixer, ffn: of each (None: the layer has none).
        norms: norms of width d_model in each (2; 4 with post-norms; 1 where one serves both).
        extras: further tensors of each.
    """

    count: Num = 1
    mixer: Mixer | None = None
    ffn: FFN | None = None
    norms: int = static(2)
    extras: tuple[Parameter, ...] = ()

    def __post_init__(self) -> None:
        check_sizes(self, ("count",), least=0)

    def tensors(self, d: Num) -> list[Parameter]:
        """One layer's parameters, at width d."""
        names = [*_NORMS, *(f"norm_{i}" for i in range(5, self.norms + 1))][: self.norms]
        table = [vector("norm", name, embed=d) for name in names]
        for part in (self.mixer, self.ffn):
            table += [] if part is None else part.tensors(d)
        return [*table, *self.extras]


@register
@dataclass(frozen=True, init=False, repr=False)
class Shape:
    """A decoder-only transformer's shape: sizes are pytree leaves, architecture options are static.

    Either a list of blocks, or the sizes of the paper's plain decoder, which is one block of grouped-query
    attention and a dense FFN. The heads are free of the width: the projections are
    d_model x (n_head head_dim) and d_model x (n_kv_head head_dim), whatever d_model is.

    Args:
        d_model: width of the residual stream.
        vocab_size: rows of the embedding table.
        blocks: layers in their order; equal ones are gathered, and `order` remembers it.
        tied_embeddings: input and output embeddings share one table.
        norm_bias: LayerNorm with scale and bias, rather than RMSNorm.
        n_positions: rows of a learned position table (0: rotary or none).
        final_norm: a norm before the output table.
        order: which block each run of layers belongs to, as (block, layers); empty: one after the other.
        extras: further tensors of the model.
        n_layer, n_head, n_kv_head, head_dim, d_ff, window: of the plain decoder (see `Attention`, `Dense`),
            as are gated_ffn (True), qkv_bias, output_bias, ffn_bias, qk_norm and norms_per_layer (2);
            head_dim is 64. Beside blocks each replaces what the blocks that have it say: of n_layer all
            counts in proportion, of d_ff the kind of FFN that comes first; `shape.replace(n_head=8)` works
            on any.

    As attributes these are those of the first block that has them, n_layer that of all.

    Raises:
        InvalidInput: a size given as a Python number is not positive and finite, or n_kv_head exceeds
            n_head or (both integers) does not divide it, or a size that no block has. Arrays and tracers
            are not looked into.

    >>> llama3_1b = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256)
    >>> count_params(llama3_1b)
    1235814400
    >>> local = Block(count=5, mixer=Attention(n_head=8, n_kv_head=4, window=512), ffn=Dense(d_ff=4096))
    >>> full = Block(mixer=Attention(n_head=8, n_kv_head=4), ffn=Dense(d_ff=4096))
    >>> mixed = Shape(d_model=1024, vocab_size=32000, blocks=(local, full, local, full))
    >>> [int(block.count) for block in mixed.blocks], mixed.order
    ([10, 2], ((0, 5), (1, 1), (0, 5), (1, 1)))
    """

    d_model: Num
    vocab_size: Num = 50304
    blocks: tuple[Block, ...] = ()
    tied_embeddings: bool = static(True)
    norm_bias: bool = static(False)
    n_positions: int = static(0)
    final_norm: bool = static(True)
    order: tuple[tuple[int, int], ...] = static(())
    extras: tuple[Parameter, ...] = ()
    if TYPE_CHECKING:  # no fields, but attributes, and names that `dataclasses.replace` takes
        n_head: Num = 0
        n_kv_head: Num = 0
        head_dim: Num = 64
        d_ff: Num = 0
        window: Num | None = None
        gated_ffn: bool = True
        qkv_bias: bool = False
        output_bias: bool = False
        ffn_bias: bool = False
        qk_norm: Literal["none", "head", "projection"] = "none"

    def __init__(
        self,
        *,
        d_model: Num,
        vocab_size: Num = 50304,
        blocks: Sequence[Block] | None = None,
        tied_embeddings: bool = True,
        norm_bias: bool = False,
        n_positions: int = 0,
        final_norm: bool = True,
        order: tuple[tuple[int, int], ...] = (),
        extras: tuple[Parameter, ...] = (),
        n_layer: Num | None = None,
        n_head: Num | None = None,
        n_kv_head: Num | None = None,
        head_dim: Num | None = None,
        d_ff: Num | None = None,
        window: Num | None = None,
        gated_ffn: bool | None = None,
        qkv_bias: bool | None = None,
        output_bias: bool | None = None,
        ffn_bias: bool | None = None,
        qk_norm: Literal["none", "head", "projection"] | None = None,
        norms_per_layer: int | None = None,
    ) -> None:
        given = {
            **{"n_head": n_head, "n_kv_head": n_kv_head, "head_dim": head_dim, "d_ff": d_ff},
            **{"window": window, "gated_ffn": gated_ffn, "qkv_bias": qkv_bias, "output_bias": output_bias},
            **{"ffn_bias": ffn_bias, "qk_norm": qk_norm},
        }
        sizes = {name: value for name, value in given.items() if value is not None}
        if blocks is None:
            blocks = (_plain(n_layer, norms_per_layer, sizes),)
        else:
            blocks = tuple(blocks)
            blocks, order = _sized(blocks, order, n_layer)
            blocks = _changed(blocks, norms_per_layer, sizes)
            if not order:
                blocks, order = _gathered(blocks)
        put = object.__setattr__
        for name, value in (
            *(("d_model", d_model), ("vocab_size", vocab_size), ("blocks", blocks)),
            *(("tied_embeddings", tied_embeddings), ("norm_bias", norm_bias), ("n_positions", n_positions)),
            *(("final_norm", final_norm), ("order", order), ("extras", tuple(extras))),
        ):
            put(self, name, value)
        check_sizes(self, ("d_model", "vocab_size"))
        check_sizes(self, ("n_layer", "norms_per_layer"), least=0)

    def __repr__(self) -> str:
        names = list(PLAIN_SIZES) if self.is_plain else ["blocks"]
        names = ["d_model", "vocab_size", *names, "tied_embeddings"]
        return f"Shape({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _first(self, place: str, name: str, absent: Any) -> Any:
        parts = (getattr(block, place) for block in self.blocks)
        return next((getattr(part, name) for part in parts if hasattr(part, name)), absent)

    def __getattr__(self, name: str) -> Any:
        if name not in _PLAIN:
            raise AttributeError(f"Shape has no attribute {name!r}.")
        return self._first(*_PLAIN[name], {"window": None, "qk_norm": "none"}.get(name, 0))

    def replace(self, **changes: Any) -> Shape:
        """Return it with other fields, or with other sizes of its blocks, as the constructor takes them.

        >>> Shape(n_layer=2, d_model=64, n_head=4, n_kv_head=2, d_ff=128).replace(n_head=8).n_head
        8
        """
        return replace(self, **changes)

    @property
    def is_plain(self) -> bool:
        """Whether it is the paper's plain decoder: one kind of layer, of attention and a dense FFN."""
        return len(self.blocks) == 1 and type(self.mixer) is Attention and type(self.ffn) is Dense

    @property
    def mixer(self) -> Mixer | None:
        """The first block's mixer."""
        return self.blocks[0].mixer

    @property
    def ffn(self) -> FFN | None:
        """The first block's FFN."""
        return self.blocks[0].ffn

    @property
    def n_layer(self) -> Num:
        """Layers of all blocks."""
        first, *others = (block.count for block in self.blocks)
        return sum(others, first)

    @property
    def norms_per_layer(self) -> int:
        """Norms of width d_model in a layer of the first block."""
        return self.blocks[0].norms

    @property
    def group_size(self) -> Num:
        """Query heads that share one KV head, n_head / n_kv_head."""
        return self.n_head / self.n_kv_head

    @property
    def n_params_total(self) -> Num:
        """All parameters."""
        return count_params(self, "total")

    @property
    def n_params_active(self) -> Num:
        """Parameters that one token passes through: all but the experts it does not visit."""
        return count_params(self, "active")

    @property
    def n_params_non_embedding(self) -> Num:
        """Parameters outside the embedding tables."""
        return count_params(self, "non_embedding")


def _plain(n_layer: Num, norms: int | None, sizes: dict[str, Any]) -> Block:
    parts: dict[str, dict[str, Any]] = {"mixer": {}, "ffn": {}}
    for name, value in sizes.items():
        place, own = _PLAIN[name]
        parts[place][own] = value
    missing = [n for n in ("n_head", "n_kv_head", "d_ff") if n not in sizes]
    if missing or n_layer is None:
        missing = ["n_layer"] * (n_layer is None) + missing
        raise TypeError(f"Shape lacks {', '.join(missing)}, or blocks.")
    check_sizes(_Named("n_layer", n_layer), ("n_layer",))
    mixer, ffn = Attention(**parts["mixer"]), Dense(**parts["ffn"])
    return Block(count=n_layer, mixer=mixer, ffn=ffn, norms=2 if norms is None else norms)


class _Named:
    def __init__(self, name: str, value: Num) -> None:
        setattr(self, name, value)


def _sized(blocks: tuple[Block, ...], order: Any, n_layer: Num | None) -> tuple[tuple[Block, ...], Any]:
    """Return the blocks with n_layer layers in all, in proportion."""
    if n_layer is None:
        return blocks, order
    if len(blocks) == 1:
        return (replace(blocks[0], count=n_layer),), ()
    total = sum(block.count for block in blocks)
    counts = [block.count * n_layer / total for block in blocks]
    if is_whole(n_layer) and all(isinstance(count, int | float) for count in counts):
        if any(count != round(count) for count in counts):
            raise InvalidInput(f"n_layer must keep the proportion of the blocks' layers, but is {n_layer}.")
        counts = [round(count) for count in counts]
    return tuple(replace(b, count=n) for b, n in zip(blocks, counts, strict=True)), ()


def _changed(blocks: tuple[Block, ...], norms: int | None, sizes: dict[str, Any]) -> tuple[Block, ...]:
    if norms is not None:
        blocks = tuple(replace(block, norms=norms) for block in blocks)
    for place in ("mixer", "ffn"):
        changes = {own: sizes[n] for n, (home, own) in _PLAIN.items() if home == place and n in sizes}
        if not changes:
            continue
        kinds = [
            type(getattr(b, place)) for b in blocks if all(n in _fields(getattr(b, place)) for n in changes)
        ]
        if not kinds:
            raise InvalidInput(f"{', '.join(changes)} is no size of this shape's blocks.")
        blocks = tuple(
            replace(b, **{place: replace(getattr(b, place), **changes)})
            if type(getattr(b, place)) is kinds[0]
            else b
            for b in blocks
        )
    return blocks


def _fields(part: Any) -> Any:
    return getattr(part, "__dataclass_fields__", ())


def _gathered(blocks: tuple[Block, ...]) -> tuple[tuple[Block, ...], tuple[tuple[int, int], ...]]:
    """Gather equal blocks of whole counts; return them, and the order of their layers."""
    known = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(blocks))
    if not known or len(blocks) < 2:
        return tuple(b for b in blocks if not (isinstance(b.count, int) and b.count == 0)), ()
    kinds: dict[Block, int] = {}
    counts: list[Num] = []
    order: list[tuple[int, int]] = []
    for block in blocks:
        if not block.count:
            continue
        place = kinds.setdefault(replace(block, count=1), len(kinds))
        if place == len(counts):
            counts.append(0)
        counts[place] += block.count
        if order and order[-1][0] == place:
            order[-1] = (place, order[-1][1] + block.count)
        else:
            order.append((place, block.count))
    gathered = tuple(replace(b, count=n) for b, n in zip(kinds, counts, strict=True))
    return gathered, tuple(order) if len(gathered) > 1 and all(is_whole(n) for n in counts) else ()
