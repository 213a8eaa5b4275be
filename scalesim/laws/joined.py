"""A law of size and tokens with the heads of another: what a redesign at a training budget is judged by."""

from __future__ import annotations

import jax.numpy as jnp

from scalesim.laws.attention import AttentionLaw
from scalesim.laws.base import Law, Num, X, coefficient, register_law
from scalesim.laws.power import Chinchilla
from scalesim.shape import Convention

__all__ = ["REFERENCE", "TokensAndHeads"]

REFERENCE = {"n_head": 32.0, "n_kv_head": 32.0, "head_dim": 128.0}
"""The heads that laws of size and tokens are taken to hold for: multi-head attention of 32 heads of 128."""


@register_law
class TokensAndHeads(Law):
    """Heads multiply the reducible loss of a law of size and tokens.

    With B(N, D) = E + A N^-alpha + B D^-beta (`tokens`), T the attention factor and S the own slopes of
    `heads` (`AttentionLaw.by_attention`, `.own_slopes`), h a model's heads and h0 = `REFERENCE`:

        L = (E + (B(N, D) - E) T(N, h) / T(N, h0)) S(h) / S(h0) exp(effect)

    No public run varies heads, tokens and size together: that heads act on what either shortage leaves, and
    alike at 20 and at 2,000 tokens a parameter, is assumed.

    Attributes:
        tokens: the law of size and tokens.
        heads: the law of heads, whose own dependence on size is left out but for its terms of heads.
        effect: log of what another kind of mixer does to the loss (`scalesim.effect_of`).

    >>> law = TokensAndHeads()
    >>> x = {"n_params": 7e9, "n_tokens": 2e12, "n_head": 32.0, "n_kv_head": 32.0, "head_dim": 128.0}
    >>> round(float(law.loss(x) / law.tokens.loss(x)), 9)
    1.0
    """

    tokens: Chinchilla = Chinchilla()
    heads: AttentionLaw = AttentionLaw()
    effect: Num = coefficient((-0.05, 0.05), positive=False, default=0.0, meaning="log effect of a mixer")
    fields = ("n_params", "n_tokens", "n_head", "n_kv_head", "head_dim")

    @property
    def convention(self) -> Convention:  # type: ignore[override]
        """Attention and FFN matrices, as the paper counts."""
        return "paper"

    def loss(self, x: X) -> Num:
        """Return the loss of the class's equation."""
        above = self.tokens.loss(x) - self.tokens.E
        reference = {**x, **REFERENCE}
        factor = self.heads.by_attention(x) / self.heads.by_attention(reference)
        own = self.heads.own_slopes(x) / self.heads.own_slopes(reference)
        return (self.tokens.E + above * factor) * own * jnp.exp(self.effect)
