"""How a residual counts: the elementwise losses of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.errors import check_number, choose

__all__ = ["Huber", "Noise", "Squared"]


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
            value = getattr(self, name)
            if name != "delta" or value != float("inf"):  # with an infinite delta it is least squares
                check_number(name, value)


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
