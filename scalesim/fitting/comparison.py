"""Several laws on the same runs, side by side: how they fit, and how they predict what they have not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scalesim.data.conventions import conventions
from scalesim.data.readers import load_runs
from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown, plain
from scalesim.fitting.coordinates import slots_of
from scalesim.fitting.engine import fit
from scalesim.fitting.evidence import Evidence, Points
from scalesim.fitting.noise import Noise
from scalesim.fitting.result import Fit, Origin, law_name
from scalesim.fitting.rollout import Rollout, best_rollout
from scalesim.fitting.setup import EvidenceLike, LawLike, the_law
from scalesim.fitting.validation import Validation, both_held_out
from scalesim.laws.power import Chinchilla, Kaplan, PowerOfSum
from scalesim.laws.terms import Constant

__all__ = ["BASE_FORMS", "Comparison", "LawScore", "compare"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

_T = TypeVar("_T")

BASE_FORMS = (PowerOfSum(), Chinchilla(), Kaplan() + Constant(E=0.5))
"""The laws in parameters and tokens that stand for a base law, the one that extrapolates best first
(`experiments/extrapolation.py`)."""
FOLDS = 10
ONE_COUNT = (
    "The table counts parameters in one way only, so whether it extrapolates better with or without "
    "embeddings could not be tried; a second column of counts, or the shape, would do."
)


@dataclass(frozen=True, eq=False)
class LawScore:
    """One law's line of the table.

    Attributes:
        name, fit: the law.
        convention: the column that n_params is, where the table counts parameters in several ways.
        n_coefficients: free ones.
        rms: error on the runs it was fitted to, nats.
        held_out: rms error on groups left out in turn, nats.
        rollout: rms error on the largest runs, fitted without them, nats: over several cuts of training
            compute, each counting alike (`rollout`); nan where there are too few runs.
        aic, bic: n log(mean squared residual) + 2 k, and + k log n.
        worse_by: (low, middle, high): how much larger its mean squared held-out error is than the best
            law's, as a fraction, by a paired bootstrap over the groups (90%); zeros for the best.
    """

    name: str
    fit: Fit
    convention: str
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
        scores: a line for each law, and each way of counting parameters.
        held_out_by: what was held out, a phrase.
        rollout_by: what the rollout was, a phrase.
        picked: the law, and the count of parameters, to extrapolate by: the first that was named, unless
            another's rollout errors are clearly less (`best_rollout`).
        notes: sentences about what could not be tried.
    """

    scores: tuple[LawScore, ...]
    held_out_by: str
    rollout_by: str
    picked: LawScore
    notes: tuple[str, ...] = ()

    def _face(self) -> Face:
        several = any(s.convention for s in self.scores)
        rows = [
            (
                s.name,
                *([s.convention] if several else []),
                s.n_coefficients,
                *(1e3 * v for v in (s.rms, s.held_out, s.rollout)),
                s.aic,
                _worse(s),
            )
            for s in self.scores
        ]
        counted = ["n_params is"] if several else []
        of = f" with {self.picked.convention}" if self.picked.convention else ""
        return Face(
            f"{len(self.scores)} laws by held-out error, the best first (rms, millinats)",
            ("law", *counted, "coefficients", "fitted", "held out", "rollout", "AIC", "worse by (90%)"),
            rows,
            (
                f"Held out: {self.held_out_by}. Rollout: {self.rollout_by}.",
                f"To extrapolate: {self.picked.name}{of}.",
                *self.notes,
            ),
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
        return {
            "scores": scores,
            "held_out_by": self.held_out_by,
            "rollout_by": self.rollout_by,
            "picked": {"name": self.picked.name, "convention": self.picked.convention},
            "notes": list(self.notes),
        }


def _worse(score: LawScore) -> str:
    low, _, high = score.worse_by
    return f"{low:+.0%} .. {high:+.0%}" if any(score.worse_by) else ""


def compare(
    laws: Sequence[LawLike],
    evidence: EvidenceLike,
    *,
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

    A run table that counts parameters in several ways (with and without embeddings) has each law fitted
    under each of them: which extrapolates is not known beforehand, and the fit alone does not tell.

    Args:
        laws: laws, classes or names, as `fit` takes them.
        evidence: as `fit` takes it. Without groups, ten folds of rows are held out instead.
        seed: of folds and of the paired bootstrap.
        noise, per_group, by, starts: as `fit` takes them.
        fixed, bounds, priors: as `fit` takes them; each law takes those of its coefficients.

    >>> table = compare(["separablehead", "head"], "paper", fixed={"E": 1.97})
    >>> table.scores[0].name, table.picked.name
    ('HeadLaw', 'HeadLaw')
    """
    if len(laws) < 2:
        raise InvalidInput(f"compare needs at least two laws, but has {len(laws)}.")
    tables = _tables(evidence)
    pairs = [(law, name) for law in laws for name in tables]
    found = [
        fit(
            law,
            tables[name],
            noise=noise,
            fixed=_own(law, fixed),
            bounds=_own(law, bounds),
            priors=_own(law, priors),
            per_group=per_group,
            by=by,
            starts=starts,
        )
        for law, name in pairs
    ]
    runs = found[0].setup.runs
    by = "each group of runs in turn"
    if runs.group is None or len(set(runs.group)) < 2:
        folds = np.random.default_rng(seed).permutation(len(runs)) % min(FOLDS, len(runs))
        found = [_regrouped(f, folds) for f in found]
        by = f"{min(FOLDS, len(runs))} folds of rows"
    held, rolled = zip(*map(both_held_out, found), strict=True)
    best = int(np.argmin([h.rms for h in held]))
    several = len(tables) > 1
    scores = []
    for (_, convention), own, out, errors in zip(pairs, found, held, rolled, strict=True):
        worse = (0.0, 0.0, 0.0) if out is held[best] else _worse_by(out, held[best], seed)
        scores.append(_score(own, convention if several else "", out, errors, worse))
    picked = scores[best_rollout(rolled)]
    scores.sort(key=lambda score: score.held_out)
    cuts = f"the runs of most {rolled[0].by}, by fits of the smallest 40% to 90%"
    notes = () if several or not _counted(found) else (ONE_COUNT,)
    return Comparison(tuple(scores), by, cuts, picked, notes)


def _tables(evidence: Any) -> dict[str, Any]:
    """Return the evidence under each way in which its run table counts parameters."""
    if isinstance(evidence, Evidence | Points | list | tuple):
        return {"": evidence}
    return conventions(load_runs(evidence))


def _counted(found: Sequence[Fit]) -> bool:
    return any("n_params" in f.law.fields and "n_tokens" in f.law.fields for f in found)


def _own(law: LawLike, options: Mapping[str, _T] | None) -> dict[str, _T]:
    """Return the options of those coefficients that the law has."""
    names = {slot.name.rpartition(".")[2] for slot in slots_of(the_law(law))}
    return {k: v for k, v in (options or {}).items() if k.rpartition(".")[2] in names}


def _regrouped(fit: Fit, folds: np.ndarray) -> Fit:
    setup = fit.setup
    runs = replace(setup.runs, group=folds.astype(str))
    points = None if setup.points is None else replace(setup.points, runs=runs)
    return replace(fit, origin=Origin(replace(setup, points=points), fit.z))


def _score(
    fit: Fit, convention: str, held: Validation, errors: Rollout, worse: tuple[float, float, float]
) -> LawScore:
    n, k = len(fit.setup.runs), fit.setup.layout.size
    residual = fit.residuals()
    if fit.setup.rows.log_space:
        loss = fit.setup.runs.loss
        residual = np.log1p(residual / loss)
    deviance = n * np.log(np.mean(residual**2) + 1e-300)
    return LawScore(
        name=law_name(fit.law),
        fit=replace(fit, rollout=errors),
        convention=convention,
        n_coefficients=k,
        rms=fit.rms,
        held_out=held.rms,
        rollout=errors.nats,
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
