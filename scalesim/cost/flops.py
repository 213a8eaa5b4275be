"""Exact FLOPs of a forward pass, operator by operator. A multiplication and an addition are two FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.cost.numbers import smaller, to_float
from scalesim.errors import choose
from scalesim.pytree import register
from scalesim.shape import Shape, parameter_table
from scalesim.shape.mixers import Scores
from scalesim.types import Num

__all__ = ["ForwardFlops", "attended_pairs", "forward_flops", "score_flops"]

Logits = Literal["all", "last", "none"]


@register
@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of a forward pass by operator, all layers together.

    Attributes:
        qkv: the projections into the mixers: to queries, keys and values (of a latent: down and up).
        scores: queries times keys, and weights times values; recurrences and filters.
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
    s, new, past, batch = to_float((shape, new, past, batch_size))
    tokens = batch * new
    found: dict[str, Num] = dict.fromkeys(("qkv", "scores", "output", "ffn", "router"), 0.0)
    predicted = {"all": tokens, "last": batch, "none": 0.0}[logits]
    for p in parameter_table(s):
        if p.operator and p.operator != "logits":
            kind = _KINDS.get(p.operator, "ffn" if p.group == "ffn" else "qkv")
            found[kind] = found[kind] + 2.0 * tokens * (1.0 if p.layers is None else p.layers) * p.active
    for block in s.blocks:
        if block.mixer is not None:
            once = tokens * block.mixer.step_flops + sum(
                batch * score_flops(score, new, past, causal=causal)
                for score in block.mixer.scores(decode=absorbed)
            )
            found["scores"] = found["scores"] + block.count * once
    return ForwardFlops(**found, logits=2.0 * predicted * s.d_model * s.vocab_size)


_KINDS = {"output projection": "output", "router": "router"}


def score_flops(score: Scores, new: Num, past: Num, *, causal: bool = True) -> Num:
    """Return the FLOPs of one sequence's scores in one layer: 2 a pair, head and value of keys or results."""
    pairs = attended_pairs(new, past, window=score.window, causal=causal) / score.every
    return 2.0 * score.n_head * (score.head_dim + score.v_head_dim) * pairs
