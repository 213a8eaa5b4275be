"""Generation: keys and values kept from the tokens before, so that each new token costs one token's work."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from scalesim.errors import InvalidInput
from scalesim.model.attention import attend, rope_tables
from scalesim.model.decoder import (
    Params,
    after_attention,
    attention_inputs,
    embed,
    layer_windows,
    unembed,
)
from scalesim.model.options import ModelOptions
from scalesim.shape import Shape, parameter_table

__all__ = ["Cache", "empty_cache", "extend", "generate"]

Cache = tuple[tuple[Array, Array], ...]
"""Each layer's keys and values, (B, size, K, h): position p lies at p mod size, so that a layer with a window
keeps the last `window` positions and no more."""


def empty_cache(shape: Shape, capacity: int, batch_size: int, options: ModelOptions | None = None) -> Cache:
    """Return an empty cache for sequences of up to `capacity` tokens.

    Its bytes are 2 n_kv_head head_dim (K and V) for each token, layer and sequence, times the dtype's; layers
    with a sliding window keep min(capacity, window) tokens. It is what `scalesim.cost` counts.

    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> sum(x.nbytes for x in jax.tree.leaves(empty_cache(shape, 100, 1)))
    25600
    """
    dtype = (options or ModelOptions()).dtype
    sizes = [min(capacity, int(window)) for window in layer_windows(shape)]
    kv = (shape.n_kv_head, shape.head_dim)
    return tuple(
        (jnp.zeros((batch_size, n, *kv), dtype), jnp.zeros((batch_size, n, *kv), dtype)) for n in sizes
    )


def extend(
    params: Params,
    cache: Cache,
    past: Int[Array, ""] | int,
    tokens: Int[Array, "B T"],
    shape: Shape,
    options: ModelOptions | None = None,
) -> tuple[Cache, Float[Array, "B V"]]:
    """Read tokens that follow `past` cached ones: prefill with a prompt, decode with one token.

    Args:
        params: the tensors by name.
        cache: of the tokens before.
        past: how many those are.
        tokens: (B, T) new ones; past + T must not exceed the cache's capacity.
        shape: sizes, static.
        options: how to compute, static.

    Returns:
        The cache with the new tokens, and the logits of the token after the last, float32 (B, V).
    """
    options = options or ModelOptions()
    n_new = tokens.shape[1]
    new = past + jnp.arange(n_new)
    tables = rope_tables(new, shape.head_dim, options.rope_theta)
    names = [p.name for p in parameter_table(shape) if p.per_layer]
    x, caches = embed(params, tokens, options), []
    for i, ((keys, values), window) in enumerate(zip(cache, layer_windows(shape), strict=True)):
        layer = {name: params[name][i] for name in names}
        q, k, v = attention_inputs(x, layer, tables, shape, options)
        size = keys.shape[1]
        # Keys of the cache as it was, then the new ones: a ring would lose old keys that early queries see.
        old = _positions(past, size)
        positions = new, jnp.concatenate([old, new])
        both = jnp.concatenate([keys, k], axis=1), jnp.concatenate([values, v], axis=1)
        mixed = attend(q, *both, int(window), options, positions=positions)
        x = after_attention(x, mixed, layer, shape, options)
        kept = slice(max(0, n_new - size), None)
        places = new[kept] % size
        caches.append((keys.at[:, places].set(k[:, kept]), values.at[:, places].set(v[:, kept])))
    return tuple(caches), unembed(params, x[:, -1:], shape, options)[:, 0]


def _positions(past: Any, size: int) -> Array:
    """Return which position each place of a ring holds after `past` tokens; negative where none."""
    places = jnp.arange(size)
    return past - 1 - (past - 1 - places) % size


@partial(jax.jit, static_argnames=("shape", "options", "n_tokens"))
def generate(
    params: Params,
    prompt: Int[Array, "B T"],
    n_tokens: int,
    shape: Shape,
    options: ModelOptions | None = None,
    *,
    key: Array | None = None,
    temperature: float = 0.0,
) -> Int[Array, "B n"]:
    """Continue a prompt by n_tokens: the likeliest at temperature 0, else drawn from softmax(logits / t).

    >>> from scalesim.model import init_params
    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> generate(init_params(shape, jax.random.key(0)), jnp.zeros((1, 3), int), 5, shape).shape
    (1, 5)
    """
    if n_tokens < 1:
        raise InvalidInput(f"n_tokens must be 1 or more, but is {n_tokens}.")
    batch, length = prompt.shape
    key = jax.random.key(0) if key is None else key
    cache = empty_cache(shape, length + n_tokens, batch, options)
    cache, logits = extend(params, cache, 0, prompt, shape, options)

    def choose_next(logits: Array, key: Array) -> Array:
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, drawn, logits.argmax(-1)).astype(prompt.dtype)

    def step(carry: tuple[Cache, Array], scanned: tuple[Array, Array]) -> tuple[tuple[Cache, Array], Array]:
        (cache, logits), (i, key) = carry, scanned
        token = choose_next(logits, key)
        return extend(params, cache, length + i, token[:, None], shape, options), token

    _, tokens = jax.lax.scan(step, (cache, logits), (jnp.arange(n_tokens), jax.random.split(key, n_tokens)))
    return tokens.T
