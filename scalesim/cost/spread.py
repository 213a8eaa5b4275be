"""How far measurements lie from predicted times: of a kernel, and of a whole pass made of many."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalesim.constants import kind_class
from scalesim.efficiency import Efficiency

__all__ = ["ANCHORS", "half_width"]

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
