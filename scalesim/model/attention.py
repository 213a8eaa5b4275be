"""Rotary positions and grouped-query attention.

Names carry shapes: B batch, T queries, S keys, H query heads, K key-value heads, G = H/K, h head_dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scalesim.model.blocked import blocked_attention
from scalesim.model.options import ModelOptions

EVERYWHERE = 2**30
"""A window wider than any context."""

__all__ = ["EVERYWHERE", "attend", "rope", "rope_tables", "visible"]


def rope_tables(
    positions: Int[Array, " T"], head_dim: int, theta: float
) -> tuple[Float[Array, "T half"], Float[Array, "T half"]]:
    """Return cosines and sines of the rotary angles, position * theta^(-2 i / head_dim).

    Source: Su et al., RoFormer (arXiv 2104.09864), equation 15.

    >>> import jax.numpy as jnp
    >>> cos, sin = rope_tables(jnp.arange(4), 8, 10_000.0)
    >>> cos.shape
    (4, 4)
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angles = positions.astype(jnp.float32)[:, None] / (theta**exponents)[None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rope(x_BxTxHxh: Array, tables: tuple[Array, Array]) -> Array:
    """Rotate each pair (x_i, x_{i + h/2}) by its position's angle: the layout of Llama's checkpoints."""
    cos, sin = (t[None, :, None, :].astype(x_BxTxHxh.dtype) for t in tables)
    a, b = jnp.split(x_BxTxHxh, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def visible(q_positions: Int[Array, " T"], k_positions: Int[Array, " S"], window: Array | int) -> Array:
    """Tell which keys each query sees: those at 0 <= q - k < window, and no key of a negative position."""
    distance = q_positions[:, None] - k_positions[None, :]
    return (distance >= 0) & (distance < window) & (k_positions >= 0)[None, :]


def attend(
    q_BxTxHxh: Array,
    k_BxSxKxh: Array,
    v_BxSxKxh: Array,
    window: Array | int,
    options: ModelOptions,
    *,
    positions: tuple[Array, Array] | None = None,
    scale: float | None = None,
) -> Array:
    """Grouped-query attention: softmax(scale q k^T) v, each KV head read by n_head / n_kv_head queries.

    Args:
        q_BxTxHxh: queries.
        k_BxSxKxh: keys.
        v_BxSxKxh: values, of any size of head.
        window: a query sees keys at most window - 1 positions back; EVERYWHERE for all.
        options: which implementation.
        positions: of queries (T,) and of keys (S,; negative where there is none), or None if both are
            0 .. T - 1.
        scale: of the scores; 1 / sqrt(h) by default.

    Returns:
        (B, T, H, size of v's heads) in the dtype of v.

    Source: Ainslie et al., GQA (arXiv 2305.13245), section 2.2.
    """
    kind = _implementation(q_BxTxHxh, options)
    size = v_BxSxKxh.shape[-1]
    scale = q_BxTxHxh.shape[-1] ** -0.5 if scale is None else scale
    if positions is None and kind == "blocked":
        return blocked_attention(q_BxTxHxh, k_BxSxKxh, v_BxSxKxh, window, scale)
    causal = positions is None and window is EVERYWHERE
    if positions is None:
        positions = jnp.arange(q_BxTxHxh.shape[1]), jnp.arange(k_BxSxKxh.shape[1])
    wide = max(q_BxTxHxh.shape[-1], size)  # JAX takes one size of head: zeros change nothing
    q, k, v = (_widened(x, wide) for x in (q_BxTxHxh, k_BxSxKxh, v_BxSxKxh))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=None if causal else visible(*positions, window)[None, None],
        is_causal=causal,
        scale=scale,
        implementation="cudnn" if kind == "cudnn" else "xla",
    )
    return out[..., :size]


def _widened(x: Array, size: int) -> Array:
    short = size - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, short))) if short else x


def _implementation(q: Array, options: ModelOptions) -> str:
    if options.attention != "auto":
        return options.attention
    backend = jax.default_backend()
    if backend == "cpu":
        return "blocked"
    # Flash attention in cuDNN is for 16-bit values and a head_dim that is a multiple of 8, up to 128.
    suits = q.dtype == jnp.bfloat16 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return "cudnn" if suits and backend == "gpu" else "xla"
