"""Head laws that see attention's width, the values it caches and the size of a head; and mixtures of laws."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.laws.base import Law, Num, X, coefficient, option, register_law
from scalesim.laws.heads import N0
from scalesim.shape import Convention

__all__ = ["AttentionLaw", "Mixture"]

HEAD = 64.0
"""Values of the head that amplitudes are stated for."""
WIDTH = 512.0
"""Attention width, and cached keys of a token and layer, at which a corpus's own slopes turn."""


@register_law
class AttentionLaw(Law):
    """Heads raise the reducible loss where they are too few, too narrow, or cache too little.

    With s = N/N0, N0 = 2e8, q = n_head (head_dim/64)^u s^(-r/3) and v = n_kv_head (head_dim/64)^w:

        L = [E + A s^-b (1 + C s^(b c) log(1 + k/q) + F s^(b f) log(1 + m/v) + H log(1 + (h/head_dim)^2))]
            (n_head head_dim/512)^-width_slope (n_kv_head head_dim/512)^-cache_slope (head_dim/64)^-head_slope

    u, w and r make the forms: query heads by their number (u = 0), by the attention width n_head * head_dim
    (1), or by that width over the model's (r = 1); cached values by n_kv_head (w = 0) or by n_kv_head *
    head_dim (1). c and f in [0, 1] say how far a term escapes the fall of the loss with size: 0 is a share
    of the reducible loss, 1 a constant number of nats. The slopes are a corpus's own, 0 for one like most;
    samples of the shipped law draw them. A form holds u, w, r and the slopes (`scalesim.fitting.FORMS`).

    >>> law = AttentionLaw(E=1.97, A=0.77, b=0.197, C=0.1, k=3.5, c=0.8, F=0.03, m=1.5, f=0.5, H=0.05, h=40.0)
    >>> x = {"n_params": 5.75e8, "n_head": 8.0, "n_kv_head": 1.0, "head_dim": 64.0}
    >>> round(float(law.loss(x)), 3)
    2.652
    """

    fields = ("n_params", "n_head", "n_kv_head", "head_dim")
    convention = "paper"
    E: Num = coefficient((1.7, 2.1), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.3, 1.2), linear=True)
    b: Num = coefficient((0.1, 0.4), meaning="exponent of n_params")
    C: Num = coefficient((0.05, 0.2))
    k: Num = coefficient((1.0, 8.0), meaning="query heads below which the loss rises fast")
    c: Num = coefficient((0.1, 0.9), default=0.5)
    F: Num = coefficient((0.01, 0.06))
    m: Num = coefficient((0.5, 4.0), meaning="KV heads below which the loss rises fast")
    f: Num = coefficient((0.1, 0.9), default=0.5)
    H: Num = coefficient((0.02, 0.1))
    h: Num = coefficient((25.0, 70.0), meaning="size of a head below which the loss rises fast")
    u: Num = coefficient((0.0, 1.0), positive=False, default=0.0)
    w: Num = coefficient((0.0, 1.0), positive=False, default=1.0)
    r: Num = coefficient((0.0, 1.0), positive=False, default=0.0)
    width_slope: Num = coefficient(
        (-0.01, 0.01), positive=False, default=0.0, meaning="own slope in attention width"
    )
    cache_slope: Num = coefficient(
        (-0.01, 0.01), positive=False, default=0.0, meaning="own slope in cached values"
    )
    head_slope: Num = coefficient((-0.01, 0.01), positive=False, default=0.0, meaning="own slope in head_dim")

    def by_attention(self, x: X) -> Num:
        """Return 1 + the three terms of heads: how many times the reducible loss is that of endless heads."""
        size, head = jnp.log(x["n_params"] / N0), jnp.log(x["head_dim"] / HEAD)
        queries, keys = jnp.log(x["n_head"]), jnp.log(x["n_kv_head"])
        q = queries + self.u * head - self.r / 3 * size
        return (
            1
            + self.C * jnp.exp(self.b * self.c * size) * jnp.log1p(self.k * jnp.exp(-q))
            + self.F * jnp.exp(self.b * self.f * size) * jnp.log1p(self.m * jnp.exp(-keys - self.w * head))
            + self.H * jnp.log1p(jnp.exp(2 * (jnp.log(self.h / HEAD) - head)))
        )

    def own_slopes(self, x: X) -> Num:
        """Return the factor of a corpus's own slopes: 1 where they are 0."""
        head = jnp.log(x["head_dim"] / HEAD)
        wide = head + jnp.log(HEAD / WIDTH)
        queries, keys = jnp.log(x["n_head"]) + wide, jnp.log(x["n_kv_head"]) + wide
        return jnp.exp(-(self.width_slope * queries + self.cache_slope * keys + self.head_slope * head))

    def loss(self, x: X) -> Num:
        """Return the loss of the class's equation."""
        reducible = self.A * jnp.exp(-self.b * jnp.log(x["n_params"] / N0)) * self.by_attention(x)
        return (self.E + reducible) * self.own_slopes(x)


@register_law
class Mixture(Law):
    """The weighted mean of several fits of one law, L = sum_i weights_i L_i.

    Attributes:
        law: the law, whose coefficients are vectors: one entry a member.
        weights: how much each member counts, (members,); they sum to 1.
        names: what the members are called.

    >>> import numpy as np
    >>> from scalesim.laws import PowerLaw
    >>> both = Mixture(law=PowerLaw(a=np.array([1e8, 4e8]), b=0.5, E=2.0), weights=np.array([0.5, 0.5]))
    >>> float(both.loss({"n_params": 4e8}))
    2.75
    """

    law: Law
    weights: Num = coefficient((0.0, 1.0), positive=False)
    names: tuple[str, ...] = option(default=())

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the law can see."""
        return self.law.fields

    @property
    def convention(self) -> Convention:  # type: ignore[override]
        """How the law counts parameters."""
        return self.law.convention

    def loss(self, x: X) -> Num:
        """Return the weighted mean of the members' losses at `x`."""
        axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, self.law)
        each = jax.vmap(lambda law: law.loss(x), in_axes=(axes,))(self.law)
        return jnp.tensordot(jnp.asarray(self.weights), each, axes=1)

    def alone(self) -> Mixture:
        """Return each member by itself: the same law with a leading axis (members,), one weight of it 1."""
        each = np.eye(len(np.asarray(self.weights)))
        law = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(each), *np.shape(leaf))), self.law)
        return replace(self, law=law, weights=each)
