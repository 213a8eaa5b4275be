"""Attention over keys and values of n_kv_head heads, which groups of query heads share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.errors import InvalidInput, choose
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes, divisors, few
from scalesim.shape.mixers.base import Cached, Mixer, Scores
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["Attention"]


@register
@dataclass(frozen=True, kw_only=True)
class Attention(Mixer):
    """Grouped-query attention (arXiv 2305.13245), and what models add to it.

    Attributes:
        n_head: query heads.
        n_kv_head: key-value heads; divides n_head in a real shape.
        head_dim: size of a query or key.
        v_head_dim: size of a value (None: head_dim).
        window: tokens that a token sees and the cache keeps (None: all). A chunk (Llama 4) counts as one.
        qkv_bias, output_bias: biases on the projections.
        qk_norm: norms of queries and keys: "none", "head" (one vector of head_dim each, shared by the
            heads) or "projection" (a value for each head and place).
        gate: a gate on the result: "none", one a "value" (Qwen3-Next) or one a "head".
        sinks: a learned logit a head that takes attention away (gpt-oss).
        k_is_v: one projection makes keys and values (Gemma 4); the cache keeps both.
        shared: keys and values are those of an earlier layer (cross-layer attention): none of its own.
    """

    n_head: Num
    n_kv_head: Num
    head_dim: Num = 64
    v_head_dim: Num | None = None
    window: Num | None = None
    qkv_bias: bool = static(False)
    output_bias: bool = static(False)
    qk_norm: Literal["none", "head", "projection"] = static("none")
    gate: Literal["none", "value", "head"] = static("none")
    sinks: bool = static(False)
    k_is_v: bool = static(False)
    shared: bool = static(False)

    def __post_init__(self) -> None:
        check_sizes(self, ("n_head", "n_kv_head", "head_dim"))
        check_sizes(self, tuple(n for n in ("v_head_dim", "window") if getattr(self, n) is not None))
        choose("qk_norm", self.qk_norm, ("none", "head", "projection"))
        choose("gate", self.gate, ("none", "value", "head"))
        heads, kv = self.n_head, self.n_kv_head
        if isinstance(heads, int | float) and isinstance(kv, int | float):
            if kv > heads:
                raise InvalidInput(f"n_kv_head must be at most n_head = {heads}, but is {kv}.")
            if isinstance(heads, int) and isinstance(kv, int) and heads % kv:
                fit = few(divisors(heads), most=24)
                raise InvalidInput(f"n_kv_head must divide n_head = {heads}, but is {kv}; {fit} would do.")

    @property
    def _v(self) -> Num:
        return self.head_dim if self.v_head_dim is None else self.v_head_dim

    def tensors(self, d: Num) -> list[Parameter]:
        first, q, k, v = "qkv projection", self.n_head, self.n_kv_head, self._v
        table = [matrix(first, "q_proj", embed=d, heads=q, head_dim=self.head_dim)]
        own: list[tuple[str, Num]] = [] if self.shared else [("k", self.head_dim)]
        if not (self.shared or self.k_is_v):
            own.append(("v", v))
        table += [matrix(first, f"{n}_proj", embed=d, kv_heads=k, head_dim=size) for n, size in own]
        if self.gate != "none":
            wide = {"head_dim": v} if self.gate == "value" else {}
            table.append(matrix(first, "attention_gate", embed=d, heads=q, **wide))
        table.append(matrix("output projection", "o_proj", n_in=2, heads=q, head_dim=v, embed=d))
        if self.qkv_bias:
            table.append(vector("bias", "q_bias", heads=q, head_dim=self.head_dim))
            table += [vector("bias", f"{n}_bias", kv_heads=k, head_dim=size) for n, size in own]
        if self.output_bias:
            table.append(vector("bias", "o_bias", embed=d))
        if self.sinks:
            table.append(vector("bias", "sinks", heads=q))
        if self.qk_norm != "none":
            every = self.qk_norm == "projection"
            table.append(vector("norm", "q_norm", **({"heads": q} if every else {}), head_dim=self.head_dim))
            if not self.shared:
                each = {"kv_heads": k} if every else {}
                table.append(vector("norm", "k_norm", **each, head_dim=self.head_dim))
        return table

    def cached(self) -> tuple[Cached, ...]:
        if self.shared:
            return ()
        return (Cached(self.n_kv_head * (self.head_dim + self._v), self.window, heads=self.n_kv_head),)

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        name = "attention" if self.window is None else "attention, sliding"
        return (Scores(name, self.n_head, self.n_kv_head, self.head_dim, self._v, window=self.window),)

    @property
    def moved(self) -> Num:
        return (self.n_head + self.n_kv_head) * (self.head_dim + self._v)
