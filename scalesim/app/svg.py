"""Small vector figures as text: cheap enough to draw while a slider moves, coloured by the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Axis", "Plot", "decades", "interval"]


@dataclass(frozen=True)
class Axis:
    """One axis: its range, its scale, its ticks with what they say, and its name."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str = ""
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, 0 to 1 (beyond: clipped)."""
        low, high = (math.log(v) for v in (self.low, self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, 1e-300)) if self.log else value
        return min(max((at - low) / (high - low or 1.0), -0.02), 1.02)


def decades(low: float, high: float, write: Callable[[float], str]) -> list[tuple[float, str]]:
    """Return ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, fewer where they are many.

    >>> [text for _, text in decades(0.9, 12, "{:g}".format)]
    ['1', '2', '5', '10']
    """
    span = high / low
    steps = (1.0, 2.0, 5.0) if span < 60 else (1.0,)
    stride = 1 if span < 1e5 else 2
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [s * 10.0**p for p in range(first, last + 1, stride) for s in steps]
    return [(v, write(v)) for v in values if low <= v <= high]


@dataclass
class Plot:
    """A figure with two axes; marks are added as SVG, in page units."""

    x: Axis
    y: Axis
    title: str
    width: int = 640
    height: int = 320
    left: int = 58
    bottom: int = 44
    top: int = 14
    right: int = 16
    marks: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies on the page."""
        wide, high = self.width - self.left - self.right, self.height - self.top - self.bottom
        across, up = self.left + wide * self.x.share(x), self.top + high * (1 - self.y.share(y))
        return round(across, 1), round(up, 1)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Add a line through points."""
        path = " ".join("{},{}".format(*self.at(*p)) for p in points)
        self.marks.append(f'<polyline class="{kind}" points="{path}"/>')

    def band(self, points: Sequence[tuple[float, float, float]], kind: str) -> None:
        """Add the area between two curves, (x, low, high) each."""
        there = [self.at(x, high) for x, _, high in points]
        back = [self.at(x, low) for x, low, _ in reversed(points)]
        path = " ".join(f"{a},{b}" for a, b in there + back)
        self.marks.append(f'<polygon class="{kind}" points="{path}"/>')

    def dot(self, x: float, y: float, kind: str, size: float = 4, says: str = "", style: str = "") -> None:
        """Add a point; what it says is shown when it is pointed at."""
        a, b = self.at(x, y)
        title = f"<title>{html.escape(says)}</title>" if says else ""
        more = f' style="{style}"' if style else ""
        self.marks.append(f'<circle class="{kind}" cx="{a}" cy="{b}" r="{size:g}"{more}>{title}</circle>')

    def text(self, x: float, y: float, words: str, kind: str = "note", dx: float = 0, dy: float = 0,
             anchor: str = "middle") -> None:  # fmt: skip
        """Add words at a point, moved by so many units."""
        a, b = self.at(x, y)
        place = f'x="{a + dx:.1f}" y="{b + dy:.1f}" text-anchor="{anchor}"'
        self.marks.append(f'<text class="{kind}" {place}>{html.escape(words)}</text>')

    def rect(self, x: tuple[float, float], y: tuple[float, float], style: str) -> None:
        """Add a rectangle."""
        (a, b), (c, d) = self.at(x[0], y[1]), self.at(x[1], y[0])
        self.marks.append(
            f'<rect x="{a}" y="{b}" width="{c - a + 0.4:.1f}" height="{d - b + 0.4:.1f}" style="{style}"/>'
        )

    def svg(self) -> str:
        """Return the figure."""
        floor, end = self.height - self.bottom, self.width - self.right
        parts = []
        for value, words in self.y.ticks:
            _, b = self.at(self.x.low, value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{end}" y1="{b}" y2="{b}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 7}" y="{b + 4}" text-anchor="end">{_e(words)}</text>'
            )
        for value, words in self.x.ticks:
            a, _ = self.at(value, self.y.low)
            parts.append(f'<line class="grid" x1="{a}" x2="{a}" y1="{self.top}" y2="{floor}"/>')
            parts.append(
                f'<text class="tick" x="{a}" y="{floor + 16}" text-anchor="middle">{_e(words)}</text>'
            )
        middle, side = (self.left + end) / 2, (self.top + floor) / 2
        names = (
            f'<text class="axis" x="{middle}" y="{self.height - 6}" text-anchor="middle">'
            f"{_e(self.x.label)}</text>"
            f'<text class="axis" transform="translate(13,{side}) rotate(-90)" text-anchor="middle">'
            f"{_e(self.y.label)}</text>"
        )
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{_e(self.title)}"><title>{_e(self.title)}</title>'
            + "".join((*parts, *self.marks, names))
            + "</svg>"
        )


def interval(
    low: float,
    value: float,
    high: float,
    ends: tuple[float, float],
    *,
    inner: tuple[float, float] | None = None,
    zero: float | None = None,
    says: str = "",
) -> str:
    """Return a value with its interval on a line between two ends: the dark part lies between the laws."""

    def at(v: float) -> float:
        return round(min(max((v - ends[0]) / (ends[1] - ends[0] or 1.0), 0.0), 1.0) * 196 + 2, 1)

    def bar(a: float, b: float, kind: str, size: int) -> str:
        wide = max(at(b) - at(a), 1.5)
        return (
            f'<rect class="{kind}" x="{at(a)}" y="{8 - size / 2}" width="{wide:.1f}" height="{size}" rx="2"/>'
        )

    parts = [bar(low, high, "outer", 8)]
    if inner is not None:
        parts.append(bar(*inner, "inner", 8))
    if zero is not None and ends[0] <= zero <= ends[1]:
        parts.append(f'<line class="zero" x1="{at(zero)}" x2="{at(zero)}" y1="1" y2="15"/>')
    parts.append(f'<circle class="value" cx="{at(value)}" cy="8" r="4"/>')
    return (
        f'<svg class="interval" viewBox="0 0 200 16" role="img" aria-label="{_e(says)}" '
        f'preserveAspectRatio="none"><title>{_e(says)}</title>{"".join(parts)}</svg>'
    )


def _e(text: str) -> str:
    return html.escape(text, quote=True)
