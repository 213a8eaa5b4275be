"""Generation: keys and values kept from the tokens before, so that each new token costs one token's work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from scalesim.errors import InvalidInput
from scalesim.model.attention import EVERYWHERE, attend, rope_tables
from scalesim.model.decoder import Params, after_attention, embed, unembed
from scalesim.model.mixing import (
    Projected,
    attention_inputs,
    expanded,
    folded,
    latent_inputs,
    layers_of,
    rotary_size,
)
from scalesim.model.options import ModelOptions
from scalesim.shape import LatentAttention, Shape, parameter_table

__all__ = [
    "Cache",
    "ServingParams",
    "attend_cached",
    "decode",
    "empty_cache",
    "extend",
    "generate",
    "serving_params",
]

Cache = tuple[tuple[Array, ...], ...]
"""Each layer's keys and values, (B, size, K, h): position p lies at p mod size, so that a layer with a window
keeps the last `window` positions and no more. Latent attention keeps its latent vector and its rotary key
instead, as if of one head; a layer that reads another's keys and values keeps nothing."""

Seen = tuple[Array, Array, tuple[Array, Array] | None]
"""What new tokens attend to: two arrays, and the positions of queries and keys (None: 0 .. T - 1 of both)."""

ServingParams = Mapping[str, Any]
"""A model's tensors by name; of one that each layer has, a tuple."""


def empty_cache(shape: Shape, capacity: int, batch_size: int, options: ModelOptions | None = None) -> Cache:
    """Return an empty cache for sequences of up to `capacity` tokens.

    Its bytes are 2 n_kv_head head_dim (K and V) for each token, layer and sequence, times the dtype's; layers
    with a sliding window keep min(capacity, window) tokens; latent attention keeps kv_lora_rank + rope_dim
    values a token, layers that read an earlier one's keys and values none. `scalesim.cost` counts the same.

    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> sum(x.nbytes for x in jax.tree.leaves(empty_cache(shape, 100, 1)))
    25600
    """
    dtype = (options or ModelOptions()).dtype
    caches: list[tuple[Array, ...]] = []
    for i, (kind, _, source) in enumerate(layers_of(shape)):
        mixer = kind.mixer
        each = [(shape.n_kv_head, shape.head_dim)] * 2 if source == i else []
        if isinstance(mixer, LatentAttention):
            each = [(1, mixer.kv_lora_rank), (1, mixer.rope_dim)]
        size = min(capacity, int(getattr(mixer, "window", None) or capacity))
        caches.append(tuple(jnp.zeros((batch_size, size, *one), dtype) for one in each))
    return tuple(caches)


def serving_params(params: Params, shape: Shape, options: ModelOptions | None = None) -> ServingParams:
    """Return the tensors as `extend` reads them fastest: each layer's apart, in the dtype of `options`.

    A slice of the stacked layers, or a cast, is a copy: made once here, and not again for every token.

    >>> from scalesim.model import init_params
    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> [w.shape for w in serving_params(init_params(shape, jax.random.key(0)), shape)["up_proj"]]
    [(32, 64), (32, 64)]
    """
    dtype = (options or ModelOptions()).dtype
    stacked = {p.name for p in parameter_table(shape) if p.per_layer}
    cast = {name: jnp.asarray(value, dtype) for name, value in params.items()}
    return {name: tuple(value) if name in stacked else value for name, value in cast.items()}


def extend(
    params: Params | ServingParams,
    cache: Cache,
    past: Int[Array, ""] | int,
    tokens: Int[Array, "B T"],
    shape: Shape,
    options: ModelOptions | None = None,
) -> tuple[Cache, Float[Array, "B V"]]:
    """Read tokens that follow `past` cached ones: prefill with a prompt, decode with one token.

    Args:
        params: the tensors by name; split by `serving_params`, no token copies them.
        cache: of the tokens before.
        past: how many those are; a plain 0 says that nothing is cached, and spares looking there.
        tokens: (B, T) new ones; past + T must not exceed the cache's capacity.
        shape: sizes, static.
        options: how to compute, static.

    Returns:
        The cache with the new tokens, and the logits of the token after the last, float32 (B, V).
    """
    options = options or ModelOptions()
    tables = rope_tables(past + jnp.arange(tokens.shape[1]), rotary_size(shape), options.rope_theta)
    x, caches = embed(params, tokens, options), []
    seen: dict[int, Seen] = {}
    for i, (kind, places, source) in enumerate(layers_of(shape)):
        layer = {name: params[name][place] for name, place in places}
        if isinstance(kind.mixer, LatentAttention):
            mixed, kept = _latent(x, layer, tables, kind.mixer, cache[i], past, options)
        else:
            shared = None if source == i else seen[source][:2]
            q, k, v = attention_inputs(x, layer, tables, kind, options, shared)
            seen[i], kept = _written(k, v, cache[i], past) if shared is None else (seen[source], ())
            keys, values, positions = seen[i]
            window = getattr(kind.mixer, "window", None) or EVERYWHERE
            mixed = attend(q, keys, values, window, options, positions=positions)
        x = after_attention(x, mixed, layer, kind, options)
        caches.append(kept)
    return tuple(caches), unembed(params, x[:, -1:], shape, options)[:, 0]


def _latent(
    x: Array,
    layer: Params,
    tables: tuple[Array, Array],
    mixer: LatentAttention,
    cache: tuple[Array, ...],
    past: Int[Array, ""] | int,
    options: ModelOptions,
) -> tuple[Array, tuple[Array, ...]]:
    """Attend by latent attention: in a prompt to keys of all heads, afterwards to the cached vectors."""
    inputs = latent_inputs(x, layer, tables, mixer, options)
    (latent, turned, positions), kept = _written(inputs.latent_BxTx1xc, inputs.k_BxTx1xr, cache, past)
    if positions is None:
        every = expanded(inputs, layer, mixer)
        return attend(every.q, every.k, every.v, EVERYWHERE, options), kept
    q, up = folded(inputs, layer)
    keys, scale = jnp.concatenate([latent, turned], axis=-1), float(mixer.head_dim) ** -0.5
    mixed = attend(q, keys, latent, EVERYWHERE, options, positions=positions, scale=scale)
    return jnp.einsum("bthc,chv->bthv", mixed, up), kept


def attend_cached(
    inputs: Projected,
    keys: Array,
    values: Array,
    past: Int[Array, ""] | int,
    window: int,
    options: ModelOptions,
) -> tuple[Array, tuple[Array, ...]]:
    """Attend to what one layer has cached and to the new tokens; return the result and the new cache.

    Args:
        inputs: rotated queries and keys, and values, of T new tokens.
        keys: cached, (B, size, K, h): a ring.
        values: cached, likewise.
        past: how many tokens are cached; a plain 0 spares looking there.
        window: positions that a token sees, itself included.
        options: how to compute.
    """
    q, k, v = inputs
    (keys, values, positions), kept = _written(k, v, (keys, values), past)
    return attend(q, keys, values, window, options, positions=positions), kept


def _written(
    k: Array, v: Array, cache: tuple[Array, ...], past: Int[Array, ""] | int
) -> tuple[Seen, tuple[Array, ...]]:
    """Write new keys and values into a layer's cache; return what the new tokens attend to, and the cache."""
    keys, values = cache
    size, n_new = keys.shape[1], k.shape[1]
    new = past + jnp.arange(n_new)
    if n_new == 1:
        # The place of a single token held what it no longer sees: written first, nothing need be copied.
        place = new[0] % size
        keys = jax.lax.dynamic_update_slice_in_dim(keys, k, place, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(values, v, place, axis=1)
        return (keys, values, (new, _positions(past + 1, size))), (keys, values)
    if isinstance(past, int) and past == 0:  # nothing is cached: causal attention, with its faster kernels
        seen: Seen = k, v, None
    else:
        # Keys of the cache as it was, then the new ones: a ring would lose old keys that early queries see.
        positions = new, jnp.concatenate([_positions(past, size), new])
        seen = jnp.concatenate([keys, k], axis=1), jnp.concatenate([values, v], axis=1), positions
    kept = slice(max(0, n_new - size), None)
    places = new[kept] % size
    return seen, (keys.at[:, places].set(k[:, kept]), values.at[:, places].set(v[:, kept]))


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
    split = serving_params(params, shape, options)
    cache = empty_cache(shape, length + n_tokens, batch, options)
    cache, logits = extend(split, cache, 0, prompt, shape, options)
    _, tokens = decode(
        split, cache, logits, length, n_tokens, shape, options, key=key, temperature=temperature
    )
    return tokens.astype(prompt.dtype)


def decode(
    params: Params | ServingParams,
    cache: Cache,
    logits: Float[Array, "B V"],
    past: Int[Array, ""] | int,
    n_tokens: int,
    shape: Shape,
    options: ModelOptions | None = None,
    *,
    key: Array,
    temperature: Array | float = 0.0,
) -> tuple[Cache, Int[Array, "B n"]]:
    """Choose n_tokens one after another, each read before the next: the loop of `generate`.

    Args:
        params: as `extend` takes them.
        cache: of `past` tokens; it must hold n_tokens more. Written in place where the caller donates it.
        logits: of the first token to choose.
        past: how many tokens are cached.
        n_tokens: how many to choose.
        shape: sizes, static.
        options: how to compute, static.
        key: of the draws.
        temperature: 0 takes the likeliest.

    Returns:
        The cache with the new tokens, and those.
    """

    def choose_next(logits: Array, key: Array) -> Array:
        def draw() -> Array:
            return jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))

        # Drawing takes a random number for every word of the vocabulary: only where it is asked for.
        return jax.lax.cond(temperature > 0, draw, lambda: logits.argmax(-1)).astype(jnp.int32)

    def step(carry: tuple[Cache, Array], scanned: tuple[Array, Array]) -> tuple[tuple[Cache, Array], Array]:
        (cache, logits), (i, key) = carry, scanned
        token = choose_next(logits, key)
        return extend(params, cache, past + i, token[:, None], shape, options), token

    scanned = jnp.arange(n_tokens), jax.random.split(key, n_tokens)
    (cache, _), tokens = jax.lax.scan(step, (cache, logits), scanned)
    return cache, tokens.T
