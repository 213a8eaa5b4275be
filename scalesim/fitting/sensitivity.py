"""How an answer moves with choices that the data do not make: the threshold, the outliers, the next run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.fitting.bootstrap import coefficients_of
from scalesim.fitting.diagnosis import local
from scalesim.fitting.refit import refit
from scalesim.fitting.result import Fit

__all__ = ["Path", "Suggestion", "delta_path", "outlier_path", "suggest_runs"]


@dataclass(frozen=True, eq=False)
class Path:
    """Coefficients along a choice.

    Attributes:
        values: of the choice, (K,).
        coefficients: by name, (K,).
    """

    values: np.ndarray
    coefficients: dict[str, np.ndarray]


def delta_path(fit: Fit, values: Any = None) -> Path:
    """Refit with other Huber thresholds, in one compiled call.

    Args:
        fit: a fit with measured points.
        values: thresholds, (K,); by default 13 from 1e-4 to 1, where it is least squares.
    """
    deltas = np.geomspace(1e-4, 1.0, 13) if values is None else np.atleast_1d(np.asarray(values, float))
    if not np.all(deltas > 0):
        raise InvalidInput(f"delta must be above 0, but {deltas.min():g} is among the values.")
    ends = refit(fit.setup, fit.z, delta=deltas)
    return Path(deltas, coefficients_of(fit.setup, ends.z))


def outlier_path(fit: Fit, most: int = 10) -> Path:
    """Refit without the 0, 1, ..., `most` runs of the largest residuals.

    Returns:
        `values` is the number of runs left out.
    """
    runs = fit.setup.runs
    if not 0 < most < len(runs) - fit.setup.layout.size:
        raise InvalidInput(f"most must leave more runs than coefficients, but is {most} of {len(runs)}.")
    order = np.argsort(-np.abs(fit.residuals() / runs.loss))
    weight = np.tile(np.ones(len(runs)) if runs.weight is None else runs.weight, (most + 1, 1))
    for count in range(1, most + 1):
        weight[count, order[:count]] = 0.0
    ends = refit(fit.setup, fit.z, weight=weight)
    return Path(np.arange(most + 1), coefficients_of(fit.setup, ends.z))


@dataclass(frozen=True)
class Suggestion:
    """A run worth training.

    Attributes:
        run: its fields.
        flops: what it costs.
        shrinks: by what fraction the standard error of the quantity would fall.
        per_flop: the fall of the log of the error's square, for each FLOP.
    """

    run: dict[str, float]
    flops: float
    shrinks: float
    per_flop: float


def suggest_runs(
    fit: Fit,
    quantity: Callable[[Any], Any],
    candidates: Mapping[str, Any],
    *,
    flops: Any = None,
    noise: float | None = None,
) -> list[Suggestion]:
    """Rank runs by how much each would shrink the uncertainty of a quantity, for what it costs.

    The information of a run at x is the outer product of dL/dz over its noise squared; the quantity's
    variance is its gradient through the inverse of all information. One run more is a rank-one update.

    Args:
        fit: a fit with measured points.
        quantity: a differentiable function of the law: `lambda law: law.loss(x)`, or the log of the
            optimal design's cost or size.
        candidates: each field of the law, (m,).
        flops: what each candidate costs to train, (m,); 6 n_params n_tokens by default.
        noise: standard deviation of a run's loss, nats; the fit's rms by default.

    Returns:
        The candidates, the most useful for its FLOPs first.

    Raises:
        InvalidInput: the fit is not identified, or FLOPs cannot be told.
    """
    if fit.unidentified:
        raise InvalidInput("suggest_runs needs an identified fit. " + " ".join(fit.unidentified))
    setup = fit.setup
    x = {k: np.atleast_1d(np.asarray(v, float)) for k, v in candidates.items()}
    missing = [name for name in fit.law.fields if name not in x]
    if missing:
        raise InvalidInput(f"candidates lack {', '.join(missing)}, which {type(fit.law).__name__} needs.")
    if flops is None:
        if "n_params" not in x or "n_tokens" not in x:
            raise InvalidInput("flops must be given where the candidates lack n_params or n_tokens.")
        flops = 6 * x["n_params"] * x["n_tokens"]
    cost = np.broadcast_to(np.asarray(flops, float), next(iter(x.values())).shape)
    sigma = fit.rms if noise is None else noise
    with jax.enable_x64(True):
        z = jnp.asarray(fit.z)
        count = len(setup.runs)
        own = {k: v[:count] for k, v in setup.problem.points.x.items()}
        seen = np.asarray(jax.jacfwd(lambda z: setup.problem.law(z).loss(own))(z))
        new = np.asarray(jax.jacfwd(lambda z: setup.problem.law(z).loss(x))(z))
        slope = np.asarray(jax.jacfwd(lambda z: quantity(setup.problem.law(z)))(z))
        jacobian, *_ = local(setup.problem, z)
    weight = np.ones(count) if setup.runs.weight is None else setup.runs.weight
    information = (seen.T * weight) @ seen / sigma**2
    # Other evidence and priors count as they stand in the fit.
    other = np.asarray(jacobian)[len(setup.problem.points.loss) :]
    covariance = np.linalg.inv(information + other.T @ other)
    before = slope @ covariance @ slope
    through = new @ covariance
    fall = (through @ slope) ** 2 / (sigma**2 + np.einsum("ij,ij->i", through, new))
    kept = np.clip(1 - fall / before, 1e-12, 1.0)
    gain = -np.log(kept) / cost
    return [
        Suggestion(
            {k: float(v[i]) for k, v in x.items()},
            float(cost[i]),
            float(1 - np.sqrt(kept[i])),
            float(gain[i]),
        )
        for i in np.argsort(-gain)
    ]
