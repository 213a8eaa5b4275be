"""How large a model a budget wants: Hoffmann et al.'s three approaches, and the second one's bias."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import RunsLike
from scalesim.laws.power import Chinchilla

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from polars import DataFrame

__all__ = ["IsoFlop", "IsoFlopProfile", "approach_two_bias", "isoflop"]


@dataclass(frozen=True, eq=False)
class IsoFlopProfile:
    """The runs of one budget and the polynomial through them in log n_params.

    Attributes:
        budget: FLOPs.
        n_params, loss: of its runs, (m,).
        best_n_params, best_loss: where the polynomial is least.
        coefficients: of the polynomial in log n_params - centre, highest power first.
        centre: the mean of log n_params.
        warning: what makes the minimum doubtful, or "".
    """

    budget: float
    n_params: np.ndarray
    loss: np.ndarray
    best_n_params: float
    best_loss: float
    coefficients: np.ndarray
    centre: float
    warning: str

    def at(self, n_params: ArrayLike) -> np.ndarray:
        """Return the polynomial at n_params."""
        return np.polyval(self.coefficients, np.log(np.asarray(n_params, float)) - self.centre)


@dataclass(frozen=True, eq=False, repr=False)
class IsoFlop(Shown):
    """Optimal sizes by budget, n_params = scale * C^exponent.

    Attributes:
        approach: 1 (least loss at each compute among all runs), 2 (a profile for each budget) or
            3 (a fitted law, solved).
        exponent, scale: of the power law.
        profiles: approach 2's; empty otherwise.
        warnings: sentences.
    """

    approach: int
    exponent: float
    scale: float
    profiles: tuple[IsoFlopProfile, ...]
    warnings: tuple[str, ...]

    def _face(self) -> Face:
        rows = [(p.budget, len(p.loss), p.best_n_params, p.best_loss, p.warning) for p in self.profiles]
        return Face(
            f"Approach {self.approach}: n_params = {self.scale:.4g} C^{self.exponent:.4f}",
            ("FLOPs", "runs", "best n_params", "least loss", "") if rows else (),
            rows,
            () if rows else self.warnings,
        )

    def plot(self) -> Figure:
        """Draw the profile of each budget, where there are, and the optimal sizes over compute."""
        from scalesim.report.fit_figures import draw_isoflop

        return draw_isoflop(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each budget that has a profile."""
        import polars

        names = ("budget", "best_n_params", "best_loss", "warning")
        return polars.DataFrame({name: [getattr(p, name) for p in self.profiles] for name in names})

    def n_params_at(self, flops: ArrayLike) -> np.ndarray:
        """Return the optimal size for a budget of FLOPs."""
        return self.scale * np.asarray(flops, float) ** self.exponent

    def n_tokens_at(self, flops: ArrayLike) -> np.ndarray:
        """Return the tokens that go with it, FLOPs / (6 n_params)."""
        return np.asarray(flops, float) / (6 * self.n_params_at(flops))


def isoflop(
    runs: RunsLike,
    approach: Literal[1, 2, 3] = 2,
    *,
    degree: int | None = None,
    fit: Fit | None = None,
    tolerance: float | None = None,
) -> IsoFlop:
    """Find the size that each budget wants.

    Args:
        runs: a run table with n_params, n_tokens, and flops if they are not 6 N D.
        approach: 1 takes the envelope of least loss over compute; 2 a polynomial in log n_params for each
            budget, whose minimum it takes; 3 a Chinchilla law's closed form, from `fit`.
        degree: of approach 2's polynomial, 3 by default; 3 follows the profile's lean, which 2 turns into
            bias.
        fit: approach 3's, of a Chinchilla law; fitted to the runs if not given.
        tolerance: approach 2's: runs that spread over at most this, in log FLOPs, are of one budget; 0.25 by
            default.

    Raises:
        InvalidInput: no budget has enough runs, the approach is none of the three, or an option is given
            that it does not use.

    >>> import scalesim as ss
    >>> law = ss.Chinchilla()
    >>> C, N = np.meshgrid([1e19, 1e20, 1e21], np.geomspace(1e8, 2e10, 9), indexing="ij")
    >>> table = {"n_params": N.ravel(), "n_tokens": (C / 6 / N).ravel()}
    >>> runs = ss.RunTable(table, np.asarray(law.loss(table)))
    >>> abs(isoflop(runs).exponent - 0.3658 / (0.3478 + 0.3658)) < 0.02
    True
    """
    if approach not in (1, 2, 3):
        raise InvalidInput(f"approach must be 1, 2 or 3, but is {approach}.")
    for name, value, user in (("degree", degree, 2), ("tolerance", tolerance, 2), ("fit", fit, 3)):
        if value is not None and approach != user:
            raise InvalidInput(f"{name} is used by approach {user} alone, but approach is {approach}.")
    table = load_runs(runs)
    if approach == 1:
        return _envelope(table)
    if approach == 2:
        return _profiles(table, 3 if degree is None else degree, 0.25 if tolerance is None else tolerance)
    return _closed_form(table, fit)


def _flops(table: RunTable) -> np.ndarray:
    return table["flops"] if "flops" in table.columns else 6 * table["n_params"] * table["n_tokens"]


def _power_law(flops: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    if len(flops) < 2:
        raise InvalidInput(f"only {len(flops)} budgets have an optimum; at least 2 are needed.")
    exponent, log_scale = np.polyfit(np.log(flops), np.log(best), 1)
    return float(exponent), float(np.exp(log_scale))


def _envelope(table: RunTable, bins: int = 12) -> IsoFlop:
    flops = _flops(table)
    edges = np.geomspace(flops.min(), flops.max() * (1 + 1e-9), bins + 1)
    rows = []
    for low, high in pairwise(edges):
        inside = np.flatnonzero((flops >= low) & (flops < high))
        if len(inside):
            rows.append(inside[np.argmin(table.loss[inside])])
    # A bin whose best run is worse than one with less compute is not on the envelope.
    kept, least = [], np.inf
    for row in rows:
        if table.loss[row] < least:
            kept.append(row)
            least = table.loss[row]
    exponent, scale = _power_law(flops[kept], table["n_params"][kept])
    warning = f"The envelope rests on {len(kept)} runs." if len(kept) < 6 else ""
    return IsoFlop(1, exponent, scale, (), tuple(filter(None, [warning])))


def _profiles(table: RunTable, degree: int, tolerance: float) -> IsoFlop:
    flops = np.log(_flops(table))
    order = np.argsort(flops)
    breaks, first = [], flops[order[0]]
    for i, value in enumerate(flops[order]):
        if value > first + tolerance:
            breaks.append(i)
            first = value
    profiles, warnings = [], []
    for rows in np.split(order, breaks):
        budget = float(np.exp(flops[rows].mean()))
        if len(set(table["n_params"][rows])) < degree + 2:
            warnings.append(f"{budget:.1e} FLOPs: {len(rows)} runs are too few for a profile; left out.")
            continue
        profile = _profile(budget, table["n_params"][rows], table.loss[rows], degree)
        profiles.append(profile)
        if profile.warning:
            warnings.append(f"{budget:.1e} FLOPs: {profile.warning}")
    if len(profiles) < 2:
        raise InvalidInput(
            f"{len(profiles)} budgets have {degree + 2} or more runs of different size; 2 are needed. "
            + " ".join(warnings)
        )
    exponent, scale = _power_law(
        np.array([p.budget for p in profiles]), np.array([p.best_n_params for p in profiles])
    )
    return IsoFlop(2, exponent, scale, tuple(profiles), tuple(warnings))


def _profile(budget: float, n_params: np.ndarray, loss: np.ndarray, degree: int) -> IsoFlopProfile:
    x = np.log(n_params)
    centre = float(x.mean())
    coefficients = np.polyfit(x - centre, loss, degree)
    grid = np.linspace(x.min(), x.max(), 2001)
    values = np.polyval(coefficients, grid - centre)
    least = int(values.argmin())
    warning = ""
    if least in (0, len(grid) - 1):
        side = "smallest" if least == 0 else "largest"
        warning = f"the minimum is not bracketed: it is at the {side} model."
    elif np.argmin(loss[np.argsort(x)]) in (0, len(x) - 1):
        warning = "the run of least loss is at an end of the sizes, so the minimum is hardly bracketed."
    best_loss = float(values[least])
    order = np.argsort(n_params)
    return IsoFlopProfile(
        budget,
        n_params[order],
        loss[order],
        float(np.exp(grid[least])),
        best_loss,
        coefficients,
        centre,
        warning,
    )


def _closed_form(table: RunTable, fit: Fit | None) -> IsoFlop:
    from scalesim.fitting.engine import fit as fit_law

    found = fit if fit is not None else fit_law(Chinchilla, table)
    law = found.law
    if not isinstance(law, Chinchilla):
        raise InvalidInput(f"approach 3 solves a Chinchilla law, but the fit is of {type(law).__name__}.")
    exponent = law.beta / (law.alpha + law.beta)
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta)) * 6**-exponent
    warnings = () if found.status == "converged" else (found.message,)
    return IsoFlop(3, float(exponent), float(scale), (), warnings)


def approach_two_bias(runs: RunsLike, law: Chinchilla, *, degree: int = 3) -> dict[str, float]:
    """Show what approach 2 would say on the user's own grid if `law` were the truth, without any noise.

    A polynomial is not the law's profile, so its minimum is off, and more so the more lopsided the grid.

    Returns:
        "exponent_true", "exponent_found" and "exponent_bias"; "n_params_bias" is the relative error of the
        optimal size at ten times the largest budget.
    """
    table = load_runs(runs)
    x = {"n_params": table["n_params"], "n_tokens": _flops(table) / (6 * table["n_params"])}
    exact = RunTable({**x, "flops": _flops(table)}, np.asarray(law.loss(x)))
    found = _profiles(exact, degree, 0.25)
    truth = law.beta / (law.alpha + law.beta)
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta)) * 6**-truth
    beyond = 10 * max(p.budget for p in found.profiles)
    return {
        "exponent_true": float(truth),
        "exponent_found": found.exponent,
        "exponent_bias": float(found.exponent - truth),
        "n_params_bias": float(found.n_params_at(beyond) / (scale * beyond**truth) - 1),
    }
