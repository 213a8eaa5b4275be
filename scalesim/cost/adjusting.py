"""Constants moved to a few measured kernels: towards what the rows say, no further than they bear out.

Constants have, before the rows are seen, a normal density about where they stand, in their logarithms (their
logits, where they are shares). What moves is what differs between accelerators: each share of a peak by
itself, all fixed times together, all serial ones together, how much the last cache saves and whether a
window is masked head by head; and each constant but exponents and widths by itself. How far, s, grows with
how unlike the accelerators are whose constants these are: log s is normal about log(0.5 d^1.5), d their
distance in doublings of the data sheet. A row's log(measured / predicted) has Student's t density, its scale
that of the stated interval: forms miss some kernels by far. For each of a few s the constants that are most
likely are found, and the means of these, weighted by the evidence (Laplace's approximation of the rows'
probability under s, times that of s), are the answer. Where rows lie as predicted, small s have the weight
and hardly anything moves.

Lange, Little, Taylor 1989, J. Am. Stat. Assoc. 84:881 (Student's t); MacKay 1992, Neural Comp. 4:415.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.calibration import decode_constant, encode_constant
from scalesim.cost.fitting import kernel_errors
from scalesim.cost.kernel_forms import Machine, Table, kernel_seconds
from scalesim.numerics.least_squares import Rows, march

__all__ = ["OWN", "adjust_kernel", "adjuster"]

OWN = 0.8
"""Doublings that an accelerator is from itself: another driver, clock or power limit than those measured."""

_SPREADS = np.array([0.1, 0.4, 1.0, 2.0, 4.0])  # s
_TYPICAL, _GROWTH, _WIDTH = 0.5, 1.5, 1.1  # the s that is likely, d doublings away, and how far log s strays
_PEAKS = ("compute", "bandwidth", "quantise", "attention_compute", "attention_bandwidth", "link")
_SERIAL = ("serial_us", "serial_ns", "sequence_us", "unit_ns")
_ALONE = {"cache_share": 0.3, "window_reload": 1.5}
_PEAK, _FIXED, _SLOW, _REST = 0.1, 0.15, 0.1, 0.1
"""Units of s: of a peak, of all fixed times, of all serial times, of every other constant."""
_DEGREES = 3.0  # of freedom of Student's t
_WORSE = 1.1  # times the error of rows left out, from which on nothing is moved
_STEPS = 30
_FOLDS = 10


def adjust_kernel(
    kind: str, table: Table, machine: Machine, start: Any, noise: np.ndarray, away: float = OWN
) -> tuple[Any, float, float]:
    """Return constants moved to a few measured kernels, and the mean relative error before and after.

    After is the error of rows predicted from the others (each by itself, of ten at most). Where that is a
    tenth worse than before, the start itself is returned; a stricter rule loses more than it saves, for of a
    few rows that error is uncertain itself.

    Args:
        kind, table, machine: as `kernel_seconds` takes them; the table with `seconds`.
        start: the constants as they are.
        noise: scale of log(measured / predicted) of each row, by the stated intervals.
        away: how unlike the accelerator is that they were measured on (`scalesim.borrowing.distance`).
    """
    return adjuster(kind, machine, start, away)(table, noise)


def adjuster(
    kind: str, machine: Machine, start: Any, away: float = OWN
) -> Callable[[Table, np.ndarray], tuple[Any, float, float]]:
    """Return `adjust_kernel` of a table and its noise: one compiled program for tables of one length."""
    names = [f.name for f in fields(start) if getattr(start, f.name) not in (None, 0)]
    origin = np.asarray([encode_constant(name, float(getattr(start, name))) for name in names])
    both = _directions(start, names)
    likely = -0.5 * (np.log(_SPREADS / (_TYPICAL * max(away, OWN) ** _GROWTH)) / _WIDTH) ** 2

    def build(x: jax.Array) -> Any:
        return replace(start, **{name: decode_constant(name, x[i]) for i, name in enumerate(names)})

    def log_seconds(x: jax.Array, table: Any) -> jax.Array:
        return jnp.log(kernel_seconds(kind, table, machine, build(x)))

    @jax.jit
    def fitted(table: Any, noise: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(kept: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = _posterior(
                lambda x: (log_seconds(x, table) - jnp.log(table["seconds"])) / noise,
                jnp.asarray(origin),
                jnp.asarray(both),
                kept,
                likely,
            )
            return x, jnp.exp(log_seconds(x, table))

        return jax.lax.map(one, weights)

    def adjust(table: Table, noise: np.ndarray) -> tuple[Any, float, float]:
        seconds = np.asarray(table["seconds"], float)
        n = len(seconds)
        folds = np.arange(n) % min(n, _FOLDS)
        kept = folds[None, :] != np.arange(folds.max() + 1)[:, None]
        columns = {name: np.asarray(column, float) for name, column in table.items()}
        weights = np.concatenate([np.ones((1, n)), kept])
        places, predicted = fitted(columns, np.asarray(noise, float), weights)
        found = jax.tree.map(float, build(places[0]))
        before = float(kernel_errors(kind, table, machine, start).mean())
        rows = (1 + folds, np.arange(n)) if n > 1 else (0, 0)
        after = float(np.abs(np.asarray(predicted)[rows] / seconds - 1).mean())
        return (found, before, after) if after < _WORSE * before else (start, before, before)

    return adjust


def _directions(start: Any, names: Sequence[str]) -> np.ndarray:
    """What moves, a row each, by a standard deviation of s = 1, in constants as they are searched for."""
    # A share is searched for as its logit, which moves by 1 / (1 - share) for one of its logarithm.
    alone = [_PEAK / (1 - min(getattr(start, n), 0.97)) if n in _PEAKS else _ALONE.get(n, 0.0) for n in names]
    serial = np.isin(names, _SERIAL)
    fixed = np.array([n.endswith("_us") for n in names]) & ~serial
    # Exponents and widths are of a form, not of an accelerator: the time of a large kernel hangs on them.
    rest = [0.0 if n.endswith(("exponent", "width")) else _REST for n in names]
    each = [np.diag(alone), np.stack([_FIXED * fixed, _SLOW * serial]), np.diag(rest)]
    spread = np.concatenate(each)
    return np.asarray(spread[np.any(spread != 0, axis=1)])


def _posterior(
    standardised: Callable[[jax.Array], jax.Array],
    origin: jax.Array,
    spread: jax.Array,
    weights: jax.Array,
    likely: np.ndarray,
) -> jax.Array:
    """The mean constants, of rows whose weight is 1 (0 leaves one out)."""

    def under(s: jax.Array) -> tuple[jax.Array, jax.Array]:
        def off(u: jax.Array) -> jax.Array:
            return weights * standardised(origin + s * u @ spread)

        def rows(u: jax.Array) -> Rows:
            r = off(u)
            # The square of this is twice the negative logarithm of the density.
            heavy = jnp.sign(r) * jnp.sqrt((_DEGREES + 1) * jnp.log1p(r * r / _DEGREES) + 1e-18)
            return Rows.squared(jnp.concatenate([heavy, u]))

        u = march(lambda u, _: rows(u), jnp.zeros(len(spread)), 1e-2, 0, _STEPS).z
        r = off(u)
        count = (_DEGREES + 1) / (_DEGREES + r * r)
        slope = jnp.sqrt(count)[:, None] * jax.jacfwd(off)(u)
        bend = jnp.linalg.slogdet(jnp.eye(len(r)) + slope @ slope.T)[1]
        return origin + s * u @ spread, -0.5 * (jnp.sum(rows(u).residual ** 2) + bend)

    places, evidence = jax.lax.map(under, jnp.asarray(_SPREADS))
    return jax.nn.softmax(evidence + likely) @ places
