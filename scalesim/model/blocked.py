"""Causal attention for CPUs: by blocks of queries that fit in a core's cache, with its own derivative.

Written as whole matrices, attention on a CPU is bound by memory: scores of all heads and positions are
written and read again some ten times a step. Here each (sequence, KV head) is taken alone and its queries in
blocks, so that a block's scores stay in cache; keys beyond the block's last query are skipped; the backward
pass computes the scores again from the saved log-sum-exp (FlashAttention, arXiv 2205.14135, section 3.1, with
whole rows in place of the online softmax). Names carry shapes: G query heads of the group,
T tokens, h head_dim, b queries of a block, s keys that the block sees.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["blocked_attention"]

_BLOCK = 64  # queries; 128 and 256 take 1.2 to 2 times as long
_MOST = 16  # blocks are laid out one after another: more than so many only cost compile time


def blocked_attention(
    q_BxTxHxh: Array, k_BxTxKxh: Array, v_BxTxKxh: Array, window: Array | int, scale: float | None = None
) -> Array:
    """Causal grouped-query attention over a window: softmax(scale q k^T) v.

    Args:
        q_BxTxHxh: queries.
        k_BxTxKxh: keys at the same positions.
        v_BxTxKxh: values, of any size of head.
        window: a query at position t sees positions t - window + 1 .. t.
        scale: of the scores; 1 / sqrt(h) by default.

    Returns:
        (B, T, H, size of v's heads).

    >>> x = jnp.ones((1, 5, 2, 4))
    >>> blocked_attention(x, x[:, :, :1], x[:, :, :1], 5).shape
    (1, 5, 2, 4)
    """
    batch, n_tokens, n_head, head_dim = q_BxTxHxh.shape
    n_kv = k_BxTxKxh.shape[2]
    group = n_head // n_kv
    q = q_BxTxHxh.reshape(batch, n_tokens, n_kv, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch * n_kv, group, n_tokens, head_dim)
    k, v = (x.transpose(0, 2, 1, 3).reshape(batch * n_kv, n_tokens, -1) for x in (k_BxTxKxh, v_BxTxKxh))
    scale = head_dim**-0.5 if scale is None else scale
    out = _each(q, k, v, jnp.asarray(window, jnp.float32), scale)
    out = out.reshape(batch, n_kv, group, n_tokens, -1).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, n_tokens, n_head, -1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _each(q: Array, k: Array, v: Array, window: Array, scale: float) -> Array:
    """Attention of each (sequence, KV head) of the leading axis, one after another."""
    return _forward(q, k, v, window, scale)[0]


def _forward(q: Array, k: Array, v: Array, window: Array, scale: float) -> tuple[Array, Any]:
    out, lse = jax.lax.map(lambda x: _one_forward(x[0], x[1], x[2], window, scale), (q, k, v))
    return out, (q, k, v, window, out, lse)


def _backward(scale: float, kept: Any, d_out: Array) -> tuple[Array, Array, Array, Array]:
    q, k, v, window, out, lse = kept

    def one(x: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        q, k, v, out, lse, d_out = x
        return _one_backward(q, k, v, out, lse, d_out, window, scale)

    dq, dk, dv = jax.lax.map(one, (q, k, v, out, lse, d_out))
    return dq, dk, dv, jnp.zeros_like(window)


_each.defvjp(_forward, _backward)


def _blocks(n_tokens: int) -> list[tuple[int, int]]:
    size = max(_BLOCK, -(-n_tokens // _MOST))
    return [(i, min(n_tokens, i + size)) for i in range(0, n_tokens, size)]


def _scores(q_Gxbxh: Array, k_sxh: Array, first: int, window: Array, scale: float) -> Array:
    """Return scaled scores of a block, -inf where a query does not see a key: (G, b, s), at least float32."""
    group, rows, head_dim = q_Gxbxh.shape
    wide = jnp.promote_types(q_Gxbxh.dtype, jnp.float32)
    dot = partial(jnp.matmul, preferred_element_type=wide)
    scores = dot(q_Gxbxh.reshape(group * rows, head_dim), k_sxh.T).reshape(group, rows, -1) * scale
    distance = first + jnp.arange(rows)[:, None] - jnp.arange(k_sxh.shape[0])[None, :]
    seen = (distance >= 0) & (distance < window)
    return jnp.where(seen[None], scores, -jnp.inf)


def _one_forward(q: Array, k: Array, v: Array, window: Array, scale: float) -> tuple[Array, Array]:
    """Return the result (G, T, h) and the log-sum-exp of each row's scores (G, T)."""
    results, sums = [], []
    for first, end in _blocks(q.shape[1]):
        scores = _scores(q[:, first:end], k[:end], first, window, scale)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        mixed = (weights.astype(v.dtype).reshape(-1, end) @ v[:end]).reshape(q.shape[0], end - first, -1)
        results.append((mixed / total).astype(v.dtype))
        sums.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(results, axis=1), jnp.concatenate(sums, axis=1)


def _one_backward(
    q: Array, k: Array, v: Array, out: Array, lse: Array, d_out: Array, window: Array, scale: float
) -> tuple[Array, Array, Array]:
    """Return the derivatives by q, k and v: with p the weights, dv = p^T do, ds = p (do v^T - sum(do o))."""
    group, n_tokens, head_dim = q.shape
    inner = (d_out * out).sum(axis=-1, keepdims=True)
    dq, dk, dv = [], jnp.zeros_like(k), jnp.zeros_like(v)
    for first, end in _blocks(n_tokens):
        part = slice(first, end)
        p = jnp.exp(_scores(q[:, part], k[:end], first, window, scale) - lse[:, part, None])
        d_part = d_out[:, part].reshape(-1, v.shape[-1])
        dp = (d_part @ v[:end].T).reshape(p.shape)
        ds = (p * (dp - inner[:, part]) * scale).astype(k.dtype).reshape(-1, end)
        dq.append((ds @ k[:end]).reshape(group, end - first, head_dim))
        dk = dk.at[:end].add(ds.T @ q[:, part].reshape(-1, head_dim))
        dv = dv.at[:end].add(p.astype(v.dtype).reshape(-1, end).T @ d_part)
    return jnp.concatenate(dq, axis=1), dk, dv
