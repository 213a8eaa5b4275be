"""Constants of an accelerator that nobody measured here, from those that were, by their data sheets."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from scalesim.constants import CONSTANTS, CollectiveConstants, kind_class
from scalesim.efficiency import Efficiency, measured_efficiency, shipped_constants

__all__ = ["SHARES", "Sheet", "borrow", "distance", "measured_cards", "weights_of"]

SHARES = (
    "compute",
    "bandwidth",
    "quantise",
    "attention_compute",
    "attention_bandwidth",
    "link",
    "rest",
    "cache_share",
    "apart",
    "window_reload",
)
"""Constants between 0 and 1: no kernel beats the data sheet."""

_WIDTH = 0.4  # doublings of a figure over which one accelerator stands for another
_WITHOUT_WINDOWS = ("a100",)
"""Measured accelerators whose tables have no windows: others tell of them, where they are somewhat alike."""
_ALIKE = 0.1  # their weights together


class Sheet(NamedTuple):
    """The figures of a data sheet that tell how alike two accelerators are.

    Attributes:
        bf16_tflops: dense peak.
        bandwidth_gbs: of the memory.
        interconnect_gbs: between accelerators (None: not stated).
        generation: of its matrix units ("hopper"; "": not stated).
        memory: "hbm" or "gddr" ("": not stated).
        last_cache_mb: 1e6 bytes that a kernel in a loop may find again (None: not stated).
        clock_ghz: highest clock of its compute units (None: not stated).
    """

    bf16_tflops: float
    bandwidth_gbs: float
    interconnect_gbs: float | None = None
    generation: str = ""
    memory: str = ""
    last_cache_mb: float | None = None
    clock_ghz: float | None = None


_FAMILIES = dict.fromkeys(("ampere", "ada", "blackwell-workstation"), "flash-attention 2")
"""Generations that one attention kernel serves (Dao-AILab/flash-attention#2529 quotes the choice): others
have kernels written for them."""


def distance(a: Sheet, b: Sheet, kind: str = "") -> float:
    """Return how unlike two accelerators are, in doublings.

    sqrt(log2(ratio)^2 + log2(bandwidth)^2 + log2(interconnect)^2 / 4 + others) of the quotients of the two,
    with ratio the compute a byte of bandwidth; another generation, for which kernels are written anew, counts
    as two doublings, another kind of memory as one; what one of them does not state is left out. For kernels
    of one kind the interconnect counts in messages alone, and of attention two generations that one kernel
    serves are one.

    >>> distance(Sheet(989.4, 3350, 450), Sheet(989.4, 3350, 450))
    0.0
    """
    kernels = [one.generation for one in (a, b)]
    if kind in ("decode", "prefill"):
        kernels = [_FAMILIES.get(one, one) for one in kernels]
    parts = [
        math.log2(a.bf16_tflops / a.bandwidth_gbs * b.bandwidth_gbs / b.bf16_tflops),
        math.log2(a.bandwidth_gbs / b.bandwidth_gbs),
    ]
    if kind in ("", "collective") and a.interconnect_gbs and b.interconnect_gbs:
        parts.append(math.log2(a.interconnect_gbs / b.interconnect_gbs) / 2)
    for (one, other), size in ((kernels, 2.0), ((a.memory, b.memory), 1.0)):
        parts.append(size * (one != other and bool(one and other)))
    return math.sqrt(sum(part**2 for part in parts))


def weights_of(sheet: Sheet, measured: Mapping[str, Sheet], kind: str = "") -> dict[str, float]:
    """Return how much each measured accelerator says about another: exp(-d^2 / (2 0.4^2)), summing to one."""
    away = {name: distance(sheet, other, kind) for name, other in measured.items()}
    nearest = min(away.values())
    raw = {name: math.exp(-(d**2 - nearest**2) / (2 * _WIDTH**2)) for name, d in away.items()}
    whole = sum(raw.values())
    return {name: value / whole for name, value in raw.items()}


@functools.cache
def measured_cards() -> Mapping[str, tuple[Sheet, Efficiency]]:
    """Return data sheet and constants of every accelerator that was measured, by name."""
    cards = shipped_constants()["cards"]
    return {name: (Sheet(**card["sheet"]), measured_efficiency(name)) for name, card in cards.items()}


def borrow(
    sheet: Sheet,
    measured: Mapping[str, tuple[Sheet, Efficiency]] | None = None,
    reach: Mapping[str, float] | None = None,
) -> Efficiency:
    """Return constants for an accelerator from its data sheet: means over those that were measured.

    A constant is the weighted mean of the measured ones (`weights_of`) in its logarithm (its logit, where it
    is a share), over the accelerators that have one for that kind and format. Shares of peaks carry; fixed
    and serial times as cycles of the clock; of the last cache its size by the data sheets, and its speed
    beside that of the compute units (accelerators without a table of the format lend those of their BF16
    kernels). What differs is left to the error that leaving out each measured accelerator shows.

    Args:
        sheet: of the accelerator.
        measured: data sheet and constants of each measured one, by name (those that are shipped).
        reach: growth of the intervals a doubling, by kind and format, or by kind (those that are shipped).
    """
    measured = measured_cards() if measured is None else measured
    reach = shipped_constants()["reach"] if reach is None else reach
    sheets = {name: one[0] for name, one in measured.items()}
    by_kind = {kind: weights_of(sheet, sheets, kind) for kind in CONSTANTS}
    weights = by_kind["gemm"]
    nearest = max(weights, key=lambda name: weights[name])
    base = measured[nearest][1]

    def lent(kind: str, constants: Mapping[str, Any]) -> Any:
        known = [(by_kind[kind][name], sheets[name], c) for name, c in constants.items()]
        return _mean(known, sheet)

    mixed = {
        kind: lent(kind, {name: getattr(one[1], kind) for name, one in measured.items()})
        for kind in ("gemm", "decode", "prefill")
    }
    for kind in ("decode", "prefill"):
        windowed = {n: getattr(one[1], kind) for n, one in measured.items() if n not in _WITHOUT_WINDOWS}
        if sum(by_kind[kind][name] for name in windowed) > _ALIKE:
            found = lent(kind, windowed)
            windows = {f.name: getattr(found, f.name) for f in fields(found) if f.name.startswith("window")}
            mixed[kind] = replace(mixed[kind], **windows)
    others = []
    for key in sorted({key for _, e in measured.values() for key, _ in e.others}):
        stated = {name: dict(one[1].others) for name, one in measured.items()}
        has = {name: kinds[key] for name, kinds in stated.items() if key in kinds}
        found = lent(kind_class(key), has)
        if key.split()[0] in mixed:
            # The last cache is the accelerator's, whatever the format.
            every = {name: has.get(name, getattr(one[1], kind_class(key))) for name, one in measured.items()}
            cache = lent(kind_class(key), every)
            found = replace(found, cache_mb=cache.cache_mb, cache_share=cache.cache_share)
        others.append((key, found))
    # The squares of the lenders' intervals (the nearest's at least: what is borrowed is no surer than what it
    # is borrowed from), and of what is added the further those are.
    spread = []
    for key in sorted({key for _, e in measured.values() for key, _ in e.spread}):
        kind = kind_class(key)
        lenders = [name for name, one in measured.items() if key in dict(one[1].spread)]
        width = np.average(
            [dict(measured[name][1].spread)[key] for name in lenders],
            axis=0,
            weights=[by_kind[kind][name] + 1e-9 for name in lenders],
        )
        closest = min(lenders, key=lambda name: distance(sheet, sheets[name], kind))
        width = np.maximum(width, dict(measured[closest][1].spread)[key])
        away = distance(sheet, sheets[closest], kind)
        spread.append((key, tuple(np.hypot(width, reach.get(key, reach.get(kind, 0.0)) * away))))
    said = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items() if weight >= 0.01)
    return replace(
        base,
        **mixed,
        others=tuple(others),
        source=f"borrowed by data sheets from {said}: {base.source}",
        error=(),
        spread=tuple(spread),
        status="borrowed",
    )


def _mean(known: Sequence[tuple[float, Sheet, Any]], sheet: Sheet) -> Any:
    whole = sum(weight for weight, _, _ in known) + 1e-300
    values: dict[str, Any] = {}
    for field in fields(known[0][2]):
        stated = [(weight / whole, _carried(field.name, one, c, sheet)) for weight, one, c in known]
        present = [(w, v) for w, v in stated if v is not None]
        share = sum(w for w, _ in present)
        values[field.name] = None if share <= 0.5 else _mix(field.name, present, share)
    return replace(known[0][2], **values)


def _carried(name: str, lender: Sheet, constants: Any, sheet: Sheet) -> float | None:
    """What a constant of one accelerator says of another.

    Times are so many cycles of the clock. The last cache is as large as the data sheet says, and as fast as
    its compute units ask; experts' inner values stay there and take their time, whatever the memory.
    """
    value: float | None = getattr(constants, name)
    if value is None:
        return None
    faster = sheet.bandwidth_gbs / lender.bandwidth_gbs
    if name in ("cache_mb", "cache_share"):
        if sheet.last_cache_mb is None or lender.last_cache_mb is None:
            return value if sheet.memory == lender.memory else None
        if name == "cache_mb":
            return value * sheet.last_cache_mb / lender.last_cache_mb
        return max(1 - (1 - value) * faster * lender.bf16_tflops / sheet.bf16_tflops, 1e-3)
    if name == "inner":
        return value * faster
    timed = name.endswith(("_us", "_ns")) and not name.startswith("host")
    if timed and not isinstance(constants, CollectiveConstants) and sheet.clock_ghz and lender.clock_ghz:
        return value * lender.clock_ghz / sheet.clock_ghz
    return value


def _mix(name: str, stated: Sequence[tuple[float, float]], share: float) -> float:
    numbers = np.asarray([v for _, v in stated], float)
    parts = np.asarray([w for w, _ in stated]) / share
    if name in SHARES:
        numbers = np.clip(numbers, 1e-6, 1 - 1e-6)
        mean = float(parts @ np.log(numbers / (1 - numbers)))
        return 1 / (1 + math.exp(-mean))
    if np.any(numbers <= 0):
        return float(parts @ numbers)
    return math.exp(float(parts @ np.log(numbers)))
