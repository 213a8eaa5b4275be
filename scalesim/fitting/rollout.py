"""How a law's error grows beyond its runs: fits of the smaller ones, tried on the larger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalesim.faces import Face, Shown, plain
from scalesim.fitting.refit import predict_many, refit
from scalesim.fitting.result import Fit
from scalesim.laws.grouped import GROUP

__all__ = ["Rollout", "RolloutFold", "rollout", "with_rollout"]

CUTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the runs, by training compute, that the folds keep."""
SPARE = (3, 1)
"""Runs kept beyond the number of coefficients, at least: the second where the first leaves no cut."""
STEP = 0.05
"""Cuts nearer to each other than this, in log compute, are one."""
TIE = 1.25
"""Errors of laws within this factor of the least are taken as equal."""
NEAR = 0.1
"""The least mean distance, in logs, over which a fold's error is taken to have grown."""


@dataclass(frozen=True)
class RolloutFold:
    """One cut: the runs up to it fitted, those beyond it predicted.

    Attributes:
        share: of the runs that the cut was to keep, by compute.
        cut: the most compute of a run that was kept.
        kept, held_out: runs.
        distance: mean log distance of the held-out runs beyond the kept ones (see `Rollout.distance`).
        rms: root mean square of log L - log loss over the held-out runs.
        nats: the same of L - loss.
    """

    share: float
    cut: float
    kept: int
    held_out: int
    distance: float
    rms: float
    nats: float


@dataclass(frozen=True, eq=False, repr=False)
class Rollout(Shown):
    """A law's errors on runs larger than those it was fitted to.

    Attributes:
        by: what was cut along, a phrase.
        folds: by cut, the smallest first; none where there are too few runs or sizes.
        scatter: standard deviation of log L - log loss over the runs fitted, coefficients counted.
        ranges: least and greatest value of each field of the law, and of the compute.
    """

    by: str
    folds: tuple[RolloutFold, ...]
    scatter: float
    ranges: dict[str, tuple[float, float]]

    @property
    def growth(self) -> float:
        """The relative error of the law at a log distance of 1, beyond its scatter; nan without folds.

        growth^2 is the mean over folds of max(rms^2 - scatter^2, 0) / distance: the error of a law that
        leaves its data is taken for a random walk in the log distance.
        """
        if not self.folds:
            return float("nan")
        rate = [max(f.rms**2 - self.scatter**2, 0.0) / max(f.distance, NEAR) for f in self.folds]
        return float(np.sqrt(np.mean(rate)))

    @property
    def nats(self) -> float:
        """Root mean square error over the folds, each counting alike, nats; nan without folds."""
        return float(np.sqrt(np.mean([f.nats**2 for f in self.folds]))) if self.folds else float("nan")

    def distance(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the log of the largest factor by which x leaves the range of a field or of the compute."""
        return _distance(x, self.ranges)

    def spread(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the standard deviation of the law's relative error at x, growth * sqrt(distance).

        0 inside the runs; nan beyond them where there are no folds.
        """
        away = self.distance(x)
        return np.where(away > 0, self.growth, 0.0) * np.sqrt(away)

    def _face(self) -> Face:
        rows = [(f.cut, f.kept, f.held_out, f.distance, 1e3 * f.nats) for f in self.folds]
        return Face(
            f"Error beyond the runs: {100 * self.growth:.2g}% of the loss times the root of the log distance",
            ("fitted up to", "kept", "held out", "log distance", "rms, millinats"),
            rows,
            (f"Cut along {self.by}; the scatter inside is {100 * self.scatter:.2g}%.",),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the errors as plain values that JSON can hold; what is not a finite number is None."""
        return {**super().to_dict(), "growth": plain(self.growth)}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Rollout:
        """Return the errors that `to_dict` wrote."""
        ranges = {name: (float(low), float(high)) for name, (low, high) in raw["ranges"].items()}
        folds = tuple(RolloutFold(**fold) for fold in raw["folds"])
        scatter = np.nan if raw["scatter"] is None else float(raw["scatter"])
        return Rollout(str(raw["by"]), folds, scatter, ranges)


def rollout(fit: Fit) -> Rollout:
    """Fit the smaller runs alone, at several cuts of training compute, and predict the larger ones.

    The cuts keep 40% to 90% of the runs; each must leave three runs more than there are coefficients (or
    one, where no cut leaves three), and two of each group. Compute is 6 n_params n_tokens, or whichever of
    the two the law sees. Other evidence than points is kept in every fold.

    Raises:
        InvalidInput: the fit has no measured points, or was loaded without them.

    >>> import scalesim as ss
    >>> N = np.geomspace(1e7, 1e10, 40)
    >>> runs = ss.RunTable({"n_params": N}, 1.9 + (8e7 / N) ** 0.25)
    >>> errors = rollout(ss.fit("power", runs))
    >>> len(errors.folds), bool(errors.growth < 1e-4)
    (6, True)
    """
    shares, masks = cut_masks(fit)
    return errors_of(fit, shares, masks, predicted_without(fit, masks))


def with_rollout(fit: Fit) -> Fit:
    """Return the fit with its errors on larger runs, which widen its predictions beyond the data."""
    return replace(fit, rollout=rollout(fit))


def cut_masks(fit: Fit) -> tuple[tuple[float, ...], np.ndarray]:
    """Return the share of each fold, and which runs it holds out (folds, rows); none if no size is seen."""
    size, _ = _compute(_fields(fit))
    found: list[tuple[float, np.ndarray]] = []
    for spare in SPARE:
        if size is not None and not found:
            found = list(_cuts(fit, np.log(size), fit.setup.size + spare))
    masks = np.array([out for _, out in found], bool).reshape(-1, len(fit.setup.runs))
    return tuple(share for share, _ in found), masks


def _cuts(fit: Fit, log_size: np.ndarray, least: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the cuts that keep at least so many runs: the share, and which runs are held out."""
    runs = fit.setup.runs
    own, last = _own(fit), -np.inf
    for share in CUTS:
        cut = float(np.quantile(log_size[own], share, method="lower")) + STEP / 2
        inside = own & (log_size <= cut)
        enough = least <= inside.sum() < own.sum()
        if GROUP in fit.law.fields:
            enough = enough and all(np.sum(inside[runs.group == g]) >= 2 for g in np.unique(runs.group))
        if enough and cut - last >= STEP:
            last = cut
            yield share, own & ~inside


def _own(fit: Fit) -> np.ndarray:
    """Return which runs count in the fit."""
    runs = fit.setup.runs
    return np.ones(len(runs), bool) if runs.weight is None else runs.weight > 0


def errors_of(fit: Fit, shares: Sequence[float], masks: np.ndarray, predicted: np.ndarray) -> Rollout:
    """Return the errors of folds that held out `masks` and predicted these losses, both (folds, rows)."""
    runs, x = fit.setup.runs, _fields(fit)
    size, by = _compute(x)
    own = _own(fit)
    everything = {**x, **({} if size is None else {"flops": size})}
    folds = []
    for share, out, loss in zip(shares, masks, predicted, strict=True):
        inside = own & ~out
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.log(loss[out] / runs.loss[out])
        if not np.all(np.isfinite(error)):
            continue
        away = _distance({k: v[out] for k, v in x.items()}, _ranges(everything, inside))
        assert size is not None
        folds.append(
            RolloutFold(
                share=share,
                cut=float(size[inside].max()),
                kept=int(inside.sum()),
                held_out=int(out.sum()),
                distance=float(away.mean()),
                rms=float(np.sqrt(np.mean(error**2))),
                nats=float(np.sqrt(np.mean((loss[out] - runs.loss[out]) ** 2))),
            )
        )
    residual = np.log1p(fit.residuals()[own] / runs.loss[own])
    spare = max(len(residual) - fit.setup.size, 1)
    scatter = float(np.std(residual) * np.sqrt(len(residual) / spare))
    return Rollout(by, tuple(folds), scatter, _ranges(everything, own))


def predicted_without(fit: Fit, masks: np.ndarray) -> np.ndarray:
    """Return every run's loss under fits without the runs in `masks`, nats, both (folds, rows)."""
    runs = fit.setup.runs
    if not len(masks):
        return np.zeros((0, len(runs)))
    if fit.mixed:
        return fit.setup.predicted_without(masks)  # type: ignore[attr-defined]
    weight = np.ones(len(runs)) if runs.weight is None else runs.weight
    ends = refit(fit.setup, fit.z, weight=np.where(masks, 0.0, weight), keep=4)
    return predict_many(fit.setup, ends.z, fit.setup.x)


def _fields(fit: Fit) -> dict[str, np.ndarray]:
    runs = fit.setup.runs
    return {name: runs[name] for name in fit.law.fields if name != GROUP}


def _compute(x: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the training compute at x, and what that is in words; None where x has no size."""
    if "n_params" in x and "n_tokens" in x:
        return 6 * x["n_params"] * x["n_tokens"], "FLOPs (6 n_params n_tokens)"
    for name in ("n_params", "n_tokens"):
        if name in x:
            return x[name], name
    return None, "nothing: the law sees no size"


def _ranges(x: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, tuple[float, float]]:
    return {name: (float(v[rows].min()), float(v[rows].max())) for name, v in x.items()}


def _distance(x: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
    size, _ = _compute(x)
    away = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in x.values())))
    for name, values in {**x, "flops": size}.items():
        if name in ranges and values is not None:
            low, high = ranges[name]
            away = np.maximum(away, np.maximum(np.log(values / high), np.log(low / values)))
    return away


def best_rollout(errors: Sequence[Rollout]) -> int:
    """Return which of several laws of the same runs to extrapolate by: the first, if none is clearly better.

    Laws are judged by their rms errors in nats over the cuts that all of them have; another than the first
    is taken where its error is less by more than `TIE` (docs/fitting.md has what that gains).
    """
    shared = set.intersection(*({fold.share for fold in own.folds} for own in errors))
    if not shared:
        return 0
    score = [np.sqrt(np.mean([f.nats**2 for f in own.folds if f.share in shared])) for own in errors]
    near = [i for i, value in enumerate(score) if value <= TIE * min(score)]
    return near[0]
