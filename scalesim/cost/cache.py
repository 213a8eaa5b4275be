"""Bytes of caches and states: what sequences need at any length, and what an engine sets aside for them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from scalesim.cost.numbers import in_bytes, larger, smaller
from scalesim.cost.parallel import ONE_DEVICE, Parallel, held_heads, split
from scalesim.shape import Shape
from scalesim.shape.mixers import Cached
from scalesim.types import Num

__all__ = [
    "Kept",
    "PoolLayout",
    "cached_bytes",
    "kept_tokens",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "pool_bytes",
    "pool_layout",
    "state_bytes",
]

_BLOCK = 16  # tokens that an engine's page holds at the least (vLLM's default)


class Kept(NamedTuple):
    """What the layers of one block keep of a sequence on one device: bytes a token of the last `window`."""

    n_bytes: Num
    window: Num | None


def kept_tokens(shape: Shape, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> list[Kept]:
    """Return the bytes a token that each kind of cache holds on one device, and its window."""
    found = []
    for block in shape.blocks:
        for kept in () if block.mixer is None else block.mixer.cached():
            n_bytes = block.count * cached_bytes(kept, kv_bits, parallel)
            found.append(
                Kept(n_bytes / parallel.pipeline if split(parallel.pipeline) else n_bytes, kept.window)
            )
    return found


def cached_bytes(kept: Cached, kv_bits: Num, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes a token of what one layer caches, on one device."""
    values = kept.values
    if split(parallel.tensor) and kept.heads is not None:
        values = values / kept.heads * held_heads(kept.heads, parallel)
    n_bytes = in_bytes(values, kv_bits)
    return n_bytes if kept.every == 1 else n_bytes / kept.every


def state_bytes(shape: Shape, *, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes that a sequence keeps on one device whatever its length: recurrent states, filters.

    >>> state_bytes(Shape(n_layer=2, d_model=64, n_head=2, n_kv_head=1, d_ff=128))
    0
    """
    total = sum(block.count * block.mixer.state_bytes for block in shape.blocks if block.mixer is not None)
    return total / parallel.tensor / parallel.pipeline if split(parallel.devices) else total


def kv_bytes_per_token(shape: Shape, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes that one token adds to the KV cache, all layers together, on one device.

    2 n_kv_head head_dim values a layer with keys and values of its own (kv_lora_rank + rope_dim with latent
    attention, whatever n_head is), none in recurrent layers. Layers with a sliding window drop as many again
    once it is full.

    Args:
        shape: the model.
        kv_bits: bits a value.
        parallel: over how many devices; a device holds max(1, n_kv_head / tensor) KV heads, and the whole
            latent.

    >>> llama3_8b = Shape(n_layer=32, d_model=4096, n_head=32, n_kv_head=8, head_dim=128, d_ff=14336)
    >>> kv_bytes_per_token(llama3_8b)
    131072
    """
    return sum(kept.n_bytes for kept in kept_tokens(shape, kv_bits=kv_bits, parallel=parallel))


def kv_cache_bytes(shape: Shape, length: Num, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes of one sequence's KV cache and state at `length` tokens, on one device.

    Global layers keep all tokens, sliding-window layers the last min(length, window), recurrent layers a
    state of a constant size.

    >>> from scalesim.models import known_model
    >>> kv_cache_bytes(known_model("gemma-3-1b").shape, 32768) / 2**20
    139.0
    """
    total = state_bytes(shape, parallel=parallel)
    for kept in kept_tokens(shape, kv_bits=kv_bits, parallel=parallel):
        total = total + kept.n_bytes * (length if kept.window is None else smaller(length, kept.window))
    return total


class PoolLayout(NamedTuple):
    """How an engine pages the caches of one device: bytes a token of all layers, bytes a sequence of the
    pages that hold recurrent states, and tokens in a block.
    """

    per_token: Num
    per_sequence: Num
    block: Num


def pool_layout(shape: Shape, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> PoolLayout:
    """Return how vLLM lays out one pool for all layers.

    All pages are of one size, so every layer with a cache takes as many bytes a token as the widest, and a
    layer with a window as many tokens as one without. A recurrent state takes a page to itself: blocks are
    lengthened, in steps of 16 tokens, until a page holds it.

    Source: vLLM's `unify_kv_cache_spec_page_size`; its log lines in alvarobartt/hf-mem#60 and #61.
    """
    cached: Num = 0
    states: Num = 0
    widest: Num = 0
    largest: Num = 0
    for block in shape.blocks:
        if block.mixer is None:
            continue
        kept = block.mixer.cached()
        if kept:
            cached = cached + block.count
            widest = larger(widest, sum(cached_bytes(one, kv_bits, parallel) for one in kept))
        state = block.mixer.state_bytes
        if not (isinstance(state, int) and state == 0):
            states, largest = states + block.count, larger(largest, state / parallel.tensor)
    if isinstance(cached, int) and cached == 0:
        return PoolLayout(0, states * largest / parallel.pipeline, _BLOCK)
    tokens = _up(larger(largest, 1) / widest, _BLOCK)
    page = tokens * widest
    return PoolLayout(cached * widest / parallel.pipeline, states * page / parallel.pipeline, tokens)


def pool_bytes(shape: Shape, length: Num, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes of an engine's pool on one device that a sequence of `length` tokens takes.

    >>> from scalesim.models import known_model
    >>> gpt_oss = known_model("gpt-oss-20b").shape
    >>> round(32 * float(pool_bytes(gpt_oss, 8192)) / 2**30, 2)
    12.0
    """
    layout = pool_layout(shape, kv_bits=kv_bits, parallel=parallel)
    return layout.per_sequence + layout.per_token * _up(length, layout.block)


def _up(value: Num, step: Num) -> Num:
    """Round up to a multiple of a step."""
    parts = value / step
    plain = isinstance(parts, int | float | np.ndarray)
    return step * (np.ceil(parts) if plain else jnp.ceil(parts))
