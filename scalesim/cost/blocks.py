"""Costs of very many designs in blocks that fit the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.errors import InvalidInput

__all__ = ["in_blocks"]


def in_blocks(f: Callable[..., Any], *batch: Any, block: int = 4096) -> Any:
    """Return f(*batch), computed block by block inside one compiled program.

    A cost's gradient has some hundred intermediate values a design. Over a whole batch they go through
    memory; over a few thousand designs they stay in the cache, and the gradient comes three to four times
    faster.

    Args:
        f: elementwise over the batch; returns a pytree of arrays with the batch as their first axis.
        batch: pytrees of arrays, all with the batch as their first axis.
        block: designs in a block. The last one is filled up with copies of the last design.

    Raises:
        InvalidInput: leaves whose first axes differ.

    >>> import jax.numpy as jnp
    >>> in_blocks(lambda x: 2 * x, jnp.arange(5.0), block=2).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise InvalidInput(f"batch must have one first axis in all its arrays, but has {sorted(sizes)}.")
    (count,) = sizes.pop()
    blocks = -(-count // block)
    fill = blocks * block - count

    def split(leaf: jax.Array) -> jax.Array:
        padding = [(0, fill)] + [(0, 0)] * (jnp.ndim(leaf) - 1)
        return jnp.pad(leaf, padding, mode="edge").reshape(blocks, block, *jnp.shape(leaf)[1:])

    out = jax.lax.map(lambda part: f(*part), jax.tree.map(split, batch))
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * block, *leaf.shape[2:])[:count], out)
