"""A design as people read it, and as programs do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from scalesim.cost.measure import Measure
from scalesim.cost.paper import Parts
from scalesim.report.console import print_remarks, table_console
from scalesim.shape import Shape
from scalesim.shape.shape import PLAIN_SIZES
from scalesim.units import format_bytes, format_context, format_count, format_flops

if TYPE_CHECKING:
    from scalesim.design.design import Candidate, Design
    from scalesim.design.sensitivity import Sensitivity
    from scalesim.design.uncertainty import Distribution

__all__ = ["candidate_json", "design_json", "print_designs", "print_sensitivity", "shape_json"]


def shape_json(shape: Shape) -> dict[str, Any]:
    """Return a shape's sizes as plain values; a whole number stays an integer. Of several kinds of layers the
    sizes are the first kind's, and `blocks` lists all.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"kind": type(value).__name__, **fields}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    names = ("d_model", "vocab_size", *PLAIN_SIZES, "tied_embeddings", "norm_bias", "n_positions")
    sizes = {name: plain(getattr(shape, name)) for name in names}
    return sizes if shape.is_plain else {**sizes, "blocks": plain(shape.blocks), "order": plain(shape.order)}


def _cost_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "objective": candidate.objective,
        "memory_bytes": candidate.memory.total,
        "flops": candidate.flops.total,
        "memory_bytes_parts": dataclasses.asdict(candidate.memory),
        "flops_parts": dataclasses.asdict(candidate.flops),
    }


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate's shape, sizes, loss and costs as plain values."""
    return {
        "shape": shape_json(candidate.shape),
        "n_params": candidate.n_params,
        "n_params_non_embedding": candidate.n_params_non_embedding,
        "n_params_total": candidate.n_params_total,
        "loss": candidate.loss,
        "n_tokens": candidate.n_tokens,
        "kv_bits": candidate.kv_bits,
        "cost": _cost_json(candidate),
    }


def design_json(
    design: Design, spread: Distribution | None = None, moves: list[Sensitivity] | None = None
) -> dict[str, Any]:
    """Return a design as one JSON-ready object, its fields named as in the library."""
    at_target = design.baseline_at_target
    asked = {
        "context_length": design.context_length,
        "target_loss": design.target_loss,
        "lattice": design.lattice.name,
        "measure": design.query.objective.key,
    }
    if not design.reached:
        return {**asked, "shape": None, "status": design.status}
    return {
        **asked,
        **candidate_json(design.best),
        "loss_interval": design.loss_interval,
        "baseline": candidate_json(design.baseline),
        "baseline_at_target_loss": None if at_target is None else candidate_json(at_target),
        "savings": design.savings,
        "savings_at_equal_loss": design.savings_at_equal_loss,
        "relaxed": None if design.relaxed is None else candidate_json(design.relaxed),
        "gap_to_relaxed": design.gap_to_relaxed,
        "gap_to_exhaustive": design.gap_to_exhaustive,
        "evaluations": design.evaluations,
        "starts_agreeing": design.starts_agreeing,
        "extrapolation": design.extrapolation,
        "cautions": [str(caution) for caution in design.cautions],
        "status": design.status,
        **({} if spread is None else {"distribution": spread.to_dict()}),
        **({} if moves is None else {"sensitivity": [dataclasses.asdict(move) for move in moves]}),
    }


def _size(value: float) -> str:
    return f"{value:d}" if float(value).is_integer() and isinstance(value, int) else f"{value:.4g}"


def _percent(fraction: float) -> str:
    """Return a saving as `-51.2%`: what is taken off."""
    return f"{-100 * fraction:+.1f}%"


def _parts(parts: Parts, fmt: Any) -> tuple[str, str, str]:
    return fmt(parts.time_invariant), fmt(parts.time_variant), fmt(parts.total)


def _saved(value: str, fraction: float | None) -> str:
    return value if fraction is None else f"{value} [green]{_percent(fraction)}[/green]"


def _cells(candidate: Candidate, objective: Measure, savings: dict[str, float] | None = None) -> list[str]:
    """Return one column: a candidate, with what it saves beside each total."""
    s, saved = candidate.shape, savings or {}
    weights, cache, memory = _parts(candidate.memory, format_bytes)
    parameters, attention, flops = _parts(candidate.flops, format_flops)
    return [
        f"{_size(s.n_layer)} × {_size(s.d_model)}",
        f"{_size(s.n_head)} : {_size(s.n_kv_head)}",
        f"{_size(s.head_dim)}, {_size(s.d_ff)}",
        f"{format_count(candidate.n_params_non_embedding)}, {format_count(candidate.n_params_total)}",
        f"{candidate.loss:.3f}",
        f"{weights} + {cache}",
        _saved(memory, saved.get("memory")),
        f"{parameters} + {attention}",
        _saved(flops, saved.get("flops")),
        _saved(objective.value_text(candidate.objective), saved.get("objective")),
    ]


_LABELS = [
    "layers × width",
    "query : KV heads",
    "head size, FFN width",
    "parameters, with embeddings",
    "predicted loss",
    "weights + KV cache",
    "memory",
    "parameters + attention",
    "FLOPs",
]


def _design_table(designs: Sequence[Design], baseline: str) -> Table:
    """Return one table: the baseline beside the best of each lattice, with what it saves."""
    first = designs[0]
    objective = first.query.objective
    where = f"{format_context(first.context_length)} context"
    table = Table(title=f"Cheapest design for loss {first.target_loss:g} at {where}", title_justify="left")
    table.add_column()
    table.add_column(f"baseline\n{baseline}", justify="right")
    columns = [_cells(first.baseline, objective)]
    for design in designs:
        table.add_column(f"best,\n{design.lattice.name} lattice", justify="right")
        columns.append(_cells(design.best, objective, design.savings))
    for i, cells in enumerate(zip([*_LABELS, objective.label], *columns, strict=True)):
        table.add_row(*cells, end_section=i in (3, 4, 6, 8))
    return table


def _remarks(designs: Sequence[Design]) -> list[str]:
    remarks = []
    for design in designs:
        saved, name = design.savings_at_equal_loss, f"{design.lattice.name} lattice"
        at_target = design.baseline_at_target
        if at_target is not None:
            remarks.append(
                f"{name}: against the baseline's rule at exactly this loss "
                f"({format_count(at_target.n_params_non_embedding)} parameters), memory "
                f"{_percent(saved['memory'])} and FLOPs {_percent(saved['flops'])}."
            )
        bound = design.gap_to_relaxed
        above = "" if bound is None else f"{100 * bound:.2f}% above the relaxed optimum, "
        against = (
            f"the best of all {len(design.candidates)} configurations"
            if design.lattice.enumerates
            else "the best of all one step away along every axis"
        )
        remarks.append(
            f"{name}: {above}{100 * design.gap_to_exhaustive:.2f}% above {against} "
            f"({design.evaluations:,} were tried)."
        )
        if not design.lattice.enumerates:
            trained = format_count(design.best.n_tokens)
            remarks.append(
                f"{name}: trained on {trained} tokens, {design.best.n_tokens / design.best.n_params:.3g} a "
                f"parameter; KV cache in {design.best.kv_bits:g} bits."
            )
    first = designs[0]
    if first.loss_interval is not None:
        low, high = first.loss_interval
        remarks.append(f"The loss is predicted to lie between {low:.3f} and {high:.3f} (90%).")
    remarks.append(first.status)
    remarks += dict.fromkeys(f"Caution: {caution}" for design in designs for caution in design.cautions)
    return remarks


def print_sensitivity(moves: Sequence[Sensitivity], most: int = 12) -> None:
    """Print by how many percent the optimum moves for one percent of each number, the strongest first."""
    title = "For 1% more of each (0.01 nats of loss), the relaxed optimum changes by"
    table = Table(title=title, title_justify="left")
    others = list(moves[0].others) if moves else []
    for column in ("", "now", "cost", "parameters", "query heads", "KV heads", *others):
        table.add_column(column, justify="right" if column else "left")
    for move in moves[:most]:
        changes = (move.cost, move.n_params, move.n_head, move.n_kv_head, *move.others.values())
        table.add_row(move.name, f"{move.value:.6g}", *(f"{change:+.2f}%" for change in changes))
    table_console().print(table)


def print_designs(designs: Sequence[Design], *, baseline: str) -> None:
    """Print designs that answer one question, one lattice each, side by side with the baseline."""
    found = [design for design in designs if design.reached]
    missed = [f"{d.lattice.name} lattice: {d.status}" for d in designs if not d.reached]
    if found:
        table_console().print(_design_table(found, baseline), highlight=False)
    print_remarks([*(_remarks(found) if found else []), *missed])
