"""How large a model a budget wants: Hoffmann et al.'s three approaches, and the second one's bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.fitting.bootstrap import student
from scalesim.fitting.closed_form import solved
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import RunsLike
from scalesim.laws.base import Law
from scalesim.laws.power import Chinchilla

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from polars import DataFrame

__all__ = ["IsoFlop", "IsoFlopProfile", "Sizing", "approach_two_bias", "isoflop"]


@dataclass(frozen=True, eq=False)
class IsoFlopProfile:
    """The runs of one budget and the polynomial through them in log n_params.

    Attributes:
        budget: FLOPs.
        n_params, loss: of its runs, (m,).
        best_n_params, best_loss: where the polynomial is least.
        coefficients: of the polynomial in log n_params - centre, highest power first.
        centre: the mean of log n_params.
        error: standard deviation of the log of best_n_params that the scatter about the polynomial makes.
        bracketed: whether the minimum, and the run of least loss, lie inside the sizes.
        warning: what makes the minimum unreliable, or "".
    """

    budget: float
    n_params: np.ndarray
    loss: np.ndarray
    best_n_params: float
    best_loss: float
    coefficients: np.ndarray
    centre: float
    error: float
    bracketed: bool
    warning: str

    def at(self, n_params: ArrayLike) -> np.ndarray:
        """Return the polynomial at n_params."""
        return np.polyval(self.coefficients, np.log(np.asarray(n_params, float)) - self.centre)


class Sizing(NamedTuple):
    """The size and the data that budgets want, (m,) each, with the ends of an interval.

    The intervals are for the optimum that runs of that budget would show; nan where there is none. `beyond`
    is the factor by which a budget leaves those that it was found from.
    """

    flops: np.ndarray
    n_params: np.ndarray
    n_params_low: np.ndarray
    n_params_high: np.ndarray
    n_tokens: np.ndarray
    n_tokens_low: np.ndarray
    n_tokens_high: np.ndarray
    beyond: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class IsoFlop(Shown):
    """Optimal sizes by budget, n_params = scale * C^exponent.

    Attributes:
        approach: 1 (least loss at each compute among all runs), 2 (a profile for each budget) or
            3 (a fitted law, solved).
        exponent, scale: of the power law.
        profiles: approach 2's, those without an inner minimum among them; empty otherwise.
        warnings: sentences.
        budgets, optima: the FLOPs and n_params that the power law goes through, (k,); approach 3's are
            the least and the greatest compute of the runs.
        draws: (R, 2) of exponent and log scale under approach 3's bootstrap, or None.
        tail: the share of the draws that a 90% interval leaves out on either side.
        per_param_token: FLOPs a parameter and token, the median of the table's (6 where it has none).
        grain: approach 1's: the step of log n_params between the sizes tried, to which an optimum is known.
    """

    approach: int
    exponent: float
    scale: float
    profiles: tuple[IsoFlopProfile, ...]
    warnings: tuple[str, ...]
    budgets: np.ndarray
    optima: np.ndarray
    draws: np.ndarray | None = None
    tail: float = 0.05
    per_param_token: float = 6.0
    grain: float = 0.0

    def _face(self) -> Face:
        rows = [(p.budget, len(p.loss), p.best_n_params, p.best_loss) for p in self.profiles if p.bracketed]
        return Face(
            f"Approach {self.approach}: n_params = {self.scale:.4g} C^{self.exponent:.4f}",
            ("FLOPs", "runs", "best n_params", "least loss") if rows else (),
            rows,
            self.warnings,
        )

    def plot(self) -> Figure:
        """Draw the profile of each budget, where there are, and the optimal sizes over compute."""
        from scalesim.report.fit_figures import draw_isoflop

        return draw_isoflop(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each budget that has a profile."""
        import polars

        names = ("budget", "best_n_params", "best_loss", "bracketed", "warning")
        return polars.DataFrame({name: [getattr(p, name) for p in self.profiles] for name in names})

    def n_params_at(self, flops: ArrayLike) -> np.ndarray:
        """Return the optimal size for a budget of FLOPs."""
        return self.scale * np.asarray(flops, float) ** self.exponent

    def n_tokens_at(self, flops: ArrayLike) -> np.ndarray:
        """Return the tokens that go with it, FLOPs / (per_param_token n_params)."""
        return np.asarray(flops, float) / (self.per_param_token * self.n_params_at(flops))

    def at(self, flops: Any) -> Sizing:
        """Return the size and the tokens for budgets of FLOPs, with 90% intervals.

        Approaches 1 and 2: of a line through k points in logs, log N +- t s sqrt(1 + 1/k + (x - mean)^2 / S),
        t Student's with k - 2 degrees of freedom, s the scatter about the line or the mean error of the
        optima, whichever is larger: of approach 2 the minima's, of approach 1 grain / sqrt(12). Approach 3:
        the quantiles of the fit's bootstrap.

        Raises:
            InvalidInput: a budget that is not above 0, or so small that less than one parameter or one token
                is its optimum.
        """
        flops = np.atleast_1d(np.asarray(flops, float))
        if not np.all(np.isfinite(flops) & (flops > 0)):
            raise InvalidInput(f"budget must be FLOPs above 0, but is {flops.tolist()}.")
        middle, at = np.log(self.n_params_at(flops)), np.log(flops)
        if self.approach == 3:
            low = high = np.full(len(flops), np.nan)
            if self.draws is not None:
                drawn = self.draws[:, 1:] + self.draws[:, :1] * at
                low, high = np.quantile(drawn, [self.tail, 1 - self.tail], axis=0)
        else:
            x, freedom = np.log(self.budgets), len(self.budgets) - 2
            off = np.log(self.optima) - np.log(self.n_params_at(self.budgets))
            reach = (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
            noise = [p.error**2 for p in self.profiles if p.bracketed] or [self.grain**2 / 12]
            scatter = max(np.sum(off**2) / freedom, np.mean(noise))
            error = np.sqrt(scatter * (1 + 1 / len(x) + reach))
            wide = -student(0.05, freedom) * error
            low, high = middle - wide, middle + wide
        size, least, most = np.exp(middle), np.exp(low), np.exp(high)
        tokens, fewest, furthest = (flops / (self.per_param_token * n) for n in (size, most, least))
        if np.any(np.minimum(size, tokens) < 1):
            raise InvalidInput(f"budget must be FLOPs, such as 1e24, but is {flops.tolist()}.")
        beyond = np.maximum(1.0, np.maximum(flops / self.budgets.max(), self.budgets.min() / flops))
        return Sizing(flops, size, least, most, tokens, fewest, furthest, beyond)


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
            budget, whose minimum it takes where it lies inside the sizes; 3 a law's closed form, from
            `fit`: of `Chinchilla`, `PowerOfSum` or `Kaplan`, with a constant or without.
        degree: of approach 2's polynomial, 3 by default; 3 follows the profile's lean, which 2 turns into
            bias.
        fit: approach 3's; a Chinchilla law fitted to the runs if not given.
        tolerance: approach 2's: runs that spread over at most this, in log FLOPs, are of one budget; 0.25 by
            default.

    Raises:
        InvalidInput: fewer than 3 budgets have a minimum inside their sizes (a line through two points has
            no error), the approach is none of the three, or an option is given that it does not use.

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


def _per_param_token(table: RunTable) -> tuple[float, list[str]]:
    """Return the FLOPs a parameter and token of a table, and a sentence where they differ much."""
    if not {"flops", "n_params", "n_tokens"} <= set(table.columns):
        return 6.0, []
    low, middle, high = np.quantile(table["flops"] / (table["n_params"] * table["n_tokens"]), (0.1, 0.5, 0.9))
    if high < 1.1 * low:
        return float(middle), []
    return float(middle), [
        f"flops are {low:.3g} to {high:.3g} times n_params n_tokens: a budget's tokens are by their median, "
        f"{middle:.3g}."
    ]


FEWEST = 3
"""Optima that a power law is drawn through, at least."""


def _power_law(
    approach: int, table: RunTable, flops: Any, best: Any, said: list[str], profiles: Any = (), grain: Any = 0
) -> IsoFlop:
    flops, best = np.asarray(flops, float), np.asarray(best, float)
    if len(flops) < FEWEST:
        raise InvalidInput(
            f"{len(flops)} budgets have a minimum inside their sizes; {FEWEST} are the least for an "
            f"exponent. {' '.join(said)}"
        )
    exponent, log_scale = np.polyfit(np.log(flops), np.log(best), 1)
    per, differing = _per_param_token(table)
    scale, notes = float(np.exp(log_scale)), (*said, *differing)
    found = IsoFlop(approach, float(exponent), scale, tuple(profiles), notes, flops, best)
    return replace(found, per_param_token=per, grain=float(grain))


def _envelope(table: RunTable, bins: int = 12) -> IsoFlop:
    flops, size = _flops(table), table["n_params"]
    edges = np.geomspace(flops.min(), flops.max() * (1 + 1e-9), bins + 1)
    rows = []
    for low, high in pairwise(edges):
        inside = np.flatnonzero((flops >= low) & (flops < high))
        if len(inside):
            rows.append(inside[np.argmin(table.loss[inside])])
    # A bin whose best run is worse than one with less compute is not on the envelope.
    kept: list[int] = []
    steps: list[float] = []
    ends: dict[str, list[int]] = {"smaller": [], "larger": []}
    least, slack = np.inf, edges[1] / edges[0]
    for row in rows:
        if table.loss[row] >= least:
            continue
        least = table.loss[row]
        # It is inner where a smaller model had as much compute, and a larger one as little.
        smaller = size[(size < size[row]) & (flops >= flops[row] / slack)]
        larger = size[(size > size[row]) & (flops <= flops[row] * slack)]
        if len(smaller) and len(larger):
            kept.append(row)
            steps.append(np.log(larger.min() / smaller.max()) / 2)
        else:
            ends["larger" if len(smaller) else "smaller"].append(row)
    warnings = [
        f"{_ranged(flops[ends[side]])}: no {side} model than the best had {sense} that compute; left out."
        for side, sense in (("smaller", "at least"), ("larger", "at most"))
        if ends[side]
    ]
    if len(kept) < 6:
        warnings.append(f"The envelope rests on {len(kept)} runs.")
    return _power_law(1, table, flops[kept], size[kept], warnings, grain=np.mean(steps) if steps else 0)


def _ranged(budgets: Any) -> str:
    if len(budgets) == 1:
        return f"{budgets[0]:.1e} FLOPs"
    return f"{len(budgets)} budgets from {min(budgets):.1e} to {max(budgets):.1e} FLOPs"


def _profiles(table: RunTable, degree: int, tolerance: float) -> IsoFlop:
    flops = np.log(_flops(table))
    order = np.argsort(flops)
    breaks, first = [], flops[order[0]]
    for i, value in enumerate(flops[order]):
        if value > first + tolerance:
            breaks.append(i)
            first = value
    profiles, warnings, few = [], [], []
    for rows in np.split(order, breaks):
        budget = float(np.exp(flops[rows].mean()))
        if len(set(table["n_params"][rows])) < degree + 2:
            few.append(budget)
            continue
        profile = _profile(budget, table["n_params"][rows], table.loss[rows], degree)
        profiles.append(profile)
        if profile.warning:
            warnings.append(f"{budget:.1e} FLOPs: {profile.warning}; left out.")
    if few:
        warnings.append(f"{_ranged(few)}: fewer than {degree + 2} sizes, too few for a profile; left out.")
    inner = [p for p in profiles if p.bracketed]
    budgets, best = [p.budget for p in inner], [p.best_n_params for p in inner]
    return _power_law(2, table, budgets, best, warnings, profiles)


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
        warning = f"the minimum is not bracketed: it is at the {side} model"
    elif np.argmin(loss[np.argsort(x)]) in (0, len(x) - 1):
        warning = "the run of least loss is at an end of the sizes, so the minimum is hardly bracketed"
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
        _error_of_minimum(x - centre, loss, coefficients, grid[least] - centre),
        not warning,
        warning,
    )


def _error_of_minimum(x: np.ndarray, loss: np.ndarray, coefficients: np.ndarray, at: float) -> float:
    """Return the error of where a fitted polynomial is least, sd(p') / p''; inf where it is flat."""
    spare = len(x) - len(coefficients)
    bend = np.polyval(np.polyder(coefficients, 2), at)
    if spare < 1 or bend <= 0:
        return float("inf")
    powers = np.vander(x, len(coefficients))
    noise = np.sum((powers @ coefficients - loss) ** 2) / spare
    order = np.arange(len(coefficients) - 1, 0, -1)
    slope = np.append(order * at ** (order - 1.0), 0.0)
    return float(np.sqrt(noise * slope @ np.linalg.pinv(powers.T @ powers) @ slope) / bend)


def _closed_form(table: RunTable, fit: Fit | None) -> IsoFlop:
    from scalesim.fitting.engine import fit as fit_law

    found = fit if fit is not None else fit_law(Chinchilla, table)
    per, differing = _per_param_token(table)
    exponent, log_scale = solved(found.law, per)
    warnings = (*(() if found.status == "converged" else (found.message,)), *differing)
    draws, tail = None, 0.05
    if found.bootstrap is not None:
        draws, tail = np.stack(solved(found.bootstrap.laws(found.law), per), axis=-1), found.bootstrap.tail()
    flops = _flops(table)
    ends = np.array([flops.min(), flops.max()])
    scale = float(np.exp(log_scale))
    return IsoFlop(
        3, float(exponent), scale, (), warnings, ends, scale * ends ** float(exponent), draws, tail, per
    )


def approach_two_bias(runs: RunsLike, law: Law, *, degree: int = 3) -> dict[str, float]:
    """Show what approach 2 would say on the user's own grid if `law` were the truth, without any noise.

    A polynomial is not the law's profile, so its minimum is off, and more so the more lopsided the grid.

    Returns:
        "exponent_true", "exponent_found" and "exponent_bias"; "n_params_bias" is the relative error of the
        optimal size at ten times the largest budget.
    """
    table = load_runs(runs)
    per, _ = _per_param_token(table)
    x = {"n_params": table["n_params"], "n_tokens": _flops(table) / (per * table["n_params"])}
    exact = RunTable({**x, "flops": _flops(table)}, np.asarray(law.loss(x)))
    found = _profiles(exact, degree, 0.25)
    truth, log_scale = map(float, solved(law, per))
    beyond = 10 * max(p.budget for p in found.profiles)
    return {
        "exponent_true": truth,
        "exponent_found": found.exponent,
        "exponent_bias": found.exponent - truth,
        "n_params_bias": float(found.n_params_at(beyond) / (np.exp(log_scale) * beyond**truth) - 1),
    }
