"""The answer of a sweep: as JSON, as tables, and its frontiers as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.report.console import print_remarks, table_console
from scalesim.report.design_table import candidate_json
from scalesim.report.figure import BEST, FAINT, INK, axis_of, figure, plain_log_axis
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.keep import COLUMNS, FRONTIERS
from scalesim.sweeps.result import Sweep
from scalesim.units import format_bytes, format_context, format_count, format_flops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_sweeps", "print_sweep", "sweep_json"]


def _rows_json(rows: np.ndarray) -> list[dict[str, Any]]:
    whole = ("index", *SIZES)
    designs = []
    for row in rows[np.isfinite(rows).all(axis=1)].tolist():
        values = {n: int(v) if n in whole else v for n, v in zip(COLUMNS, row, strict=True)}
        values["memory_bytes"] = values.pop("memory")
        designs.append(values)
    return designs


def _frontier_json(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the union of the three frontiers by loss; `least` says which of them a design is on."""
    found: dict[int, dict[str, Any]] = {}
    for measure in FRONTIERS:
        for design in _rows_json(sweep.kept.frontier(measure)):
            found.setdefault(design["index"], {**design, "least": []})["least"].append(measure)
    return sorted(found.values(), key=lambda design: (design["loss"], design["index"]))


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep's answer as one JSON-ready object.

    In `frontier`, `least` names the measures in which nothing of that loss or a lower one is less.
    """
    return {
        "designs": sweep.designs,
        "seconds": sweep.seconds,
        "designs_per_second": sweep.designs_per_second,
        "context_length": float(sweep.query.workload.context_length),
        "target_loss": float(sweep.query.target_loss),
        "best": {
            **candidate_json(sweep.best),
            "ratios_to_family": sweep.ratios,
            "loss_interval": sweep.loss_interval,
        },
        "top": _rows_json(sweep.kept.top),
        "frontier": _frontier_json(sweep),
        "extrapolation": sweep.extrapolation,
        "status": sweep.status,
    }


def print_sweep(sweep: Sweep) -> None:
    """Print the best designs of a sweep and what to know of them."""
    from rich.table import Table

    console = table_console()
    title = (
        f"Cheapest of {format_count(sweep.designs)} designs for loss {sweep.query.target_loss:g} at "
        f"{format_context(sweep.query.workload.context_length)} context"
    )
    table = Table(title=title, title_justify="left")
    for name in (
        "layers × width",
        "query : KV heads",
        "FFN width",
        "loss",
        "memory",
        "FLOPs",
        sweep.query.objective.label,
    ):
        table.add_column(name, justify="right")
    for row in _rows_json(sweep.kept.top):
        table.add_row(
            f"{row['n_layer']} × {row['d_model']}",
            f"{row['n_head']} : {row['n_kv_head']}",
            f"{row['d_ff']}",
            f"{row['loss']:.4f}",
            format_bytes(row["memory_bytes"]),
            format_flops(row["flops"]),
            sweep.query.objective.value_text(row["objective"]),
        )
    console.print(table, highlight=False)
    remarks = [
        f"{sweep.designs:,} designs in {sweep.seconds:.1f} s: {format_count(sweep.designs_per_second)}/s.",
        f"The best has {format_count(sweep.best.n_params_non_embedding)} parameters without embeddings.",
    ]
    if sweep.loss_interval is not None:
        low, high = sweep.loss_interval
        remarks.append(f"Its loss is predicted to lie between {low:.3f} and {high:.3f} (90%).")
    print_remarks([*remarks, sweep.status])


def draw_sweeps(sweeps: Sequence[Sweep]) -> Figure:
    """Draw loss against memory, FLOPs and the objective: each frontier, with the best marked.

    Everything right of a line was evaluated and is worse; nothing that was evaluated is left of it.
    """
    units = {
        "memory": (2.0**30, "memory (GiB)"),
        "flops": (1e15, "FLOPs (10¹⁵)"),
        "objective": axis_of(sweeps[0].query.objective),
    }
    with figure(len(sweeps), 3, (11.0, 3.6 * len(sweeps)), squeeze=False, sharey="row") as (canvas, axes):
        for row, sweep in zip(axes, sweeps, strict=True):
            target = float(sweep.query.target_loss)
            context = format_context(sweep.query.workload.context_length)
            best = dict(zip(COLUMNS, sweep.kept.top[0].tolist(), strict=True))
            shape = sweep.best.shape
            label = (
                f"best: {shape.n_layer} × {shape.d_model}, {shape.n_head} query, {shape.n_kv_head} KV heads"
            )
            for axis, measure in zip(row, FRONTIERS, strict=True):
                unit, name = units[measure]
                frontier = sweep.kept.frontier(measure)
                cost, loss = frontier[:, COLUMNS.index(measure)] / unit, frontier[:, COLUMNS.index("loss")]
                axis.fill_betweenx(loss, cost, cost.max() * 1.5, color=FAINT, alpha=0.35, lw=0)
                axis.plot(cost, loss, color=INK, lw=1.3, label="frontier of all designs")
                axis.axhline(target, color=INK, lw=0.7, ls=":")
                axis.plot(
                    best[measure] / unit,
                    best["loss"],
                    "*",
                    color=BEST,
                    ms=14,
                    mec="white",
                    label=label,
                    zorder=5,
                )
                plain_log_axis(axis, cost.min() / 1.3, cost.max() * 1.1)
                axis.set_xlabel(name)
            row[0].set_ylabel("predicted loss (nats a token)")
            row[0].set_title(f"{format_count(sweep.designs)} designs, {context} context, loss {target:g}")
            row[0].legend(loc="upper right", fontsize=8)
    return canvas
