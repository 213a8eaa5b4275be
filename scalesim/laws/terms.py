"""Terms and factors that other laws are composed of."""

from __future__ import annotations

import jax.numpy as jnp

from scalesim.laws.base import Law, Num, X, coefficient, option, power, register_law

__all__ = ["AspectRatio", "ConditionalShape", "Constant", "ContextGrowth", "ContextPower", "PowerTerm"]


@register_law
class Constant(Law):
    """A floor, L = E: a term for laws that have none.

    >>> Constant(E=1.7).loss({})
    1.7
    """

    fields = ()
    E: Num = coefficient((0.5, 3.0), linear=True, default=1.7, meaning="irreducible loss")

    def loss(self, x: X) -> Num:
        """Return E."""
        return self.E


@register_law
class PowerTerm(Law):
    """One power of one field, A field^-alpha: sums of them make laws in any shape fields.

    >>> depth = PowerTerm("n_layer", A=1.0, alpha=0.5)
    >>> float((Constant(E=2.0) + depth).loss({"n_layer": 16.0}))
    2.25
    """

    field: str = option(default="n_params")
    A: Num = coefficient((1e-2, 1e5), linear=True, scales=("@field", "alpha"))
    alpha: Num = coefficient((0.05, 1.5))

    def __init__(self, field: str = "n_params", *, A: Num = 10.0, alpha: Num = 0.3) -> None:
        for name, value in (("field", field), ("A", A), ("alpha", alpha)):
            object.__setattr__(self, name, value)

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one field."""
        return (self.field,)

    def loss(self, x: X) -> Num:
        """Return A field^-alpha."""
        return self.A * power(x[self.field], -self.alpha)


@register_law
class AspectRatio(Law):
    """A factor for models wider than deep, 1 + eps (d_model / n_layer)^g (arXiv 2501.18107).

    >>> round(float(AspectRatio(eps=0.01, g=0.5).loss({"d_model": 1600.0, "n_layer": 16.0})), 6)
    1.1
    """

    fields = ("d_model", "n_layer")
    eps: Num = coefficient((1e-4, 0.1), default=0.004)
    g: Num = coefficient((0.1, 1.5), default=0.7)

    def loss(self, x: X) -> Num:
        """Return 1 + eps (d_model / n_layer)^g."""
        return 1.0 + self.eps * power(x["d_model"] / x["n_layer"], self.g)


@register_law
class ConditionalShape(Law):
    """A factor of width and of the FFN's share (arXiv 2510.18245).

    (a0 + a1 ln x + a2 / x) (b0 + b1 ln r + b2 / r), with x = d_model / sqrt(N) and r the FFN's parameters
    over attention's, r = 3 d_ff / (2 head_dim (n_head + n_kv_head)). The defaults are its fit at 1B,
    valid for r in 0.5..5. A product fixes only the size of all factors together: pin a0 and b0.

    >>> heads = {"n_head": 32.0, "n_kv_head": 8.0, "head_dim": 64.0}
    >>> x = {"d_model": 2048.0, "n_params": 1e9, "d_ff": 8192.0, **heads}
    >>> round(float(ConditionalShape().loss(x)), 3)
    1.008
    """

    fields = ("n_params", "d_model", "d_ff", "n_head", "n_kv_head", "head_dim")
    a0: Num = coefficient((1.0, 4.0), default=2.319)
    a1: Num = coefficient((0.01, 1.0), default=0.238)
    a2: Num = coefficient((0.001, 0.1), default=0.0176)
    b0: Num = coefficient((0.2, 1.0), default=0.5104)
    b1: Num = coefficient((0.001, 0.1), default=0.0051)
    b2: Num = coefficient((0.001, 0.1), default=0.0062)

    def loss(self, x: X) -> Num:
        """Return the factor of width times the factor of the FFN's share."""
        width = x["d_model"] / jnp.sqrt(x["n_params"])
        share = 3 * x["d_ff"] / (2 * x["head_dim"] * (x["n_head"] + x["n_kv_head"]))
        by_width = self.a0 + self.a1 * jnp.log(width) + self.a2 / width
        return by_width * (self.b0 + self.b1 * jnp.log(share) + self.b2 / share)


@register_law
class ContextPower(Law):
    """A factor for the context, (T / 8192)^-c: the same relative gain for every model.

    The paper's assumption (arXiv 2503.09579: the relative change of loss with T is the same within 1%
    for every N and head configuration), here with a free exponent.

    >>> round(float(ContextPower(c=0.02).loss({"context_length": 131072.0})), 4)
    0.9461
    """

    fields = ("context_length",)
    c: Num = coefficient((-0.05, 0.1), positive=False, default=0.02)

    def loss(self, x: X) -> Num:
        """Return (T / 8192)^-c."""
        return power(x["context_length"] / 8192.0, -self.c)


@register_law
class ContextGrowth(Law):
    """A factor for the context whose exponent grows with the model, (T / 8192)^-(c + h ln(N / 1e9)).

    Against the paper's assumption stand Llama 2 Long's laws (arXiv 2309.16039), whose exponents grow with
    N; h = 0 is `ContextPower`.

    >>> law = ContextGrowth(c=0.02, h=0.01)
    >>> float(law.loss({"context_length": 8192.0, "n_params": 7e9}))
    1.0
    """

    fields = ("context_length", "n_params")
    c: Num = coefficient((-0.05, 0.1), positive=False, default=0.02)
    h: Num = coefficient((-0.02, 0.02), positive=False, default=0.0)

    def loss(self, x: X) -> Num:
        """Return (T / 8192)^-(c + h ln(N / 1e9))."""
        exponent = self.c + self.h * jnp.log(x["n_params"] / 1e9)
        return jnp.exp(-exponent * jnp.log(x["context_length"] / 8192.0))
