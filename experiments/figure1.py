"""Figure 1: Llama-3's GQA against the optimum at 128K and a loss of 2.615, and loss against Z.

The published bars (time-invariant and time-variant memory and FLOPs of both designs) agree with neither
figure's units, and not with the model of the scatter beside them. `python -m experiments.figure1` puts them
beside ours in each convention, says which model they would be, and compares what no unit can change: each
part as a share of the baseline's total.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, shipped, write_csv
from scalesim.cost import FIGURE_1, FIGURE_2, HardwareAwareCost, Parts
from scalesim.design import PAPER, Design, Problem
from scalesim.design.problem import Query
from scalesim.families import FIGURE
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, paler, plain_log_axis, save

__all__ = ["main"]

JOB = ss.Workload(context_length=131072)
LOSS = 2.615
LLAMA = "16x2048x32x8"
"""The Llama-3 GQA model of Figure 1 whose loss is 2.615 (2.6142 as read): layers, width, heads."""


@dataclass(frozen=True)
class Bars:
    """Memory and FLOPs of the two designs in one convention, and the candidate whose Z is least there."""

    name: str
    units: str
    z_optimal: tuple[int, int]
    baseline: tuple[Parts, Parts]
    best: tuple[Parts, Parts]


PUBLISHED = Bars(
    "published bars",
    "as printed, no unit",
    (8, 1),
    (Parts(1.197, 2.984), Parts(2.496, 23.876)),
    (Parts(1.573, 0.484), Parts(3.146, 8.067)),
)


def ours(law: ss.Law, design: Design) -> list[Bars]:
    """Return our bars in the conventions that the paper uses."""
    values, one_byte = (
        HardwareAwareCost(flops_per="token"),
        dataclasses.replace(JOB, weight_bits=8, kv_bits=8),
    )
    conventions = [
        ("Figure 2's units", "GiB at 2 bytes; 10^15 FLOPs a sequence", FIGURE_2, JOB, 2.0**30, 1e15),
        ("Figure 1's scatter", "GiB at 2 bytes; 10^15 FLOPs, causal halving", FIGURE_1, JOB, 2.0**30, 1e15),
        ("values, per token", "10^9 values; 10^9 FLOPs a token", values, one_byte, 1e9, 1e9),
    ]

    def scaled(parts: Parts, unit: float) -> Parts:
        return jax.tree.map(lambda part: float(part) / unit, parts)

    found = []
    for name, units, cost, job, gib, giga in conventions:
        base, best = (
            (scaled(cost.memory(shape, job), gib), scaled(cost.flops(shape, job), giga))
            for shape in (design.baseline.shape, design.best.shape)
        )
        least_z = ss.search(law, job, LOSS, lattice=PAPER, objective=cost).shape
        found.append(Bars(name, units, (int(least_z.n_head), int(least_z.n_kv_head)), base, best))
    return found


def main(folder: Path = RESULTS) -> list[Row]:
    law = shipped()["all evidence"]
    design = ss.search(law, JOB, LOSS, lattice=PAPER, baseline=LLAMA)
    every = [PUBLISHED, *ours(law, design)]
    rows = [row for bars in every for row in bar_rows(bars)]
    write_csv(folder / "figure1.csv", rows)
    write_csv(folder / "figure1_bars_as_models.csv", implied_models(design))
    draw(folder / "figure1.png", every[:3], law)
    shown = ["convention", "memory_saved_percent", "flops_saved_percent", "furthest_share_percent_points"]
    shown.append("z_optimal_heads")
    print_rows("Figure 1", [row for row in rows if row["design"] == "optimum"], shown)
    print_rows("The published bars as models: 10^9 values, 10^9 FLOPs a token", implied_models(design))
    return rows


def bar_rows(bars: Bars) -> list[Row]:
    """Return a row for each design: its parts, their shares of the baseline's total, and the difference."""
    rows: list[Row] = []
    for design, parts, published in (
        ("Llama-3 GQA", bars.baseline, PUBLISHED.baseline),
        ("optimum", bars.best, PUBLISHED.best),
    ):
        row: dict[str, Any] = {"convention": bars.name, "units": bars.units, "design": design}
        furthest = 0.0
        for what, part, theirs, base, their_base in zip(
            ("memory", "flops"), parts, published, bars.baseline, PUBLISHED.baseline, strict=True
        ):
            for which in ("time_invariant", "time_variant"):
                share = 100 * getattr(part, which) / base.total
                difference = share - 100 * getattr(theirs, which) / their_base.total
                row[f"{what}_{which}"] = getattr(part, which)
                row[f"{what}_{which}_share_percent"] = share
                row[f"{what}_{which}_share_minus_published"] = difference
                furthest = max(furthest, abs(difference))
            if design == "optimum":
                row["z_optimal_heads"] = f"{bars.z_optimal[0]},{bars.z_optimal[1]}"
                row[f"{what}_saved_percent"] = 100 * (1 - part.total / base.total)
        rows.append({**row, "furthest_share_percent_points": furthest})
    return rows


def implied_models(design: Design) -> list[Row]:
    """Return the size and depth that the published bars imply, if they are 10^9 values and FLOPs a token."""
    context = JOB.context_length
    rows: list[Row] = []
    for name, (memory, flops), mine in (
        ("Llama-3 GQA", PUBLISHED.baseline, design.baseline),
        ("optimum", PUBLISHED.best, design.best),
    ):
        shape = mine.shape
        rows.append(
            {
                "design": name,
                "n_head": shape.n_head,
                "n_kv_head": shape.n_kv_head,
                "n_params_of_memory_bar": 1e9 * memory.time_invariant,
                "n_params_of_flops_bar": 1e9 * flops.time_invariant / 2,
                "our_n_params": mine.n_params,
                "n_layer_of_memory_bar": 1e9 * memory.time_variant / (2 * context * 64 * shape.n_kv_head),
                "n_layer_of_flops_bar": 1e9 * flops.time_variant / (4 * context * 64 * shape.n_head),
                "our_n_layer": shape.n_layer,
            }
        )
    return rows


def draw(path: Path, every: list[Bars], law: ss.Law) -> None:
    """Draw both sets of bars as shares of the baseline's total, and loss against Z in Figure 1's units."""
    with jax.enable_x64(True), figure(1, 3, (12.0, 4.4), width_ratios=(1, 1, 1.15)) as (canvas, axes):
        for axis, which, title in zip(axes, (0, 1), ("memory", "FLOPs"), strict=False):
            _bars(axis, every, which)
            axis.set_title(f"{title}, % of Llama-3 GQA's")
        axes[1].tick_params(labelleft=False)
        _scatter(axes[2], law)
        for axis, side in ((axes[0], "left"), (axes[2], "right")):
            canvas.legend(*axis.get_legend_handles_labels(), loc=f"outside lower {side}", ncols=2, fontsize=8)
        save(canvas, path)


def _bars(axis: Any, every: list[Bars], which: int) -> None:
    places, labels = [], []
    y = 0.0
    for bars in every:
        total = bars.baseline[which].total
        for name, pair, colour in (("Llama-3 GQA", bars.baseline, BASELINE), ("optimum", bars.best, BEST)):
            parts = pair[which]
            fixed, growing = 100 * parts.time_invariant / total, 100 * parts.time_variant / total
            said = f"{name}: " if bars is every[0] else "_"  # the underscore keeps it out of the legend
            axis.barh(y, fixed, 0.8, color=paler(colour), label=f"{said}parameters")
            axis.barh(y, growing, 0.8, left=fixed, color=colour, label=f"{said}attention")
            if name == "optimum":
                saved = f"−{100 - fixed - growing:.1f}%"
                axis.text(fixed + growing + 2, y, saved, va="center", color=BEST, weight="bold")
            places.append(y)
            labels.append(name)
            y += 1
        axis.text(0, y - 2.52, bars.name, fontsize=8, style="italic", va="bottom")
        y += 1.0
    axis.set_yticks(places, labels)
    axis.set(xlim=(0, 108), ylim=(y - 1.3, -0.95))
    axis.grid(False, axis="y")


def _scatter(axis: Any, law: ss.Law) -> None:
    runs, problem, query = ss.load_runs("paper"), Problem(law=law), Query(workload=JOB, target_loss=LOSS)
    log_n = np.linspace(np.log(2.5e7), np.log(4e9), 80)

    def line(n_head: Any, n_kv_head: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = FIGURE.at(np.exp(log_n), n_head, n_kv_head)
        loss = problem.loss_at(log_n, n_head, n_kv_head, query)
        return np.asarray(FIGURE_1(shape, JOB)) / 1e3, np.asarray(loss)

    for i, (n_head, n_kv_head) in enumerate(PAPER.heads):
        label = "the 21 candidates, our law" if i == 0 else None
        axis.plot(*line(float(n_head), float(n_kv_head)), color=FAINT, lw=0.8, zorder=1, label=label)
    axis.plot(*line(8.0, 1.0), color=BEST, lw=1.6, zorder=2, label="(8, 1), our law")
    for rows, colour, label in (
        (slice(40, 46), BASELINE, "Llama-3 GQA, measured"),
        ((runs["n_head"] == 8) & (runs["n_kv_head"] == 1), BEST, "(8, 1), measured"),
    ):
        some = runs.take(rows)
        shape = FIGURE.shape(some["n_layer"], some["d_model"], some["n_head"], some["n_kv_head"])
        style = {"color": colour, "mec": "white", "ms": 6, "zorder": 3, "label": label}
        axis.plot(np.asarray(FIGURE_1(shape, JOB)) / 1e3, some.loss, "o", **style)
    plain_log_axis(axis, 3.0, 16.0)
    axis.set(ylim=(2.52, 3.24), ylabel="loss (nats a token)", xlabel="Z in Figure 1's units (thousands)")
    axis.axhline(LOSS, color=INK, lw=0.7, ls=":")
    axis.set_title("loss against Z at 128K")


if __name__ == "__main__":
    main()
