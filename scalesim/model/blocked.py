"""Causal attention for CPUs: by blocks of queries that fit in a core's cache, with its own derivative.

Written as whole matrices, attention on a CPU is bound by memory: scores of all heads and positions are
written and read again some ten times a step. Here each (sequence, KV head) is taken alone and its queries in
blocks, each of these in parts whose scores stay in cache; keys beyond the block's last query are skipped; the
backward pass computes the scores again from the saved log-sum-exp (FlashAttention, arXiv 2205.14135, section
3.1, with whole rows in place of the online softmax). A row is one query head of the group at one token; names
carry shapes: T tokens, h head_dim, r rows, s keys that they see.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["blocked_attention"]

_BLOCK = 64  # queries; 128 and 256 take 1.2 to 2 times as long
_MOST = 16  # blocks are laid out one after another: more than so many only cost compile time
_SCORES = 1 << 17  # of a part of a block, a core: more leave the core's cache, and are new pages in each call
_CORES = 4  # more do not make a part larger


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
    q = q_BxTxHxh.reshape(batch, n_tokens, n_kv, -1, head_dim).transpose(0, 2, 1, 3, 4)
    q = q.reshape(batch * n_kv, -1, head_dim)
    k, v = (x.transpose(0, 2, 1, 3).reshape(batch * n_kv, n_tokens, -1) for x in (k_BxTxKxh, v_BxTxKxh))
    scale = head_dim**-0.5 if scale is None else scale
    out = _each(q, k, v, jnp.asarray(window, jnp.float32), scale)
    out = out.reshape(batch, n_kv, n_tokens, n_head // n_kv, -1).transpose(0, 2, 1, 3, 4)
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


class _Block(NamedTuple):
    """Rows first .. end of the queries, their first n_keys keys, and how the rows are cut."""

    first: int
    end: int
    n_keys: int
    parts: int
    part: int

    def cut(self, x: Array) -> Array:
        """Return the block's rows of x in parts, (parts, part, ...): the last one filled up with zeros."""
        rows = x[self.first : self.end]
        short = self.parts * self.part - len(rows)
        rows = jnp.pad(rows, ((0, short), *((0, 0),) * (x.ndim - 1))) if short else rows
        return rows.reshape(self.parts, self.part, *x.shape[1:])

    def whole(self, parts: Array) -> Array:
        """Return the rows of parts, (rows, ...)."""
        return parts.reshape(-1, *parts.shape[2:])[: self.end - self.first]


def _blocks(n_rows: int, n_tokens: int) -> list[_Block]:
    """Cut the rows (token by token, a group's heads side by side) so that a part's scores stay in cache."""
    group, size = n_rows // n_tokens, max(_BLOCK, -(-n_tokens // _MOST))
    cores = min(_CORES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    blocks = []
    for i in range(0, n_tokens, size):
        n_keys = min(n_tokens, i + size)
        rows = (n_keys - i) * group
        parts = -(-rows // max(_BLOCK, _SCORES * cores // n_keys))
        blocks.append(_Block(i * group, n_keys * group, n_keys, parts, -(-rows // parts)))
    return blocks


def _scores(q_rxh: Array, k_sxh: Array, places: Array, window: Array, scale: float) -> Array:
    """Return scaled scores of rows, -inf where a query does not see a key: (r, s), at least float32."""
    wide = jnp.promote_types(q_rxh.dtype, jnp.float32)
    scores = jnp.matmul(q_rxh, k_sxh.T, preferred_element_type=wide) * scale
    distance = places[:, None] - jnp.arange(k_sxh.shape[0])[None, :]
    return jnp.where((distance >= 0) & (distance < window), scores, -jnp.inf)


def _one_forward(q: Array, k: Array, v: Array, window: Array, scale: float) -> tuple[Array, Array]:
    """Return the result (rows, h) and the log-sum-exp of each row's scores (rows,)."""
    places = jnp.arange(len(q)) // (len(q) // len(k))
    results, sums = [], []
    for block in _blocks(len(q), len(k)):
        keys, values = k[: block.n_keys], v[: block.n_keys]

        def part(x: tuple[Array, Array], keys: Array = keys, values: Array = values) -> tuple[Array, Array]:
            scores = _scores(x[0], keys, x[1], window, scale)
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = weights.sum(axis=-1, keepdims=True)
            mixed = weights.astype(values.dtype) @ values
            return (mixed / total).astype(values.dtype), (top + jnp.log(total))[:, 0]

        mixed, lse = _map(part, (block.cut(q), block.cut(places)))
        results.append(block.whole(mixed))
        sums.append(block.whole(lse))
    return jnp.concatenate(results), jnp.concatenate(sums)


def _one_backward(
    q: Array, k: Array, v: Array, out: Array, lse: Array, d_out: Array, window: Array, scale: float
) -> tuple[Array, Array, Array]:
    """Return the derivatives by q, k and v: with p the weights, dv = p^T do, ds = p (do v^T - sum(do o)).

    Sums over rows are kept as (h, s): XLA's product x^T p of a few rows of x is far faster than p^T x.
    """
    places = jnp.arange(len(q)) // (len(q) // len(k))
    inner = (d_out * out).sum(axis=-1)
    dq, dk, dv = [], jnp.zeros_like(k.T), jnp.zeros_like(v.T)
    for block in _blocks(len(q), len(k)):
        keys, values = k[: block.n_keys], v[: block.n_keys]

        def part(
            sums: tuple[Array, Array], x: tuple[Array, ...], keys: Array = keys, values: Array = values
        ) -> tuple[tuple[Array, Array], Array]:
            q, places, lse, inner, d_out = x
            p = jnp.exp(_scores(q, keys, places, window, scale) - lse[:, None])
            ds = (p * (d_out @ values.T - inner[:, None]) * scale).astype(keys.dtype)
            return (sums[0] + q.T @ ds, sums[1] + d_out.T @ p.astype(values.dtype)), ds @ keys

        sums = dk[:, : block.n_keys], dv[:, : block.n_keys]
        rows = tuple(block.cut(x) for x in (q, places, lse, inner, d_out))
        sums, each = _scan(part, sums, rows)
        dk, dv = dk.at[:, : block.n_keys].set(sums[0]), dv.at[:, : block.n_keys].set(sums[1])
        dq.append(block.whole(each))
    return jnp.concatenate(dq), dk.T, dv.T


def _map(function: Any, x: Any) -> Any:
    """`jax.lax.map`; one part without a loop."""
    return _scan(lambda _, x: (None, function(x)), None, x)[1]


def _scan(function: Any, carry: Any, x: Any) -> Any:
    """`jax.lax.scan`; one part without a loop."""
    if len(jax.tree.leaves(x)[0]) > 1:
        return jax.lax.scan(function, carry, x)
    carry, result = function(carry, jax.tree.map(lambda x: x[0], x))
    return carry, jax.tree.map(lambda x: x[None], result)
