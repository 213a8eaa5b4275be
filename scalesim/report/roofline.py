"""The roofline figure: each operator's intensity and speed under the hardware's roof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalesim.cost.explain import ServingCost
from scalesim.hardware import Hardware
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure
from scalesim.report.serving_table import format_seconds
from scalesim.workload import Compute

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scalesim.cost.passes import Operator

__all__ = ["draw_roofline"]


def draw_roofline(cost: ServingCost, hardware: Hardware, *, compute: Compute = "bf16") -> Figure:
    """Draw the operators of prefill and decode against the data sheet's roof.

    A point's height is the FLOP/s that its predicted time amounts to, its area its share of the time.
    """
    peak, bandwidth = float(hardware.peak_flops(compute)), float(hardware.bandwidth)
    phases = (("prefill", cost.prefill, BASELINE), ("decode", cost.decode, BEST))
    with figure(size=(7.0, 4.6)) as (canvas, axis):
        low, high = 0.3, 3e4
        x = np.geomspace(low, high, 400)
        axis.plot(x, np.minimum(peak, x * bandwidth), color=INK, lw=1.5)
        axis.axvline(peak / bandwidth, color=FAINT, lw=1, ls=":")
        axis.text(
            peak / bandwidth, peak * 1.25, f"{peak / bandwidth:.0f} FLOPs a byte", ha="center", fontsize=8
        )
        for label, operators, colour in phases:
            whole = sum(o.time_s for o in operators)
            shown = [o for o in operators if o.flops > 0 and o.n_bytes > 0]
            axis.scatter(
                [o.flops / o.n_bytes for o in shown],
                [o.flops / o.time_s for o in shown],
                s=[_area(o.time_s / whole) for o in shown],
                color=colour,
                alpha=0.6,
                label=f"{label}, {format_seconds(whole)}",
                edgecolors="white",
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(low, high)
        axis.set_ylim(axis.get_ylim()[0] / 4, peak * 2)
        for _, operators, _ in phases:
            _name_longest(axis, operators)
        axis.set_xlabel("FLOPs a byte of memory traffic")
        axis.set_ylabel("FLOP/s")
        axis.set_title(f"Operators on {hardware.name}: area is share of the time")
        for handle in axis.legend(loc="lower right").legend_handles:
            handle.set_sizes([40])
    return canvas


def _area(share: float) -> float:
    """Return the area of a mark, square points."""
    return 20 + 400 * share


def _name_longest(axis: Axes, operators: Sequence[Operator]) -> None:
    """Name the three operators that take longest, each below the marks at its place and the name above it."""
    whole = sum(o.time_s for o in operators)
    shown = sorted((o for o in operators if o.flops > 0 and o.n_bytes > 0), key=lambda o: -o.time_s)[:3]
    points = [(o.flops / o.n_bytes, o.flops / o.time_s) for o in shown]
    drawn = axis.transData.transform(points) * 72 / axis.figure.dpi  # in points
    below = drawn[:, 1] - [math.sqrt(_area(o.time_s / whole)) / 2 for o in shown]
    side = "left" if all(x < 2e3 for x, _ in points) else "right"
    last = math.inf
    for i in np.argsort(-drawn[:, 1]):
        together = (np.abs(drawn - drawn[i]) < (60, 25)).all(axis=1)
        last = min(below[together].min() - 7, last - 9)
        axis.annotate(
            f"{shown[i].name}, {100 * shown[i].time_s / whole:.0f}%",
            points[i],
            (8, last - drawn[i, 1]),
            textcoords="offset points",
            fontsize=7,
            ha=side,
        )
