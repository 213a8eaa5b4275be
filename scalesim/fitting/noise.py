"""How a residual counts: the elementwise losses of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from scalesim.errors import InvalidInput, choose

__all__ = ["Huber", "Noise", "Squared", "influence", "rho", "weight"]

Num = Any


@dataclass(frozen=True)
class Noise:
    """What is known of the errors: base of `Huber` and `Squared`.

    Attributes:
        delta: residuals beyond it count linearly; inf for least squares.
        sigma: residuals are divided by it (nats, or a fraction in log space).
        space: "log" compares log losses, "linear" losses in nats.
        asymmetry: factor on the loss of runs that the law predicts too high; below 1 it makes the law
            follow the worse runs, above 1 the better ones.
        use_error: divide each residual by the run's own measurement error as well.
    """

    delta: float = 1e-3
    sigma: float = 1.0
    space: Literal["log", "linear"] = "log"
    asymmetry: float = 1.0
    use_error: bool = False

    def __post_init__(self) -> None:
        choose("space", self.space, ("log", "linear"))
        for name in ("delta", "sigma", "asymmetry"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0, but is {getattr(self, name)}.")


def Huber(
    delta: float = 1e-3,
    *,
    space: Literal["log", "linear"] = "log",
    sigma: float = 1.0,
    asymmetry: float = 1.0,
    use_error: bool = False,
) -> Noise:
    """Return the Huber loss h(r) = r^2/2 for |r| <= delta, else delta (|r| - delta/2).

    In log space with delta = 1e-3 it is the loss of Hoffmann et al., arXiv 2203.15556, Eq. 3.
    """
    return Noise(delta, sigma, space, asymmetry, use_error)


def Squared(
    sigma: float = 1.0,
    *,
    space: Literal["log", "linear"] = "linear",
    asymmetry: float = 1.0,
    use_error: bool = False,
) -> Noise:
    """Return least squares, r^2/2 with r the residual over `sigma`."""
    return Noise(float("inf"), sigma, space, asymmetry, use_error)


def rho(r: Num, delta: Num, asymmetry: Num) -> Num:
    """Return the loss of residuals `r` (law minus measurement), elementwise.

    >>> [float(v) for v in rho(jnp.array([0.5, -3.0]), 1.0, 1.0)]
    [0.125, 2.5]
    """
    size = jnp.abs(r)
    inner = jnp.minimum(size, delta)
    return _side(r, asymmetry) * inner * (size - 0.5 * inner)


def influence(r: Num, delta: Num, asymmetry: Num) -> Num:
    """Return d rho / d r."""
    return _side(r, asymmetry) * jnp.clip(r, -delta, delta)


def weight(r: Num, delta: Num, asymmetry: Num) -> Num:
    """Return influence / r, the curvature of the tightest parabola that touches rho at r from above.

    Least squares with these weights never overshoots; with half of them outside delta it would be
    Gauss-Newton on the pseudo-residuals sign(r) sqrt(2 rho).
    """
    return _side(r, asymmetry) * jnp.minimum(1.0, delta / jnp.maximum(jnp.abs(r), 1e-300))


def _side(r: Num, asymmetry: Num) -> Num:
    return jnp.where(r > 0, asymmetry, 1.0)
