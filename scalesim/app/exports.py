"""What can be taken home from a view: files as bytes, each made by the library's own functions."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

import scalesim as ss
from scalesim.app.parts import Answer
from scalesim.report.roofline import draw_roofline

__all__ = ["config_file", "designs_csv", "figure_csv", "figure_png", "report_file"]


def config_file(found: Answer) -> bytes:
    """Return the best design's config.json.

    Raises:
        InvalidInput: no model type of Hugging Face's can hold it.
    """
    best = found.column("best")
    assert best is not None
    return (
        json.dumps(ss.to_huggingface(best.shape, max_context=int(best.job.context_length)), indent=2) + "\n"
    ).encode()


def designs_csv(found: Answer) -> bytes:
    """Return the designs side by side as CSV."""
    if found.view.asks == "model":
        return _frame(found.found.to_polars())
    rows = []
    for column in found.columns:
        s = column.shape
        sizes = {n: getattr(s, n) for n in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")}
        loss = {"loss": column.loss.value, "loss_low": column.loss.low, "loss_high": column.loss.high}
        costs = {label: text for label, (text, _) in column.costs.items()}
        rows.append({"design": column.name, **sizes, **loss, **costs})
    return _table(rows)


def figure_csv(found: Answer, show: str, data: Any) -> bytes:
    """Return what the open figure shows as CSV; `data` is what the figure was drawn from."""
    if show == "context":
        plain = [{k: v for k, v in row.items() if not isinstance(v, list | tuple)} for row in data]
        return _table(plain)
    if show in ("frontier", "map"):
        return _frame(data.to_polars())
    if show == "operators":
        return _table([
            {"design": column.name, "phase": phase, "operator": o.name, "seconds": o.time_s,
             "bytes": o.n_bytes, "flops": o.flops, "bound_by": o.bound()}
            for column, cost in data for phase in ("prefill", "decode") for o in getattr(cost, phase)
        ])  # fmt: skip
    rows = [
        {"figure": f"saved: {n}", "value": v.value, "low": v.low, "high": v.high}
        for n, v in found.savings.items()
    ]
    for c in found.columns:
        parts = {f"loss ({c.loss_unit})": c.loss, "equivalent compute": c.compute}
        rows += [{"figure": f"{c.name}: {n}", "value": v.value, "low": v.low, "high": v.high}
                 for n, v in parts.items() if v is not None]  # fmt: skip
    rows += [{"figure": f"regret: {n}", "value": v, "low": v, "high": v} for n, v in found.regret.items()]
    return _table(rows)


def figure_png(found: Answer, show: str, data: Any) -> bytes:
    """Return the open figure as the library draws it."""
    if show in ("frontier", "map"):
        canvas = data.plot()
    elif show == "operators":
        column, cost = data[-1]
        canvas = draw_roofline(cost, ss.load_hardware(found.view.hardware), compute=column.job.compute)
    elif found.view.asks == "loss":
        canvas = found.spread.plot() if show == "sure" else found.found.plot()
    else:
        rows = data if show == "context" else ()
        canvas = dataclasses.replace(found.found, over_context=tuple(rows)).plot()
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=150)
    return out.getvalue()


def report_file(found: Answer) -> bytes:
    """Return the one-page report, readable without a server."""
    return found.found.report(html=True).encode()


def _frame(frame: Any) -> bytes:
    return frame.write_csv().encode()


def _table(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
