"""A difference of loss as the training compute that would make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.errors import InvalidInput, Unreachable
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law

__all__ = ["EquivalentCompute", "equivalent_compute"]


@dataclass(frozen=True)
class EquivalentCompute:
    """How many times the training compute takes one loss to another.

    Attributes:
        factor: above 1 where the second loss is the lower one.
        low, high: its interval over the law's samples; nan without any.
    """

    factor: float
    low: float
    high: float


def equivalent_compute(fit: Any, loss: float, other: float, *, level: float = 0.9) -> EquivalentCompute:
    """Return by which factor more training compute takes a model from `loss` to `other`, of like shape.

    C'/C = ((loss - E) / (other - E))^(1/alpha): along compute-optimal training the reducible loss falls as
    C^-alpha. alpha is b/2 for a law in parameters alone, whose tokens follow the parameters (C grows as N^2),
    and alpha beta / (alpha + beta) for one of parameters and tokens.

    Args:
        fit: a fit, whose law has a floor E and an exponent.
        loss, other: nats a token.
        level: of the interval.

    Raises:
        InvalidInput: the law has no floor and exponent of these names.
        Unreachable: a loss is at or below the floor.

    >>> from scalesim.fitting import named_fit
    >>> found = equivalent_compute(named_fit("paper"), 2.62, 2.60)
    >>> round(found.factor, 2)
    1.38
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level must be between 0 and 1, but is {level}.")
    law = fit.law
    floor, exponent, weights = (np.atleast_1d(part) for part in _power(law))
    if min(loss, other) <= floor.max():
        raise Unreachable(
            f"loss {min(loss, other):g} is not above the law's floor of {floor.max():g}; a higher one would."
        )

    def log_factor(floor: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.maximum(loss - floor, 0.0) / np.maximum(other - floor, 0.0)
            return np.log(np.where(np.isnan(ratio), np.inf, ratio)) / exponent

    factor = float(np.exp(np.sum(weights * log_factor(floor, exponent))))
    low = high = float("nan")
    if fit.bootstrap is not None and len(fit.bootstrap) > 1:
        floors, exponents, _ = _power(jax.tree.map(np.asarray, fit.bootstrap.laws(law)))
        drawn = (
            log_factor(np.asarray(floors), np.asarray(exponents)).reshape(len(fit.bootstrap), -1).mean(axis=1)
        )
        tail = fit.bootstrap.tail(level)
        low, high = (float(np.exp(v)) for v in np.quantile(drawn, [tail, 1 - tail], method="nearest"))
    return EquivalentCompute(factor, low, high)


def _power(law: Law) -> tuple[Any, Any, Any]:
    """Return the floor, the exponent of compute and the weights of a law's members."""
    if isinstance(law, Mixture):
        floor, exponent, _ = _power(law.law)
        return floor, exponent, law.weights
    held: Any = law
    if hasattr(law, "E") and hasattr(law, "alpha") and hasattr(law, "beta"):
        return held.E, held.alpha * held.beta / (held.alpha + held.beta), 1.0
    if hasattr(law, "E") and hasattr(law, "b"):
        return held.E, held.b / 2, 1.0
    raise InvalidInput(f"{type(law).__name__} has no floor E with an exponent of size, b, or alpha and beta.")
