"""Errors on comparisons of heads by studies that a law has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.data.contrasts import ContrastTable
from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.contrast_prediction import spread_of
from scalesim.fitting.contrasts import covariance, parts
from scalesim.fitting.forms import fit_with_contrasts
from scalesim.fitting.result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

__all__ = ["StudiesLeftOut", "leave_one_study_out"]

NINETY = 1.645


@dataclass(frozen=True, eq=False, repr=False)
class StudiesLeftOut(Shown):
    """What was said of each comparison by a law that had not seen its study, (rows,), percent of loss.

    Attributes:
        name, study: of each comparison.
        percent: 100 log(loss_b / loss_a), as predicted.
        low, high: where the measured one was to be, with a probability of 90%.
        measured: what it was.
        studies: of each study its name, its comparisons, their rms error, and how many lay in the interval;
            also of studies whose comparisons do not ship.
    """

    name: np.ndarray
    study: np.ndarray
    percent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    measured: np.ndarray
    studies: tuple[tuple[str, int, float, int], ...]

    @property
    def rms(self) -> float:
        """Root mean square error over the comparisons, percent of loss."""
        return float(np.sqrt(np.mean((self.percent - self.measured) ** 2)))

    @property
    def coverage(self) -> float:
        """The share of the comparisons in their 90% interval."""
        return float(np.mean((self.low <= self.measured) & (self.measured <= self.high)))

    def by_study(self) -> dict[str, float]:
        """Return each study's rms error, percent of loss."""
        return {name: rms for name, _, rms, _ in self.studies}

    def _face(self) -> Face:
        rows = [(name, count, rms, f"{inside} of {count}") for name, count, rms, inside in self.studies]
        return Face(
            f"{len(self.name)} comparisons by studies left out: rms error {self.rms:.3g}% of loss, "
            f"{self.coverage:.0%} in the 90% interval",
            ("study left out", "comparisons", "rms, % of loss", "in the interval"),
            rows,
        )

    def plot(self) -> Figure:
        """Draw each comparison as measured, with the interval of the law that had not seen its study."""
        from scalesim.report.fit_figures import draw_studies

        return draw_studies(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each comparison."""
        import polars

        names = ("name", "study", "percent", "low", "high", "measured")
        return polars.DataFrame({name: getattr(self, name) for name in names})


def leave_one_study_out(fit: Fit, table: ContrastTable | None = None, *, starts: int = 16) -> StudiesLeftOut:
    """Predict the comparisons of each study by a law that was fitted without it.

    Args:
        fit: a mixture of forms, which keeps what its forms said (weights and spread, too, were found without
            the study); or a fit of one law with runs, which is fitted again without each study.
        table: the comparisons, for a fit of one law; a mixture has its own.
        starts: of each fit of one law.

    Raises:
        InvalidInput: no comparisons to leave out, or a table for a mixture, which has its own.

    >>> import scalesim as ss
    >>> found = leave_one_study_out(ss.named_fit("default"))
    >>> len(found.name), found.coverage > 0.8, len(found.studies)
    (22, True, 7)
    """
    if fit.mixed:
        if table is not None:
            raise InvalidInput(
                "a mixture keeps what its forms said of the studies that it was judged on; "
                "predict_contrasts(fit, table) says what it makes of another table."
            )
        return _kept(fit)
    if table is None:
        raise InvalidInput("leave_one_study_out needs a table of comparisons, load_contrasts() or your own.")
    if len(set(table.study)) < 2:
        raise InvalidInput(
            f"leave_one_study_out needs two studies, but the table has {len(set(table.study))}."
        )
    return _fitted_again(fit, table, starts)


def _kept(fit: Fit) -> StudiesLeftOut:
    rows, studies = fit.provenance.get("comparisons"), fit.provenance.get("studies")
    if not rows or not studies:
        raise InvalidInput(
            "this mixture was saved without what its forms said of studies left out; "
            "`scalesim.fitting.mixture` of judged forms keeps that."
        )
    columns = {key: np.array([row[key] for row in rows]) for key in _COLUMNS}
    summary = tuple((s["study"], int(s["comparisons"]), float(s["rms"]), int(s["covered"])) for s in studies)
    return StudiesLeftOut(**columns, studies=summary)


_COLUMNS = ("name", "study", "percent", "low", "high", "measured")


def _fitted_again(fit: Fit, table: ContrastTable, starts: int) -> StudiesLeftOut:
    asked = fit.setup.asked()
    options: dict[str, Any] = {"fixed": dict.fromkeys(asked["fixed"]), "bounds": asked["bounds"]}
    percent, deviation = np.zeros(len(table)), np.zeros(len(table))
    for study in dict.fromkeys(table.study):
        out = table.study == study
        found = fit_with_contrasts(fit.law, fit.setup.runs, table.take(~out), starts=starts, **options)
        some = table.take(out)
        percent[out] = 100 * sum(parts(found.law, some))
        deviation[out] = 100 * np.sqrt(np.diag(covariance(found.law, some, spread_of(found))))
    low, high = percent - NINETY * deviation, percent + NINETY * deviation
    measured = 100 * table.log_ratio
    studies = []
    for study in dict.fromkeys(table.study):
        out = table.study == study
        error = float(np.sqrt(np.mean((percent - measured)[out] ** 2)))
        inside = int(np.sum((low <= measured) & (measured <= high) & out))
        studies.append((str(study), int(out.sum()), error, inside))
    return StudiesLeftOut(table.name, table.study, percent, low, high, measured, tuple(studies))
