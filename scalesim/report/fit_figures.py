"""Figures of what a fit returns: each a function of one result, drawn and not yet saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, count_axis, figure, save, shades
from scalesim.units import format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalesim.fitting import (
        Bootstrap,
        Comparison,
        Fit,
        IsoFlop,
        Prediction,
        Profile,
        StudiesLeftOut,
        Validation,
    )

__all__ = [
    "draw_bootstrap",
    "draw_comparison",
    "draw_fit",
    "draw_isoflop",
    "draw_prediction",
    "draw_profile",
    "draw_studies",
    "draw_validation",
    "plot_fit",
    "plot_isoflop",
]


def draw_fit(fit: Fit, profile: Profile | None = None) -> Figure:
    """Draw a fit: predicted against measured losses, residuals over size, and the profile of a coefficient.

    Args:
        fit: a fit with measured points; its bootstrap, if any, gives the intervals.
        profile: drawn in a third panel if given.

    Raises:
        InvalidInput: the fit has no points.
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
        count_axis(second)
        title = f"rms {1e3 * fit.rms:.3g} millinats"
        second.set(xlabel=axis, ylabel="law - measured (millinats)", title=title)
        if profile is not None:
            _profile(axes[2], profile)
    return drawn


def _spread(fit: Fit) -> Any:
    """Return the 90% interval of the law at every run, or None without a bootstrap."""
    if fit.bootstrap is None:
        return None
    with jax.enable_x64(True):
        laws = jax.tree.map(np.asarray, fit.bootstrap.laws(fit.law, most=500))
        drawn = np.asarray(jax.vmap(lambda law: law.loss(fit.setup.x))(laws))
    tail = fit.bootstrap.tail()
    return np.quantile(drawn, [tail, 1 - tail], axis=0)


def _profile(axis: Any, profile: Profile) -> None:
    rise = 100 * (profile.objective / profile.best_objective - 1)
    axis.plot(profile.values, rise, color=INK, lw=1.2)
    axis.axvline(profile.best, color=BASELINE, lw=1)
    title = f"profile: best {profile.best:.3g}"
    axis.set(xlabel=profile.name, ylabel="rise of the objective (%)", title=title)
    top = max(5.0, min(100.0, float(np.nanmedian(rise))))
    least = float(np.nanmin(rise))
    axis.set_ylim(min(-0.02 * top, 1.05 * least), top)
    near = np.flatnonzero(rise <= top)
    if len(near):  # what rises beyond the figure is not drawn, but for the next value on either side
        ends = profile.values[[max(near[0] - 1, 0), min(near[-1] + 1, len(rise) - 1)]]
        if ends[0] < ends[1]:
            axis.set_xlim(*ends)


def draw_profile(profile: Profile) -> Figure:
    """Draw by how much the objective rises where a coefficient is held."""
    with figure(1, 1, (4.2, 3.2)) as (drawn, axis):
        _profile(axis, profile)
    return drawn


def draw_bootstrap(spread: Bootstrap) -> Figure:
    """Draw the distribution of each coefficient that resamples move, with its 90% interval."""
    table = spread.to_polars().drop("objective")
    moving = {name: table[name].to_numpy() for name in table.columns if np.ptp(table[name].to_numpy()) > 0}
    if not moving:
        raise InvalidInput("no coefficient differs between the resamples: there is nothing to draw.")
    columns = min(len(moving), 4)
    rows = -(-len(moving) // columns)
    tail = spread.tail()
    with figure(rows, columns, (2.6 * columns, 2.3 * rows), squeeze=False) as (drawn, axes):
        for axis, (name, values) in zip(axes.flat, moving.items(), strict=False):
            axis.hist(values, bins=40, color=BEST, alpha=0.75)
            for end in np.quantile(values, [tail, 1 - tail]):
                axis.axvline(end, color=BASELINE, lw=1)
            axis.set(xlabel=name, yticks=[])
        for axis in axes.flat[len(moving) :]:
            axis.set_axis_off()
        axes.flat[0].set_title(f"{len(spread):,} resamples ({spread.kind}), 90% intervals")
    return drawn


def draw_prediction(found: Prediction) -> Figure:
    """Draw predicted losses, with intervals of the law and of a run, over the field that varies most."""
    spans = {name: float(v.max() / v.min()) for name, v in found.x.items()}
    name = max(spans, key=lambda n: spans[n], default=None)
    at = np.arange(len(found.loss)) if name is None else found.x[name]
    order = np.argsort(at, kind="stable")
    alone = len(found.loss) == 1
    with figure(1, 1, (5.0, 3.4)) as (drawn, axis):
        for low, high, alpha, label in (
            (found.run_low, found.run_high, 0.15, "a run"),
            (found.low, found.high, 0.35, "the law"),
        ):
            if alone and np.isfinite(low).all():
                axis.vlines(at, low, high, color=BEST, alpha=alpha, lw=14, label=label)
            elif np.isfinite(low).all():
                axis.fill_between(at[order], low[order], high[order], color=BEST, alpha=alpha, label=label)
        axis.plot(at[order], found.loss[order], "o-", color=INK, ms=3, lw=1)
        if alone:
            axis.set_xlim(0.9 * at[0], 1.1 * at[0] + (name is None))
            axis.set_xticks(at, [f"{at[0]:.4g}" if at[0] < 1000 else format_count(at[0])])
        elif name is not None and (spans[name] > 8 or at[0] >= 1000):
            axis.set_xscale("log")
            count_axis(axis)
        axis.set(xlabel=name or "prediction", ylabel="loss (nats)", title=f"{found.level:.0%} intervals")
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return drawn


def draw_validation(found: Validation) -> Figure:
    """Draw the error of every held-out run, fold by fold, and each fold's rms."""
    with figure(1, 1, (max(4.2, 0.45 * len(found.labels) + 2), 3.4)) as (drawn, axis):
        axis.axhline(0, color=FAINT, lw=1)
        axis.plot(found.fold, 1e3 * found.error, ".", color=INK, ms=4)
        axis.plot(
            range(len(found.labels)), 1e3 * np.array(list(found.by_fold().values())), "_", color=BASELINE
        )
        axis.set(ylabel="predicted - measured (millinats)", title=f"rms {1e3 * found.rms:.1f} millinats")
        axis.set_xticks(range(len(found.labels)), found.labels, rotation=45, ha="right")
    return drawn


def draw_studies(found: StudiesLeftOut) -> Figure:
    """Draw each comparison as measured, and where a law that had not seen its study expected it."""
    order = np.arange(len(found.name))
    with figure(1, 1, (7.0, 1.2 + 0.26 * len(order))) as (drawn, axis):
        axis.hlines(order, found.low, found.high, color=FAINT, lw=5, label="90% interval, study left out")
        axis.plot(found.percent, order, "o", color=BEST, ms=4, label="predicted")
        axis.plot(found.measured, order, "D", color=INK, ms=4, label="measured")
        axis.axvline(0, color=INK, lw=0.6)
        axis.set_yticks(order, list(map(str, found.name)), fontsize=7)
        axis.set(xlabel="loss of b against a, %", title=f"rms {found.rms:.2g}% of loss")
        axis.invert_yaxis()
        axis.legend(fontsize=7)
        axis.grid(False, axis="y")
    return drawn


def draw_comparison(found: Comparison) -> Figure:
    """Draw each law's rms errors on the runs fitted, those held out and the largest; the best law first."""
    kinds = {"rms": "fitted", "held_out": "held out", "rollout": "rollout"}
    with figure(1, 1, (5.6, 0.55 * len(found.scores) + 1.6)) as (drawn, axis):
        at = np.arange(len(found.scores))
        for i, ((name, label), colour) in enumerate(zip(kinds.items(), shades(4), strict=False)):
            errors = [1e3 * getattr(score, name) for score in found.scores]
            axis.barh(at + 0.27 * (i - 1), errors, height=0.25, color=colour, label=label)
        axis.set_yticks(at, [score.name for score in found.scores])
        axis.invert_yaxis()
        axis.set(xlabel="rms error (millinats)", title="laws by held-out error")
        axis.legend()
    return drawn


def draw_isoflop(found: IsoFlop) -> Figure:
    """Draw an IsoFLOP analysis: each budget's profile, where there are, and optimal sizes over compute."""
    with figure(1, 2 if found.profiles else 1, (8.4 if found.profiles else 4.2, 3.6), squeeze=False) as (
        drawn,
        grid,
    ):
        axes = grid[0]
        for profile, colour in zip(found.profiles, shades(len(found.profiles)), strict=True):
            axes[0].semilogx(profile.n_params, profile.loss, ".", color=colour, ms=4)
            sizes = np.geomspace(profile.n_params.min(), profile.n_params.max(), 60)
            axes[0].plot(sizes, profile.at(sizes), color=colour, lw=1, label=f"{profile.budget:.2g}")
            if profile.bracketed:
                axes[0].plot(profile.best_n_params, profile.best_loss, "o", mfc="white", mec=BASELINE, ms=4)
        if found.profiles:
            count_axis(axes[0])
            axes[0].set(xlabel="n_params", ylabel="loss (nats)", title="profiles")
            drawn.legend(loc="outside lower center", ncols=8, fontsize=7, title="FLOPs", title_fontsize=7)
        ends = [p for p in found.profiles if not p.bracketed]
        wide = np.geomspace(found.budgets.min(), 10 * max([*found.budgets, *(p.budget for p in ends)]), 40)
        sized = found.at(wide)
        axes[-1].loglog(wide, sized.n_params, color=INK, lw=1.2)
        axes[-1].fill_between(wide, sized.n_params_low, sized.n_params_high, color=FAINT, alpha=0.4, lw=0)
        if found.approach < 3:
            axes[-1].loglog(found.budgets, found.optima, "o", color=BASELINE, ms=4)
        if ends:
            edge = [p.best_n_params for p in ends]
            axes[-1].loglog([p.budget for p in ends], edge, "o", mfc="none", mec=INK, ms=4, label="left out")
            axes[-1].legend(fontsize=7)
        count_axis(axes[-1], "y")
        axes[-1].set(xlabel="FLOPs", ylabel="best n_params", title=f"n_params ~ C^{found.exponent:.3f}")
    return drawn


def plot_fit(fit: Fit, path: str | Path, profile: Profile | None = None) -> None:
    """Draw a fit (`draw_fit`) into a file of any kind that matplotlib writes."""
    save(draw_fit(fit, profile), path)


def plot_isoflop(found: IsoFlop, path: str | Path) -> None:
    """Draw an IsoFLOP analysis that has profiles (`draw_isoflop`) into a file."""
    if not found.profiles:
        raise InvalidInput("the IsoFLOP analysis has no profiles to draw.")
    save(draw_isoflop(found), path)
