"""Laws in the number of parameters and of tokens."""

from __future__ import annotations

from scalesim.laws.base import Law, Num, X, coefficient, power, register_law

__all__ = ["Chinchilla", "Kaplan", "PowerLaw", "PowerOfSum"]


@register_law
class PowerLaw(Law):
    """A power of the parameters above a floor, L = (a / N)^b + E.

    The law of one head configuration in arXiv 2503.09579, Eq. 5; `scalesim.laws.Grouped` holds one for
    each. N counts as the paper does: attention and FFN matrices.

    Attributes:
        a: parameters at which the reducible loss is 1 nat.
        b: exponent.
        E: irreducible loss, nats a token.

    >>> float(PowerLaw(a=1e8, b=0.5, E=2.0).loss({"n_params": 4e8}))
    2.5
    """

    fields = ("n_params",)
    convention = "paper"
    a: Num = coefficient((1e5, 1e11), linear=True, scales=("n_params", "b"), inside=True)
    b: Num = coefficient((0.05, 1.0), meaning="exponent of n_params")
    E: Num = coefficient((0.5, 3.0), linear=True, meaning="irreducible loss")

    def loss(self, x: X) -> Num:
        """Return (a / N)^b + E."""
        return power(self.a / x["n_params"], self.b) + self.E


@register_law
class Chinchilla(Law):
    """Parameters and tokens as separate powers, L = E + A / N^alpha + B / D^beta.

    Hoffmann et al., arXiv 2203.15556, Eq. 2; the default coefficients are the refit of Besiroglu et al.,
    arXiv 2404.10102.

    >>> round(float(Chinchilla().loss({"n_params": 7e10, "n_tokens": 1.4e12})), 3)
    1.974
    """

    fields = ("n_params", "n_tokens")
    A: Num = coefficient((1e0, 1e5), linear=True, scales=("n_params", "alpha"), default=482.01)
    B: Num = coefficient((1e0, 1e6), linear=True, scales=("n_tokens", "beta"), default=2085.43)
    E: Num = coefficient((0.5, 3.0), linear=True, default=1.8172, meaning="irreducible loss")
    alpha: Num = coefficient((0.05, 1.5), default=0.3478, meaning="exponent of n_params")
    beta: Num = coefficient((0.05, 1.5), default=0.3658, meaning="exponent of n_tokens")

    def loss(self, x: X) -> Num:
        """Return E + A / N^alpha + B / D^beta."""
        return self.E + self.A * power(x["n_params"], -self.alpha) + self.B * power(x["n_tokens"], -self.beta)


@register_law
class Kaplan(Law):
    """Parameters and tokens under one power, L = [(Nc / N)^(alpha / beta) + Dc / D]^beta.

    Kaplan et al., arXiv 2001.08361, Eq. 1.5, with its coefficients as defaults. It has no floor: add one
    with `Kaplan() + Constant()`.

    >>> round(float(Kaplan().loss({"n_params": 1e9, "n_tokens": 2e10})), 3)
    2.435
    """

    fields = ("n_params", "n_tokens")
    Nc: Num = coefficient((1e10, 1e16), default=8.8e13)
    Dc: Num = coefficient((1e10, 1e16), default=5.4e13)
    alpha: Num = coefficient((0.02, 0.6), default=0.076)
    beta: Num = coefficient((0.02, 0.6), default=0.095)

    def loss(self, x: X) -> Num:
        """Return [(Nc / N)^(alpha / beta) + Dc / D]^beta."""
        by_size = power(self.Nc / x["n_params"], self.alpha / self.beta)
        return power(by_size + self.Dc / x["n_tokens"], self.beta)


@register_law
class PowerOfSum(Law):
    """Chinchilla's terms under one power, above a floor, L = E + [(Nc / N)^alpha + (Dc / D)^beta]^gamma.

    The form of Busbridge et al., arXiv 2502.08606, for models trained on data alone, who write A for
    Nc^alpha and B for Dc^beta. At gamma = 1 it is Chinchilla's; below, the two shortages cost less together
    than apart, as in Kaplan's. The default coefficients are round numbers of the size that fits find.

    >>> law = PowerOfSum(E=1.0, Nc=1e8, Dc=1e10, alpha=0.5, beta=0.5, gamma=0.5)
    >>> float(law.loss({"n_params": 1.6e9, "n_tokens": 1.6e11}))
    1.7071067811865475
    """

    fields = ("n_params", "n_tokens")
    E: Num = coefficient((0.3, 3.0), linear=True, default=1.7, meaning="irreducible loss")
    Nc: Num = coefficient((1e6, 1e11), scales=("n_params", "alpha"), inside=True, default=1e8)
    Dc: Num = coefficient((1e7, 1e13), scales=("n_tokens", "beta"), inside=True, default=2e9)
    alpha: Num = coefficient((0.1, 1.2), default=0.45, meaning="exponent of n_params")
    beta: Num = coefficient((0.1, 1.2), default=0.45, meaning="exponent of n_tokens")
    gamma: Num = coefficient((0.2, 1.5), default=0.7, meaning="power of both together")

    def loss(self, x: X) -> Num:
        """Return E + [(Nc / N)^alpha + (Dc / D)^beta]^gamma."""
        terms = power(self.Nc / x["n_params"], self.alpha) + power(self.Dc / x["n_tokens"], self.beta)
        return self.E + power(terms, self.gamma)
