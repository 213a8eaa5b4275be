"""How far measurements lie from predicted times: of a kernel, and of a whole pass made of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from scalesim.constants import kind_class
from scalesim.cost.parallel import Parallel
from scalesim.cost.passes import Operator
from scalesim.efficiency import Efficiency
from scalesim.hardware import Hardware

__all__ = ["ANCHORS", "Interval", "half_width", "pass_interval", "split_key"]

ANCHORS = (5e-6, 5e-5, 5e-4)
"""Seconds of kernels at which the widths of intervals are stated."""

_UNKNOWN = 1.0  # half width of log(measured / predicted) where nothing was measured: a factor of 2.7


def half_width(efficiency: Efficiency, kind: str, format: str, seconds: Any) -> np.ndarray:
    """Return the half width of the 90% interval of log(measured / predicted) of kernels.

    Between the stated sizes it is linear in the logarithm of the time: kernels bound by their launch and long
    ones have errors of their own.

    Args:
        efficiency: whose residuals.
        kind, format: of the kernel, as `kernel_seconds` names them.
        seconds: predicted, of one launch.
    """
    known = dict(efficiency.spread)
    name = f"{kind} {format}".strip()
    widths = known.get(name)
    if widths is None:
        alike = [w for key, w in known.items() if kind_class(key) == kind_class(name)]
        widths = tuple(np.max(alike, axis=0)) if alike else (_UNKNOWN,) * len(ANCHORS)
    return np.interp(np.log(np.asarray(seconds, float)), np.log(ANCHORS), widths)


class Interval(NamedTuple):
    """The 90% interval of a time: seconds."""

    low: float
    high: float


def pass_interval(
    operators: Sequence[Operator], hardware: Hardware, parallel: Parallel, layers: float
) -> Interval:
    """Return the 90% interval of the time of a pass.

    The deviations of its operators, each its share of the time, add up in their squares: those of kernels
    from residuals that took no part in the fit (`half_width`), that of the engine from whole models left out
    of its fit, that of what lies between the kernels, which engines do in very different ways, and with split
    experts how unevenly they are visited. Upwards, an engine that captures no graphs launches each kernel
    of each layer anew: it is not slower than that by more than `_EAGER` a layer.

    Args:
        operators: of `decode_operators` or `prefill_operators`, plain numbers.
        hardware: whose constants priced them.
        parallel: over how many accelerators.
        layers: of the model.
    """
    e = hardware.efficiency
    whole = sum(float(o.time_s) for o in operators)
    squares = (_engine_width(e) * whole) ** 2
    for o in operators:
        seconds = float(o.time_s)
        if o.kind:
            kind, format = split_key(o.kind)
            scale = 1.0 if o.link_s else float(e.engine.scale)
            width = float(half_width(e, kind, format, seconds / max(float(o.launches), 1.0) / scale + 1e-12))
        else:
            width = _BETWEEN
        if parallel.expert > 1 and o.name.startswith("expert"):
            width = math.hypot(width, _UNEVEN)
        squares += (width * seconds) ** 2
    away = math.sqrt(squares)
    eager = _EAGER * layers / parallel.pipeline
    return Interval(whole * math.exp(-away / whole), whole + math.hypot(away, eager))


def split_key(key: str) -> tuple[str, str]:
    """Return kind and format of "experts bf16" or "latent decode fp8_block/bf16"; format "" where none is.

    >>> split_key("latent decode bf16/fp8"), split_key("delta rule step"), split_key("all-reduce")
    (('latent decode', 'bf16/fp8'), ('delta rule step', ''), ('all-reduce', ''))
    """
    if kind_class(key) in ("delta", "collective"):
        return key, ""
    kind, _, format = key.rpartition(" ")
    return kind, format


def _engine_width(e: Efficiency) -> float:
    stated = dict(e.error).get("model")
    # A mean absolute error of a normal deviation is 0.8 of its standard deviation, an interval's half 1.645.
    return _ENGINE[e.status] if stated is None else max(2.06 * stated, _ENGINE["fitted"])


_ENGINE = {"fitted": 0.15, "borrowed": 0.35, "stated": 0.35}  # half widths of the engine's own deviation
_BETWEEN = 0.8  # of what lies between kernels
_UNEVEN = 0.5  # of experts on several accelerators
_EAGER = 90e-6  # seconds a layer: a dozen kernels at 5 to 10 microseconds each
