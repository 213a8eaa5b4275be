"""The map of the best design over context length and target loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalesim.design.map import NOWHERE, DesignMap
from scalesim.report.figure import INK, figure, paler, shades
from scalesim.units import format_context, format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_map", "pole"]

SMALLEST, MANY, LARGE = 0.004, 20, 0.02
"""The share of the map below which a region is too small for its name: LARGE where there are MANY regions."""


def draw_map(found: DesignMap) -> Figure:
    """Draw the regions of a map, each named `query : KV` heads.

    Colour follows the query heads, its paleness the KV heads. Below the dashed line models are larger than
    any measured; hatched: fewer than half of the fit's resamples agree, where the map knows.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    regions = found.regions
    colours = _colours([(region.n_head, region.n_kv_head) for region in regions])
    order = {found.lattice.heads.index((r.n_head, r.n_kv_head)): i for i, r in enumerate(regions)}
    cells = np.vectorize(lambda i: order.get(int(i), np.nan), otypes=[float])(found.index)
    with figure(size=(8.2, 5.4)) as (canvas, axis):
        axis.grid(False)
        axis.set_facecolor("#eef0f2")
        x, y = np.log2(found.contexts), found.losses
        left, below = _edges(x), _edges(y)
        axis.pcolormesh(
            left, below, cells, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5,
            rasterized=True,
        )  # fmt: skip
        _borders(axis, left, below, found.index)
        handles = _uncertainty(axis, x, y, found)
        least = SMALLEST if len(regions) <= MANY else LARGE
        for i, place in order.items():
            if regions[place].share < least:
                continue
            _name(axis, x, y, found.index == i, "{} : {}".format(*found.lattice.heads[i]), colours[place])
        if (found.index == NOWHERE).any():
            handles.append(Patch(fc="#eef0f2", ec=INK, lw=0.5, label="out of reach"))
        ticks = np.arange(np.ceil(x[0]), np.floor(x[-1]) + 1)
        axis.set_xticks(ticks, [format_context(2**tick) for tick in ticks])
        axis.set(xlabel="context length (tokens)", ylabel="target loss (nats a token)")
        axis.set(xlim=(left[0], left[-1]), ylim=(below[0], below[-1]))
        axis.set_title(f"Least {found.query.objective.label}, query : KV heads")
        if handles:
            canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return canvas


def _edges(values: np.ndarray) -> np.ndarray:
    """Return the ends of the cells about some values: halfway between them, and as far beyond the last."""
    halves = (values[:-1] + values[1:]) / 2
    return np.concatenate([[2 * values[0] - halves[0]], halves, [2 * values[-1] - halves[-1]]])


def _borders(axis: Any, x: np.ndarray, y: np.ndarray, index: np.ndarray) -> None:
    """Draw a line between any two cells that are of other regions; x and y are the cells' edges."""
    from matplotlib.collections import LineCollection

    lines: list[Any] = []
    for row, column in zip(*np.nonzero(index[:, 1:] != index[:, :-1]), strict=True):
        lines.append(((x[column + 1], y[row]), (x[column + 1], y[row + 1])))
    for row, column in zip(*np.nonzero(index[1:] != index[:-1]), strict=True):
        lines.append(((x[column], y[row + 1]), (x[column + 1], y[row + 1])))
    axis.add_collection(LineCollection(lines, colors="white", linewidths=0.9, capstyle="round"))


def _colours(heads: list[tuple[int, int]]) -> list[Any]:
    """Return a colour to each configuration: its hue by n_head, paler with more KV heads."""
    numbers = sorted({n_head for n_head, _ in heads})
    hues = dict(zip(numbers, shades(len(numbers)), strict=True))
    most = {n: max(np.log2(k) for h, k in heads if h == n) for n in numbers}
    return [paler(hues[h][:3], 0.12 + 0.55 * (np.log2(k) / most[h] if most[h] else 0.0)) for h, k in heads]


def _uncertainty(axis: Any, x: np.ndarray, y: np.ndarray, found: DesignMap) -> list[Any]:
    """Draw where the evidence ends and where the resamples disagree; return what the legend names."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    largest = found.evidence.get("n_params", (0.0, np.inf))[1]
    beyond = found.n_params > largest
    if beyond.any() and not beyond.all():
        axis.contour(x, y, found.n_params, levels=[largest], colors=[INK], linewidths=1.2, linestyles="--")
        label = f"below: larger than any model measured ({format_count(largest)})"
        handles.append(Line2D([], [], color=INK, lw=1.2, ls="--", label=label))
    if found.agreement is not None and (found.agreement < 0.5).any():
        share = np.where(found.index == NOWHERE, 1.0, found.agreement)
        axis.contourf(x, y, share, levels=[-1.0, 0.5], colors="none", hatches=["////"])
        label = "fewer than half of the fit's resamples agree"
        handles.append(Patch(fc="white", ec=INK, hatch="////", lw=0.3, label=label))
    return handles


def pole(mask: np.ndarray, aspect: float = 2.0) -> tuple[int, int]:
    """Return the cell of a mask [rows, columns] that is furthest from its edge, and so where a name fits.

    Cells are worn away from the edges, `aspect` columns to a row, as names are wide; the last to go is the
    one.

    >>> mask = np.zeros((7, 9), bool); mask[1:6, 2:7] = True
    >>> pole(mask, aspect=1.0)
    (3, 4)
    """
    left, step, worn = np.pad(mask, 1), 0.0, 0.0
    while True:
        inner = left.copy()
        step += aspect
        while worn < step:
            inner[:, 1:-1] &= inner[:, :-2] & inner[:, 2:]
            worn += 1.0
        inner[1:-1] &= inner[:-2] & inner[2:]
        inner[[0, -1]], inner[:, [0, -1]] = False, False
        if not inner.any():
            break
        left = inner
    rows, columns = np.nonzero(left)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[middle]) - 1, int(columns[middle]) - 1


def _name(axis: Any, x: np.ndarray, y: np.ndarray, mask: np.ndarray, name: str, colour: Any) -> None:
    row, column = pole(mask)
    dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.55
    size = 8 + 5 * min(np.sqrt(mask.mean()), 0.5) / 0.5
    axis.text(
        x[column], y[row], name, ha="center", va="center", fontsize=size, weight="bold",
        color="white" if dark else INK,
    )  # fmt: skip
