"""How sure a design is, as a figure: what the fit's laws choose, and what they save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.design.lattice import HEADS
from scalesim.design.uncertainty import Distribution
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, paler
from scalesim.units import format_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_distributions"]

MOST = 8
"""Configurations shown."""


def draw_distributions(spreads: Sequence[Distribution]) -> Figure:
    """Draw a row of panels to each distribution.

    First, how often each configuration is the cheapest under the fit's laws, with what it costs
    above the cheapest on average. Then what the chosen one saves under each: memory, FLOPs and the
    objective, with the interval shaded and the median marked.
    """
    count, share = len(spreads), {"width_ratios": (1.7, 1.0, 1.0, 1.0)}
    with figure(count, 4, (12.0, 3.2 * count), squeeze=False, **share) as (canvas, axes):
        for (first, *others), spread in zip(axes, spreads, strict=True):
            _chosen(first, spread)
            query = spread.query
            where = (
                f"{format_context(float(query.workload.context_length))} context, "
                f"loss {float(query.target_loss):g}"
            )
            first.set_title(f"Cheapest {'heads' if spread.names == HEADS else 'designs'} at {where}")
            names = {"memory": "memory", "flops": "FLOPs", "objective": query.objective.label}
            for axis, (name, label) in zip(others, names.items(), strict=True):
                _saved(axis, spread, 100 * spread.savings[name], label)
            others[0].set_ylabel(f"laws ({100 * spread.level:.0f}% shaded)")
    return canvas


def _chosen(axis: Any, spread: Distribution) -> None:
    """Draw the probability of each configuration, the likeliest first, and what each costs above the best."""
    reached = spread.missed < 1
    order = [i for i in np.lexsort((spread.excess, -spread.probability)) if reached[i]][:MOST]
    if spread.chosen not in order:
        order[MOST - 1 :] = [spread.chosen]
    places = np.arange(len(order))
    colours = [BEST if i == spread.chosen else FAINT for i in order]
    axis.barh(places, 100 * spread.probability[order], color=colours, height=0.72)
    for place, i in zip(places, order, strict=True):
        share = 100 * spread.probability[i]
        text = "<1%" if 0 < share < 0.95 else f"{share:.0f}%"
        axis.annotate(
            f"{text}, +{100 * spread.excess[i]:.2f}%" + _missed(spread.missed[i]),
            (share, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            weight="bold" if i == spread.chosen else "normal",
        )
    axis.set_yticks(places, [spread.label(i) for i in order])
    axis.set_xticks(range(0, 101, 25))
    axis.set(ylim=(len(order) - 0.4, -0.6), xlim=(0, 136))
    axis.set_xlabel(f"per cent of {len(spread.winner)} laws; mean excess over the cheapest")
    axis.set_ylabel(f"{'' if spread.names == HEADS else 'layers × width, '}query : KV heads")
    axis.grid(False, axis="y")


def _missed(share: float) -> str:
    return f", fails in {100 * share:.0f}%" if share else ""


def _saved(axis: Any, spread: Distribution, values: np.ndarray, label: str) -> None:
    """Draw one saving over the resamples: a histogram, its interval and its median."""
    values = values[np.isfinite(values)]
    (low, high), middle = spread.interval(values), float(np.median(values))
    axis.axvspan(low, high, color=paler(BEST, 0.82), lw=0, zorder=0)
    axis.hist(values, bins=24, color=BEST, alpha=0.75, zorder=2)
    axis.axvline(middle, color=BASELINE, lw=1.4, zorder=3)
    axis.set_title(f"{label}: {middle:.1f}%, {low:.1f} to {high:.1f}", fontsize=9)
    axis.set_xlabel(
        f"% of {label} that {spread.label(spread.chosen) if spread.names == HEADS else 'it'} saves"
    )
    axis.grid(False)
