"""From a view to what the page shows: every figure is asked of the library's public functions."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

import scalesim as ss
from scalesim.app.losses import cost_of, searched
from scalesim.app.parts import Answer, Column, Value, default_fit, plain, workload_of, written
from scalesim.app.view import View
from scalesim.redesigns.asked import quality_of
from scalesim.redesigns.result import MEASURES
from scalesim.units import format_count, parse_count

__all__ = ["CONTEXTS", "answer", "at_context", "best_map", "front", "operators"]

CONTEXTS = tuple(1024 * 2**i for i in range(1, 11))
"""Contexts of the curve of savings: 2K to 1M."""
_ABOUT = 0.15
"""Nats on either side of a loss that a frontier covers."""


def answer(view: View) -> Answer:
    """Return the answer to a view's question.

    Raises:
        InvalidInput: the question is wrong.
        Unreachable: it has no answer.
    """
    return _redesigned(view) if view.asks == "model" else searched(view)


# What to build instead of a model.


_TITLES = {
    "own": "The model itself",
    "best": "Cheapest",
    "safest": "Safest",
    "small_change": "Small change",
}


def _redesigned(view: View) -> Answer:
    name, shape, stored = view.given
    job, contexts = workload_of(view, stored)
    loss, factor = quality_of(view.loss)
    same: Any = view.same
    found = ss.redesign(
        shape,
        parse_count(view.tokens, "tokens"),
        job,
        hardware=view.hardware,
        objective=None if view.objective == "auto" else view.objective,
        same=same,
        loss=loss,
        equivalent_compute=factor,
        traffic=parse_count(view.traffic, "traffic") if view.traffic else None,
        contexts=contexts,
        max_tpot=view.max_tpot,
        max_ttft=view.max_ttft,
        max_devices=view.max_devices,
        min_kv_heads=view.min_kv_heads or 1,
        mixers=tuple(view.mixers.split()),
        law=default_fit(),
        name=name,
    )
    objective = str(found.objective)
    options = found.options
    own = options.get("own")
    columns = tuple(_option(key, option, own, objective, job) for key, option in options.items())
    savings = {
        MEASURES[key][0]: Value(**dataclasses.asdict(value))
        for key, value in found.savings.items()
        if key in MEASURES and key != "devices" and value.value == value.value
    }
    asked = (
        f"{name} on {format_count(found.question['n_tokens'])} tokens, serving {found.question['serving']}"
    )
    first, *more = re.split(r"\. (?=[A-Z])", found.status, maxsplit=1)
    rest = "".join(more)
    return Answer(
        view=view,
        headline=f"{first.rstrip('.')}.".replace(" .. ", " to ")
        .replace("x the", "× the")
        .replace(" -", " −"),
        asked=asked,
        columns=columns,
        objective=MEASURES[objective][0],
        notes=(rest,) if rest else (),
        cautions=tuple(map(str, found.cautions)),
        savings=savings,
        regret=found.regret,
        found=found,
    )


def _option(key: str, option: Any, own: Any, objective: str, job: ss.Workload) -> Column:
    costs: dict[str, tuple[str, float | None]] = {}
    for name in dict.fromkeys((objective, *MEASURES)):
        value = option.cost.get(name)
        if value is None or value != value or name == "devices":
            continue
        label = "energy a million tokens" if name == "energy" else MEASURES[name][0]
        base = None if own is None or own is option else own.cost.get(name)
        costs[label] = (written(name, value), value / base if base else None)
    s = option.shape
    lines = (
        ("layers × width", f"{s.n_layer} × {s.d_model}"),
        ("parameters", format_count(option.n_params_total)),
        ("training tokens", format_count(option.n_tokens)),
        ("accelerators", str(option.plan)),
    )
    saved = None if own is None or option is own else option.savings.get(objective)
    batch = plain(float(option.plan.batch_size))
    return Column(
        name=key,
        title=_TITLES[key],
        heads=option.heads_text,
        lines=lines,
        costs=costs,
        loss=Value(**dataclasses.asdict(option.loss_percent)),
        loss_unit="%",
        compute=Value(**dataclasses.asdict(option.equivalent_compute)),
        saved=None if saved is None else Value(**dataclasses.asdict(saved)),
        shape=s,
        parallel=option.plan.parallel,
        job=dataclasses.replace(job, batch_size=batch),
    )


# The figures.


def at_context(found: Answer, context: float) -> dict[str, Any] | None:
    """Return the best design of the same question at another context and its savings, if there is one."""
    view = found.view
    if view.asks == "model":
        rows = found.found.at_contexts([context])
        return rows[0] if rows and rows[0].get("saved") is not None else None
    try:
        other = searched(view.changed(context=str(int(context)), generated=""))
    except (ss.Unreachable, ss.InvalidInput):
        return None
    best = other.columns[1]
    assert best.saved is not None
    base = other.columns[0].shape.n_params_total
    return {
        "context_length": int(context),
        "heads": best.heads,
        "size_over_own": float(best.shape.n_params_total) / float(base),
        "saved": best.saved.value,
        "low": min(best.saved.low, best.saved.value),
        "high": max(best.saved.high, best.saved.value),
        **({} if best.saved.between is None else {"between": list(best.saved.between)}),
    }


def front(found: Answer) -> ss.Frontier:
    """Return the frontier of loss against the chosen cost, about the loss that the law of heads predicts.

    It is that of the paper's family of shapes on one accelerator: lifetime dollars and joules are answered
    by dollars of serving.
    """
    view = found.view
    named = {"auto": "price" if view.asks == "model" else "z", "lifetime": "price", "energy": "price"}
    cost = named.get(view.objective, view.objective)
    job, _ = workload_of(view, view.given[2] if view.asks == "model" else 16.0)
    objective = ss.FIGURE_1 if cost == "z-figure1" else ss.FIGURE_2
    middle = view.target_loss
    if view.asks == "model":
        law = default_fit().law
        assert isinstance(law, ss.Law)
        query = ss.Query(workload=job, target_loss=1.0)
        middle = float(ss.Problem(law=law).loss_of(view.given[1], query))
    measure = "objective" if cost in ("z", "z-figure1") else cost
    hardware = ss.load_hardware(view.hardware)
    return ss.frontier(
        default_fit(), job, (middle - _ABOUT, middle + _ABOUT), ("loss", measure), objective=objective,
        hardware=hardware, points=31,
    )  # fmt: skip


def operators(found: Answer) -> list[tuple[Column, ss.ServingCost]]:
    """Return what serving the model itself and the best design costs, operator by operator."""
    hardware = ss.load_hardware(found.view.hardware)
    shown = [column for name in ("own", "best") if (column := found.column(name)) is not None]
    return [(c, ss.serving_cost(c.shape, c.job, hardware, c.parallel)) for c in shown]


def best_map(found: Answer) -> ss.DesignMap:
    """Return the cheapest heads of the paper's 21 at every context and loss, for the chosen cost."""
    view = found.view
    named = {"auto": "price" if view.asks == "model" else "z", "lifetime": "price", "energy": "price"}
    cost = named.get(view.objective, view.objective)
    job, _ = workload_of(view, 16.0)
    job = dataclasses.replace(job, context_length=4096.0, generated_length=None)
    measure = cost_of(dataclasses.replace(view, objective=cost), ss.load_hardware(view.hardware), None)
    middle = view.target_loss if view.asks == "loss" else 2.5
    return ss.design_map(
        default_fit(), job, np.geomspace(4096, 1048576, 81), np.linspace(middle - 0.35, middle + 0.35, 61),
        objective=measure, lattice=ss.PAPER,
    )  # fmt: skip
