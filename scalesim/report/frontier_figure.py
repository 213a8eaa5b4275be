"""A frontier as a figure: what was compared, what nothing betters, the bound, and the designs picked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.design.frontier import Frontier
from scalesim.design.picks import Pick
from scalesim.report.figure import FAINT, INK, axis_of, figure, paler, plain_log_axis, shades
from scalesim.units import format_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_frontier"]


def draw_frontier(front: Frontier, picks: Sequence[Pick] = ()) -> Figure:
    """Draw each pair of a frontier's measures.

    Grey dots are all designs compared, coloured ones the frontier's by their query heads, the line the bound
    over real-valued sizes and heads (for two measures). Lower and further left is better.
    """
    pairs = list(itertools.combinations(range(len(front.measures)), 2))
    size = (6.6, 4.6) if len(pairs) == 1 else (4.4 * len(pairs), 4.3)
    with figure(1, len(pairs), size, squeeze=False) as (canvas, axes):
        for axis, (first, second) in zip(axes[0], pairs, strict=True):
            # Loss goes up the side.
            x, y = (second, first) if front.measures[first].is_loss else (first, second)
            _panel(axis, front, picks, x, y)
        axes[0][0].set_title(_title(front))
        handles, labels = axes[0][0].get_legend_handles_labels()
        canvas.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3 if len(pairs) == 1 else 5,
            fontsize=8,
            handletextpad=0.4,
            columnspacing=1.4,
        )
    return canvas


def _title(front: Frontier) -> str:
    words = [axis_of(m)[1].split(" (")[0] for m in front.measures]
    joined = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 2 else " against ".join(words)
    context = format_context(float(front.query.workload.context_length))
    return f"{joined[0].upper()}{joined[1:]} at {context} context"


def _panel(axis: Any, front: Frontier, picks: Sequence[Pick], x: int, y: int) -> None:
    (x_unit, x_name), (y_unit, y_name) = (axis_of(front.measures[i]) for i in (x, y))
    values = front.values / np.where(np.arange(len(front.measures)) == x, x_unit, y_unit)
    cloud = front.cloud[:, [x, y]] / [x_unit, y_unit]
    axis.plot(*cloud.T, "o", ms=1.6, color=FAINT, mec="none", rasterized=True, zorder=1)
    axis.plot([], [], "o", ms=4, color=FAINT, label=f"all {front.considered:,} designs")
    if len(front.measures) == 2 and len(front.relaxed):
        bound = front.relaxed[:, [x, y]] / [x_unit, y_unit]
        axis.plot(*bound.T, color=INK, lw=0.9, zorder=2, label="bound: sizes and heads as real numbers")
    heads = np.array([shape.n_head for shape in front.shapes])
    groups = _groups(heads)
    for (label, members), colour in zip(groups, shades(len(groups)), strict=True):
        here = values[members][:, [x, y]]
        axis.plot(*here.T, "o", ms=3.6, color=colour, mec="white", mew=0.3, zorder=3, label=label)
    for i, one in enumerate(picks):
        _mark(axis, one, values[one.index, [x, y]], i, named=len(front.measures) == 2)
    low, high = values[:, x].min(), values[:, x].max()
    margin = (high / low) ** 0.08
    plain_log_axis(axis, low / margin, high * margin)
    bottom, top = values[:, y].min(), values[:, y].max()
    if front.measures[y].is_loss:
        axis.set_ylim(bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom))
    else:
        margin = (top / bottom) ** 0.08
        plain_log_axis(axis, bottom / margin, top * margin, "y")
    axis.set(xlabel=x_name, ylabel=y_name)


def _groups(heads: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the designs by query heads: each number for itself, or octaves where there are many."""

    def label(members: np.ndarray) -> str:
        low, high = heads[members].min(), heads[members].max()
        span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return f"{span} query head{'' if high == 1 else 's'}"

    distinct = np.unique(heads)
    cut = heads if len(distinct) <= 6 else np.floor(np.log2(heads))
    groups = [np.flatnonzero(cut == value) for value in np.unique(cut)]
    return [(label(members), members) for members in groups]


_WORDS = {"knee": "knee", "least": "cheapest that will do", "marginal value": "at the marginal value"}


def _mark(axis: Any, one: Pick, at: np.ndarray, place: int, named: bool) -> None:
    """Mark a pick; its name stands beside it, now below the frontier and now above, or in the legend."""
    s = one.shape
    heads = f"{s.n_head:g} query, {s.n_kv_head:g} KV head{'' if s.n_kv_head == 1 else 's'}"
    label = None if named else f"{_WORDS[one.rule]}: {s.n_layer:.3g} × {s.d_model:.4g}, {heads}"
    marker, size = [("*", 15), ("D", 8), ("P", 10)][place % 3]
    axis.plot(*at, marker, ms=size, color=INK, mec="white", mew=1.0, ls="none", zorder=6, label=label)
    if not named:
        return
    below = place % 2 == 0
    axis.annotate(
        f"{_WORDS[one.rule]}\n{s.n_layer:.3g} × {s.d_model:.4g}, {heads}",
        at,
        xytext=(-16, -14 - 8 * place) if below else (18, 18 + 8 * place),
        textcoords="offset points",
        ha="right" if below else "left",
        va="top" if below else "bottom",
        fontsize=8,
        color=INK,
        zorder=7,
        arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.6, "shrinkB": 5},
        bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": paler(INK, 0.3), "lw": 0.6},
    )
