"""What an answer is made of: numbers with intervals, designs side by side, and how both are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import scalesim as ss
from scalesim.app.view import View
from scalesim.redesigns.asked import contexts_of
from scalesim.redesigns.result import MEASURES
from scalesim.units import format_count, parse_context

__all__ = ["Answer", "Column", "Value", "default_fit", "plain", "workload_of", "written"]


@dataclass(frozen=True)
class Value:
    """A number with its 90% interval, where it has one, and its two parts."""

    value: float
    low: float
    high: float
    within: tuple[float, float] | None = None
    between: tuple[float, float] | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing is open about it."""
        return self.high - self.low < 1e-9 * max(abs(self.value), 1e-3)


@dataclass(frozen=True)
class Column:
    """One of the designs side by side.

    Attributes:
        name: "own", "best", "safest", "small_change".
        title: what people call it.
        heads: its heads in words.
        lines: what is said of it, (label, text).
        costs: its costs by label: text, and the share of the own model's (None: there is none).
        loss: predicted, and in what unit.
        compute: equivalent compute, if it is reckoned.
        saved: what it saves of the objective, if anything.
        shape, parallel, job: to cost it by operator, on so many accelerators, so many sequences at a time.
    """

    name: str
    title: str
    heads: str
    lines: tuple[tuple[str, str], ...]
    costs: dict[str, tuple[str, float | None]]
    loss: Value
    loss_unit: str
    compute: Value | None
    saved: Value | None
    shape: ss.Shape
    parallel: ss.Parallel
    job: ss.Workload


@dataclass(frozen=True)
class Answer:
    """The answer to a view's question.

    Attributes:
        view: the question.
        headline: the answer in a sentence.
        asked: the question in a sentence.
        columns: the designs, best second.
        objective: what is minimised, in words.
        notes, cautions: what else is to be said.
        savings: of the best design, by label.
        regret: of head configurations: mean regret, a fraction.
        found: the library's own result.
        spread: of a target loss, the distribution over the law's samples.
    """

    view: View
    headline: str
    asked: str
    columns: tuple[Column, ...]
    objective: str
    notes: tuple[str, ...]
    cautions: tuple[str, ...]
    savings: dict[str, Value]
    regret: dict[str, float]
    found: Any
    spread: Any = None

    def column(self, name: str) -> Column | None:
        """Return a design by its name."""
        return next((column for column in self.columns if column.name == name), None)


@cache
def default_fit() -> ss.Fit:
    """Return the default law's fit, read once."""
    return ss.named_fit("default")


def workload_of(view: View, stored: float) -> tuple[ss.Workload, ss.ContextLengths | None]:
    """Return a view's workload, and its mixture of contexts; `stored`: bits of the model's matrices."""
    context, contexts = contexts_of(view.context.split())
    job = ss.Workload(
        context_length=context,
        batch_size=plain(view.batch_size),
        generated_length=parse_context(view.generated, "generated") if view.generated else None,
        weight_bits=plain(stored if view.weight_bits is None else view.weight_bits),
        kv_bits=plain(view.kv_bits),
        compute=view.compute if view.asks == "model" else "bf16",  # type: ignore[arg-type]
    )
    return job, contexts


def plain(value: float) -> float:
    """Return a whole number as an integer."""
    return int(value) if value == round(value) else value


def written(name: str, value: float) -> str:
    """Return a cost as people say it: $1.63M, 890 kJ.

    >>> written("training", 1.626e6), written("energy", 8.9e5), written("price", 0.8431)
    ('$1.63M', '890 kJ', '$0.843')
    """
    if name == "energy":
        unit = next(u for u in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (0.0, "J")) if value >= u[0])
        return f"{value / (unit[0] or 1.0):.3g} {unit[1]}"
    if name in ("training", "lifetime", "price"):
        return f"${format_count(value)}" if value >= 1000 else f"${value:.3g}"
    if name == "tpot":
        return f"{1e3 * value:.3g} ms"
    return MEASURES[name][2](value)
