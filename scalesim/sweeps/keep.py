"""What a sweep keeps, in constant memory: the top k, and the frontier cell by cell of loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalesim.numerics.pareto import non_dominated
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.screen import MEASURES, Bars

__all__ = ["COLUMNS", "FRONTIERS", "Kept", "Margin"]

COLUMNS = ("index", *SIZES, *MEASURES)
"""A kept design: its index, its sizes and its measures, all as float64 (indices to 2^53 are exact)."""
FRONTIERS = ("memory", "flops", "objective")
"""What is traded against loss."""

_INDEX, _LOSS = COLUMNS.index("index"), COLUMNS.index("loss")
_COSTS = [COLUMNS.index(name) for name in FRONTIERS]
_OBJECTIVE = COLUMNS.index("objective")


@dataclass(frozen=True)
class Margin:
    """By how much the screen may be wrong: nats of loss, and a fraction of a cost."""

    loss: float
    cost: float


@dataclass(frozen=True)
class Kept:
    """The best of the designs seen so far. Merging is exact, in any order, any number of times.

    Ties go to the lower loss, then to the lower index: the answer depends on the set of designs alone, not
    on the order, the blocks, the devices or the processes.

    Attributes:
        target: the loss to reach.
        low, resolution: the frontier's cells are [low + i resolution, low + (i + 1) resolution); the first
            holds all losses below it too.
        top: [k, columns], the least objectives with loss <= target, in order; rows of infinity where empty.
        cells: [3, cells, columns], for memory, FLOPs and objective: each cell's cheapest design.
        least: [1, columns], the design of least loss.
    """

    target: float
    low: float
    resolution: float
    top: np.ndarray
    cells: np.ndarray
    least: np.ndarray

    @classmethod
    def empty(cls, target: float, k: int, span: float, resolution: float) -> Kept:
        """Return what is kept of no designs: k places, and cells from target - span to target + span."""
        cells = max(round(2 * span / resolution), 1)
        width = len(COLUMNS)
        return cls(
            target=target,
            low=target - span,
            resolution=resolution,
            top=np.full((k, width), np.inf),
            cells=np.full((len(FRONTIERS), cells, width), np.inf),
            least=np.full((1, width), np.inf),
        )

    def merged(self, rows: np.ndarray) -> Kept:
        """Return what is kept once more designs [n, columns] are seen; measures must be finite to count."""
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return self
        cells = self.cells.copy()
        cell = np.floor((rows[:, _LOSS] - self.low) / self.resolution)
        inside = cell < cells.shape[1]
        cell = np.maximum(cell[inside], 0).astype(np.int64)
        for kept, column in zip(cells, _COSTS, strict=True):
            _keep_cheapest(kept, cell, rows[inside], column)
        reached = rows[rows[:, _LOSS] <= self.target]
        return Kept(
            target=self.target,
            low=self.low,
            resolution=self.resolution,
            top=_least(np.concatenate([self.top, reached]), _OBJECTIVE, len(self.top)),
            cells=cells,
            least=_least(np.concatenate([self.least, rows]), _LOSS, 1),
        )

    def rows(self) -> np.ndarray:
        """Return all that is kept, as rows to merge elsewhere."""
        every = np.concatenate([self.top, self.cells.reshape(-1, len(COLUMNS)), self.least])
        return every[np.isfinite(every[:, _INDEX])]

    def packed(self) -> np.ndarray:
        """Return all that is kept as one array of fixed shape, for checkpoints and for other processes."""
        return np.concatenate([self.top, self.cells.reshape(-1, len(COLUMNS)), self.least])

    def unpacked(self, packed: np.ndarray) -> Kept:
        """Return what `packed` held, with this one's shapes."""
        k, n = len(self.top), self.cells.shape[0] * self.cells.shape[1]
        return Kept(
            target=self.target,
            low=self.low,
            resolution=self.resolution,
            top=packed[:k],
            cells=packed[k : k + n].reshape(self.cells.shape),
            least=packed[k + n :],
        )

    def bars(self, margin: Margin, dtype: type = np.float32) -> Bars:
        """Return what a design must pass to change anything, wider by the screen's margin."""

        def wider(cost: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):  # costs beyond float32 become infinite: then everything passes
                return (cost + margin.cost * np.abs(cost)).astype(dtype)

        costs = np.stack([kept[:, column] for kept, column in zip(self.cells, _COSTS, strict=True)])
        cells = np.minimum.accumulate(costs, axis=1)
        nothing: np.ndarray = np.full((len(FRONTIERS), 1), -np.inf, dtype)
        return Bars(
            target=dtype(self.target + margin.loss),
            kth=wider(self.top[-1:, _OBJECTIVE])[0],
            least=dtype(self.least[0, _LOSS] + margin.loss),
            low=dtype(self.low + margin.loss),
            scale=dtype(1 / self.resolution),
            cells=np.concatenate([wider(cells), nothing], axis=1),
        )

    def frontier(self, measure: str) -> np.ndarray:
        """Return the designs [n, columns] that no other betters in both loss and a measure, by loss.

        At most one to a cell of loss: each is on the true frontier, and any design of the sweep is bettered
        by one of these, up to the resolution in loss.
        """
        column = COLUMNS.index(measure)
        kept = self.cells[FRONTIERS.index(measure)]
        return kept[non_dominated(kept[:, [_LOSS, column]])]


def _order(rows: np.ndarray, column: int) -> np.ndarray:
    return np.lexsort((rows[:, _INDEX], rows[:, _LOSS], rows[:, column]))


def _least(rows: np.ndarray, column: int, k: int) -> np.ndarray:
    """Return the k rows of least value, each design once."""
    rows = rows[_order(rows, column)]
    index = rows[:, _INDEX]
    first = np.concatenate([[True], (index[1:] != index[:-1]) | ~np.isfinite(index[1:])])
    return rows[first][:k]


def _keep_cheapest(kept: np.ndarray, cell: np.ndarray, rows: np.ndarray, column: int) -> None:
    """Put each cell's cheapest row in its place, if it betters what is there."""
    order = np.lexsort((rows[:, _INDEX], rows[:, _LOSS], rows[:, column], cell))
    cell, rows = cell[order], rows[order]
    first = np.concatenate([[True], cell[1:] != cell[:-1]]) if len(cell) else np.zeros(0, bool)
    for i, row in zip(cell[first].tolist(), rows[first], strict=True):
        old = kept[i]
        if (row[column], row[_LOSS], row[_INDEX]) < (old[column], old[_LOSS], old[_INDEX]):
            kept[i] = row
