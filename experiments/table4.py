"""Table 4, cell by cell: the cost-optimal (n_head, n_kv_head) under three laws, beside the published one.

`python -m experiments.table4` takes the seven curves that Figure 2 draws (and only their seven candidates),
the joint law fitted to the measured points alone, and the default law, which has seen Table 4 itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, drawn_law, print_rows, shipped, write_csv
from scalesim.design import PAPER, Lattice, Problem, log_costs
from scalesim.design.evidence import table_4
from scalesim.laws import Law
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, paler, save
from scalesim.units import format_context

__all__ = ["Cells", "compare", "main"]

SEVEN = Lattice("the seven drawn", tuple((int(h), int(k)) for h, k in drawn_law().labels), real=False)


@dataclass(frozen=True)
class Cells:
    """What a law says of the given cells of Table 4.

    Attributes:
        chosen, published: (n_head, n_kv_head) of each cell, (cells, 2).
        given: whether the published choice is among the lattice's candidates, (cells,).
        excess: by what fraction the published choice's Z is above the least, (cells,); nan if not given.
    """

    chosen: np.ndarray
    published: np.ndarray
    given: np.ndarray
    excess: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """Whether the choice is the published one, (cells,)."""
        return (self.chosen == self.published).all(axis=1)

    @property
    def octaves(self) -> np.ndarray:
        """How many doublings the choice is off, in n_head and n_kv_head, (cells, 2)."""
        return np.log2(self.chosen / self.published)

    @property
    def beyond_an_octave(self) -> int:
        """How many given cells are off by more than one doubling in either head count."""
        return int(np.sum((np.abs(self.octaves) > 1).any(axis=1) & self.given))


def compare(law: Law, lattice: Lattice = PAPER) -> Cells:
    """Return a law's choice in every cell, in Figure 2's units and shapes."""
    with jax.enable_x64(True):
        costs = np.asarray(log_costs(Problem(law=law), table_4().query, lattice))
    table = ss.paper_choices()
    published = np.stack([table["n_head"], table["n_kv_head"]], axis=1)
    same = (np.asarray(lattice.heads)[None] == published[:, None]).all(axis=2)
    least = costs.min(axis=1)
    excess = np.where(
        same.any(axis=1), np.exp(costs[np.arange(len(costs)), same.argmax(axis=1)] - least) - 1, np.nan
    )
    return Cells(np.asarray(lattice.heads)[costs.argmin(axis=1)], published, same.any(axis=1), excess)


def main(folder: Path = RESULTS) -> list[Row]:
    table = ss.paper_choices()
    found = {"seven drawn curves": compare(drawn_law(), SEVEN)}
    found |= {name: compare(law) for name, law in shipped().items()}
    rows: list[Row] = [
        {
            "law": name,
            "target_loss": table["target_loss"][i],
            "context_length": int(table["context_length"][i]),
            "published_n_head": int(cells.published[i, 0]),
            "published_n_kv_head": int(cells.published[i, 1]),
            "published_is_a_candidate": bool(cells.given[i]),
            "n_head": int(cells.chosen[i, 0]),
            "n_kv_head": int(cells.chosen[i, 1]),
            "exact": bool(cells.exact[i]),
            "octaves_n_head": int(cells.octaves[i, 0]),
            "octaves_n_kv_head": int(cells.octaves[i, 1]),
            "published_z_excess_percent": 100 * cells.excess[i] if cells.given[i] else None,
        }
        for name, cells in found.items()
        for i in range(len(cells.exact))
    ]
    write_csv(folder / "table4.csv", rows)
    draw(folder / "table4.png", found)
    print_rows("Table 4", [summary(name, cells) for name, cells in found.items()])
    return rows


def summary(name: str, cells: Cells) -> Row:
    """Return how a law does over all its given cells."""
    return {
        "law": name,
        "cells_given": int(cells.given.sum()),
        "exact": int(cells.exact.sum()),
        "beyond_an_octave": cells.beyond_an_octave,
        "largest_z_excess_percent": 100 * float(np.nanmax(cells.excess)),
    }


def draw(path: Path, found: dict[str, Cells]) -> None:
    """Draw a grid of cells to each law: losses down, contexts across."""
    from matplotlib.patches import Patch

    table = ss.paper_choices()
    losses, contexts = np.unique(table["target_loss"])[::-1], np.unique(table["context_length"])
    with figure(1, len(found), (11.0, 5.4), sharey=True) as (canvas, axes):
        for axis, (name, cells) in zip(axes, found.items(), strict=True):
            line = f"{cells.exact.sum()} of {cells.given.sum()} exact"
            if not cells.given.all():
                line += f" ({(~cells.given).sum()} not among its candidates)"
            axis.set_title(f"{name}\n")
            axis.text(0, 1.025, line, transform=axis.transAxes, color=INK)
            for i in range(len(cells.exact)):
                x = int(np.searchsorted(contexts, table["context_length"][i]))
                y = int(np.flatnonzero(losses == table["target_loss"][i])[0])
                _cell(axis, x, y, cells, i)
            axis.set(xlim=(-0.5, len(contexts) - 0.5), ylim=(len(losses) - 0.5, -0.5))
            axis.set_xticks(range(len(contexts)), [format_context(c) for c in contexts])
            axis.set_yticks(range(len(losses)), [f"{loss:g}" for loss in losses])
            axis.set_xlabel("context length")
            axis.grid(False)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel("target loss (nats a token)")
        handles = [
            Patch(facecolor=BEST, label="as published"),
            Patch(
                facecolor=paler(BASELINE, 0.7), label="another choice, and how much more Z the paper's costs"
            ),
            Patch(facecolor=paler(FAINT, 0.6), label="the paper's is none of the candidates"),
        ]
        canvas.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
        canvas.suptitle("Table 4: cost-optimal (query heads, KV heads)", x=0.01, ha="left", weight="bold")
        save(canvas, path)


def _cell(axis: Any, x: int, y: int, cells: Cells, i: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    exact, given = cells.exact[i], cells.given[i]
    colour = BEST if exact else paler(BASELINE, 0.7) if given else paler(FAINT, 0.6)
    rounded = "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch((x - 0.44, y - 0.4), 0.88, 0.8, boxstyle=rounded, fc=colour, ec="none")
    axis.add_patch(box)
    ours, published = (f"{pair[0]:g}, {pair[1]:g}" for pair in (cells.chosen[i], cells.published[i]))
    ink = "white" if exact else INK
    axis.text(x, y - (0.0 if exact else 0.14), ours, ha="center", va="center", color=ink, weight="bold")
    if not exact:
        note = f"paper {published}" + (f": +{100 * cells.excess[i]:.2f}%" if given else "")
        axis.text(x, y + 0.2, note, ha="center", va="center", fontsize=6.5, color=INK)


if __name__ == "__main__":
    main()
