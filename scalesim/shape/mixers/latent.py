"""Multi-head latent attention, dense or with a sparse indexer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.base import Cached, Mixer, Scores
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["LatentAttention"]

_RANKS = ("q_lora_rank", "n_index_head", "index_top_k")


@register
@dataclass(frozen=True, kw_only=True)
class LatentAttention(Mixer):
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Keys and values of all heads are made from one latent vector of kv_lora_rank values, and a rotary part
    of rope_dim values that the heads share: the cache holds kv_lora_rank + rope_dim values a token and
    layer, whatever n_head is. In decode the up-projection is folded into queries and results, so that heads
    attend to the latent itself.

    Attributes:
        n_head: query heads.
        kv_lora_rank: size of the cached latent vector.
        q_lora_rank: size of the queries' latent vector (None: queries come from the residual stream).
        head_dim: size of a query; its last rope_dim values are rotary.
        rope_dim: rotary values of a query or key.
        v_head_dim: size of a value.
        bias: biases on the down-projections and the output.
        gate: a gate on the result: "none", one a "value" (Kimi K3) or one a "head" (Ling 2.5).
        n_index_head: heads of an indexer that picks the tokens to attend to (None: all are; DeepSeek-V3.2).
        index_head_dim: size of the indexer's heads; its one key a token is cached.
        index_top_k: tokens that it picks (without n_index_head: that an earlier layer's picked; GLM-5.2).
    """

    n_head: Num
    kv_lora_rank: Num
    q_lora_rank: Num | None = None
    head_dim: Num = 192
    rope_dim: Num = 64
    v_head_dim: Num = 128
    n_index_head: Num | None = None
    index_head_dim: Num = 128
    index_top_k: Num | None = None
    bias: bool = static(False)
    gate: Literal["none", "value", "head"] = static("none")

    def __post_init__(self) -> None:
        check_sizes(self, ("n_head", "kv_lora_rank", "head_dim", "rope_dim", "v_head_dim", "index_head_dim"))
        check_sizes(self, tuple(name for name in _RANKS if getattr(self, name) is not None))
        sizes = (self.rope_dim, self.head_dim)
        if all(isinstance(size, int) for size in sizes) and sizes[0] >= sizes[1]:
            raise InvalidInput(f"rope_dim must be below head_dim = {sizes[1]}, but is {sizes[0]}.")
        if self.n_index_head is not None and (self.q_lora_rank is None or self.index_top_k is None):
            raise InvalidInput("n_index_head needs q_lora_rank and index_top_k, but one of them is None.")

    @property
    def n_kv_head(self) -> Num:
        """Heads of keys and values: as many as queries."""
        return self.n_head

    def tensors(self, d: Num) -> list[Parameter]:
        q, h, rank, low = self.n_head, self.head_dim, self.kv_lora_rank, self.q_lora_rank
        up = h - self.rope_dim + self.v_head_dim
        down = "qkv projection" if low is None else "latent down projection"
        if low is None:
            table = [matrix(down, "q_proj", embed=d, heads=q, head_dim=h)]
        else:
            table = [
                matrix(down, "q_a_proj", embed=d, latent=low),
                matrix("query up projection", "q_b_proj", latent=low, heads=q, head_dim=h),
                vector("norm", "q_a_norm", latent=low),
            ]
        table += [
            matrix(down, "kv_a_proj", embed=d, latent=rank + self.rope_dim),
            matrix("kv up projection", "kv_b_proj", latent=rank, heads=q, head_dim=up),
            matrix("output projection", "o_proj", n_in=2, heads=q, head_dim=self.v_head_dim, embed=d),
            vector("norm", "kv_a_norm", latent=rank),
        ]
        if self.gate != "none":
            wide = {"head_dim": self.v_head_dim} if self.gate == "value" else {}
            table.append(matrix("attention gate", "attention_gate", embed=d, heads=q, **wide))
        if self.bias:
            lows = [] if low is None else [vector("bias", "q_a_bias", latent=low)]
            table += [*lows, vector("bias", "kv_a_bias", latent=rank + self.rope_dim)]
            table.append(vector("bias", "o_bias", embed=d))
        if self.n_index_head is not None:
            n, size = self.n_index_head, self.index_head_dim
            table += [
                matrix("index query projection", "index_q_proj", latent=low, index_heads=n, head_dim=size),
                matrix("index projection", "index_k_proj", embed=d, head_dim=size),
                matrix("index projection", "index_weight", embed=d, index_heads=n),
                vector("norm", "index_k_norm", head_dim=size),
                vector("norm", "index_k_norm_bias", head_dim=size),
            ]
        return table

    def cached(self) -> tuple[Cached, ...]:
        index = 0 if self.n_index_head is None else self.index_head_dim
        return (Cached(self.kv_lora_rank + self.rope_dim + index),)

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        wide, window, q = self.kv_lora_rank + self.rope_dim, self.index_top_k, self.n_head
        if decode:
            main = Scores("attention", q, 1.0, wide, self.kv_lora_rank, caches=1.0, window=window)
        else:
            main = Scores("attention", q, q, self.head_dim, self.v_head_dim, window=window)
        if self.n_index_head is None:
            return (main,)
        return (main, Scores("indexer", self.n_index_head, 1.0, self.index_head_dim, 0.0, caches=1.0))

    @property
    def moved(self) -> Num:
        return 4 * self.n_head * self.head_dim
