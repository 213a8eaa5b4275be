"""How well one coefficient is known: the best objective with it held at each of many values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.fitting.coordinates import resolve
from scalesim.fitting.refit import refit
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import Setup

__all__ = ["Profile", "profile"]


@dataclass(frozen=True, eq=False)
class Profile:
    """The profile of a coefficient.

    Attributes:
        name: the coefficient.
        values: where it was held, (K,).
        objective: the best objective at each, (K,).
        coefficients: all coefficients at each, by name, (K,).
        best: its value in the unconstrained fit, and `best_objective` there.
    """

    name: str
    values: np.ndarray
    objective: np.ndarray
    coefficients: dict[str, np.ndarray]
    best: float
    best_objective: float

    def interval(self, rise: float = 0.02) -> tuple[float, float]:
        """Return where the objective is within a fraction `rise` of its least, on the grid of values."""
        inside = self.values[self.objective <= self.best_objective * (1 + rise)]
        inside = np.append(inside, self.best)
        return float(inside.min()), float(inside.max())


def profile(fit: Fit, name: str = "E", values: Any = None) -> Profile:
    """Hold a coefficient at each of `values` and refit all others, in one compiled call.

    Args:
        fit: the fit; its evidence, bounds and priors are kept.
        name: a coefficient that is a number (not one a group).
        values: where to hold it, (K,); by default 41 values within a factor 1.5 of the optimum
            (for E within 0.5 nats, below the least loss).

    Raises:
        InvalidInput: there is no such coefficient, or a value is outside its range.
    """
    setup: Setup = fit.setup
    known = {slot.name: slot for slot in setup.layout.slots}
    slot = resolve(name, known)
    if slot.size or not slot.free:
        raise InvalidInput(f"{slot.name} must be a single free coefficient to be profiled.")
    best = float(fit.coefficients[slot.name])
    if values is None:
        values = _default_values(fit, slot.name, best)
    values = np.atleast_1d(np.asarray(values, float))
    if slot.spec.positive and not np.all(values > 0):
        raise InvalidInput(
            f"{slot.name} must be above 0, but {values.min():g} is among the values to hold it at."
        )
    held, at = _held(setup, slot.name)
    warm = np.delete(fit.z, at)
    ends = refit(held, warm, pinned={slot.name: values}, keep=4)
    laws = [held.layout.decode(z, held.problem.pinned, held.problem.centres) for z in ends.z]
    names = [s.name for s in held.layout.slots]
    import jax

    columns = zip(*(jax.tree.leaves(law) for law in laws), strict=True)
    found = {n: np.array([np.asarray(v) for v in column]) for n, column in zip(names, columns, strict=True)}
    found[slot.name] = values
    return Profile(slot.name, values, ends.objective, found, best, fit.objective)


def _default_values(fit: Fit, name: str, best: float) -> np.ndarray:
    if name.rpartition(".")[2] == "E":
        least = fit.setup.runs.loss.min() if fit.setup.points is not None else best + 0.5
        return np.linspace(max(best - 0.5, 0.01), min(best + 0.5, least - 0.01), 41)
    return best * np.geomspace(1 / 1.5, 1.5, 41)


def _held(setup: Setup, name: str) -> tuple[Setup, int]:
    """Return the setup with a coefficient pinned, and the coordinate that it had."""
    at, slots = 0, list(setup.layout.slots)
    for i, slot in enumerate(slots):
        if slot.name == name:
            slots[i] = dataclasses.replace(slot, free=False)
            break
        at += slot.width
    layout = dataclasses.replace(setup.layout, slots=tuple(slots))
    prior = setup.problem.prior
    if prior is not None:
        prior = (np.delete(prior[0], at), np.delete(prior[1], at))
    problem = dataclasses.replace(setup.problem, layout=layout, prior=prior)
    return dataclasses.replace(setup, problem=problem), at
