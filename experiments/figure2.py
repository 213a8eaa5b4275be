"""Figure 2: loss against memory, FLOPs and Z at 128K, for seven head configurations.

`python -m experiments.figure2` draws the measured points, the curves that the paper draws through them and
our joint law, in Figure 2's units, and compares how closely each law follows each configuration's points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, drawn_law, print_rows, rms, shipped, write_csv
from scalesim.cost import FIGURE_2
from scalesim.families import FIGURE
from scalesim.fitting import Squared, coefficients
from scalesim.laws import Grouped, Law
from scalesim.report.figure import BASELINE, BEST, INK, figure, plain_log_axis, save, shades

__all__ = ["main"]

JOB = ss.Workload(context_length=131072)
GIB, PETA = 2.0**30, 1e15


def measured() -> ss.RunTable:
    """Return Figure 2's forty models: the paper's runs but for the Llama-3 series of Figure 1."""
    runs = ss.load_runs("paper")
    heads = {(int(h), int(k)) for h, k in drawn_law().labels}
    return runs.take([pair in heads for pair in zip(runs["n_head"], runs["n_kv_head"], strict=True)])


def main(folder: Path = RESULTS) -> list[Row]:
    runs, drawn = measured(), drawn_law()
    laws: dict[str, Law] = {"drawn curves": drawn, **shipped()}
    refit = ss.fit(
        "power", runs, noise=Squared(), per_group=("a", "b"), by=("n_head", "n_kv_head"), fixed={"E": 1.97}
    ).law
    assert isinstance(refit, Grouped)
    laws["refitted per configuration"] = refit
    with jax.enable_x64(True):
        errors = {name: np.asarray(law.loss(runs.columns)) - runs.loss for name, law in laws.items()}
    rows: list[Row] = []
    for i, (n_head, n_kv_head) in enumerate(drawn.labels):
        here = (runs["n_head"] == n_head) & (runs["n_kv_head"] == n_kv_head)
        theirs = coefficients(drawn.member(i))
        ours = coefficients(refit.member(refit.index(n_head=n_head, n_kv_head=n_kv_head)))
        published, fitted = ((law["a"] / 1e8) ** law["b"] for law in (theirs, ours))
        rows.append(
            {
                "n_head": int(n_head),
                "n_kv_head": int(n_kv_head),
                "models": int(here.sum()),
                "published_A_at_1e8": published,
                "refitted_A_at_1e8": fitted,
                "difference_A": fitted - published,
                "published_b": theirs["b"],
                "refitted_b": ours["b"],
                "difference_b": ours["b"] - theirs["b"],
                **{f"rms_{name.replace(' ', '_')}": rms(error[here]) for name, error in errors.items()},
                "largest_z_shift_of_12Ld2_percent": 100
                * float(shift_of_the_third_panel(runs.take(here)).max()),
            }
        )
    totals = {f"rms_{name.replace(' ', '_')}": rms(error) for name, error in errors.items()}
    rows.append({"n_head": "all", "models": len(runs), **totals})
    write_csv(folder / "figure2.csv", rows)
    draw(folder / "figure2.png", runs, rows[:-1])
    shown = ["n_head", "n_kv_head", "models", *totals, "difference_A", "difference_b"]
    print_rows("Figure 2: rms over the measured points (nats)", rows, shown)
    return rows


def shift_of_the_third_panel(runs: ss.RunTable) -> np.ndarray:
    """Return by what fraction Z rises when C counts 12 L d^2 parameters, as the paper's third panel does."""
    shape = shapes(runs)
    plain = FIGURE_2(shape, JOB)
    flops = FIGURE_2.flops(shape, JOB)
    other = 2 * JOB.context_length * 12 * runs["n_layer"] * runs["d_model"] ** 2 + flops.time_variant
    more = (1 - FIGURE_2.memory_weight) * (other ** (1 / 3) - flops.total ** (1 / 3))
    return np.asarray(more / plain)


def shapes(runs: ss.RunTable) -> ss.Shape:
    """Return the measured models as one batch of shapes."""
    return FIGURE.shape(runs["n_layer"], runs["d_model"], runs["n_head"], runs["n_kv_head"])


def costs(shape: ss.Shape) -> list[np.ndarray]:
    """Return memory in GiB, FLOPs in 10^15 and Z in thousands."""
    memory, flops = FIGURE_2.memory(shape, JOB).total / GIB, FIGURE_2.flops(shape, JOB).total / PETA
    return [np.asarray(value) for value in (memory, flops, FIGURE_2(shape, JOB) / 1e3)]


def draw(path: Path, runs: ss.RunTable, rows: list[Row]) -> None:
    """Draw the three panels of the paper, and a fourth with each law's rms by configuration."""
    drawn, law = drawn_law(), shipped()["all evidence"]
    n_params = np.geomspace(2.5e7, 9e8, 100)
    colours = shades(len(drawn.labels))[::-1]
    with jax.enable_x64(True), figure(2, 2, (10.0, 8.0)) as (canvas, axes):
        panels = [axes[0, 0], axes[0, 1], axes[1, 0]]
        for (n_head, n_kv_head), colour in zip(drawn.labels, colours, strict=True):
            here = runs.take((runs["n_head"] == n_head) & (runs["n_kv_head"] == n_kv_head))
            line = costs(FIGURE.at(n_params, n_head, n_kv_head))
            x = {"n_params": n_params, "n_head": n_head, "n_kv_head": n_kv_head}
            theirs, ours = drawn.loss(x), law.loss(x)
            label = f"({n_head:g}, {n_kv_head:g})"
            for axis, cost, marks in zip(panels, line, costs(shapes(here)), strict=True):
                axis.plot(cost, theirs, color=colour, lw=1.0)
                axis.plot(cost, ours, color=colour, lw=1.0, ls=(0, (4, 3)))
                axis.plot(marks, here.loss, "o", color=colour, ms=5, mec="white", mew=0.6, label=label)
        for axis, marks, title in zip(
            panels, costs(shapes(runs)), ("memory (GiB)", "FLOPs (10¹⁵)", "Z (thousands)"), strict=True
        ):
            plain_log_axis(axis, marks.min() / 1.15, marks.max() * 1.15)
            axis.set(xlabel=title, ylabel="loss (nats a token)", ylim=(2.58, 3.24))
        _key(panels[0], colours, drawn.labels)
        _bars(axes[1, 1], rows)
        canvas.suptitle("Figure 2 at 128K context", x=0.01, ha="left", weight="bold")
        save(canvas, path)


def _key(axis: Any, colours: list[Any], labels: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", ms=5, mec="white", lw=1.0, label=f"{h:g}, {k:g}")
        for colour, (h, k) in zip(colours, labels, strict=True)
    ]
    heads = axis.legend(
        handles=handles, title="query, KV heads", loc="upper right", fontsize=8, title_fontsize=8
    )
    axis.add_artist(heads)
    styles = [
        Line2D([], [], color=INK, marker="o", ms=5, mec="white", ls="none", label="measured"),
        Line2D([], [], color=INK, lw=1.0, label="the paper's curve"),
        Line2D([], [], color=INK, lw=1.0, ls=(0, (4, 3)), label="our joint law, all evidence"),
    ]
    axis.legend(handles=styles, loc="lower left", fontsize=8)


def _bars(axis: Any, rows: list[Row]) -> None:
    """Draw each law's rms, configuration by configuration."""
    columns = {
        "drawn curves (14 free coefficients)": ("rms_drawn_curves", INK),
        "joint law, points alone (5)": ("rms_points_alone", BASELINE),
        "joint law, all evidence (5)": ("rms_all_evidence", BEST),
    }
    at = np.arange(len(rows))
    for i, (label, (column, colour)) in enumerate(columns.items()):
        axis.bar(at + 0.27 * (i - 1), [1e3 * row[column] for row in rows], 0.25, color=colour, label=label)
    axis.set_xticks(at, [f"{row['n_head']}, {row['n_kv_head']}" for row in rows])
    axis.set(xlabel="query, KV heads", ylabel="rms over the measured points (millinats)")
    axis.grid(False, axis="x")
    axis.legend(fontsize=8, loc="upper left")


if __name__ == "__main__":
    main()
