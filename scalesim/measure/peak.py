"""How fast a device multiplies matrices: what a run's FLOP/s is a part of."""

from __future__ import annotations

import time
from functools import cache

import jax
import jax.numpy as jnp

__all__ = ["measured_peak"]


@cache
def measured_peak(size: int | None = None, dtype: str = "float32") -> float:
    """Return the FLOP/s of one large matrix product on all local devices, the best of five, measured here.

    MFU against it is a part of what this machine reaches, not of a data sheet.

    >>> measured_peak(256) > 1e8
    True
    """
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)  # of constants a GPU draws less power
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - began)
    devices = 1 if jax.default_backend() == "cpu" else jax.local_device_count()
    return devices * 2.0 * size**3 / best
