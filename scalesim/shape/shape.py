"""The shape of a decoder-only transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from scalesim.errors import InvalidInput, choose
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes, divisors, few
from scalesim.shape.parameters import count_params
from scalesim.shape.variants import LatentAttention, MixtureOfExperts, SlidingWindow

__all__ = ["Shape"]

Num = Any  # a Python number, a NumPy or JAX array, or a tracer

_SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")


@register
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only transformer's shape: sizes are pytree leaves, architecture options are static.

    The heads are free of the width: the projections are d_model x (n_head * head_dim) and
    d_model x (n_kv_head * head_dim), whatever d_model is. n_kv_head = n_head is multi-head attention,
    n_kv_head = 1 multi-query attention.

    Attributes:
        n_layer: transformer blocks.
        d_model: width of the residual stream.
        n_head: query heads a layer.
        n_kv_head: key-value heads a layer; divides n_head in a real shape.
        head_dim: size of one head.
        d_ff: inner width of the feed-forward block (8/3 d_model in the paper).
        vocab_size: rows of the embedding table.
        gated_ffn: three FFN matrices (SwiGLU) rather than two.
        tied_embeddings: input and output embeddings share one table.
        qkv_bias, output_bias, ffn_bias: biases on the projections.
        qk_norm: norms of queries and keys: "none", "head" (one vector of head_dim each, shared by the
            heads) or "projection" (over all heads together).
        norms_per_layer: norms of width d_model in a block (2; 4 with post-norms as well).
        norm_bias: LayerNorm with scale and bias, rather than RMSNorm.
        n_positions: rows of a learned position table (0: rotary or none).
        layers_per_kv: layers that share one layer's keys and values (cross-layer attention; 1: none do).
        latent: multi-head latent attention, instead of keys and values of n_kv_head heads.
        window: sliding-window layers, all or some.
        moe: mixture of experts, in all or most layers.

    Raises:
        InvalidInput: a size given as a Python number is not positive and finite, or n_kv_head exceeds
            n_head or (both integers) does not divide it, or options that exclude each other. Arrays and
            tracers are not looked into.

    >>> llama3_1b = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256)
    >>> count_params(llama3_1b)
    1235814400
    """

    n_layer: Num
    d_model: Num
    n_head: Num
    n_kv_head: Num
    head_dim: Num = 64
    d_ff: Num
    vocab_size: Num = 50304
    gated_ffn: bool = static(True)
    tied_embeddings: bool = static(True)
    qkv_bias: bool = static(False)
    output_bias: bool = static(False)
    ffn_bias: bool = static(False)
    qk_norm: Literal["none", "head", "projection"] = static("none")
    norms_per_layer: int = static(2)
    norm_bias: bool = static(False)
    n_positions: int = static(0)
    layers_per_kv: int = static(1)
    latent: LatentAttention | None = None
    window: SlidingWindow | None = None
    moe: MixtureOfExperts | None = None

    def __post_init__(self) -> None:
        check_sizes(self, _SIZES)
        choose("qk_norm", self.qk_norm, ("none", "head", "projection"))
        check_sizes(self, ("layers_per_kv", "norms_per_layer"))
        self._check_parts()
        heads, kv_heads = self.n_head, self.n_kv_head
        if isinstance(heads, int | float) and isinstance(kv_heads, int | float):
            if kv_heads > heads:
                raise InvalidInput(f"n_kv_head must be at most n_head = {heads}, but is {kv_heads}.")
            if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
                fit = few(divisors(heads), most=24)
                raise InvalidInput(
                    f"n_kv_head must divide n_head = {heads}, but is {kv_heads}; {fit} would do."
                )

    def _check_parts(self) -> None:
        if self.latent is not None:
            # The published latent models have none of these; their placement would be a guess.
            for name, plain in (("qkv_bias", False), ("qk_norm", "none"), ("layers_per_kv", 1)):
                if getattr(self, name) != plain:
                    raise InvalidInput(
                        f"{name} must be {plain!r} with latent attention, but is {getattr(self, name)!r}."
                    )
            sizes = (self.n_head, self.n_kv_head)
            if all(isinstance(size, int) for size in sizes) and self.n_head != self.n_kv_head:
                raise InvalidInput(
                    f"n_kv_head must be n_head = {self.n_head} with latent attention, "
                    f"but is {self.n_kv_head}."
                )
            sizes = (self.latent.rope_dim, self.head_dim)
            if all(isinstance(size, int) for size in sizes) and sizes[0] >= sizes[1]:
                raise InvalidInput(f"rope_dim must be below head_dim = {sizes[1]}, but is {sizes[0]}.")
        parts = {
            "n_dense_layer": None if self.moe is None else self.moe.n_dense_layer,
            "n_global": None if self.window is None else self.window.n_global,
        }
        for name, value in parts.items():
            both = isinstance(value, int) and isinstance(self.n_layer, int)
            if both and value > self.n_layer:
                raise InvalidInput(f"{name} must be at most n_layer = {self.n_layer}, but is {value}.")

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
