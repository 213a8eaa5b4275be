"""Constants moved to a few measured kernels: towards what the rows say, no further than they bear out.

Constants have, before the rows are seen, a normal density about where they stand, in their logarithms (their
logits, where they are shares). Its covariance is s^2 times what the accelerators that were measured show:
half of it each constant by itself, half all of them together, along the differences of those from here. A
row's log(measured / predicted) has Student's t density, its scale that of the stated interval: forms miss
some kernels by far. Which s is right the rows say themselves: for each of a few the constants that are most
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

__all__ = ["adjust_kernel", "adjuster"]

_SPREADS = np.array([0.1, 0.3, 0.6, 1.2, 2.5])  # s
_LIKELY = np.array([0.35, 0.3, 0.2, 0.1, 0.05])  # how likely each is before the rows are seen
_LEAST = 0.3  # deviation of a constant between accelerators, at the least
_DEGREES = 4.0  # of freedom of Student's t
_WORSE = 1.1  # times the error of rows left out, from which on nothing is moved
_STEPS = 30
_FOLDS = 10


def adjust_kernel(
    kind: str, table: Table, machine: Machine, start: Any, noise: np.ndarray, cards: Sequence[Any] = ()
) -> tuple[Any, float, float]:
    """Return constants moved to a few measured kernels, and the mean relative error before and after.

    After is the error of rows predicted from the others (each by itself, of ten at most). Where that is a
    tenth worse than before, the start itself is returned: of a few rows it is uncertain itself.

    Args:
        kind, table, machine: as `kernel_seconds` takes them; the table with `seconds`.
        start: the constants as they are.
        noise: scale of log(measured / predicted) of each row, where nothing is wrong with the constants.
        cards: the same constants of accelerators that were measured, where the start is borrowed from those.
    """
    return adjuster(kind, machine, start, cards)(table, noise)


def adjuster(
    kind: str, machine: Machine, start: Any, cards: Sequence[Any] = ()
) -> Callable[[Table, np.ndarray], tuple[Any, float, float]]:
    """Return `adjust_kernel` of a table and its noise: one compiled program for tables of one length."""
    names = [f.name for f in fields(start) if getattr(start, f.name) not in (None, 0)]
    origin = _encoded(start, names)
    # How constants differ between accelerators: each by itself, and all together from one to another.
    away = np.reshape([_encoded(c, names, start) - origin for c in cards], (len(cards), len(names)))
    single = np.sqrt(_LEAST**2 + np.mean(away**2, axis=0)) if len(cards) else np.full(len(names), _LEAST)
    mixed = np.sqrt(0.5 / max(len(cards), 1)) * away
    both = np.concatenate([np.diag(np.sqrt(0.5) * single), mixed]) if len(cards) else np.diag(single)

    def build(x: jax.Array) -> Any:
        return replace(start, **{name: decode_constant(name, x[i]) for i, name in enumerate(names)})

    def log_seconds(x: jax.Array, table: Any) -> jax.Array:
        return jnp.log(kernel_seconds(kind, table, machine, build(x)))

    @jax.jit
    def fitted(
        table: Any, noise: jax.Array, weights: jax.Array, origin: jax.Array, spread: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def one(kept: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = _posterior(
                lambda x: (log_seconds(x, table) - jnp.log(table["seconds"])) / noise, origin, spread, kept
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
        places, predicted = fitted(columns, np.asarray(noise, float), weights, origin, both)
        found = jax.tree.map(float, build(places[0]))
        before = float(kernel_errors(kind, table, machine, start).mean())
        rows = (1 + folds, np.arange(n)) if n > 1 else (0, 0)
        after = float(np.abs(np.asarray(predicted)[rows] / seconds - 1).mean())
        return (found, before, after) if after < _WORSE * before else (start, before, before)

    return adjust


def _encoded(constants: Any, names: Sequence[str], other: Any = None) -> np.ndarray:
    """Constants where they are searched for, those that are absent as in others."""
    stated = [float(getattr(constants, name) or getattr(other, name)) for name in names]
    return np.asarray([encode_constant(name, value) for name, value in zip(names, stated, strict=True)])


def _posterior(
    standardised: Callable[[jax.Array], jax.Array], origin: jax.Array, spread: jax.Array, weights: jax.Array
) -> jax.Array:
    """The mean constants, of rows whose weight is 1 (0 leaves one out)."""

    def under(s: jax.Array) -> tuple[jax.Array, jax.Array]:
        def off(u: jax.Array) -> jax.Array:
            return weights * standardised(origin + s * u @ spread)

        def rows(u: jax.Array) -> Rows:
            r = off(u)
            # The square of this is twice the negative logarithm of the density.
            heavy = jnp.sign(r) * jnp.sqrt((_DEGREES + 1) * jnp.log1p(r * r / _DEGREES) + 1e-18)
            r = jnp.concatenate([heavy, u])
            ones = jnp.ones_like(r)
            return Rows(r, ones, jnp.inf * ones, ones)

        u = march(lambda u, _: rows(u), jnp.zeros(len(spread)), 1e-2, 0, _STEPS).z
        r = off(u)
        count = (_DEGREES + 1) / (_DEGREES + r * r)
        slope = jnp.sqrt(count)[:, None] * jax.jacfwd(off)(u)
        bend = jnp.linalg.slogdet(jnp.eye(len(r)) + slope @ slope.T)[1]
        return origin + s * u @ spread, -0.5 * (jnp.sum(rows(u).residual ** 2) + bend)

    places, evidence = jax.lax.map(under, jnp.asarray(_SPREADS))
    return jax.nn.softmax(evidence + np.log(_LIKELY)) @ places
