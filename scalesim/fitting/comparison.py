"""Several laws on the same runs, side by side: how they fit, and how they predict what they have not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown, plain
from scalesim.fitting.coordinates import slots_of
from scalesim.fitting.engine import fit
from scalesim.fitting.noise import Noise
from scalesim.fitting.result import Fit, Origin, law_name
from scalesim.fitting.setup import EvidenceLike, LawLike, the_law
from scalesim.fitting.validation import Validation, both_held_out

__all__ = ["Comparison", "LawScore", "compare"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

_T = TypeVar("_T")

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

    def to_dict(self) -> dict[str, Any]:
        """Return the line as plain values."""
        line = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "fit"}
        return plain({**line, "objective": self.fit.objective, "status": self.fit.status})


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """The table: laws by held-out error, the best first.

    Attributes:
        scores: a line for each law.
        held_out_by: what was held out, a phrase.
        rollout_by: what the rollout was, a phrase.
    """

    scores: tuple[LawScore, ...]
    held_out_by: str
    rollout_by: str

    def _face(self) -> Face:
        rows = [
            (s.name, s.n_coefficients, *(1e3 * v for v in (s.rms, s.held_out, s.rollout)), s.aic, _worse(s))
            for s in self.scores
        ]
        return Face(
            f"{len(self.scores)} laws by held-out error, the best first (rms, millinats)",
            ("law", "coefficients", "fitted", "held out", "rollout", "AIC", "worse by (90%)"),
            rows,
            (f"Held out: {self.held_out_by}. Rollout: {self.rollout_by}.",),
        )

    def plot(self) -> Figure:
        """Draw each law's errors: on the runs fitted, on those held out, and on the largest."""
        from scalesim.report.fit_figures import draw_comparison

        return draw_comparison(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each law."""
        import polars

        rows = [score.to_dict() for score in self.scores]
        for row in rows:
            row["worse_by_low"], row["worse_by"], row["worse_by_high"] = row["worse_by"]
        return polars.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values."""
        scores = [score.to_dict() for score in self.scores]
        return {"scores": scores, "held_out_by": self.held_out_by, "rollout_by": self.rollout_by}


def _worse(score: LawScore) -> str:
    low, _, high = score.worse_by
    return f"{low:+.0%} .. {high:+.0%}" if any(score.worse_by) else ""


def compare(
    laws: Sequence[LawLike],
    evidence: EvidenceLike,
    *,
    share: float = 0.75,
    seed: int = 0,
    noise: Noise | None = None,
    fixed: Mapping[str, float | None] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    per_group: Sequence[str] = (),
    by: str | Sequence[str] | None = None,
    starts: int = 64,
) -> Comparison:
    """Fit several laws to the same evidence and score what each has not seen.

    Args:
        laws: laws, classes or names, as `fit` takes them.
        evidence: as `fit` takes it. Without groups, ten folds of rows are held out instead.
        share: the rollout fits the runs up to this quantile of n_params, and predicts the larger ones.
        seed: of folds and of the paired bootstrap.
        noise, per_group, by, starts: as `fit` takes them.
        fixed, bounds, priors: as `fit` takes them; each law takes those of its coefficients.

    >>> table = compare(["separablehead", "head"], "paper", fixed={"E": 1.97})
    >>> table.scores[0].name
    'HeadLaw'
    """
    if len(laws) < 2:
        raise InvalidInput(f"compare needs at least two laws, but has {len(laws)}.")
    found = [
        fit(
            law,
            evidence,
            noise=noise,
            fixed=_own(law, fixed),
            bounds=_own(law, bounds),
            priors=_own(law, priors),
            per_group=per_group,
            by=by,
            starts=starts,
        )
        for law in laws
    ]
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


def _own(law: LawLike, options: Mapping[str, _T] | None) -> dict[str, _T]:
    """Return the options of those coefficients that the law has."""
    names = {slot.name.rpartition(".")[2] for slot in slots_of(the_law(law))}
    return {k: v for k, v in (options or {}).items() if k.rpartition(".")[2] in names}


def _regrouped(fit: Fit, folds: np.ndarray) -> Fit:
    setup = fit.setup
    runs = dataclasses.replace(setup.runs, group=folds.astype(str))
    points = None if setup.points is None else dataclasses.replace(setup.points, runs=runs)
    return dataclasses.replace(fit, origin=Origin(dataclasses.replace(setup, points=points), fit.z))


def _score(fit: Fit, held: Validation, rolled: Validation, worse: tuple[float, float, float]) -> LawScore:
    n, k = len(fit.setup.runs), fit.setup.layout.size
    residual = fit.residuals()
    if fit.setup.rows.log_space:
        loss = fit.setup.runs.loss
        residual = np.log1p(residual / loss)
    deviance = n * np.log(np.mean(residual**2) + 1e-300)
    return LawScore(
        name=law_name(fit.law),
        fit=fit,
        n_coefficients=k,
        rms=fit.rms,
        held_out=held.rms,
        rollout=rolled.rms,
        aic=float(deviance + 2 * k),
        bic=float(deviance + k * np.log(n)),
        worse_by=worse,
    )


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
