"""Which of an accelerator's constants price an operator, by the formats of what it reads."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.borrowing import SHARES
from scalesim.constants import FORMATS, Format, GemmConstants
from scalesim.efficiency import Efficiency
from scalesim.types import Num
from scalesim.workload import Compute

__all__ = ["ALIKE", "between_caches", "cache_constants", "format_of", "product_constants"]


ALIKE: dict[str, tuple[str, ...]] = {
    "bf16": ("bf16",),
    "fp8": ("fp8", "fp8_block", "bf16"),
    "fp8_block": ("fp8_block", "fp8", "bf16"),
    "int8": ("int8", "fp8", "bf16"),
    "fp4": ("fp4", "fp8", "bf16"),
}
"""The formats whose constants price each format: its own, then those that are alike."""


def format_of(compute: Compute) -> Format:
    """Return bytes and peak of a number format of the matrix units."""
    return FORMATS.get(compute, FORMATS["fp8"])


def product_constants(efficiency: Efficiency, compute: Compute) -> GemmConstants:
    """Return the constants of matrix products in a number format, or in the nearest that was measured."""
    found: GemmConstants = efficiency.of("gemm", *ALIKE[compute])
    return found


def cache_constants(efficiency: Efficiency, kind: str, kv_bytes: Num) -> Any:
    """Return the constants of attention to a cache of so many bytes a value.

    Those of a two-byte cache, those of a one-byte cache, and in between a mean with weights that go from one
    to the other about 12 bits, half a bit wide: formats are few, but a relaxed search may ask for others.
    """
    return between_caches(efficiency.of(kind, "bf16"), efficiency.of(kind, "fp8"), kv_bytes)


def between_caches(wide: Any, narrow: Any, kv_bytes: Num) -> Any:
    """Return the constants for a cache of kv_bytes a value from those of two bytes and of one (or None)."""
    if narrow is None:
        return wide
    away = 64.0 * (1.5 - kv_bytes)
    plain = isinstance(kv_bytes, int | float)
    part = 1 / (1 + np.exp(-away)) if plain else jax.nn.sigmoid(away)
    if plain and min(part, 1 - part) < 1e-12:
        return wide if part < 0.5 else narrow
    mixed: dict[str, Any] = {}
    for field in fields(wide):
        a, b = getattr(wide, field.name), getattr(narrow, field.name)
        if a is None or b is None:
            mixed[field.name] = None
        elif field.name in SHARES:
            mixed[field.name] = a * (1 - part) + b * part
        else:
            mixed[field.name] = a * jnp.exp(part * jnp.log((b + _TINY) / (a + _TINY)))
    return replace(wide, **mixed)


_TINY = 1e-12
