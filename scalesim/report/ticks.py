"""Plain numbers on a logarithmic axis: as many as have room, and no two alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import Locator, MaxNLocator

__all__ = ["PlainLogLocator"]

_WIDE, _HIGH = 0.64, 1.25
"""Width of a character and height of a line, in sizes of the font."""
_SUBS = ((8, (1.0, 2.0, 3.0, 5.0, 7.0)), (200, (1.0, 2.0, 5.0)), (200, (1.0, 3.0)))
_STRIDES = (1, 2, 3, 4, 6, 8, 12, 24)
_NARROW = 1.6
"""Ends nearer to each other, as a factor, may have no number such as 1, 2 or 5 between them."""


class PlainLogLocator(Locator):
    """Where the numbers of a logarithmic axis stand: 1, 2 and 5 times powers of ten or so, where they fit.

    Args:
        text: what is written for a number.
        values: stand there alone, those that have room.
    """

    def __init__(self, text: Callable[[float], str], values: Sequence[float] = ()) -> None:
        self.text, self.values = text, tuple(values)

    def __call__(self) -> Sequence[float]:
        """Return where they stand on the axis as it is."""
        low, high = self.axis.get_view_interval()  # type: ignore[union-attr]
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the first of some ladders of numbers whose labels differ and stand apart."""
        low, high = sorted((vmin, vmax))
        if self.values:
            return self._apart(self.values, low, high)
        ladders = [found for found in _ladders(low, high) if len(found) > 1]
        for found in ladders:
            if len(self._apart(found, low, high)) == len(found):
                return found
        thinned = [self._apart(found, low, high) for found in ladders]
        return max(thinned, key=len, default=[])

    def _apart(self, values: Sequence[float], low: float, high: float) -> Sequence[float]:
        """Return those of some values whose labels neither touch nor repeat the one before."""
        axis: Any = self.axis
        along, box = axis.axis_name, axis.axes.bbox
        length = (box.width if along == "x" else box.height) * 72 / axis.get_figure().dpi
        size = axis.get_major_ticks(1)[0].label1.get_size()
        kept: list[float] = []
        end, said = -np.inf, None
        for value in values:
            at = np.log(value / low) / np.log(high / low) * length
            label = self.text(value)
            half = size * (_WIDE * len(label) if along == "x" else _HIGH) / 2
            if at - half >= end and label != said:
                kept.append(value)
                end, said = at + half + (size / 2 if along == "x" else 0.0), label
        return kept


def _ladders(low: float, high: float) -> Iterator[Sequence[float]]:
    """Yield numbers between two ends, the densest ladder first that suits their ratio."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))

    def within(values: Sequence[float]) -> list[float]:
        return [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]

    if high / low >= _NARROW:
        for most, subs in _SUBS:
            if high / low <= most:
                yield within([sub * 10.0**k for k in range(first, last + 1) for sub in subs])
        for stride in _STRIDES:
            yield within([10.0**k for k in range(first, last + 1) if k % stride == 0])
    for count in (4, 3, 2):
        yield within(list(map(float, MaxNLocator(count).tick_values(low, high))))
