"""How sure a design is, as a figure: what the fit's resamples choose, and what they save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalesim.design.chances import HEADS, Distribution
from scalesim.design.design import Design
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, paler, save
from scalesim.units import format_context

__all__ = ["draw_distributions"]

MOST = 8
"""Configurations shown."""


def draw_distributions(
    path: str | Path, answers: Sequence[tuple[Design, Distribution]], *, objective: str = "Z"
) -> None:
    """Draw a row of panels to each design, and save the figure.

    First, how often each configuration is the cheapest under the fit's resamples, with what it costs
    above the cheapest on average. Then what the chosen one saves under each: memory, FLOPs and the
    objective, with the interval shaded and the median marked.

    Raises:
        InvalidInput: the format is not known, or the file cannot be written.
    """
    count, share = len(answers), {"width_ratios": (1.7, 1.0, 1.0, 1.0)}
    with figure(count, 4, (12.0, 3.2 * count), squeeze=False, **share) as (canvas, axes):
        for (first, *others), (design, doubt) in zip(axes, answers, strict=True):
            _chosen(first, doubt)
            where = f"{format_context(design.context_length)} context, loss {design.target_loss:g}"
            first.set_title(f"Cheapest {'heads' if doubt.names == HEADS else 'designs'} at {where}")
            names = {"memory": "memory", "flops": "FLOPs", "objective": objective}
            for axis, (name, label) in zip(others, names.items(), strict=True):
                _saved(axis, doubt, 100 * doubt.savings[name], label)
            others[0].set_ylabel(f"resamples ({100 * doubt.level:.0f}% shaded)")
        save(canvas, path)


def _chosen(axis: Any, doubt: Distribution) -> None:
    """Draw the probability of each configuration, the likeliest first, and what each costs above the best."""
    reached = doubt.missed < 1
    order = [i for i in np.lexsort((doubt.excess, -doubt.probability)) if reached[i]][:MOST]
    if doubt.chosen not in order:
        order[MOST - 1 :] = [doubt.chosen]
    places = np.arange(len(order))
    colours = [BEST if i == doubt.chosen else FAINT for i in order]
    axis.barh(places, 100 * doubt.probability[order], color=colours, height=0.72)
    for place, i in zip(places, order, strict=True):
        share = 100 * doubt.probability[i]
        text = "<1%" if 0 < share < 0.95 else f"{share:.0f}%"
        axis.annotate(
            f"{text}, +{100 * doubt.excess[i]:.2f}%" + _missed(doubt.missed[i]),
            (share, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            weight="bold" if i == doubt.chosen else "normal",
        )
    axis.set_yticks(places, [doubt.label(i) for i in order])
    axis.set_xticks(range(0, 101, 25))
    axis.set(ylim=(len(order) - 0.4, -0.6), xlim=(0, 136))
    axis.set_xlabel(f"per cent of {len(doubt.winner)} resamples; mean excess over the cheapest")
    axis.set_ylabel(f"{'' if doubt.names == HEADS else 'layers × width, '}query : KV heads")
    axis.grid(False, axis="y")


def _missed(share: float) -> str:
    return f", fails in {100 * share:.0f}%" if share else ""


def _saved(axis: Any, doubt: Distribution, values: np.ndarray, label: str) -> None:
    """Draw one saving over the resamples: a histogram, its interval and its median."""
    values = values[np.isfinite(values)]
    (low, high), middle = doubt.interval(values), float(np.median(values))
    axis.axvspan(low, high, color=paler(BEST, 0.82), lw=0, zorder=0)
    axis.hist(values, bins=24, color=BEST, alpha=0.75, zorder=2)
    axis.axvline(middle, color=BASELINE, lw=1.4, zorder=3)
    axis.set_title(f"{label}: {middle:.1f}%, {low:.1f} to {high:.1f}", fontsize=9)
    axis.set_xlabel(f"% of {label} that {doubt.label(doubt.chosen) if doubt.names == HEADS else 'it'} saves")
    axis.grid(False)
