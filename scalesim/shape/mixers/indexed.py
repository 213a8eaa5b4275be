"""Attention to the blocks of keys that an indexer picks."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.attention import Attention
from scalesim.shape.mixers.base import Cached, Scores
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["IndexedAttention"]


@register
@dataclass(frozen=True, kw_only=True)
class IndexedAttention(Attention):
    """Grouped-query attention whose queries see the tokens that an indexer picks (MiniMax-M3).

    Attributes:
        n_index_head, index_head_dim: the indexer's queries; its one key a token is cached.
        index_top_k: tokens that it picks (in M3 blocks of them: index_topk_blocks index_block_size).
    """

    n_index_head: Num
    index_head_dim: Num = 128
    index_top_k: Num

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, ("n_index_head", "index_head_dim", "index_top_k"))

    def tensors(self, d: Num) -> list[Parameter]:
        n, size = self.n_index_head, self.index_head_dim
        return [
            *super().tensors(d),
            matrix("index projection", "index_q_proj", embed=d, index_heads=n, head_dim=size),
            matrix("index projection", "index_k_proj", embed=d, head_dim=size),
            *(vector("norm", f"index_{name}_norm", head_dim=size) for name in "qk"),
        ]

    def cached(self) -> tuple[Cached, ...]:
        return (*super().cached(), Cached(self.index_head_dim))

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        picked = super().scores(decode=decode)[0]._replace(name="attention", window=self.index_top_k)
        return (picked, Scores("indexer", self.n_index_head, 1.0, self.index_head_dim, 0.0, caches=1.0))
