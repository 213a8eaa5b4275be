"""Savings of a redesign over context, with both intervals, and the heads chosen at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.report.figure import BASELINE, BEST, INK, figure, paler
from scalesim.units import format_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalesim.redesigns.result import Redesign

__all__ = ["draw_redesign"]


def draw_redesign(found: Redesign) -> Figure:
    """Draw what is saved at each context, and which heads and size are chosen there.

    The dark band is between forms of the law, each at its best fit; the light one holds 90% of all samples.
    Contexts that nothing can serve are left out.
    """
    from scalesim.redesigns.variations import over_contexts

    rows = [r for r in found.over_context or over_contexts(found) if r.get("saved") is not None]
    with figure(2, 1, (8.2, 6.0), sharex=True, height_ratios=(3, 2)) as (canvas, (top, bottom)):
        x = np.log2([row["context_length"] for row in rows])
        saved = np.array([[row["saved"], row["low"], row["high"], *row["between"]] for row in rows]).T * 100
        top.fill_between(x, saved[1], saved[2], color=paler(BEST, 0.8), lw=0, label="90% of all samples")
        top.fill_between(
            x, saved[3], saved[4], color=paler(BEST, 0.45), lw=0, label="between forms of the law"
        )
        top.plot(x, saved[0], "o-", color=BEST, ms=4, label="best redesign")
        top.axhline(0, color=INK, lw=0.8)
        asked = np.log2(found.question["context_length"])
        top.axvline(asked, color=BASELINE, lw=0.9, ls=":")
        top.set_ylabel(f"% less {_objective(found)}")
        top.set_ylim(min(-5.0, float(saved.min()) - 3), 103)
        top.legend(loc="upper left", fontsize=8)
        _chosen(bottom, x, rows)
        bottom.set_xticks(x, [format_context(row["context_length"]) for row in rows])
        bottom.set_xlabel("context served (dotted: as asked)")
        canvas.suptitle(
            f"{found.model}, redesigned: {found.question['serving']}", x=0.01, ha="left", fontsize=9
        )
        return canvas


def _objective(found: Redesign) -> str:
    from scalesim.redesigns.result import MEASURES

    name = found.objective if isinstance(found.objective, str) else found.objective.label
    return MEASURES[name][0] if name in MEASURES else name


def _chosen(axis: Any, x: np.ndarray, rows: list[dict[str, Any]]) -> None:
    size = [row["size_over_own"] for row in rows]
    axis.plot(x, size, "o-", color=BEST, ms=4)
    axis.axhline(1.0, color=BASELINE, lw=0.8)
    for place, row in zip(x, rows, strict=True):
        text = row["heads"].replace(" : ", ":").replace(" of", "\nof").replace(", ", ",\n")
        axis.annotate(text, (place, row["size_over_own"]), (0, 7), textcoords="offset points", ha="center",
                      va="bottom", fontsize=7, color=INK)  # fmt: skip
    axis.set_ylabel("parameters over\nthe model's own")
    axis.set_ylim(min(0.8, min(size) - 0.1), max(size) + 0.45)
