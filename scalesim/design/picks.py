"""One design of a frontier, and why: the knee, the cheapest that will do, or the one of a marginal value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalesim.cost.measure import Measure
from scalesim.errors import InvalidInput, Unreachable, check_number, choose
from scalesim.shape import Shape

__all__ = ["Pick", "Table", "pick", "trade"]

STEP = 0.1
"""The share more or less of the second measure, whose trade the reason states."""


@dataclass(frozen=True, eq=False)
class Table:
    """The designs of a frontier: shapes, and their measures (designs, measures), the first rising."""

    measures: tuple[Measure, ...]
    shapes: tuple[Shape, ...]
    values: np.ndarray

    def column(self, name: str) -> int:
        """Return the place of a measure by its name."""
        names = [m.name for m in self.measures]
        return names.index(choose("measure", name, names))

    def scaled(self) -> np.ndarray:
        """Return the measures from 0 at their least to 1 at their most; all but loss by their logarithms."""
        columns = [v if m.is_loss else np.log(v) for m, v in zip(self.measures, self.values.T, strict=True)]
        spans = [np.ptp(c) or 1.0 for c in columns]
        return np.stack([(c - c.min()) / span for c, span in zip(columns, spans, strict=True)], axis=1)


@dataclass(frozen=True)
class Pick:
    """A design of a frontier that was picked.

    Attributes:
        rule: "knee", "least" or "marginal value".
        index: its place on the frontier.
        shape: the design.
        values: its measures by name.
        reason: why this one, in sentences that state the frontier's own numbers.
    """

    rule: str
    index: int
    shape: Shape
    values: dict[str, float]
    reason: str


def pick(
    table: Table,
    *,
    least: str | None = None,
    limits: dict[str, float] | None = None,
    marginal_value: float | None = None,
) -> Pick:
    """Return one design of a frontier and why; see `Frontier.pick`."""
    if marginal_value is not None and (least is not None or limits):
        raise InvalidInput("marginal_value excludes least and limits: give one or the other.")
    if marginal_value is not None:
        index, reason, rule = *_by_value(table, marginal_value), "marginal value"
    elif least is not None or limits:
        index, reason, rule = *_least(table, least, limits or {}), "least"
    else:
        index, reason, rule = *_knee(table), "knee"
    if len(table.measures) == 2 and len(table.shapes) > 1:
        reason = f"{reason} {trade(table, index)}"
    names = [m.name for m in table.measures]
    values = dict(zip(names, table.values[index].tolist(), strict=True))
    return Pick(rule, index, table.shapes[index], values, reason)


def _knee(table: Table) -> tuple[int, str]:
    """Return the design furthest below the chord (the plane) through the ends of the scaled frontier."""
    scaled = table.scaled()
    index = int(scaled.sum(axis=1).argmin())
    if len(table.shapes) == 1:
        return index, "The only design of the frontier: it has the least of every measure."
    if len(table.measures) == 2:
        first, last = (_texts(table, i) for i in (0, len(table.shapes) - 1))
        return index, (
            f"The knee of {len(table.shapes)} designs: furthest below the straight line from ({first}) to "
            f"({last}), costs by their logarithms."
        )
    parts = ", ".join(f"{m.label} {part:.2f}" for m, part in zip(table.measures, scaled[index], strict=True))
    return index, (
        f"The knee of {len(table.shapes)} designs: the least sum of all measures, each from 0 at its least "
        f"on the frontier to 1 at its most, costs by their logarithms ({parts})."
    )


def _least(table: Table, least: str | None, limits: dict[str, float]) -> tuple[int, str]:
    """Return the design with least of one measure among those within the limits of others."""
    columns = {name: table.column(name) for name in limits}
    if least is None:
        others = [m.name for m in table.measures if m.name not in limits]
        if len(others) != 1:
            raise InvalidInput(f"least must name a measure, one of {', '.join(others or limits)}.")
        least = others[0]
    column = table.column(least)
    within = np.ones(len(table.shapes), bool)
    for name, i in columns.items():
        within &= table.values[:, i] <= limits[name]
    text = " and ".join(f"{table.measures[i].text(limits[n])} or less" for n, i in columns.items())
    if not within.any():
        nearest = " and ".join(table.measures[i].text(table.values[:, i].min()) for i in columns.values())
        raise Unreachable(f"no design of the frontier has {text}; the least of any is {nearest}.")
    among = np.flatnonzero(within)
    index = int(among[table.values[among, column].argmin()])
    less = table.values[:, column] < table.values[index, column]
    label = table.measures[column].label
    reason = f"Least {label} of the designs with {text}" if text else f"Least {label} of all"
    reason += f" ({int(within.sum())} of {len(table.shapes)})."
    if less.any():
        below = int(np.flatnonzero(less)[table.values[less, column].argmax()])
        reason += f" The next with less has {_texts(table, below)}."
    return index, reason


def _by_value(table: Table, value: float) -> tuple[int, str]:
    """Return the design at which 1% more of the second measure buys less than `value` of the first."""
    if len(table.measures) != 2:
        raise InvalidInput(f"marginal_value trades two measures, but the frontier has {len(table.measures)}.")
    check_number("marginal_value", value)
    first, second = table.measures
    if second.is_loss:
        raise InvalidInput(
            "marginal_value states what 1% more of the second measure must buy, which cannot be the loss."
        )
    bought = table.values[:, 0] if first.is_loss else np.log(table.values[:, 0])
    index = int((bought + value * np.log(table.values[:, 1]) / np.log(1.01)).argmin())
    what = f"{value:g} nats" if first.is_loss else f"{100 * value:g}% of {first.label}"
    return index, (
        f"At {what} for each 1% of {second.label}, no other of {len(table.shapes)} designs buys as "
        "much as it costs more, and none with less saves as much as it loses."
    )


def trade(table: Table, index: int) -> str:
    """Return what a tenth more of the second measure buys from here, and what a tenth less gives up.

    Both are steps to designs of the frontier itself: the best within the share.
    """
    cost, other = (1, 0) if not table.measures[1].is_loss else (0, 1)
    label, bought = table.measures[cost].label, table.measures[other]
    costs, others = table.values[:, cost], table.values[:, other]
    best, dearer = others[costs <= (1 + STEP) * costs[index]].min(), costs.max() > costs[index]
    share = f"{100 * STEP:.0f}%"
    if dearer and best < others[index]:
        text = f"Up to {share} more {label} buys {bought.change(others[index], best)}"
    else:
        text = f"Up to {share} more {label} buys nothing" if dearer else f"Nothing here has more {label}"
    less = costs <= (1 - STEP) * costs[index]
    if not less.any():
        return f"{text}; nothing here has {share} less."
    worse = others[less].min()
    gives = (
        f"{worse - others[index]:.4f} nats" if bought.is_loss else f"{100 * (worse / others[index] - 1):.1f}%"
    )
    return f"{text}; {share} less costs {gives} more {bought.label}."


def _texts(table: Table, index: int) -> str:
    return ", ".join(m.text(v) for m, v in zip(table.measures, table.values[index].tolist(), strict=True))
