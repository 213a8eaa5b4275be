"""The figure of the check of our own runs: the largest size predicted, and the design beside the baseline."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import RESULTS


def plot(rows: list[dict[str, Any]], summary: dict[str, Any], checked: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, 2 if checked else 1, figsize=(11 if checked else 6, 4.4), squeeze=False)
    _plot_prediction(axes[0, 0], rows, summary)
    if checked:
        _plot_check(axes[0, 1], checked)
    figure.tight_layout()
    figure.savefig(RESULTS / "own_runs_check.png", dpi=150)


def _plot_prediction(axis: Any, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    contexts = sorted({r["context_length"] for r in rows})
    for context, colour in zip(contexts, ("tab:blue", "tab:orange"), strict=False):
        mine = [r for r in rows if r["context_length"] == context]
        loss, predicted = ([r[k] for r in mine] for k in ("loss", "predicted"))
        bars = [[r["predicted"] - r["run_low"] for r in mine], [r["run_high"] - r["predicted"] for r in mine]]
        axis.errorbar(
            loss, predicted, yerr=bars, fmt="o", color=colour, label=f"context {context}", capsize=3
        )
        for r in mine:
            place = {"xy": (r["loss"], r["predicted"]), "xytext": (6, -10), "textcoords": "offset points"}
            axis.annotate(f"{r['n_head']}:{r['n_kv_head']}", fontsize=8, color=colour, **place)
    ends = axis.get_xlim()
    axis.plot(ends, ends, color="0.6", lw=1, zorder=0, label="equal")
    axis.set(
        xlabel="measured loss, nats a byte (mean over seeds)",
        ylabel="predicted from the three smaller sizes",
        title=f"The largest size: mean error {summary['mean_error_percent']:.2f}% (bars: 90% of runs)",
    )
    axis.legend(frameon=False)


def _plot_check(axis: Any, checked: list[dict[str, Any]]) -> None:
    place = np.arange(len(checked))
    predicted = [np.nan if r["ratio_predicted"] is None else r["ratio_predicted"] for r in checked]
    axis.barh(place - 0.2, [r["ratio_measured"] for r in checked], 0.4, label="measured", color="tab:blue")
    axis.barh(place + 0.2, predicted, 0.4, label="predicted", color="0.7")
    axis.axvline(1.0, color="0.3", lw=1)
    axis.set_yticks(place, [r["quantity"].replace("_", " ") for r in checked])
    axis.invert_yaxis()
    axis.set_xlim(0, 2)
    for y, value in zip(place, predicted, strict=True):
        if value > 2:
            axis.annotate(f"{value:.1f}", (1.98, y + 0.2), ha="right", va="center", fontsize=8)
    axis.set(xlabel="design / baseline", title="The searched design beside the baseline")
    axis.legend(frameon=False)
