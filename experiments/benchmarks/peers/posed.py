"""A problem as an optimiser is given it, and the trace of what the optimiser has found by when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.benchmarks.wide_problems import CASES, Drawn, cases, draw

__all__ = ["COMPARED", "Enough", "Loose", "Posed", "Trace", "batched", "drawn_on"]

COMPARED = ("tokens and KV precision",)
"""The lattices: that of seven axes."""
FEASIBLE = 1e-9
"""Log excess that counts as none, for the peers as for us; their own rules want 0."""
BATCHES = (1, 128, 512)
"""Designs that one compiled call takes; others are filled up, so that nothing compiles while a clock runs."""

Measured = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Enough(Exception):
    """The peer's time is up."""


@dataclass(frozen=True)
class Loose:
    """The problem over real numbers, for SLSQP.

    Attributes:
        lower, upper: bounds of the variables (r,).
        at: x (r,) -> log cost, its gradient (r,), log excess of each limit (q,), their Jacobian (q, r).
        near: whole designs to be tried where a run ended: x (r,) -> (n, k') places on the lattice.
        tried: measures them, with what is still to be found of each; the second argument measures designs.
    """

    lower: np.ndarray
    upper: np.ndarray
    at: Callable[[np.ndarray], Any]
    near: Callable[[np.ndarray], np.ndarray]
    tried: Callable[[np.ndarray, Measured], None]


@dataclass(frozen=True)
class Posed:
    """The problem over the lattice's own axes.

    Attributes:
        lower, upper: bounds of the variables (k,).
        whole: which of them are whole numbers (k,).
        limits: how many limits there are, m.
        measured: x (n, k) -> log cost (n,) and log excess of each limit (n, m).
        loose: the same over real numbers.
    """

    lower: np.ndarray
    upper: np.ndarray
    whole: np.ndarray
    limits: int
    measured: Measured
    loose: Loose

    def compile(self) -> None:
        """Call everything once."""
        for n in BATCHES:
            self.measured(np.resize(self.lower, (n, len(self.lower))))
        middle = (self.loose.lower + self.loose.upper) / 2
        self.loose.at(middle)
        self.loose.tried(self.loose.near(middle), self.measured)


class Trace:
    """What a peer has found, when, and after how many evaluations."""

    def __init__(self, posed: Posed, seconds: float) -> None:
        self.posed, self.seconds = posed, seconds
        self.best, self.evaluations = np.inf, 0
        self.points: list[tuple[float, int, float]] = []
        self.start = time.perf_counter()

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Measure designs (n, k): log cost (n,) and log excesses (n, m)."""
        log_cost, excess = self.posed.measured(x)
        allowed = excess.max(axis=1, initial=-np.inf) <= FEASIBLE
        self.count(len(x), float(np.min(log_cost, where=allowed, initial=np.inf)))
        return log_cost, excess

    def count(self, evaluations: int, best: float = np.inf) -> None:
        """Count evaluations, of which the best feasible had log cost `best`; stop when the time is up."""
        self.evaluations += evaluations
        elapsed = time.perf_counter() - self.start
        if best < self.best:
            self.best = best
            self.points.append((elapsed, self.evaluations, best))
        if elapsed > self.seconds:
            raise Enough


def batched(measured: Callable[[np.ndarray], Any]) -> Measured:
    """Return a compiled function of many designs, called with one of `BATCHES` of them at a time."""

    def of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for first in range(0, len(x), BATCHES[-1]):
            part = x[first : first + BATCHES[-1]]
            missing = next(n for n in BATCHES if n >= len(part)) - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append([np.asarray(a)[: len(part)] for a in measured(filled)])
        log_cost, excess = zip(*parts, strict=True)
        return np.concatenate(log_cost), np.concatenate(excess)

    return of


def drawn_on(name: str, count: int, seed: int = 100) -> list[Drawn]:
    """Return the problems of one lattice on which all are compared."""
    return list(draw(cases()[CASES.index(name)], count, seed=seed + CASES.index(name)))
