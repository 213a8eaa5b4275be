"""The page's figures, each from what the library answered."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

import scalesim as ss
from scalesim.app.answers import CONTEXTS
from scalesim.app.parts import Answer, Column, Value
from scalesim.app.svg import Axis, Plot, decades, interval
from scalesim.redesigns.result import signed
from scalesim.report.figure import axis_of
from scalesim.units import format_bytes, format_context

__all__ = ["context_figure", "frontier_figure", "map_figure", "operators_figure", "sure_figure"]

_HUES = ("#d1603d", "#e2ab4b", "#86ab63", "#1f8f8b", "#3a6ea5", "#6a4c93", "#a05195")


def context_figure(found: Answer, rows: Sequence[dict[str, Any]]) -> str:
    """Return the savings over context with both bands, and the heads chosen at each."""
    asked = float(found.found.question["context_length"]) if found.view.asks == "model" else float(
        found.found.context_length
    )  # fmt: skip
    least = min([0.0, *(100 * row["low"] for row in rows)])
    bottom = max(-100.0, 20 * np.floor(least / 20)) if least < 0 else 0.0
    ticks = [(v, f"{v:.0f}%") for v in np.arange(bottom, 101, 20 if bottom > -60 else 40)]
    low, high = min(CONTEXTS[0], asked), max(CONTEXTS[-1], asked)
    x = Axis(low / 1.25, high * 1.25, [(c, format_context(c)) for c in CONTEXTS], "context served", log=True)
    plot = Plot(x, Axis(bottom, 100, ticks, f"less {found.objective}"), "Savings over context", height=340)
    plot.line([(asked, bottom), (asked, 100)], "mark")
    plot.band([(r["context_length"], 100 * r["low"], 100 * r["high"]) for r in rows], "outer")
    if rows and "between" in rows[0]:
        plot.band([(r["context_length"], *(100 * v for v in r["between"])) for r in rows], "inner")
    plot.line([(r["context_length"], 100 * r["saved"]) for r in rows], "best")
    for row in rows:
        words = f"{format_context(row['context_length'])}: {row['heads']}, {row['saved']:.0%} saved"
        plot.dot(row["context_length"], 100 * row["saved"], "best", says=words)
        at, below = (row["context_length"], 100 * row["saved"]), row["saved"] > 0.25
        heads = row["heads"].replace(", shared by two layers", "").replace(", latent", "").replace(" : ", ":")
        first, _, size = heads.partition(" of ")
        plot.text(*at, first, "choice", dy=20 if below else -20)
        plot.text(*at, f"of {size}", "choice", dy=32 if below else -8)
    waiting = len(CONTEXTS) - len(rows)
    legend = _legend([("line", "the best design"), ("outer", "90% of all samples of the laws")] + (
        [("inner", "from form to form of the law")] if rows and "between" in rows[0] else []
    ))  # fmt: skip
    note = (
        ""
        if not rows or not waiting
        else '<p class="quiet">The other contexts follow, or nothing serves them.</p>'
    )
    return (
        plot.svg()
        + legend
        + f'<p class="quiet">Beside each point: query : KV heads, and their size.</p>{note}'
    )


def frontier_figure(front: ss.Frontier) -> str:
    """Return a frontier of loss against a cost: all designs, those that nothing betters, and the bound."""
    unit, label = axis_of(front.measures[1])
    values, cloud = front.values / [1.0, unit], front.cloud / [1.0, unit]
    low, high = values[:, 1].min(), values[:, 1].max()
    margin = (high / low) ** 0.06
    ends = (float(low / margin), float(high * margin))
    bottom, top = float(values[:, 0].min()), float(values[:, 0].max())
    x = Axis(*ends, decades(*ends, "{:,.6g}".format), label, log=True)
    steps = np.arange(np.ceil(bottom / 0.05) * 0.05, top + 1e-9, 0.05)
    y = Axis(bottom - 0.02, top + 0.02, [(v, f"{v:.2f}") for v in steps], "predicted loss, nats a token")
    plot = Plot(x, y, f"Loss against {front.measures[1].label}", height=360)
    inside = cloud[(cloud[:, 1] < ends[1]) & (cloud[:, 1] > ends[0]) & (cloud[:, 0] < top + 0.02)]
    for loss, cost in inside[:: max(len(inside) // 700, 1)]:
        plot.dot(cost, loss, "cloud", 1.3)
    if len(front.relaxed):
        plot.line(
            [(cost, loss) for loss, cost in front.relaxed / [1.0, unit] if ends[0] < cost < ends[1]], "bound"
        )
    heads = np.array([shape.n_head for shape in front.shapes])
    kinds = sorted(set(np.floor(np.log2(heads))))
    for (loss, cost), shape in zip(values, front.shapes, strict=True):
        hue = _HUES[kinds.index(np.floor(np.log2(shape.n_head))) % len(_HUES)]
        says = f"{shape.n_layer} × {shape.d_model}, heads {shape.n_head}:{shape.n_kv_head}, loss {loss:.3f}"
        plot.dot(
            cost, loss, "front", 4, f"{says}, {front.measures[1].value_text(cost * unit)}", f"fill:{hue}"
        )
    named: tuple[int, int] | None = None
    for i in np.linspace(0, len(values) - 1, 9).round().astype(int):
        here = (int(front.shapes[i].n_head), int(front.shapes[i].n_kv_head))
        if here != named:
            plot.text(
                values[i, 1], values[i, 0], f"{here[0]}:{here[1]}", "choice", dx=9, dy=-7, anchor="start"
            )
            named = here
    keys = [(f"background:{_HUES[i % len(_HUES)]}", _octave(heads, kind)) for i, kind in enumerate(kinds)]
    text = (
        "Lower and further left is better. Grey: all designs compared; line: heads and sizes as reals. "
        "Of the paper's family of shapes at 20 tokens a parameter, on one accelerator."
    )
    return plot.svg() + _legend(keys) + (
        f'<p class="quiet">{text}</p>'
        f'<p class="quiet">{html.escape(front.status)}</p>'
    )  # fmt: skip


def _octave(heads: np.ndarray, kind: float) -> str:
    here = heads[np.floor(np.log2(heads)) == kind]
    low, high = int(here.min()), int(here.max())
    return f"{low} query heads" if low == high else f"{low} to {high} query heads"


def operators_figure(costs: Sequence[tuple[Column, ss.ServingCost]], hardware: ss.Hardware) -> str:
    """Return where bytes and milliseconds go, operator by operator, for prefill of a prompt and one step."""
    parts = []
    for phase, title in (("decode", "One step of all sequences"), ("prefill", "One prompt, alone")):
        longest = max(sum(o.time_s for o in getattr(cost, phase)) for _, cost in costs)
        parts.append(f"<h3>{title}</h3><div class='pair'>")
        for column, cost in costs:
            listed = sorted(getattr(cost, phase), key=lambda o: -o.time_s)
            whole, most = sum(o.time_s for o in listed), max(o.time_s for o in listed)
            rows = "".join(_operator(o, most) for o in listed[:8] if o.time_s > 0)
            parts.append(
                f"<table class='ops'><caption>{html.escape(column.title)}: <b>{_seconds(whole)}</b>"
                f"<span class='whole' style='width:{100 * whole / longest:.1f}%'></span></caption>"
                "<thead><tr><th>operator</th><th class='n'>time</th><th class='n'>bytes</th>"
                f"<th>bound by</th></tr></thead><tbody>{rows}</tbody></table>"
            )
        parts.append("</div>")
    return "".join(parts) + _roofline(costs, hardware)


def _operator(o: Any, most: float) -> str:
    share = 100 * o.time_s / most
    return (
        f"<tr><th scope='row'><span class='bar' style='width:{share:.1f}%'></span>{html.escape(o.name)}</th>"
        f"<td class='n'>{_seconds(o.time_s)}</td><td class='n'>{format_bytes(o.n_bytes)}</td>"
        f"<td>{o.bound()}</td></tr>"
    )


def _roofline(costs: Sequence[tuple[Column, ss.ServingCost]], hardware: ss.Hardware) -> str:
    compute = costs[0][0].job.compute
    peak, bandwidth = float(hardware.peak_flops(compute)), float(hardware.bandwidth)
    every = [
        o for _, c in costs for o in (*c.prefill, *c.decode) if o.flops > 0 and o.n_bytes > 0 and o.time_s > 0
    ]
    most = max(3e4, *(2 * o.flops / o.n_bytes for o in every))
    x = Axis(0.3, most, decades(0.3, most, "{:,.7g}".format), "FLOPs a byte of memory traffic", log=True)
    low, high = bandwidth * 0.03, peak * 2
    ticks = decades(low / 1e12, high / 1e12, "{:,.6g}".format)
    y = Axis(low, high, [(v * 1e12, t) for v, t in ticks], "TFLOP/s", log=True)
    plot = Plot(x, y, f"Roofline of {hardware.name}", height=320)
    knee = peak / bandwidth
    plot.line([(0.3, 0.3 * bandwidth), (knee, peak), (most, peak)], "roof")
    for column, cost in costs:
        for phase in ("decode", "prefill"):
            shown = [o for o in getattr(cost, phase) if o.flops > 0 and o.n_bytes > 0 and o.time_s > 0]
            whole = sum(o.time_s for o in getattr(cost, phase))
            for o in shown:
                says = f"{column.title}, {phase}: {o.name}, {100 * o.time_s / whole:.0f}% of the time"
                size = 3 + 13 * (o.time_s / whole) ** 0.5
                plot.dot(o.flops / o.n_bytes, o.flops / o.time_s, f"{column.name} {phase}", size, says)
    keys = [("dot own", "the model itself"), ("dot best", "cheapest"), ("dot ring", "outlined: prefill")]
    return "<h3>Under the roof</h3>" + plot.svg() + _legend(keys)


def map_figure(found: ss.DesignMap) -> str:
    """Return a map of the best heads over context and loss."""
    contexts, losses = found.contexts, found.losses
    ends = [c for c in CONTEXTS if contexts[0] <= c * 1.001 and c <= contexts[-1] * 1.001]
    x = Axis(contexts[0], contexts[-1], [(c, format_context(c)) for c in ends], "context length", log=True)
    steps = np.arange(np.ceil(losses[0] * 10) / 10, losses[-1] + 1e-9, 0.1)
    y = Axis(losses[0], losses[-1], [(v, f"{v:.1f}") for v in steps], "target loss, nats a token")
    plot = Plot(x, y, "The best heads over context and loss", height=380)
    kinds = sorted({int(i) for i in np.unique(found.index) if i >= 0}, key=lambda i: found.lattice.heads[i])
    hues = {i: _hue(found.lattice.heads[i]) for i in kinds}
    half = np.sqrt(contexts[1] / contexts[0])
    height = (losses[1] - losses[0]) / 2
    for row, loss in zip(found.index, losses, strict=True):
        start = 0
        for j in range(1, len(row) + 1):  # runs of one choice are one rectangle
            if j == len(row) or row[j] != row[start]:
                if row[start] >= 0:
                    ends_x = (
                        max(contexts[start] / half, contexts[0]),
                        min(contexts[j - 1] * half, contexts[-1]),
                    )
                    ends_y = (max(loss - height, losses[0]), min(loss + height, losses[-1]))
                    plot.rect(ends_x, ends_y, f"fill:{hues[int(row[start])]}")
                start = j
    for i in kinds:
        rows, columns = np.nonzero(found.index == i)
        if len(rows) < 0.012 * found.index.size:
            continue
        near = np.argmin(((rows - rows.mean()) / 60) ** 2 + ((columns - columns.mean()) / 80) ** 2)
        plot.text(
            contexts[columns[near]],
            losses[rows[near]],
            "{}:{}".format(*found.lattice.heads[i]),
            "region",
            dy=4,
        )
    note = "Each colour: the cheapest query : KV heads of the paper's 21. Blank: no size reaches the loss."
    return plot.svg() + f'<p class="quiet">{note}</p>'


def _hue(heads: tuple[int, int]) -> str:
    n_head, n_kv_head = heads
    step = int(np.log2(n_head))
    many = np.log2(n_kv_head) / step if step else 0.0
    colour = np.array([int(_HUES[step % len(_HUES)][i : i + 2], 16) for i in (1, 3, 5)])
    return "#" + "".join(f"{int(c + (255 - c) * 0.6 * many):02x}" for c in colour)


def sure_figure(found: Answer) -> str:
    """Return how sure the answer is: each figure's interval with both parts, and what else may be right."""
    parts = []
    best = found.column("best")
    assert best is not None
    if found.savings:
        least = min(0.0, *(v.low for v in found.savings.values()))
        saved = "".join(_sure_row(f"less {label}", value, (max(least, -1.0), 1.0), "{:.0%}".format)
                       for label, value in found.savings.items())  # fmt: skip
        parts.append(f"<h3>What the cheapest saves</h3><table class='sure'>{saved}</table>")
    rows = []
    for column in found.columns[1:]:
        span = max(abs(v) for c in found.columns for v in (c.loss.low, c.loss.high)) or 1.0
        nats = column.loss_unit == "nats"
        ends = (
            (min(c.loss.low for c in found.columns), max(c.loss.high for c in found.columns))
            if nats
            else (-span, span)
        )
        write = "{:.3f}".format if nats else signed
        rows.append(_sure_row(f"{column.title}: loss", column.loss, ends, write, zero=None if nats else 0.0))
        if column.compute is not None:
            most = max(c.compute.high for c in found.columns if c.compute is not None)
            rows.append(
                _sure_row(
                    f"{column.title}: equivalent compute",
                    column.compute,
                    (0.0, most),
                    "{:.2f}×".format,
                    zero=1.0,
                )
            )
    parts.append(f"<h3>How good they are</h3><table class='sure'>{''.join(rows)}</table>")
    shown = [("outer", "90% of all samples of the laws")]
    if any(value.between is not None for value in (best.loss, *found.savings.values())):
        shown.append(("inner", "from form to form of the law"))
    parts.append(_legend(shown))
    if found.regret:
        most = max(found.regret.values()) or 1.0
        rows = [
            f"<tr><th scope='row'>{html.escape(name.removeprefix('own '))}</th><td class='glyph'>"
            f"<span class='bar' style='width:{100 * value / most:.1f}%'></span></td>"
            f"<td class='n'>{value:.1%}</td></tr>"
            for name, value in sorted(found.regret.items(), key=lambda item: item[1])
        ]
        parts.append("<h3>What each choice of heads costs over the cheapest, on average over the laws</h3>"
                     f"<table class='sure'>{''.join(rows)}</table>")  # fmt: skip
    parts += [f"<p>{html.escape(note)}</p>" for note in found.notes]
    parts += [f"<p class='caution'>{html.escape(caution)}</p>" for caution in found.cautions]
    return "".join(parts)


def _sure_row(
    label: str, value: Value, ends: tuple[float, float], write: Any, zero: float | None = 0.0
) -> str:
    span = write(value.value) if value.exact else f"{write(value.low)} to {write(value.high)}"
    inner = value.between if value.between is not None and value.between[0] < value.between[1] else None
    glyph = interval(
        value.low, value.value, value.high, ends, inner=inner, zero=zero, says=f"{label}: {span}"
    )
    return (
        f"<tr><th scope='row'>{html.escape(label)}</th><td class='glyph'>{glyph}</td>"
        f"<td class='n'><b>{write(value.value)}</b></td>"
        f"<td class='n quiet'>{'' if value.exact else span}</td></tr>"
    )


def _seconds(value: float) -> str:
    return (
        f"{value:.3g} s"
        if value >= 1
        else f"{1e3 * value:.3g} ms"
        if value >= 1e-3
        else f"{1e6 * value:.3g} µs"
    )


def _legend(keys: Sequence[tuple[str, str]]) -> str:
    def key(kind: str) -> str:
        return f"style='{kind}'" if ":" in kind else f"class='{kind}'"

    return (
        "<p class='legend'>"
        + "".join(f"<span><i {key(k)}></i>{html.escape(t)}</span>" for k, t in keys)
        + "</p>"
    )
