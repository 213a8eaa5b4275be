"""Designs side by side over context lengths, as a table and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalesim.report.console import print_rows, table_console
from scalesim.report.figure import figure, named_axis, plain_log_axis
from scalesim.report.serving_table import format_seconds
from scalesim.units import format_bytes, format_context, format_count, format_flops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_comparison", "print_comparison"]

_COLUMNS = ("", "loss", "params", "FLOPs/token", "memory", "TTFT", "TPOT", "tokens/s", "$/M generated")
_COLOURS = ("#1f6f8b", "#d1603d", "#6b8f3c", "#7a5195", "#b8860b", "#22303c")


def _dollars(at: dict[str, Any]) -> str:
    prices = at["dollars_per_million_tokens"]
    return "" if prices is None else f"{prices['generated']['typical']:.3g}"


def print_comparison(report: dict[str, Any]) -> None:
    """Print one table a context length, one row a design."""
    console = table_console()
    console.print(f"{report['devices']} × {report['hardware']}, {report['batch_size']:g} sequences")
    designs = report["designs"]
    beyond = [
        f"{d['name']}: beyond the law's evidence by a factor of "
        f"{max(d['loss']['extrapolation'].values()):.2g}"
        for d in designs
        if d["loss"] and max(d["loss"]["extrapolation"].values(), default=1.0) > 1.005
    ]
    for i, first in enumerate(designs[0]["contexts"]):
        rows = []
        for design in designs:
            at = design["contexts"][i]
            times = ("does not fit", "", "", "")
            if at["fits"]:
                times = (
                    format_seconds(at["ttft_s"]),
                    format_seconds(at["tpot_s"]),
                    f"{at['throughput_tokens_per_s']:,.0f}",
                    _dollars(at),
                )
            rows.append(
                (
                    design["name"].split("/")[-1] + (" *" if at["beyond_max_context"] else ""),
                    f"{design['loss']['value']:.3f}" if design["loss"] else "",
                    format_count(design["n_params_total"]),
                    format_flops(at["flops_per_token"]),
                    format_bytes(at["memory_bytes"]),
                    *times,
                )
            )
        print_rows(console, f"at {format_context(first['context_length'])}", _COLUMNS, rows)
    if any(at["beyond_max_context"] for d in designs for at in d["contexts"]):
        console.print("* beyond the context that the model was made for")
    for line in beyond:
        console.print(line)


def _short(name: str, most: int = 60) -> str:
    """Return a name that a legend has room for.

    >>> _short("a-model-of-a-long-name.json", 15)
    'a-mode....json'
    """
    end = (most - 3) // 2
    return name if len(name) <= most else f"{name[:end]}...{name[-end:]}"


def draw_comparison(report: dict[str, Any]) -> Figure:
    """Draw memory, time per output token and $ a million generated tokens over the context.

    What does not fit in memory is left out of the times.
    """
    panels = (
        ("memory, GiB", lambda at: at["memory_bytes"] / 2**30),
        ("time per output token, ms", lambda at: at["tpot_s"] and at["tpot_s"] * 1e3),
        (
            "$ a million generated tokens",
            lambda at: (
                at["dollars_per_million_tokens"] and at["dollars_per_million_tokens"]["generated"]["typical"]
            ),
        ),
    )
    with figure(1, 3, size=(11.0, 3.6)) as (canvas, axes):
        for axis, (title, value) in zip(axes, panels, strict=True):
            for i, design in enumerate(report["designs"]):
                points = [(at["context_length"], value(at)) for at in design["contexts"]]
                drawn = [(x, y) for x, y in points if y]
                axis.plot(
                    [x for x, _ in drawn],
                    [y for _, y in drawn],
                    marker="o",
                    color=_COLOURS[i % len(_COLOURS)],
                    label=_short(design["name"].split("/")[-1]),
                )
            axis.set_title(title)
            axis.set_xscale("log", base=2)
            axis.set_xlabel("context, tokens")
            contexts = sorted({at["context_length"] for d in report["designs"] for at in d["contexts"]})
            axis.set_xlim(contexts[0] / 1.5, contexts[-1] * 1.5)
            named_axis(axis, contexts, format_context)
        usable = report["designs"][0]["contexts"][0]["usable_bytes"] / 2**30
        axes[0].axhline(usable, color="#8896a1", ls=":", lw=1, label="usable memory")
        for axis in axes:
            drawn_y = [y for line in axis.lines for y in line.get_ydata() if y > 0] or [1.0]
            plain_log_axis(axis, min(drawn_y) / 1.5, max(drawn_y) * 1.5, "y")
        handles, labels = axes[0].get_legend_handles_labels()
        columns = max(1, min(4, 160 // max(map(len, labels))))
        canvas.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7)
    return canvas
