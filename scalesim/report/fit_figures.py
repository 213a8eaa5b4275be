"""Figures of a fit: against its runs, its residuals, the profile of a coefficient, IsoFLOP curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save

if TYPE_CHECKING:
    from scalesim.fitting import Fit, Profile

__all__ = ["plot_fit", "plot_isoflop"]


def plot_fit(fit: Fit, path: str | Path, profile: Profile | None = None) -> None:
    """Draw a fit: predicted against measured losses, residuals over size, and the profile of a coefficient.

    Args:
        fit: a fit with measured points; its bootstrap, if any, gives the intervals.
        path: the file, of any kind that matplotlib writes.
        profile: drawn in a third panel if given.

    Raises:
        InvalidInput: the fit has no points, or the file cannot be written.
    """
    runs = fit.setup.runs
    residual = fit.residuals()
    predicted = runs.loss + residual
    panels = 2 if profile is None else 3
    with figure(1, panels, (3.6 * panels, 3.4)) as (drawn, axes):
        first, second = axes[0], axes[1]
        ends = [min(runs.loss.min(), predicted.min()), max(runs.loss.max(), predicted.max())]
        first.plot(ends, ends, color=FAINT, lw=1)
        spread = _spread(fit)
        if spread is not None:
            first.vlines(runs.loss, *spread, color=BEST, alpha=0.35, lw=1)
        first.plot(runs.loss, predicted, ".", color=BEST, ms=4)
        first.set(xlabel="measured loss (nats)", ylabel="law (nats)", title=type(fit.law).__name__)
        axis = "n_params" if "n_params" in runs.columns else next(iter(runs.columns))
        second.axhline(0, color=FAINT, lw=1)
        second.semilogx(runs[axis], 1e3 * residual, ".", color=INK, ms=4)
        second.set(
            xlabel=axis, ylabel="law - measured (millinats)", title=f"rms {1e3 * fit.rms:.1f} millinats"
        )
        if profile is not None:
            rise = 100 * (profile.objective / profile.best_objective - 1)
            axes[2].plot(profile.values, rise, color=INK, lw=1.2)
            axes[2].axvline(profile.best, color=BASELINE, lw=1)
            title = f"profile: best {profile.best:.3g}"
            axes[2].set(xlabel=profile.name, ylabel="rise of the objective (%)", title=title)
            axes[2].set_ylim(0, max(5.0, min(100.0, float(np.nanmedian(rise)))))
        save(drawn, path)


def _spread(fit: Fit) -> Any:
    """Return the 90% interval of the law at every run, or None without a bootstrap."""
    if fit.bootstrap is None:
        return None
    points = fit.setup.problem.points
    count = len(fit.setup.runs)
    with jax.enable_x64(True):
        laws = jax.tree.map(np.asarray, fit.bootstrap.laws(fit.law, most=500))
        x = {k: v[:count] for k, v in points.x.items()}
        drawn = np.asarray(jax.vmap(lambda law: law.loss(x))(laws))
    return np.quantile(drawn, [0.05, 0.95], axis=0)


def plot_isoflop(found: Any, path: str | Path) -> None:
    """Draw an IsoFLOP analysis: each budget's profile, and the optimal sizes over compute.

    Args:
        found: what `scalesim.fitting.isoflop` returned.
        path: the file.
    """
    if not found.profiles:
        raise InvalidInput("the IsoFLOP analysis has no profiles to draw.")
    with figure(1, 2, (8.4, 3.6)) as (drawn, axes):
        for i, profile in enumerate(found.profiles):
            shade = i / max(len(found.profiles) - 1, 1)
            color = (0.12 + 0.6 * (1 - shade), 0.44 + 0.3 * (1 - shade), 0.55 + 0.25 * (1 - shade))
            axes[0].semilogx(profile.n_params, profile.loss, ".", color=color, ms=4)
            grid = np.geomspace(profile.n_params.min(), profile.n_params.max(), 60)
            axes[0].plot(grid, profile.at(grid), color=color, lw=1, label=f"{profile.budget:.0e}")
            if profile.bracketed:
                axes[0].plot(profile.best_n_params, profile.best_loss, "o", mfc="white", mec=BASELINE, ms=4)
        axes[0].set(xlabel="n_params", ylabel="loss (nats)", title="profiles")
        axes[1].loglog(found.budgets, found.optima, "o", color=BASELINE, ms=4)
        ends = [p for p in found.profiles if not p.bracketed]
        at, edge = [p.budget for p in ends], [p.best_n_params for p in ends]
        axes[1].loglog(at, edge, "o", mfc="none", mec=FAINT, ms=4, label="left out: at an end of its sizes")
        wide = np.geomspace(found.budgets.min(), max(p.budget for p in found.profiles) * 10, 40)
        sized = found.at(wide)
        axes[1].loglog(wide, sized.n_params, color=INK, lw=1.2)
        axes[1].fill_between(wide, sized.n_params_low, sized.n_params_high, color=FAINT, alpha=0.4, lw=0)
        if ends:
            axes[1].legend(fontsize=7)
        title = f"n_params ~ C^{found.exponent:.3f}"
        axes[1].set(xlabel="FLOPs", ylabel="best n_params", title=title)
        save(drawn, path)
