"""Frontiers and maps as people read them, and as programs do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from scalesim.design.frontier import Frontier
from scalesim.design.map import DesignMap
from scalesim.design.picks import Pick
from scalesim.report.console import print_remarks, table_console
from scalesim.report.design_table import shape_json
from scalesim.shape import Shape, count_params
from scalesim.units import format_context, format_count

__all__ = ["frontier_json", "map_json", "print_frontier", "print_map"]

SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
SHOWN = 12
"""Designs of a frontier in the printed table, spread evenly over it."""


def frontier_json(front: Frontier, picks: Sequence[Pick] = ()) -> dict[str, Any]:
    """Return a frontier as one JSON-ready object; `index` of a pick is its place among `designs`."""
    keys = [m.key for m in front.measures]

    def row(shape: Shape, values: np.ndarray) -> dict[str, Any]:
        return {
            **dict(zip(keys, values.tolist(), strict=True)),
            "shape": {name: shape_json(shape)[name] for name in SIZES},
        }

    return {
        "context_length": float(front.query.workload.context_length),
        "lattice": front.lattice.name,
        "measures": keys,
        "considered": front.considered,
        "designs": [row(*design) for design in zip(front.shapes, front.values, strict=True)],
        "relaxed": [row(*design) for design in zip(front.relaxed_shapes, front.relaxed, strict=True)],
        "picks": [
            {"rule": p.rule, "index": p.index, **row(p.shape, front.values[p.index]), "reason": p.reason}
            for p in picks
        ],
        "status": front.status,
    }


def print_frontier(front: Frontier, picks: Sequence[Pick] = ()) -> None:
    """Print a dozen designs of a frontier, those picked among them, and why they were."""
    words = [m.label for m in front.measures]
    context = format_context(float(front.query.workload.context_length))
    title = (
        f"{len(front)} of {front.considered:,} designs are bettered by none in {', '.join(words)} ({context})"
    )
    table = Table(title=title, title_justify="left")
    for name in ("layers × width", "query : KV heads", "FFN width", "parameters", *words, ""):
        table.add_column(name, justify="right")
    spread = np.linspace(0, len(front) - 1, min(SHOWN, len(front))).round().astype(int)
    named = {p.index: p.rule for p in picks}
    for i in sorted({*spread.tolist(), *named}):
        s = front.shapes[i]
        values = zip(front.measures, front.values[i].tolist(), strict=True)
        table.add_row(
            f"{s.n_layer:.4g} × {s.d_model:.4g}",
            f"{s.n_head:g} : {s.n_kv_head:g}",
            f"{s.d_ff:.4g}",
            format_count(float(count_params(s, "non_embedding"))),
            *(m.value_text(value) for m, value in values),
            named.get(i, ""),
        )
    table_console().print(table, highlight=False)
    print_remarks([*(f"{p.rule}: {p.reason}" for p in picks), front.status])


def map_json(found: DesignMap) -> dict[str, Any]:
    """Return a map as one JSON-ready object: `chosen` has a row to each loss, a column to each context."""
    heads = [None if i < 0 else list(found.lattice.heads[i]) for i in found.index.ravel()]
    columns = found.index.shape[1]
    agreement = None if found.agreement is None else found.agreement.tolist()
    return {
        "lattice": found.lattice.name,
        "context_lengths": found.contexts.tolist(),
        "target_losses": found.losses.tolist(),
        "chosen": [heads[i : i + columns] for i in range(0, len(heads), columns)],
        "regions": [
            {
                "n_head": r.n_head,
                "n_kv_head": r.n_kv_head,
                "share": r.share,
                "context_lengths": r.contexts,
                "target_losses": r.losses,
                "n_params": r.n_params,
            }
            for r in found.regions
        ],
        "agreement": agreement,
    }


def print_map(found: DesignMap) -> None:
    """Print the regions of a map, the largest first."""
    low, high = (format_context(found.contexts[i]) for i in (0, -1))
    title = (
        f"Cheapest heads for {low} to {high} context and losses {found.losses[0]:g} to {found.losses[-1]:g}"
    )
    table = Table(title=title, title_justify="left")
    for name in ("query : KV heads", "of the map", "contexts", "losses", "parameters"):
        table.add_column(name, justify="right")
    for r in found.regions:
        table.add_row(
            f"{r.n_head} : {r.n_kv_head}",
            f"{100 * r.share:.1f}%",
            " to ".join(map(format_context, r.contexts)),
            " to ".join(f"{loss:.2f}" for loss in r.losses),
            " to ".join(map(format_count, r.n_params)),
        )
    table_console().print(table, highlight=False)
    if found.agreement is not None:
        known = found.agreement[found.index >= 0]
        share = 100 * float((known >= 0.5).mean())
        print_remarks([f"On {share:.1f}% of the map at least half of the fit's resamples choose the same."])
