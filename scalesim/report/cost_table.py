"""The cost of one shape as people read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from scalesim.units import format_bytes, format_context, format_count, format_flops

__all__ = ["print_cost"]

_ROWS = {
    "memory_bytes": ("memory to serve", format_bytes, "weights", "KV cache"),
    "flops": ("FLOPs to serve", format_flops, "parameters", "attention"),
    "training_flops": ("FLOPs to train", format_flops, "parameters", "attention"),
    "training_memory_bytes": ("memory to train", format_bytes, "weights and optimiser", "residuals"),
}


def print_cost(report: dict[str, Any]) -> None:
    """Print the parts of each cost: what is there at any context, what grows with it, and their share."""
    shape = report["shape"]
    table = Table(
        title=f"{shape['n_layer']:g} layers × {shape['d_model']:g}, {shape['n_head']:g} query and "
        f"{shape['n_kv_head']:g} KV heads: {format_count(report['n_params_total'])} parameters "
        f"({format_count(report['n_params_non_embedding'])} without embeddings), "
        f"at {format_context(report['context_length'])} context",
        title_justify="left",
    )
    for column in ("", "at any context", "grows with it", "together", "growing"):
        table.add_column(column, justify="right" if column else "left")
    for name, (label, fmt, fixed, growing) in _ROWS.items():
        parts = report[name]
        share = parts["time_variant"] / parts["total"]
        table.add_row(
            label,
            f"{fmt(parts['time_invariant'])}\n{fixed}",
            f"{fmt(parts['time_variant'])}\n{growing}",
            fmt(parts["total"]),
            f"{100 * share:.0f}%",
        )
    console = Console()
    console.print(table)
    console.print(f"Z = {report['z']:,.6g}; trained on {format_count(report['n_tokens'])} tokens.")
