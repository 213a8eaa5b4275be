"""Laws in which parameters or tokens count for less than their number."""

from __future__ import annotations

import jax.numpy as jnp

from scalesim.laws.base import Law, Num, X, coefficient, power, register_law

__all__ = ["Gemstones", "Precision", "Repetition"]


@register_law
class Gemstones(Law):
    """Width and depth for themselves, L = E + W d^-w + H L^-h + A N^-alpha + B D^-beta.

    Gemstones, arXiv 2502.06857; d the width, L the layers. The defaults are its fit to the hot runs.

    >>> x = {"d_model": 1024.0, "n_layer": 28.0, "n_params": 5.4e8, "n_tokens": 3.5e11}
    >>> round(float(Gemstones().loss(x)), 2)
    2.72
    """

    fields = ("d_model", "n_layer", "n_params", "n_tokens")
    E: Num = coefficient((0.5, 3.0), linear=True, default=1.4806)
    W: Num = coefficient((0.1, 1e3), linear=True, scales=("d_model", "w"), default=4.27170)
    H: Num = coefficient((0.1, 1e3), linear=True, scales=("n_layer", "h"), default=0.92487)
    A: Num = coefficient((1e0, 1e5), linear=True, scales=("n_params", "alpha"), default=2892.8)
    B: Num = coefficient((1e0, 1e6), linear=True, scales=("n_tokens", "beta"), default=23373.0)
    w: Num = coefficient((0.05, 1.5), default=0.24469)
    h: Num = coefficient((0.05, 1.5), default=0.38715)
    alpha: Num = coefficient((0.05, 1.5), default=0.50008)
    beta: Num = coefficient((0.05, 1.5), default=0.47611)

    def loss(self, x: X) -> Num:
        """Return E + W d^-w + H L^-h + A N^-alpha + B D^-beta."""
        shape = self.W * power(x["d_model"], -self.w) + self.H * power(x["n_layer"], -self.h)
        return (
            self.E
            + shape
            + self.A * power(x["n_params"], -self.alpha)
            + self.B * power(x["n_tokens"], -self.beta)
        )


@register_law
class Repetition(Law):
    """Chinchilla with repeated data, L = E + A N^-alpha + B D'^-beta, D' = U (1 + r (1 - e^(-(n-1)/r))).

    Muennighoff et al., arXiv 2305.16264, Eq. 5: U = D / n unique tokens passed n times (n_epochs), each
    further pass teaching less; r is the number of repetitions beyond which little is learned (theirs 15.4).
    The excess-parameter term of that paper is left out.

    >>> law = Repetition()
    >>> once = law.loss({"n_params": 1e9, "n_tokens": 2e10, "n_epochs": 1.0})
    >>> often = law.loss({"n_params": 1e9, "n_tokens": 2e10, "n_epochs": 40.0})
    >>> round(float(often - once), 3)
    0.151
    """

    fields = ("n_params", "n_tokens", "n_epochs")
    A: Num = coefficient((1e0, 1e5), linear=True, scales=("n_params", "alpha"), default=482.01)
    B: Num = coefficient((1e0, 1e6), linear=True, scales=("n_tokens", "beta"), default=2085.43)
    E: Num = coefficient((0.5, 3.0), linear=True, default=1.8172)
    alpha: Num = coefficient((0.05, 1.5), default=0.3478)
    beta: Num = coefficient((0.05, 1.5), default=0.3658)
    r: Num = coefficient((1.0, 100.0), default=15.4, meaning="repetitions that still teach")

    def loss(self, x: X) -> Num:
        """Return E + A N^-alpha + B D'^-beta."""
        passes = 1.0 - self.r * jnp.expm1(-(x["n_epochs"] - 1.0) / self.r)
        effective = x["n_tokens"] / x["n_epochs"] * passes
        return self.E + self.A * power(x["n_params"], -self.alpha) + self.B * power(effective, -self.beta)


@register_law
class Precision(Law):
    """Chinchilla at low precision, N_eff = N prod_x (1 - e^(-bits_x / g_x)), x weights, activations, KV.

    Kumar et al., arXiv 2411.04330, with its constants as defaults.

    >>> law, bits = Precision(), {"activation_bits": 16.0, "kv_bits": 16.0}
    >>> x = {"n_params": 1e9, "n_tokens": 2e10, **bits}
    >>> round(float(law.loss({**x, "weight_bits": 4.0}) - law.loss({**x, "weight_bits": 16.0})), 3)
    0.033
    """

    fields = ("n_params", "n_tokens", "weight_bits", "activation_bits", "kv_bits")
    A: Num = coefficient((1e0, 1e5), linear=True, scales=("n_params", "alpha"), default=482.01)
    B: Num = coefficient((1e0, 1e6), linear=True, scales=("n_tokens", "beta"), default=2085.43)
    E: Num = coefficient((0.5, 3.0), linear=True, default=1.8172)
    alpha: Num = coefficient((0.05, 1.5), default=0.3478)
    beta: Num = coefficient((0.05, 1.5), default=0.3658)
    weight_scale: Num = coefficient((0.5, 8.0), default=2.6745)
    activation_scale: Num = coefficient((0.5, 8.0), default=2.2102)
    kv_scale: Num = coefficient((0.3, 5.0), default=0.9578)

    def loss(self, x: X) -> Num:
        """Return E + A N_eff^-alpha + B D^-beta."""
        kept = (
            -jnp.expm1(-x["weight_bits"] / self.weight_scale)
            * -jnp.expm1(-x["activation_bits"] / self.activation_scale)
            * -jnp.expm1(-x["kv_bits"] / self.kv_scale)
        )
        by_size = self.A * power(x["n_params"] * kept, -self.alpha)
        return self.E + by_size + self.B * power(x["n_tokens"], -self.beta)
