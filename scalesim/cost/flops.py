"""Exact FLOPs of a forward pass, operator by operator. A multiplication and an addition are two FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.cost.numbers import smaller, to_float
from scalesim.errors import choose
from scalesim.pytree import register
from scalesim.shape import Shape, layer_counts
from scalesim.types import Num

__all__ = ["ForwardFlops", "attended_pairs", "forward_flops"]

Logits = Literal["all", "last", "none"]


@register
@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of a forward pass by operator, all layers together.

    Attributes:
        qkv: the projections to queries, keys and values (of a latent: down and up).
        scores: queries times keys, and weights times values.
        output: the output projection.
        ffn: the feed-forward matrices that a token visits.
        router: the experts' router.
        logits: the output matrix.
    """

    qkv: Num
    scores: Num
    output: Num
    ffn: Num
    router: Num
    logits: Num

    @property
    def attention(self) -> Num:
        """Projections and scores together."""
        return self.qkv + self.scores + self.output

    @property
    def total(self) -> Num:
        """All operators together."""
        return self.attention + self.ffn + self.router + self.logits


def attended_pairs(new: Num, past: Num = 0, *, window: Num | None = None, causal: bool = True) -> Num:
    """Return the pairs (query, key) of `new` tokens that follow `past` cached ones.

    Causal: the sum over i = 1 .. new of min(past + i, window), in closed form. Not causal: every query
    attends to all past + new keys, or to `window` of them; what kernels that mask instead of skip compute.

    >>> attended_pairs(4), attended_pairs(4, causal=False), attended_pairs(1, past=99)
    (10.0, 16, 100.0)
    >>> attended_pairs(4, window=2)
    7.0
    """
    if not causal:
        return new * (past + new if window is None else smaller(past + new, window))

    def upto(x: Num) -> Num:
        """The sum over j = 1 .. x of min(j, window)."""
        m = x if window is None else smaller(x, window)
        return m * x - m * (m - 1) / 2

    if window is None:
        return new * past + new * (new + 1) / 2
    return upto(past + new) - upto(past)


def forward_flops(
    shape: Shape,
    new: Num,
    past: Num = 0,
    *,
    batch_size: Num = 1,
    causal: bool = True,
    logits: Logits = "all",
    absorbed: bool = False,
) -> ForwardFlops:
    """Return the FLOPs of `new` tokens a sequence that follow `past` cached ones.

    Matrices: 2 FLOPs a weight and token; of routed experts, the top_k that a token visits. Scores:
    2 head_dim (queries times keys) and 2 head_dim (weights times values) a head and attended pair, so
    4 T n_head head_dim a layer for one token at context T.

    Args:
        shape: the model.
        new: tokens computed: the prompt in prefill, 1 in decode.
        past: tokens cached before them.
        batch_size: sequences.
        causal: count only the pairs that a causal mask leaves (False: all, as a kernel that masks does).
        logits: of all new tokens (training), of the last of each sequence (serving), or of none.
        absorbed: a latent's up-projection is folded into queries and results (decode), so that heads
            attend to the latent itself: more FLOPs a pair, but nothing is expanded.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256)
    >>> one = forward_flops(shape, 1, past=8191)
    >>> one.scores, one.attention + one.ffn + one.logits - one.scores
    (1073741824.0, 2471493632.0)
    """
    choose("logits", logits, ("all", "last", "none"))
    counts = to_float(layer_counts(shape))
    s, new, past, batch = to_float((shape, new, past, batch_size))
    tokens = batch * new
    pairs = counts.global_ * attended_pairs(new, past, causal=causal)
    if s.window is not None:
        pairs = pairs + counts.local * attended_pairs(new, past, window=s.window.window, causal=causal)
    pair_flops = 4.0 * s.n_head * s.head_dim
    d, q = s.d_model, s.n_head * s.head_dim
    if s.latent is None:
        qkv = d * (s.n_layer * q + 2.0 * counts.caches * s.n_kv_head * s.head_dim)
        output = q * d
    else:
        latent = s.latent
        queries = d * q if latent.q_lora_rank is None else latent.q_lora_rank * (d + q)
        up = latent.kv_lora_rank * s.n_head * (s.head_dim - latent.rope_dim + latent.v_head_dim)
        qkv = s.n_layer * (queries + d * (latent.kv_lora_rank + latent.rope_dim) + up)
        output = s.n_head * latent.v_head_dim * d
        pair_flops = 2.0 * s.n_head * (s.head_dim + latent.v_head_dim)
        if absorbed:
            pair_flops = 2.0 * s.n_head * (2 * latent.kv_lora_rank + latent.rope_dim)
    matrices = 3.0 if s.gated_ffn else 2.0
    ffn, router = counts.dense * matrices * d * s.d_ff, 0.0
    if s.moe is not None:
        ffn = ffn + counts.moe * matrices * d * s.moe.d_ff * (s.moe.top_k + s.moe.n_shared)
        router = 2.0 * tokens * counts.moe * d * s.moe.n_expert
    predicted = {"all": tokens, "last": batch, "none": 0.0}[logits]
    return ForwardFlops(
        qkv=2.0 * tokens * qkv,
        scores=batch * pairs * pair_flops,
        output=2.0 * tokens * s.n_layer * output,
        ffn=2.0 * tokens * ffn,
        router=router,
        logits=2.0 * predicted * d * s.vocab_size,
    )
