"""Where the bytes and the milliseconds of serving go, as people and programs read it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rich.table import Table

from scalesim.cost.counts import Counts
from scalesim.cost.explain import ServingCost
from scalesim.cost.passes import Operator
from scalesim.cost.spread import Interval
from scalesim.hardware import Hardware
from scalesim.report.console import table_console
from scalesim.units import format_bytes, format_context, format_count, format_flops

__all__ = ["format_seconds", "print_serving", "serving_json"]


def format_seconds(seconds: float) -> str:
    """Return seconds in the unit that people would use.

    >>> format_seconds(0.0123), format_seconds(7200.0)
    ('12.3 ms', '2 h')
    """
    for unit, size in (("d", 86400.0 * 3), ("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / (86400.0 if unit == 'd' else size):.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _operator_json(operator: Operator) -> dict[str, Any]:
    return {**dataclasses.asdict(operator), "bound": operator.bound()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def serving_json(cost: ServingCost) -> dict[str, Any]:
    """Return a serving cost as one JSON-ready object; an unlimited context is null."""
    found = cost.serving
    return {
        "kv_bytes_per_token": cost.kv_bytes_per_token,
        "weight_bytes": cost.weight_bytes,
        "memory_bytes": cost.memory.total,
        "memory_bytes_parts": dataclasses.asdict(cost.memory),
        "usable_bytes": cost.usable_bytes,
        "largest_batch_size": cost.largest_batch,
        "largest_context_length": _finite(cost.largest_context),
        "ttft_s": found.ttft_s,
        "tpot_s": found.tpot_s,
        "throughput_tokens_per_s": found.throughput_tokens_per_s,
        "prefill_tokens_per_s": found.prefill_tokens_per_s,
        "relative_error": cost.error,
        "ttft_interval_s": list(cost.ttft_interval),
        "tpot_interval_s": list(cost.tpot_interval),
        "dollars_per_million_tokens": None
        if cost.dollars is None
        else {kind: dataclasses.asdict(band) for kind, band in cost.dollars.items()},
        "joules_per_million_tokens": None if cost.joules is None else dataclasses.asdict(cost.joules),
        "operators": {
            "prefill": [_operator_json(operator) for operator in cost.prefill],
            "decode": [_operator_json(operator) for operator in cost.decode],
        },
    }


def _operators(title: str, operators: tuple[Operator, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "FLOPs", "bytes", "time", "share", "bound by"):
        table.add_column(
            column, justify="right" if column not in ("", "bound by") else "left", overflow="fold"
        )
    whole = sum(operator.time_s for operator in operators)
    for o in operators:
        table.add_row(
            o.name,
            format_flops(o.flops) if o.flops else "",
            format_bytes(o.n_bytes) if o.n_bytes else "",
            format_seconds(o.time_s),
            f"{100 * o.time_s / whole:.0f}%",
            o.bound(),
        )
    table.add_section()
    table.add_row("together", "", "", format_seconds(whole), "", "")
    return table


def print_serving(report: dict[str, Any], cost: ServingCost, hardware: Hardware, found: Counts) -> None:
    """Print what serving costs: memory, then time by operator, then the figures that people compare."""
    console = table_console()
    shape = report["shape"]
    active = ""
    if report["n_params_active"] != report["n_params_total"]:
        active = f", {format_count(report['n_params_active'])} active"
    console.print(
        f"[bold]{report['name']}[/bold]: {shape['n_layer']:g} layers × {shape['d_model']:g}, "
        f"{shape['n_head']:g} query and {shape['n_kv_head']:g} KV heads; "
        f"{format_count(report['n_params_total'])} parameters{active}\n"
        f"{report['devices']} × {hardware.name}, {report['batch_size']:g} sequences of "
        f"{format_context(report['context_length'])} tokens"
    )
    memory = Table(title="memory on one accelerator", title_justify="left")
    memory.add_column("")
    memory.add_column("bytes", justify="right")
    memory.add_column("of usable", justify="right")
    rows = {
        "weights": cost.memory.weights,
        "KV cache": cost.memory.kv_cache,
        "activations": cost.memory.activations,
    }
    for name, value in {**rows, "together": cost.memory.total}.items():
        memory.add_row(name, format_bytes(value), f"{100 * value / cost.usable_bytes:.1f}%")
    console.print(memory)
    console.print(_block_table(found))
    console.print("\n".join(found.lines()), highlight=False)
    if report["fits"]:
        console.print(_operators("first token of one prompt", cost.prefill))
        console.print(_operators("one token of every sequence", cost.decode))
    else:
        console.print(report["unfit"], highlight=False)
    console.print("\n".join(_figures(report, cost)), highlight=False)
    if hardware.efficiency.status == "borrowed":
        console.print("Borrowed constants: its kernels were not measured.", highlight=False)


def _block_table(found: Counts) -> Table:
    face = found._face()
    table = Table(title="by kind of layer", title_justify="left")
    for i, column in enumerate(face.columns):
        table.add_column(column, justify="right" if i > 2 else "left", overflow="fold")
    for row in face.rows:
        table.add_row(*map(str, row))
    return table


def _within(interval: Interval) -> str:
    return f"90%: {format_seconds(interval.low)} to {format_seconds(interval.high)}"


def _figures(report: dict[str, Any], cost: ServingCost) -> list[str]:
    """The lines that people compare; of what does not fit, those that do not depend on it."""
    served, dollars, joules, found = report["fits"], cost.dollars, cost.joules, cost.serving
    lines = [
        f"time to first token (no queueing)  {format_seconds(found.ttft_s)}  ({_within(cost.ttft_interval)})",
        f"time per output token              {format_seconds(found.tpot_s)}  ({_within(cost.tpot_interval)})",
        f"throughput                         {found.throughput_tokens_per_s:,.0f} tokens/s generated, "
        f"{found.prefill_tokens_per_s:,.0f} tokens/s of prompt",
    ]
    lines = lines if served else []
    lines += [
        f"KV cache                           {format_bytes(cost.kv_bytes_per_token)} a token",
        f"most that fits                     {max(math.floor(cost.largest_batch), 0):,} such sequences, or "
        + (
            f"{format_context(max(math.floor(cost.largest_context), 0))} of context"
            if math.isfinite(cost.largest_context)
            else "any context"
        ),
    ]
    if served and dollars is not None:
        for kind, band in dollars.items():
            label = f"$ a million {kind} tokens"
            lines.append(f"{label:<35}{band.typical:.3g}  ({band.low:.3g} to {band.high:.3g})")
    if served and joules is not None:
        lines.append(f"energy a million generated tokens  {joules.generated / 3.6e6:.3g} kWh at stated power")
    training = report["training"]
    low, typical, high = training["device_hours"]
    line = f"training on {format_count(training['n_tokens'])} tokens".ljust(35)
    line += f"{format_flops(training['flops'])}, {typical:,.0f} accelerator hours ({low:,.0f} to {high:,.0f})"
    if "dollars" in training:
        least, usual, most = training["dollars"]
        line += f", ${usual:,.0f} ({least:,.0f} to {most:,.0f})"
    lines.append(line)
    if (paper := report["paper"]) is not None:
        lines.append(
            f"the paper's cost                   Z = {paper['z']:,.6g}; memory "
            f"{format_bytes(paper['memory_bytes']['total'])}, {format_flops(paper['flops']['total'])}"
        )
    return lines
