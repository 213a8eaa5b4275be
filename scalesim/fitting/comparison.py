"""Several laws on the same runs, side by side: how they fit, and how they predict what they have not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.fitting.coordinates import slots_of
from scalesim.fitting.engine import fit
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import the_law
from scalesim.fitting.validation import Validation, both_held_out

__all__ = ["Comparison", "LawScore", "compare"]

FOLDS = 10


@dataclass(frozen=True, eq=False)
class LawScore:
    """One law's line of the table.

    Attributes:
        name, fit: the law.
        n_coefficients: free ones.
        rms: error on the runs it was fitted to, nats.
        held_out: rms error on groups left out in turn, nats.
        rollout: rms error on the largest runs, fitted without them, nats.
        aic, bic: n log(mean squared residual) + 2 k, and + k log n.
        worse_by: (low, middle, high): how much larger its mean squared held-out error is than the best
            law's, as a fraction, by a paired bootstrap over the groups (90%); zeros for the best.
    """

    name: str
    fit: Fit
    n_coefficients: int
    rms: float
    held_out: float
    rollout: float
    aic: float
    bic: float
    worse_by: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain values."""
        line = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "fit"}
        return {**line, "objective": self.fit.objective, "status": self.fit.status}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The table: laws by held-out error, the best first.

    Attributes:
        scores: a line for each law.
        held_out_by: what was held out, a phrase.
        rollout_by: what the rollout was, a phrase.
    """

    scores: tuple[LawScore, ...]
    held_out_by: str
    rollout_by: str

    def to_json(self) -> list[dict[str, Any]]:
        """Return the table as plain values."""
        return [score.to_json() for score in self.scores]


def compare(
    laws: Sequence[Any], evidence: Any, *, share: float = 0.75, seed: int = 0, **options: Any
) -> Comparison:
    """Fit several laws to the same evidence and score what each has not seen.

    Args:
        laws: laws, classes or names, as `fit` takes them.
        evidence: as `fit` takes it. Without groups, ten folds of rows are held out instead.
        share: the rollout fits the runs up to this quantile of n_params, and predicts the larger ones.
        seed: of folds and of the paired bootstrap.
        options: passed to `fit`; of fixed, bounds and priors each law takes those of its coefficients.

    >>> table = compare(["separablehead", "head"], "paper", fixed={"E": 1.97})
    >>> table.scores[0].name
    'HeadLaw'
    """
    if len(laws) < 2:
        raise InvalidInput(f"compare needs at least two laws, but has {len(laws)}.")
    found = [fit(law, evidence, **_for(law, options)) for law in laws]
    runs = found[0].setup.runs
    by = "each group of runs in turn"
    if runs.group is None or len(set(runs.group)) < 2:
        folds = np.random.default_rng(seed).permutation(len(runs)) % min(FOLDS, len(runs))
        found = [_regrouped(f, folds) for f in found]
        by = f"{min(FOLDS, len(runs))} folds of rows"
    axis = "n_params" if "n_params" in runs.columns else next(iter(runs.columns))
    held, rolled = zip(*(both_held_out(f, axis, share) for f in found), strict=True)
    best = int(np.argmin([h.rms for h in held]))
    scores = [
        _score(f, h, r, _worse_by(h, held[best], seed) if i != best else (0.0, 0.0, 0.0))
        for i, (f, h, r) in enumerate(zip(found, held, rolled, strict=True))
    ]
    scores.sort(key=lambda score: score.held_out)
    return Comparison(tuple(scores), by, f"the runs above the {share:.0%} quantile of {axis}")


def _for(law: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with only those coefficients that the law has."""
    names = {slot.name.rpartition(".")[2] for slot in slots_of(the_law(law))}
    chosen = dict(options)
    for key in ("fixed", "bounds", "priors"):
        if chosen.get(key):
            chosen[key] = {k: v for k, v in chosen[key].items() if k.rpartition(".")[2] in names}
    return chosen


def _regrouped(fit: Fit, folds: np.ndarray) -> Fit:
    setup = fit.setup
    runs = dataclasses.replace(setup.runs, group=folds.astype(str))
    points = dataclasses.replace(setup.points, runs=runs)
    return dataclasses.replace(fit, setup=dataclasses.replace(setup, points=points))


def _score(fit: Fit, held: Validation, rolled: Validation, worse: tuple[float, float, float]) -> LawScore:
    n, k = len(fit.setup.runs), fit.setup.layout.size
    residual = fit.residuals()
    if fit.setup.problem.points.log_space:
        loss = fit.setup.runs.loss
        residual = np.log1p(residual / loss)
    deviance = n * np.log(np.mean(residual**2) + 1e-300)
    return LawScore(
        name=_name(fit.law),
        fit=fit,
        n_coefficients=k,
        rms=fit.rms,
        held_out=held.rms,
        rollout=rolled.rms,
        aic=float(deviance + 2 * k),
        bic=float(deviance + k * np.log(n)),
        worse_by=worse,
    )


def _name(law: Any) -> str:
    parts = [getattr(law, name) for name in ("base", "other") if hasattr(law, name)]
    if parts:
        return (" + " if type(law).__name__ == "Sum" else " * ").join(map(_name, parts))
    return type(law).__name__


def _worse_by(held: Validation, best: Validation, seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """Return the paired bootstrap, over the groups, of the relative difference of mean squared errors."""
    folds = len(held.labels)
    counts = np.bincount(held.fold, minlength=folds)
    own = np.bincount(held.fold, held.error**2, minlength=folds)
    base = np.bincount(best.fold, best.error**2, minlength=folds)
    drawn = np.random.default_rng(seed).integers(folds, size=(draws, folds))
    total = counts[drawn].sum(1)
    ratio = (own[drawn].sum(1) / total) / np.maximum(base[drawn].sum(1) / total, 1e-300) - 1
    low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)
