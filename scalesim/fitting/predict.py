"""What a fitted law says elsewhere, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.diagnosis import identification
from scalesim.fitting.evidence import padded_rows
from scalesim.fitting.result import Fit, loss_of
from scalesim.laws.base import FIELDS, Law
from scalesim.laws.grouped import GROUP
from scalesim.programs import kept_jit
from scalesim.pytree import noted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from polars import DataFrame

__all__ = ["Prediction", "beyond", "evidence_ranges", "extrapolation_error", "predict"]

DRAWS = 1000
"""Draws of the law, at least: fewer resamples than this are taken in turn."""


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Shown):
    """Predicted losses and their intervals, (m,) each, in nats a token.

    Attributes:
        loss: the law's.
        low, high: where the law is: the bootstrap's spread, and beyond the data the error by which fits of
            the smaller runs missed the larger ones (`Rollout.spread`); nan without a bootstrap.
        run_low, run_high: where the loss of a run would be: the law and the scatter of runs about it.
        level: the probability that the intervals are to hold.
        beyond: by how much each prediction leaves the data's range, as a factor (1 inside), by field, and
            for "flops", 6 n_params n_tokens.
        extrapolation_error: standard deviation of the relative error that the distance beyond the data
            adds; 0 inside, nan where it is not known.
        x: where it was asked, (m,) for each field.
        notes: what to know before these figures are used, a sentence each.
    """

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    run_low: np.ndarray
    run_high: np.ndarray
    level: float
    beyond: dict[str, np.ndarray]
    extrapolation_error: np.ndarray
    x: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def _columns(self) -> dict[str, np.ndarray]:
        intervals = {n: getattr(self, n) for n in ("low", "high", "run_low", "run_high")}
        known = {k: v for k, v in intervals.items() if np.isfinite(v).any()}
        return {**self.x, "loss": self.loss, **known}

    def _face(self) -> Face:
        columns = self._columns()
        rows = list(zip(*(v.tolist() for v in columns.values()), strict=True))
        far = {k: float(v.max()) for k, v in self.beyond.items() if v.max() > 1}
        said = [f"{k} leaves the runs' range by a factor {v:.3g}." for k, v in far.items()]
        title = f"{len(self.loss):,} predicted losses, nats; {self.level:.0%} intervals"
        return Face(title, tuple(columns), rows, (" ".join((*said, *self.notes)),))

    def plot(self) -> Figure:
        """Draw the losses and their intervals over the field that varies most."""
        from scalesim.report.fit_figures import draw_prediction

        return draw_prediction(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each prediction."""
        import polars

        return polars.DataFrame(self._columns())


def predict(fit: Fit, x: Mapping[str, ArrayLike], *, level: float = 0.9) -> Prediction:
    """Predict the loss at x, with intervals from the fit's bootstrap and its rollout.

    A draw of the law is law_i(x) exp(growth sqrt(d) z_i): law_i a resample's, z_i normal, d the log of the
    largest factor by which x leaves the data (`Rollout`). A run adds a residual. Intervals are quantiles.

    Args:
        fit: a fit, with its bootstrap if there are to be intervals; one loaded from a file will do.
        x: a number or (m,) for each field of the law.
        level: of the intervals.

    Raises:
        InvalidInput: a field is missing, or level is not between 0 and 1.

    >>> import scalesim as ss
    >>> found = ss.fit("power", ss.load_runs("paper").take(slice(0, 6)), fixed={"E": 1.97})
    >>> predict(found, {"n_params": [1.2e9]}).loss.round(2).tolist()
    [2.57]
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level must be between 0 and 1, but is {level}.")
    noted(fit.law)
    missing = [name for name in fit.law.fields if name not in x]
    if missing:
        what = FIELDS.get(missing[0], "the group's index")
        raise InvalidInput(f"{type(fit.law).__name__} needs {missing[0]} ({what}), which was not given.")
    arrays = {name: np.atleast_1d(np.asarray(x[name], float)) for name in fit.law.fields}
    for name, values in arrays.items():
        if name != GROUP and not np.all(np.isfinite(values) & (values > 0)):
            raise InvalidInput(f"{name} must be positive and finite, but is {values.tolist()}.")
    arrays = dict(zip(arrays, np.broadcast_arrays(*arrays.values()), strict=True))
    error = extrapolation_error(fit, arrays)
    count = len(next(iter(arrays.values())))
    size = padded_rows(count)  # one program serves many counts: each would stay in memory
    padded = {name: np.concatenate([v, np.full(size - count, v[-1])]) for name, v in arrays.items()}
    with jax.enable_x64(True):
        loss = (np.asarray(loss_of(fit.law, padded)) + np.zeros(size))[:count]
        low = high = run_low = run_high = np.full_like(loss, np.nan)
        if fit.bootstrap is not None and len(fit.bootstrap) > 1:
            laws = jax.tree.map(np.asarray, fit.bootstrap.laws(fit.law))
            drawn = np.asarray(_losses(laws, padded)).reshape(-1, size)[:, :count]
            drawn = np.resize(drawn, (max(len(drawn), DRAWS), len(loss)))
            drawn = drawn * np.exp(normal_draws(len(drawn))[:, None] * np.nan_to_num(error))
            tail = fit.bootstrap.tail(level)
            low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
            scatter = _scatter(fit, len(drawn))
            run_low, run_high = np.quantile(drawn + scatter[:, None], [tail, 1 - tail], axis=0)
    far = beyond(fit, arrays)
    return Prediction(loss, low, high, run_low, run_high, level, far, error, arrays, _notes(fit, far))


@kept_jit
def _losses(laws: Law, x: Mapping[str, Any]) -> Any:
    """Return the losses (resamples, m) of laws whose coefficients are vectors."""
    return jax.vmap(lambda law: law.loss(x))(laws)


def extrapolation_error(fit: Any, x: Mapping[str, Any]) -> np.ndarray:
    """Return the standard deviation of the relative error that x's distance beyond the data adds to a law's.

    nan where the fit has no rollout, or one of no folds, and x leaves the data.
    """
    known = getattr(fit, "rollout", None)
    if known is not None:
        return known.spread({name: values for name, values in x.items() if name != GROUP})
    far = list(beyond(fit, x).values())
    shape = np.broadcast_shapes(*(np.shape(v) for v in x.values()))
    return np.where(np.max(far, axis=0) > 1, np.nan, 0.0) + np.zeros(shape) if far else np.full(shape, np.nan)


@cache
def normal_draws(count: int) -> np.ndarray:
    """Return `count` normal quantiles in an order that no resample's number knows of."""
    quantile = NormalDist().inv_cdf
    drawn = np.array([quantile((i + 0.5) / count) for i in range(count)])
    return np.random.default_rng(0).permutation(drawn)


def _notes(fit: Any, far: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    said = list(identification(fit))
    outside = any(np.any(factor > 1) for factor in far.values())
    if outside and getattr(fit, "bootstrap", None) is not None:
        known = getattr(fit, "rollout", None)
        if known is None:
            said.append(
                "The law was saved without its errors on larger runs left out: beyond the data its intervals "
                "are too narrow. Fitting it again with a bootstrap adds them."
            )
        elif not known.folds:
            said.append(
                "There are too few runs, or sizes, to leave the largest out: beyond the data the intervals "
                "are too narrow."
            )
    return tuple(said)


def _scatter(fit: Fit, count: int) -> np.ndarray:
    """Return residuals as of new runs, nats (count,): the fit's own, or normal with its rms."""
    if not fit.mixed and fit.origin is not None and fit.setup.points is not None:
        own = fit.residuals()
        # Fitted residuals are too small: p coefficients have been taken out of them.
        spare = max(len(own) - fit.setup.layout.size, 1)
        own = (own - own.mean()) * np.sqrt(len(own) / spare)
        return np.random.default_rng(0).choice(own, size=count)
    return np.random.default_rng(0).normal(scale=fit.rms, size=count)


def evidence_ranges(fit: Any) -> dict[str, tuple[float, float]]:
    """Return the least and greatest value of each column that a fit's measured points cover."""
    return getattr(fit, "evidence_ranges", {})


def beyond(fit: Any, x: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return by which factor each value leaves its column's range (1 inside), for columns that have one.

    "flops" is 6 n_params n_tokens against the runs' own, where x and the fit know both.
    """
    known = getattr(fit, "rollout", None)
    ranges = {**evidence_ranges(fit), **({} if known is None else known.ranges)}
    if "n_params" in x and "n_tokens" in x and "flops" not in x:
        x = {**x, "flops": 6 * np.asarray(x["n_params"], float) * np.asarray(x["n_tokens"], float)}
    return {
        name: np.maximum(1.0, np.maximum(values / ranges[name][1], ranges[name][0] / values))
        for name, values in x.items()
        if name in ranges
    }
