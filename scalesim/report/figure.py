"""How our figures look: one style, one palette, one way to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalesim.cost.measure import Measure
from scalesim.errors import InvalidInput
from scalesim.units import format_count

__all__ = [
    "BASELINE",
    "BEST",
    "FAINT",
    "INK",
    "axis_of",
    "count_axis",
    "figure",
    "named_axis",
    "paler",
    "plain_log_axis",
    "save",
    "shades",
]

INK, FAINT, BASELINE, BEST = "#22303c", "#c3ccd4", "#d1603d", "#1f6f8b"

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e8ecef",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.0), **share: Any) -> Iterator:
    """Yield (figure, axes) in the house style, drawn without a display."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        canvas = Figure(figsize=size)
        FigureCanvasAgg(canvas)
        yield canvas, canvas.subplots(rows, columns, **share)


def shades(count: int) -> list[Any]:
    """Return `count` colours in an order that the eye follows, from BASELINE to BEST and beyond."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("shades", [BASELINE, "#e2ab4b", "#86ab63", BEST, "#3a3b6e"])
    return [ramp(i / max(count - 1, 1)) for i in range(count)]


def paler(colour: str, share: float = 0.55) -> Any:
    """Return a colour mixed with white: opaque, so that no grid line shows through it."""
    from matplotlib.colors import to_rgb

    return tuple(1 - (1 - part) * (1 - share) for part in to_rgb(colour))


def plain_log_axis(
    axis: Any,
    low: float,
    high: float,
    which: str = "x",
    text: Callable[[float], str] = lambda value: f"{value:,.10g}",
) -> None:
    """Make an axis logarithmic, with a few plain numbers on it: 1, 2 and 5 times powers of ten or so."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from scalesim.report.ticks import PlainLogLocator

    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}lim")(low, high)
    ticks = getattr(axis, f"{which}axis")
    ticks.set_major_locator(PlainLogLocator(text))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    ticks.set_minor_formatter(NullFormatter())


def named_axis(axis: Any, values: Sequence[float], text: Callable[[float], str], which: str = "x") -> None:
    """Name a few values of a logarithmic axis, those that have room, and no others."""
    from matplotlib.ticker import FuncFormatter

    from scalesim.report.ticks import PlainLogLocator

    ticks = getattr(axis, f"{which}axis")
    axis.minorticks_off()
    ticks.set_major_locator(PlainLogLocator(text, values))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def count_axis(axis: Any, which: str = "x") -> None:
    """Make an axis of counts logarithmic, over what is drawn: 30M, 100M, 1B."""
    low, high = getattr(axis, f"get_{which}lim")()
    plain_log_axis(axis, low, high, which, format_count)


_AXES: dict[str, tuple[float, str]] = {
    "B": (2.0**30, "GiB"),
    "FLOP": (1e15, "10¹⁵"),
    "s": (1e-3, "ms"),
    "$": (1.0, "$"),
    "parameters": (1e9, "billions"),
    "nats": (1.0, "nats a token"),
}


def axis_of(measure: Measure) -> tuple[float, str]:
    """Return by what a measure's values are divided on an axis, and what the axis is called.

    >>> from scalesim.cost.measure import LOSS
    >>> axis_of(LOSS)
    (1.0, 'predicted loss (nats a token)')
    """
    unit, name = _AXES.get(measure.unit, (1.0, measure.unit))
    if measure.name == "training_flops":
        unit, name = 1e18, "10¹⁸"
    if measure.name == "ttft":
        unit, name = 1.0, "s"
    label = "predicted loss" if measure.is_loss else measure.label
    return unit, f"{label} ({name})" if name else label


def save(canvas: Any, path: str | Path) -> None:
    """Write a figure; the file's ending names its format.

    Raises:
        InvalidInput: the format is not one that matplotlib writes, or the file cannot be written.
    """
    known = sorted(canvas.canvas.get_supported_filetypes())
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in known:
        raise InvalidInput(f"plot {str(path)!r} has no known format; one of {', '.join(known)} would do.")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=150)
    except OSError as error:
        raise InvalidInput(f"plot {str(path)!r} cannot be written: {error.strerror}.") from None
