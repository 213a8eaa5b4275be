"""Joint laws, smooth in parameters, query heads and KV heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scalesim.laws.base import Law, Num, X, coefficient, option, power, register_law

__all__ = ["AdditiveHeadLaw", "HeadLaw", "ScalingHeadLaw", "SeparableHeadLaw", "SquashedHeadLaw"]

N0 = 2e8
"""Parameters at which the amplitudes are stated: the middle of the paper's models."""


class _Heads(Law):
    fields = ("n_params", "n_head", "n_kv_head")
    convention = "paper"


@register_law
class SeparableHeadLaw(_Heads):
    """Heads as factors of the reducible loss, L = E + A (N/N0)^-b n_head^-p n_kv^-q, with N0 = 2e8."""

    E: Num = coefficient((1.6, 2.2), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.5, 1.5), linear=True)
    b: Num = coefficient((0.1, 0.4))
    p: Num = coefficient((0.01, 0.2))
    q: Num = coefficient((0.003, 0.1))

    def loss(self, x: X) -> Num:
        """Return E + A (N/N0)^-b n_head^-p n_kv^-q."""
        heads = self.p * jnp.log(x["n_head"]) + self.q * jnp.log(x["n_kv_head"])
        return self.E + self.A * jnp.exp(-self.b * jnp.log(x["n_params"] / N0) - heads)


@register_law
class AdditiveHeadLaw(_Heads):
    """Heads as terms of the reducible loss, L = E + (N/N0)^-b (A + C n_head^-p + F n_kv^-q), N0 = 2e8."""

    E: Num = coefficient((1.6, 2.2), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.3, 1.2), linear=True)
    b: Num = coefficient((0.1, 0.4))
    C: Num = coefficient((0.02, 0.5), linear=True)
    p: Num = coefficient((0.1, 1.5))
    F: Num = coefficient((0.01, 0.3), linear=True)
    q: Num = coefficient((0.05, 1.5))

    def loss(self, x: X) -> Num:
        """Return E + (N/N0)^-b (A + C n_head^-p + F n_kv^-q)."""
        heads = self.A + self.C * power(x["n_head"], -self.p) + self.F * power(x["n_kv_head"], -self.q)
        return self.E + power(x["n_params"] / N0, -self.b) * heads


@register_law
class ScalingHeadLaw(_Heads):
    """Heads scale amplitude and exponent, L = E + A n_head^-p n_kv^-q (N/N0)^(-b n_head^r n_kv^s).

    The per-configuration law with both of its coefficients powers of the heads; N0 = 2e8, and r and s may
    have either sign.
    """

    E: Num = coefficient((1.6, 2.2), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.5, 1.5), linear=True)
    b: Num = coefficient((0.1, 0.4))
    p: Num = coefficient((0.01, 0.2))
    q: Num = coefficient((0.003, 0.1))
    r: Num = coefficient((-0.1, 0.1), positive=False)
    s: Num = coefficient((-0.1, 0.1), positive=False)

    def loss(self, x: X) -> Num:
        """Return E + A n_head^-p n_kv^-q (N/N0)^(-b n_head^r n_kv^s)."""
        h, k = jnp.log(x["n_head"]), jnp.log(x["n_kv_head"])
        exponent = self.b * jnp.exp(self.r * h + self.s * k)
        return self.E + self.A * jnp.exp(-self.p * h - self.q * k - exponent * jnp.log(x["n_params"] / N0))


@register_law
class SquashedHeadLaw(_Heads):
    """Head counts saturate, L = E + (N/N0)^-b (A + C log(1 + k / n_head) + F log(1 + m / n_kv)).

    log(1 + k/n) falls as -log n below k heads and as k/n above: diminishing returns without an exponent.
    N0 = 2e8.
    """

    E: Num = coefficient((1.6, 2.2), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.3, 1.2), linear=True)
    b: Num = coefficient((0.1, 0.4))
    C: Num = coefficient((0.02, 0.4), linear=True)
    k: Num = coefficient((0.5, 30.0))
    F: Num = coefficient((0.005, 0.2), linear=True)
    m: Num = coefficient((0.5, 30.0))

    def loss(self, x: X) -> Num:
        """Return E + (N/N0)^-b (A + C log(1 + k / n_head) + F log(1 + m / n_kv))."""
        heads = self.C * jnp.log1p(self.k / x["n_head"]) + self.F * jnp.log1p(self.m / x["n_kv_head"])
        return self.E + power(x["n_params"] / N0, -self.b) * (self.A + heads)


@register_law
class HeadLaw(_Heads):
    """Query heads scale with the reducible loss, KV heads against a demand that grows with N.

    L = E + (N/N0)^-b (A + C log(1 + k / n_head)) + F/s log(1 + (m (N/N0)^g / n_kv)^s), N0 = 2e8.

    A model wants about m (N/N0)^g KV heads: below, each halving costs F log 2 nats; above, another one
    counts little. With g = 2/3 the demand grows with the width squared. The paper's points alone leave
    k, g and the sharpness s of the turn open: fit with `fixed={"k": None, "g": None}` to hold the defaults.

    >>> law = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.25, g=2 / 3)
    >>> round(float(law.loss({"n_params": 5.75e8, "n_head": 8.0, "n_kv_head": 1.0})), 3)
    2.689
    """

    E: Num = coefficient((1.6, 2.2), linear=True, default=1.97, meaning="irreducible loss")
    A: Num = coefficient((0.3, 1.2), linear=True)
    b: Num = coefficient((0.1, 0.4), meaning="exponent of n_params")
    C: Num = coefficient((0.02, 0.4), linear=True)
    k: Num = coefficient((0.5, 10.0), default=2.0, meaning="query heads below which the loss rises fast")
    F: Num = coefficient((0.005, 0.2), linear=True)
    m: Num = coefficient((0.5, 30.0), meaning="KV heads that a model of N0 wants")
    g: Num = coefficient((0.05, 1.0), default=2 / 3, meaning="exponent of that demand in n_params")
    sharpness: float = option(default=2.0)

    def loss(self, x: X) -> Num:
        """Return E + (N/N0)^-b (A + C log(1 + k/n_head)) + F/s log(1 + (m (N/N0)^g / n_kv)^s)."""
        size = jnp.log(x["n_params"] / N0)
        queries = jnp.exp(-self.b * size) * (self.A + self.C * jnp.log1p(self.k / x["n_head"]))
        excess = self.sharpness * (jnp.log(self.m) + self.g * size - jnp.log(x["n_kv_head"]))
        return self.E + queries + self.F / self.sharpness * jax.nn.softplus(excess)
