"""Arithmetic that stays exact on Python's numbers and works on arrays and tracers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.types import Num

__all__ = ["in_bytes", "larger", "smaller", "to_float"]

_PLAIN = (int, float)


def smaller(a: Num, b: Num) -> Num:
    """Return the elementwise minimum."""
    if isinstance(a, _PLAIN) and isinstance(b, _PLAIN):
        return min(a, b)
    if isinstance(a, np.ndarray | int | float) and isinstance(b, np.ndarray | int | float):
        return np.minimum(a, b)
    return jnp.minimum(a, b)


def larger(a: Num, b: Num) -> Num:
    """Return the elementwise maximum."""
    if isinstance(a, _PLAIN) and isinstance(b, _PLAIN):
        return max(a, b)
    if isinstance(a, np.ndarray | int | float) and isinstance(b, np.ndarray | int | float):
        return np.maximum(a, b)
    return jnp.maximum(a, b)


def to_float(tree: Any) -> Any:
    """Return a pytree whose numbers are floats: products of sizes overflow 32-bit integers."""
    return jax.tree.map(lambda v: v * 1.0, tree)


def in_bytes(values: Num, bits: Num) -> Num:
    """Return the bytes of so many values: exact where both are whole numbers and the result is one."""
    if isinstance(values, int) and isinstance(bits, int) and bits % 8 == 0:
        return values * (bits // 8)
    return values * (bits / 8)
