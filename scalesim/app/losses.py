"""The cheapest design for a loss, beside what everybody copies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import scalesim as ss
from scalesim.app.parts import Answer, Column, Value, default_fit, plain, workload_of, written
from scalesim.app.view import View
from scalesim.units import format_bytes, format_context, format_count

__all__ = ["cost_of", "searched"]


def cost_of(view: View, hardware: ss.Hardware, contexts: ss.ContextLengths | None) -> ss.Measure:
    """Return what a search minimises."""
    if view.objective in ("tpot", "ttft", "price", "memory", "flops"):
        return ss.named_measure(view.objective, hardware=hardware)
    base = ss.FIGURE_1 if view.objective == "z-figure1" else ss.FIGURE_2
    return ss.as_measure(base if contexts is None else ss.ExpectedCost(base, contexts))


def searched(view: View) -> Answer:
    """Return the answer to a view that asks for a loss.

    Savings are at equal loss: over the baseline's rule at exactly the loss asked for.
    """
    hardware = ss.load_hardware(view.hardware)
    job, contexts = workload_of(view, 16.0)
    limits = []
    if view.max_tpot is not None:
        limits.append(ss.max_time_per_token(view.max_tpot, hardware))
    if view.max_ttft is not None:
        limits.append(ss.max_time_to_first_token(view.max_ttft, hardware))
    measure = cost_of(view, hardware, contexts)
    found = ss.search(default_fit(), job, view.target_loss, objective=measure, constraints=limits)
    spread = ss.distribution(default_fit(), found)
    reached = np.flatnonzero(np.isfinite(np.asarray(found.designs.cost)))
    safest = int(min(reached, key=lambda i: spread.worst_regret[i]))
    at_loss = (found.baseline_at_target or found.baseline).objective
    low, high = found.loss_interval or (found.best.loss, found.best.loss)

    def interval_of(name: str, value: float) -> Value:
        ends = _around(value, spread.interval(spread.savings[name]))
        between = spread.between_forms(name)
        return Value(value, *ends, between=None if between is None else _around(value, between))

    def column(name: str, title: str, shape: ss.Shape, cost: float, loss: float) -> Column:
        own = name == "own"
        saved = 1 - cost / at_loss
        saving = interval_of("objective", saved) if name == "best" else Value(saved, saved, saved)
        return Column(
            name=name,
            title=title,
            heads=f"{shape.n_head:g} : {shape.n_kv_head:g} of {shape.head_dim:g}",
            lines=(
                ("layers × width", f"{shape.n_layer:g} × {shape.d_model:g}"),
                ("parameters", format_count(float(shape.n_params_total))),
                ("accelerators", "1, as if it fitted"),
            ),
            costs=_costs(measure, shape, job, hardware, cost, None if own else first),
            loss=Value(loss, low + loss - found.best.loss, high + loss - found.best.loss),
            loss_unit="nats",
            compute=None,
            saved=None if own else saving,
            shape=shape,
            parallel=ss.Parallel(),
            job=job,
        )

    base = found.baseline
    first = _figures(measure, base.shape, job, hardware, base.objective)
    best = column("best", "Cheapest", found.best.shape, found.best.objective, found.best.loss)
    shape = _whole(found.designs.at(np.asarray(safest)).shape)
    sure = column("safest", "Safest", shape, float(np.asarray(found.designs.cost)[safest]), found.best.loss)
    savings = {
        measure.label if name == "objective" else name: interval_of(name, found.savings_at_equal_loss[name])
        for name in spread.savings
    }
    order = sorted(reached, key=lambda i: spread.excess[i])[:12]
    assert best.saved is not None
    percent, word = 100 * abs(best.saved.value), "less" if best.saved.value >= 0 else "more"
    return Answer(
        view=view,
        headline=f"{percent:.0f}% {word} {measure.label} than the heads everybody copies, at the same loss, "
        f"with {best.heads.replace(' of', ' heads of')}.",
        asked=f"a loss of {view.target_loss:g} nats at {format_context(float(job.context_length))} context, "
        f"{view.batch_size:g} at a time, on {hardware.name}",
        columns=(column("own", "What everybody copies", base.shape, base.objective, base.loss), best, sure),
        objective=measure.label,
        notes=(found.status, spread.text()),
        cautions=tuple(map(str, ss.cautions(found.best.shape))),
        savings=savings,
        regret={"{:g}:{:g}".format(*spread.heads[i]): float(spread.excess[i]) for i in order},
        found=found,
        spread=spread,
    )


def _around(value: float, ends: tuple[float, float]) -> tuple[float, float]:
    return min(value, ends[0]), max(value, ends[1])


_WRITTEN: dict[str, Callable[[float], str]] = {
    "memory": format_bytes,
    "time per token": lambda v: written("tpot", v),
    "time to first token": lambda v: written("ttft", v),
    "$ a million tokens": lambda v: written("price", v),
}


def _figures(
    measure: ss.Measure, shape: ss.Shape, job: ss.Workload, hardware: ss.Hardware, cost: float
) -> dict[str, float]:
    """Return a design's costs by label, the one that is minimised first."""
    on = ss.serving_cost(shape, job, hardware)
    found = {measure.label: cost, "memory": on.memory.total}
    found |= {"time per token": on.serving.tpot_s, "time to first token": on.serving.ttft_s}
    if on.dollars is not None and "generated" in on.dollars:
        found["$ a million tokens"] = on.dollars["generated"].typical
    return {label: float(value) for label, value in found.items()}


def _costs(
    measure: ss.Measure, shape: ss.Shape, job: ss.Workload, hardware: ss.Hardware, cost: float,
    first: dict[str, float] | None,
) -> dict[str, tuple[str, float | None]]:  # fmt: skip
    """Return costs as they are written, and as shares of the baseline's."""
    return {
        label: (
            measure.value_text(value) if label == measure.label else _WRITTEN[label](value),
            None if first is None else value / first[label],
        )
        for label, value in _figures(measure, shape, job, hardware, cost).items()
    }


def _whole(shape: ss.Shape) -> ss.Shape:
    import jax

    return jax.tree.map(lambda leaf: plain(float(np.asarray(leaf))), shape)
