"""What can be said of an optimum: its errors, its conditioning, and what the evidence leaves open."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.fitting.coordinates import slots_of
from scalesim.fitting.problem import FitProblem
from scalesim.fitting.refit import is_long
from scalesim.fitting.setup import Setup
from scalesim.laws.attention import Mixture
from scalesim.numerics.least_squares import influence
from scalesim.programs import kept_jit

__all__ = ["diagnose", "identification", "local"]

AT_BOUND = 9.0
"""A logit beyond this is within 1e-4 of the range's end."""
OPEN = 1e-12
"""An eigenvalue of the scaled curvature below this, relative to the largest, is no curvature at all."""


@partial(kept_jit, heavy=lambda problem, z: is_long(problem, len(z)))
def local(problem: FitProblem, z: jax.Array) -> tuple[Any, ...]:
    """Return J (rows, p), the influence of each row, d coefficients / d z, and the predicted losses."""

    def at(z: jax.Array) -> Any:
        law = problem.law(z)
        rows = problem.rows(z)
        leaves = zip(problem.layout.slots, jax.tree.leaves(law), strict=True)
        free = jnp.concatenate([jnp.atleast_1d(leaf) for slot, leaf in leaves if slot.free])
        predicted = law.loss(problem.points.x) if problem.points is not None else rows.residual
        pull = rows.weight * influence(rows.residual, rows.delta, rows.asymmetry)
        return (rows.residual, free), (pull, rows.weight, predicted)

    (jacobian, to_free), (pull, weight, predicted) = jax.jacfwd(at, has_aux=True)(z)
    return jnp.where(weight[:, None] > 0, jacobian, 0.0), pull, to_free, predicted


def diagnose(
    setup: Setup,
    z: np.ndarray,
    hessian: np.ndarray,
    agreeing: int,
    polished: int,
    gradient: float,
    tolerance: float,
) -> dict[str, Any]:
    """Return the fields of a `Fit` that follow from the curvature at its optimum."""
    jacobian, pull, to_free, predicted = map(np.asarray, local(setup.problem, np.asarray(z)))
    rms = float("nan")
    if setup.points is not None:
        runs = setup.runs
        rms = float(np.sqrt(np.mean((predicted[: len(runs)] - runs.loss) ** 2)))
    names = setup.layout.free_names()
    # A coefficient on its bound is held there by the bound, not by the runs.
    bounded = np.concatenate([[s.bounds is not None] * s.width for s in setup.layout.slots]).astype(bool)
    held = bounded & (np.abs(z) > AT_BOUND)
    moves = np.flatnonzero(~held)
    eigenvalues, openings = _open_directions(jacobian[:, moves], [names[i] for i in moves])
    condition = float(eigenvalues[-1] / max(eigenvalues[0], 1e-300))
    errors = np.full(len(names), np.nan)
    if not openings:
        score = (pull[:, None] * jacobian)[:, moves]
        bend = hessian[np.ix_(moves, moves)]
        errors[moves] = _standard_errors(bend, score.T @ score, to_free[np.ix_(moves, moves)])
    scale = np.sqrt(max(np.abs(np.diag(hessian)).max(), 1e-300))
    status, message = _status(setup, openings, agreeing, polished, gradient / scale, tolerance)
    if held.any():
        message += f" On a bound: {', '.join(names[i] for i in np.flatnonzero(held))}."
    return {
        "rms": rms,
        "condition": condition,
        "unidentified": tuple(openings),
        "standard_errors": dict(zip(names, errors.tolist(), strict=True)),
        "status": status,
        "message": message,
    }


def identification(fit: Any) -> tuple[str, ...]:
    """Return what the evidence leaves open about a fit's coefficients, a sentence each.

    A coefficient whose 90% interval covers the whole range in which its starts are drawn is one of which
    the runs say nothing.
    """
    if getattr(fit, "unidentified", ()):
        return (f"The fit is not identified: {' '.join(fit.unidentified)}",)
    if getattr(fit, "status", "") == "unidentified":
        return (f"The fit is not identified: {fit.message}",)
    if not hasattr(fit, "intervals") or isinstance(fit.law, Mixture):
        return ()  # a mixture's members are alike in what they say, not in their coefficients
    intervals, said = fit.intervals, []
    for slot in slots_of(fit.law):
        low, high = slot.bounds or slot.spec.start
        own = np.asarray(intervals.get(slot.name, (np.nan, np.nan)), float).T.reshape(-1, 2)
        if np.any((own[:, 0] <= low) & (own[:, 1] >= high)):
            found = f"{own[:, 0].min():.3g} to {own[:, 1].max():.3g}"
            said.append(
                f"{slot.name} is hardly known: its 90% interval, {found}, covers all of {low:g} to {high:g}."
            )
    return tuple(said)


def _open_directions(jacobian: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return the eigenvalues of the scaled J^T J, and a sentence for each flat direction."""
    gram = jacobian.T @ jacobian
    size = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    dead = size <= 1e-9 * size.max()
    scaled = gram / np.outer(size, size)
    scaled[dead, :] = scaled[:, dead] = 0.0
    eigenvalues, vectors = np.linalg.eigh(scaled)
    sentences = []
    for value, vector in zip(eigenvalues, vectors.T, strict=True):
        if value <= OPEN * eigenvalues[-1]:
            involved = [names[i] for i in np.argsort(-np.abs(vector)) if abs(vector[i]) > 0.2]
            sentences.append(
                f"{involved[0]} does not change what the law says of the evidence."
                if len(involved) == 1
                else f"only a combination of {', '.join(involved)} is determined by the evidence."
            )
    return eigenvalues, sentences


def _standard_errors(hessian: np.ndarray, spread: np.ndarray, to_free: np.ndarray) -> np.ndarray:
    """Return sandwich errors: H^-1 S H^-1 carried to the coefficients (Huber 1967)."""
    try:
        inverse = np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return np.full(len(to_free), np.nan)
    through = to_free @ inverse
    return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", through, spread, through), 0.0))


def _status(
    setup: Setup, openings: list[str], agreeing: int, polished: int, gradient: float, tolerance: float
) -> tuple[str, str]:
    points = setup.problem.points
    rows = 0 if points is None else int(np.sum(np.asarray(points.weight) > 0))
    free = setup.layout.size
    if points is not None and not setup.others and rows < free + 1:
        return "unidentified", f"{rows} rows cannot determine {free} coefficients; {free + 1} is the least."
    if openings:
        return "unidentified", "Not identified: " + " ".join(openings)
    if gradient > tolerance:
        return "not_converged", f"The gradient is {gradient:.1e} of its scale, so this is not an optimum."
    if agreeing == 1 and polished > 1:
        return "few_starts_agree", f"Only 1 of {polished} starts found this optimum: try more starts."
    return "converged", f"The gradient vanishes; {agreeing} of {polished} starts agree."
