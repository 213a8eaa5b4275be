"""What many laws say of one question: chances, regrets and intervals, as numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["HEADS", "Distribution"]

HEADS = ("n_head", "n_kv_head")
"""What tells the configurations of a `Lattice` apart."""

Named = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Distribution:
    """What R laws say of one question, configuration by configuration.

    Each configuration is brought to the target loss under each law anew, so its size differs from law to law.
    Of a `Lattice` all are compared. Of a `DesignSpace`, those that are the best under some law, each found by
    a search of its own: depth, width, heads and what else is a whole number; d_ff or the training tokens,
    whichever closes the gap to the loss, follow the law.

    Attributes:
        names: what tells configurations apart: ("n_head", "n_kv_head"), and of a space its other axes.
        configurations: the values, (K, len(names)).
        winner: the index of the cheapest configuration under each law, (R,).
        probability: the share of laws under which each is the cheapest, (K,).
        regret: expected excess of each over the cheapest of the law, as a fraction, (K,); infinite where it
            cannot do what is asked under some law.
        worst_regret: the same, at the 95th percentile.
        missed: the share of laws under which each cannot be brought to the loss or within a limit, (K,). Of a
            space it is then often a layer short: d_ff has a range.
        excess: as regret, over the laws under which it is not missed.
        cost: the chosen configuration's objective under each law that it is not missed under, (R',).
        n_params: its size under these.
        savings: what it saves over the baseline at equal loss under these, {"memory": (R',), ...}.
        chosen: index of the chosen configuration.
        level: of the intervals.
        tail: the share of laws that an interval leaves out on either side (see `Bootstrap.tail`).
        out_of_reach: the share of laws under which no configuration reaches the loss; they are left out.
    """

    names: tuple[str, ...]
    configurations: np.ndarray
    winner: np.ndarray
    probability: np.ndarray
    regret: np.ndarray
    worst_regret: np.ndarray
    missed: np.ndarray
    excess: np.ndarray
    cost: np.ndarray
    n_params: np.ndarray
    savings: dict[str, np.ndarray]
    chosen: int
    level: float
    tail: float
    out_of_reach: float = 0.0

    @property
    def heads(self) -> np.ndarray:
        """(n_head, n_kv_head) of each configuration, (K, 2)."""
        return self.configurations[:, [self.names.index(name) for name in HEADS]]

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Return the expanded percentile interval of some values over the laws."""
        low, high = np.quantile(values, [self.tail, 1 - self.tail])
        return float(low), float(high)

    @property
    def best_in_expectation(self) -> Named:
        """The configuration of least expected excess among those least often missed, by `names`."""
        return self.values(int(np.lexsort((self.excess, self.missed))[0]))

    @property
    def safest(self) -> Named:
        """The configuration whose excess is least where it is bad, at the 95th percentile of laws."""
        return self.values(int(np.argmin(self.worst_regret)))

    def indistinguishable(self, within: float = 0.01) -> list[Named]:
        """Return the configurations that cost at most `within` more than the best, in expectation."""
        order = np.argsort(self.regret)
        return [self.values(i) for i in order if self.regret[i] <= within]

    def values(self, index: int) -> Named:
        """Return a configuration in the order of `names`, whole numbers as such."""
        return tuple(_plain(value) for value in self.configurations[index])

    def label(self, index: int) -> str:
        """Return what a configuration is called in figures: `12 : 1`, or `19 × 2624, 12 : 1`."""
        given = dict(zip(self.names, self.values(index), strict=True))
        called = f"{given.pop('n_head')} : {given.pop('n_kv_head')}"
        if "n_layer" in given:
            called = f"{given.pop('n_layer')} × {given.pop('d_model')}, {called}"
        return ", ".join([called, *(f"{name} {value:.4g}" for name, value in given.items())])

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return, for each name, between which values `level` of the laws' best designs lie."""
        best = self.configurations[self.winner]
        ends = np.quantile(best, [self.tail, 1 - self.tail], axis=0, method="nearest")
        return {name: (_plain(a), _plain(b)) for name, a, b in zip(self.names, *ends, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as plain values, configurations by probability."""
        order = [i for i in np.lexsort((self.excess, -self.probability)) if self.missed[i] < 1]
        rows = [
            {
                **dict(zip(self.names, self.values(i), strict=True)),
                "probability": float(self.probability[i]),
                "regret": float(self.excess[i]),
                "missed": float(self.missed[i]),
            }
            for i in order[:12]
        ]
        return {
            "laws": len(self.winner),
            "configurations": rows,
            "best_in_expectation": self.best_in_expectation,
            "safest": self.safest,
            "within_one_percent": self.indistinguishable(),
            "ranges": self.ranges(),
            "n_params_interval": self.interval(self.n_params),
            "savings_intervals": {name: self.interval(values) for name, values in self.savings.items()},
            "in_words": self.in_words(),
        }

    def in_words(self) -> str:
        """Return what the distribution says, in a sentence or two."""
        whole = self.names != HEADS
        near = len(self.indistinguishable())
        low, high = self.interval(self.savings["objective"])
        share, excess = 100 * self.probability[self.chosen], 100 * self.excess[self.chosen]
        missed = 100 * self.missed[self.chosen]
        called = self.label(self.chosen) if whole else str(self.values(self.chosen))
        said = f"{called} is the cheapest under {share:.0f}% of the fit's resamples, and "
        said += f"on average {excess:.2f}% dearer than the cheapest"
        if missed:
            said += f"; under {missed:.1f}% it cannot do what is asked, and these are left out"
        if near > 1:
            among = f" of the {len(self.regret)} that are the best under some" if whole else ""
            said += f"; {near} configurations{among} are within 1% of it: the data cannot tell them apart"
        said += (
            f". It saves {100 * low:.1f}% to {100 * high:.1f}% of the objective ({100 * self.level:.0f}%)."
        )
        if whole:
            spans = [f"{name} {_span(*ends)}" for name, ends in self.ranges().items()]
            said += f" The best designs ({100 * self.level:.0f}%): {', '.join(spans)}."
        if self.out_of_reach:
            said += f" Under {100 * self.out_of_reach:.1f}% of the resamples the loss is out of reach of all."
        return said


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)


def _span(low: float, high: float) -> str:
    return f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"
