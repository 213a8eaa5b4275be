"""Attention to a window and to compressed tokens before it."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.base import Cached, Mixer, Scores
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["CompressedAttention"]

_SIZES = ("n_head", "head_dim", "q_lora_rank", "o_lora_rank", "o_groups", "window")


@register
@dataclass(frozen=True, kw_only=True)
class CompressedAttention(Mixer):
    """DeepSeek-V4's attention: one vector a token is key and value of all heads; beyond the window, every
    `ratio` tokens are compressed into one such vector, and an indexer may pick among those.

    Attributes:
        n_head, head_dim: query heads, and the size of queries and of the shared vector.
        q_lora_rank: size of the queries' latent vector.
        o_lora_rank, o_groups: the output goes through o_groups matrices to o_lora_rank values each.
        window: last tokens that are kept as they are.
        ratio: tokens in one compressed vector (0: nothing is kept beyond the window).
        n_index_head, index_head_dim, index_top_k: of an indexer (None: all compressed tokens are seen).
    """

    n_head: Num
    head_dim: Num
    q_lora_rank: Num
    o_lora_rank: Num
    o_groups: Num
    window: Num
    ratio: int = static(0)
    n_index_head: Num | None = None
    index_head_dim: Num = 128
    index_top_k: Num | None = None

    def __post_init__(self) -> None:
        check_sizes(self, _SIZES)
        check_sizes(self, ("ratio",), least=0)

    @property
    def n_kv_head(self) -> Num:
        """One vector for all heads."""
        return 1

    def _compressor(self, d: Num, size: Num, prefix: str) -> list[Parameter]:
        # Groups of a small ratio overlap: two vectors a token, of which the norm sees one.
        both = size * (2 if self.ratio <= 4 else 1)
        return [
            matrix("compressor", f"{prefix}compress_proj", embed=d, latent=both),
            matrix("compressor", f"{prefix}compress_gate", embed=d, latent=both),
            vector("bias", f"{prefix}compress_place", ratio=self.ratio, latent=both),
            vector("norm", f"{prefix}compress_norm", latent=size),
        ]

    def tensors(self, d: Num) -> list[Parameter]:
        q, h, low, groups = self.n_head, self.head_dim, self.q_lora_rank, self.o_groups
        each = q * h // groups if isinstance(q * h, int) else q * h / groups
        table = [
            matrix("latent down projection", "q_a_proj", embed=d, latent=low),
            matrix("latent down projection", "kv_proj", embed=d, latent=h),
            matrix("query up projection", "q_b_proj", latent=low, heads=q, head_dim=h),
            matrix("output down projection", "o_a_proj", heads=each, latent=groups * self.o_lora_rank),
            matrix("output projection", "o_proj", latent=groups * self.o_lora_rank, embed=d),
            vector("norm", "q_a_norm", latent=low),
            vector("norm", "kv_norm", latent=h),
            vector("bias", "sinks", heads=q),
        ]
        if self.ratio:
            table += self._compressor(d, h, "")
        if self.n_index_head is not None:
            n, size = self.n_index_head, self.index_head_dim
            table += [
                matrix("index query projection", "index_q_proj", latent=low, index_heads=n, head_dim=size),
                matrix("index projection", "index_weight", embed=d, index_heads=n),
                *self._compressor(d, size, "index_"),
            ]
        return table

    def cached(self) -> tuple[Cached, ...]:
        near = Cached(self.head_dim, self.window)
        if not self.ratio:
            return (near,)
        index = 0 if self.n_index_head is None else self.index_head_dim
        return (near, Cached(self.head_dim + index, every=self.ratio))

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        q, h = self.n_head, self.head_dim
        found = [Scores("attention, sliding", q, 1.0, h, h, caches=1.0, window=self.window)]
        if self.ratio:
            far = None if self.index_top_k is None else self.index_top_k * self.ratio
            found.append(
                Scores("attention, compressed", q, 1.0, h, h, caches=1.0, window=far, every=self.ratio)
            )
        if self.n_index_head is not None:
            n, size = self.n_index_head, self.index_head_dim
            found.append(Scores("indexer", n, 1.0, size, 0.0, caches=1.0, every=self.ratio))
        return tuple(found)

    @property
    def moved(self) -> Num:
        return 2 * self.n_head * self.head_dim
