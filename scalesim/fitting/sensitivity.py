"""How an answer moves with a coefficient, the Huber threshold, outliers, and one run more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.bootstrap import coefficients_of
from scalesim.fitting.coordinates import resolve
from scalesim.fitting.diagnosis import local
from scalesim.fitting.refit import refit
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import Setup
from scalesim.types import Num

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from polars import DataFrame

__all__ = [
    "CoefficientPath",
    "Profile",
    "Suggestion",
    "delta_path",
    "outlier_path",
    "profile",
    "suggest_runs",
]


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Shown):
    """The profile of a coefficient.

    Attributes:
        name: the coefficient.
        values: where it was held, (K,).
        objective: the best objective at each, (K,).
        coefficients: all coefficients at each, by name, (K,).
        best: its value in the unconstrained fit, and `best_objective` there.
    """

    name: str
    values: np.ndarray
    objective: np.ndarray
    coefficients: dict[str, np.ndarray]
    best: float
    best_objective: float

    def interval(self, rise: float = 0.02) -> tuple[float, float]:
        """Return where the objective is within a fraction `rise` of its least, on the grid of values."""
        inside = self.values[self.objective <= self.best_objective * (1 + rise)]
        inside = np.append(inside, self.best)
        return float(inside.min()), float(inside.max())

    @property
    def below(self) -> str:
        """Where the objective is less than the fit's by over 0.1%, a sentence; else empty."""
        with np.errstate(invalid="ignore"):
            less = np.nan_to_num(1 - self.objective / self.best_objective)
        at = int(np.argmax(less))
        if less[at] <= 1e-3:
            return ""
        return (
            f"Held at {self.name} = {self.values[at]:.4g} the objective is {less[at]:.2%} less than the "
            "fit's, which has not found its least: its coefficients and their errors are one set of several "
            "that the evidence allows. More starts, or a law that sees what varies, would do."
        )

    def _face(self) -> Face:
        rows = [(f"{rise:.0%}", *self.interval(rise)) for rise in (0.01, 0.02, 0.05, 0.1)]
        return Face(
            f"Profile of {self.name}: best {self.best:.4g}, held at {len(self.values)} values "
            f"from {self.values.min():.4g} to {self.values.max():.4g}",
            ("rise of the objective", "from", "to"),
            rows,
            (self.below,) if self.below else (),
        )

    def plot(self) -> Figure:
        """Draw the rise of the objective over the coefficient."""
        from scalesim.report.fit_figures import draw_profile

        return draw_profile(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each value: the objective, and all coefficients that are single numbers."""
        import polars

        single = {k: v for k, v in self.coefficients.items() if v.ndim == 1}
        return polars.DataFrame({"objective": self.objective, **single})


def profile(fit: Fit, name: str = "E", values: ArrayLike | None = None) -> Profile:
    """Hold a coefficient at each of `values` and refit all others, in one compiled call.

    Args:
        fit: the fit; its evidence, bounds and priors are kept.
        name: a coefficient that is a number (not one a group).
        values: where to hold it, (K,); by default 41 values within a factor 1.5 of the optimum
            (for E within 0.5 nats, below the least loss).

    Raises:
        InvalidInput: there is no such coefficient, or a value is outside its range.
    """
    setup: Setup = fit.setup
    known = {slot.name: slot for slot in setup.layout.slots}
    slot = resolve(name, known)
    if slot.size or not slot.free:
        raise InvalidInput(f"{slot.name} must be a single free coefficient to be profiled.")
    best = float(fit.coefficients[slot.name])
    if values is None:
        values = _default_values(fit, slot.name, best)
    values = np.atleast_1d(np.asarray(values, float))
    if slot.spec.positive and not np.all(values > 0):
        raise InvalidInput(
            f"{slot.name} must be above 0, but {values.min():g} is among the values to hold it at."
        )
    held, at = _held(setup, slot.name)
    warm = np.delete(fit.z, at)
    ends = refit(held, warm, pinned={slot.name: values}, keep=4)
    laws = [held.layout.decode(z, held.problem.pinned, held.problem.centres) for z in ends.z]
    names = [s.name for s in held.layout.slots]
    columns = zip(*(jax.tree.leaves(law) for law in laws), strict=True)
    found = {n: np.array([np.asarray(v) for v in column]) for n, column in zip(names, columns, strict=True)}
    found[slot.name] = values
    return Profile(slot.name, values, ends.objective, found, best, fit.objective)


def _default_values(fit: Fit, name: str, best: float) -> np.ndarray:
    if name.rpartition(".")[2] == "E":
        least = fit.setup.runs.loss.min() if fit.setup.points is not None else best + 0.5
        below, above = min(0.5, 0.99 * best), min(0.5, 0.98 * max(least - best, 0.0))
        steps = np.linspace(-1, 1, 41) ** 3  # closest where the objective is least
        return np.unique(best + np.where(steps < 0, below, above) * steps)
    return best * np.geomspace(1 / 1.5, 1.5, 41)


def _held(setup: Setup, name: str) -> tuple[Setup, int]:
    """Return the setup with a coefficient pinned, and the coordinate that it had."""
    at, slots = 0, list(setup.layout.slots)
    for i, slot in enumerate(slots):
        if slot.name == name:
            slots[i] = dataclasses.replace(slot, free=False)
            break
        at += slot.width
    layout = dataclasses.replace(setup.layout, slots=tuple(slots))
    prior = setup.problem.prior
    if prior is not None:
        prior = (np.delete(prior[0], at), np.delete(prior[1], at))
    problem = dataclasses.replace(setup.problem, layout=layout, prior=prior)
    return dataclasses.replace(setup, problem=problem), at


@dataclass(frozen=True, eq=False, repr=False)
class CoefficientPath(Shown):
    """Coefficients along a choice.

    Attributes:
        values: of the choice, (K,).
        coefficients: by name, (K,).
    """

    values: np.ndarray
    coefficients: dict[str, np.ndarray]

    def _face(self) -> Face:
        moving = {k: v for k, v in self.coefficients.items() if v.ndim == 1 and np.ptp(v) > 0}
        rows = [(value, *(float(v[i]) for v in moving.values())) for i, value in enumerate(self.values)]
        return Face(f"Coefficients along {len(self.values)} values", ("value", *moving), rows, most=16)


def delta_path(fit: Fit, values: ArrayLike | None = None) -> CoefficientPath:
    """Refit with other Huber thresholds, in one compiled call.

    Args:
        fit: a fit with measured points.
        values: thresholds, (K,); by default 13 from 1e-4 to 1, where it is least squares.
    """
    deltas = np.geomspace(1e-4, 1.0, 13) if values is None else np.atleast_1d(np.asarray(values, float))
    if not np.all(deltas > 0):
        raise InvalidInput(f"delta must be above 0, but {deltas.min():g} is among the values.")
    ends = refit(fit.setup, fit.z, delta=deltas)
    return CoefficientPath(deltas, coefficients_of(fit.setup, ends.z))


def outlier_path(fit: Fit, most: int = 10) -> CoefficientPath:
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
    return CoefficientPath(np.arange(most + 1), coefficients_of(fit.setup, ends.z))


@dataclass(frozen=True)
class Suggestion:
    """A candidate run.

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
    quantity: Callable[[Any], Num],
    candidates: Mapping[str, ArrayLike],
    *,
    flops: ArrayLike | None = None,
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
        InvalidInput: the fit is not identified, or the FLOPs are not known.
    """
    if fit.unidentified:
        raise InvalidInput("suggest_runs needs an identified fit. " + " ".join(fit.unidentified))
    setup, _ = fit.setup, fit.z  # a mixture of forms has no one optimum, and says so
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
        own = setup.x
        seen = np.asarray(jax.jacfwd(lambda z: setup.problem.law(z).loss(own))(z))
        new = np.asarray(jax.jacfwd(lambda z: setup.problem.law(z).loss(x))(z))
        slope = np.asarray(jax.jacfwd(lambda z: quantity(setup.problem.law(z)))(z))
        jacobian, *_ = local(setup.problem, z)
    weight = np.ones(count) if setup.runs.weight is None else setup.runs.weight
    information = (seen.T * weight) @ seen / sigma**2
    # Other evidence and priors count as they stand in the fit.
    other = np.asarray(jacobian)[len(setup.rows.loss) :]
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
