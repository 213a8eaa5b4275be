"""Errors on runs that the law has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.result import Fit
from scalesim.fitting.rollout import Rollout, cut_masks, errors_of, predicted_without

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

__all__ = ["Validation", "leave_largest_out", "leave_one_group_out"]


@dataclass(frozen=True, eq=False, repr=False)
class Validation(Shown):
    """Predictions of held-out runs.

    Attributes:
        labels: what was held out, fold by fold.
        rows: indices of the rows held out, (m,).
        fold: the fold of each, (m,).
        error: predicted minus measured loss, nats, (m,).
    """

    labels: tuple[str, ...]
    rows: np.ndarray
    fold: np.ndarray
    error: np.ndarray

    @property
    def rms(self) -> float:
        """Root mean square error, nats."""
        return float(np.sqrt(np.mean(self.error**2)))

    @property
    def worst(self) -> float:
        """Largest error, nats."""
        return float(np.abs(self.error).max())

    def by_fold(self) -> dict[str, float]:
        """Return each fold's rms error, nats."""
        return {
            label: float(np.sqrt(np.mean(self.error[self.fold == i] ** 2)))
            for i, label in enumerate(self.labels)
        }

    def _face(self) -> Face:
        rows = [
            (label, int(np.sum(self.fold == i)), 1e3 * error)
            for i, (label, error) in enumerate(self.by_fold().items())
        ]
        return Face(
            f"{len(self.rows):,} held-out runs: rms error {1e3 * self.rms:.3g} millinats, "
            f"largest {1e3 * self.worst:.3g}",
            ("held out", "runs", "rms (millinats)"),
            rows,
        )

    def plot(self) -> Figure:
        """Draw the error of every held-out run, fold by fold."""
        from scalesim.report.fit_figures import draw_validation

        return draw_validation(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each held-out run: what was held out with it, its row in the table, the error."""
        import polars

        held = [self.labels[i] for i in self.fold]
        return polars.DataFrame({"held_out": held, "row": self.rows, "error": self.error})


def leave_one_group_out(fit: Fit, by: str | Sequence[str] | None = None) -> Validation:
    """Fit without each group of runs in turn, and predict it.

    Args:
        fit: a fit with measured points; its other evidence is kept in every fold.
        by: columns whose values tell the group; by default the run table's own groups.

    >>> import scalesim as ss
    >>> found = ss.fit("separablehead", ss.load_runs("paper"), noise=ss.Squared(0.005))
    >>> round(leave_one_group_out(found).rms, 4)
    0.0125
    """
    runs = fit.setup.runs if by is None else fit.setup.runs.with_group(by)
    if runs.group is None:
        raise InvalidInput("leave_one_group_out needs groups: name their columns by `by`.")
    labels, index = np.unique(runs.group, return_inverse=True)
    if len(labels) < 2:
        raise InvalidInput("leave_one_group_out needs at least two groups, but the runs are all of one.")
    return _held_out(fit, index[None, :] == np.arange(len(labels))[:, None], tuple(map(str, labels)))


def leave_largest_out(fit: Fit, by: str = "n_params", share: float = 0.0) -> Validation:
    """Fit without the largest runs, and predict them: extrapolation, as a law is used.

    Args:
        fit: a fit with measured points.
        by: the column that tells the size.
        share: hold out the runs above this quantile of `by`; 0 holds out each group's largest one
            (of all the runs, where there are no groups).
    """
    return _held_out(fit, _largest(fit, by, share)[None, :], (f"largest {by}",))


def both_held_out(fit: Fit) -> tuple[Validation, Rollout]:
    """Return `leave_one_group_out` and `rollout`, of one compiled call."""
    labels, index = np.unique(fit.setup.runs.group, return_inverse=True)
    groups = index[None, :] == np.arange(len(labels))[:, None]
    shares, cuts = cut_masks(fit)
    predicted = predicted_without(fit, np.concatenate([groups, cuts]))
    held = _validation(fit, groups, tuple(map(str, labels)), predicted[: len(labels)])
    return held, errors_of(fit, shares, cuts, predicted[len(labels) :])


def _largest(fit: Fit, by: str, share: float) -> np.ndarray:
    runs = fit.setup.runs
    size = runs[by]
    if share:
        if not 0 < share < 1:
            raise InvalidInput(f"share must be between 0 and 1, but is {share}.")
        out = size > np.quantile(size, share)
    else:
        group = runs.group if runs.group is not None else np.zeros(len(runs))
        out = np.zeros(len(runs), bool)
        for label in np.unique(group):
            rows = np.flatnonzero(group == label)
            out[rows[size[rows] == size[rows].max()]] = True
    return out


def _held_out(fit: Fit, out: np.ndarray, labels: tuple[str, ...]) -> Validation:
    return _validation(fit, out, labels, predicted_without(fit, out))


def _validation(fit: Fit, out: np.ndarray, labels: tuple[str, ...], predicted: np.ndarray) -> Validation:
    error = predicted - fit.setup.runs.loss[None, :]
    fold, rows = np.nonzero(out)
    return Validation(labels, rows, fold, error[fold, rows])
