"""The size that a law wants of a budget, where it has a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.laws.compose import Sum
from scalesim.laws.power import Chinchilla, Kaplan, PowerOfSum
from scalesim.laws.terms import Constant

__all__ = ["solvable", "solved"]


def solvable(law: Any) -> bool:
    """Tell whether approach 3 has a closed form for a law."""
    return isinstance(law, Chinchilla | PowerOfSum | Kaplan) or (
        isinstance(law, Sum) and solvable(law.base) and isinstance(law.other, Constant)
    )


def solved(law: Any, per_param_token: float = 6.0) -> tuple[Any, Any]:
    """Return the exponent and log scale of the n_params that minimise A N^-a + B D^-b, where C = per N D."""
    if not solvable(law):
        raise InvalidInput(
            f"approach 3 solves Chinchilla, PowerOfSum and Kaplan, but the fit is of {type(law).__name__}."
        )
    if isinstance(law, Sum):
        return solved(law.base, per_param_token)
    if isinstance(law, Chinchilla):
        a, b, log_ratio = law.alpha, law.beta, np.log(law.A) - np.log(law.B)
    elif isinstance(law, PowerOfSum):
        a, b = law.alpha, law.beta
        log_ratio = a * np.log(law.Nc) - b * np.log(law.Dc)
    else:
        a, b = law.alpha / law.beta, 1.0 + 0 * np.asarray(law.beta)
        log_ratio = a * np.log(law.Nc) - np.log(law.Dc)
    exponent = b / (a + b)
    return exponent, (np.log(a) - np.log(b) + log_ratio) / (a + b) - exponent * np.log(per_param_token)
