"""What each kind of layer makes of the residual stream before tokens are mixed: queries, keys and values.

Names carry shapes: B batch, T tokens, D d_model, H query heads, K key-value heads, h head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scalesim.errors import InvalidInput
from scalesim.model.attention import rope
from scalesim.model.options import ModelOptions
from scalesim.shape import Attention, Block, LatentAttention, Shape

__all__ = [
    "Latent",
    "Layer",
    "Projected",
    "attention_inputs",
    "biased",
    "contract",
    "expanded",
    "folded",
    "latent_inputs",
    "layers_of",
    "rms_norm",
    "rotary_size",
]

Tensors = Mapping[str, Array]


class Projected(NamedTuple):
    """Queries, keys and values of one layer: (B, T, H, h), (B, T, K, h), (B, T, K, h)."""

    q: Array
    k: Array
    v: Array


class Latent(NamedTuple):
    """Latent attention's queries, without and with positions, and what it caches of a token."""

    q_BxTxHxn: Array
    q_BxTxHxr: Array
    latent_BxTx1xc: Array
    k_BxTx1xr: Array


class Layer(NamedTuple):
    """One layer: its kind, its place in each tensor's stack, and whose keys and values it reads."""

    block: Block
    places: tuple[tuple[str, int], ...]
    source: int


@lru_cache(maxsize=64)
def layers_of(shape: Shape) -> tuple[Layer, ...]:
    """Return the layers in their order.

    A tensor that some layers have lies in their order; a layer that shares keys and values reads those of the
    last layer before it that has its own, of the same window and heads (YOCO, arXiv 2405.05254; CLA, arXiv
    2405.12981).

    Raises:
        InvalidInput: a layer shares keys and values, and there is none to share with.
    """
    counts: dict[str, int] = {}
    own: dict[tuple[object, ...], int] = {}
    layers: list[Layer] = []
    for kind, count in shape.order or tuple((i, block.count) for i, block in enumerate(shape.blocks)):
        block = shape.blocks[kind]
        names = [p.name for p in block.tensors(shape.d_model)]
        for _ in range(int(count)):
            places = tuple((name, counts.get(name, 0)) for name in names)
            counts.update({name: place + 1 for name, place in places})
            source = len(layers)
            if isinstance(block.mixer, Attention):
                key = (block.mixer.window, block.mixer.n_kv_head, block.mixer.head_dim)
                if not block.mixer.shared:
                    own[key] = source
                elif key not in own:
                    raise InvalidInput(
                        f"Layer {source} shares keys and values, but no layer before it has its own of "
                        f"window {key[0]}, {key[1]} KV heads and head_dim {key[2]}."
                    )
                source = own[key]
            layers.append(Layer(block, places, source))
    return tuple(layers)


def rotary_size(shape: Shape) -> int:
    """Return how many values of a query or key turn with its position."""
    mixer = shape.blocks[0].mixer
    return int(mixer.rope_dim if isinstance(mixer, LatentAttention) else shape.head_dim)


def attention_inputs(
    x_BxTxD: Array,
    layer: Tensors,
    tables: tuple[Array, Array],
    block: Block,
    options: ModelOptions,
    shared: tuple[Array, Array] | None = None,
) -> Projected:
    """Return one layer's rotated queries and keys, and its values; an earlier one's, if those are given."""
    mixer = block.mixer
    if isinstance(mixer, LatentAttention):
        return expanded(latent_inputs(x_BxTxD, layer, tables, mixer, options), layer, mixer)
    assert isinstance(mixer, Attention)
    y = rms_norm(x_BxTxD, layer["attention_norm"], options)
    names = "qkv" if shared is None else "q"
    found = {name: contract(y, layer[f"{name}_proj"].astype(y.dtype)) for name in names}
    if mixer.qkv_bias:
        found = {n: biased(x, layer[f"{n}_bias"]) for n, x in found.items()}
    if mixer.qk_norm != "none":
        axes = (-2, -1) if mixer.qk_norm == "projection" else (-1,)
        found |= {n: rms_norm(found[n], layer[f"{n}_norm"], options, axes) for n in names[:2]}
    found |= {n: rope(found[n], tables) for n in names[:2]}
    return Projected(found["q"], *((found["k"], found["v"]) if shared is None else shared))


def latent_inputs(
    x_BxTxD: Array, layer: Tensors, tables: tuple[Array, Array], mixer: LatentAttention, options: ModelOptions
) -> Latent:
    """Return what latent attention makes of the residual stream (arXiv 2405.04434, equations 9 to 19)."""
    y = rms_norm(x_BxTxD, layer["attention_norm"], options)
    if mixer.q_lora_rank is None:
        q = contract(y, layer["q_proj"].astype(y.dtype))
    else:
        low = rms_norm(contract(y, layer["q_a_proj"].astype(y.dtype)), layer["q_a_norm"], options)
        q = contract(low, layer["q_b_proj"].astype(y.dtype))
    both = contract(y, layer["kv_a_proj"].astype(y.dtype))
    rank, still = int(mixer.kv_lora_rank), int(mixer.head_dim - mixer.rope_dim)
    latent = rms_norm(both[..., :rank], layer["kv_a_norm"], options)
    turned = rope(both[:, :, None, rank:], tables)
    return Latent(q[..., :still], rope(q[..., still:], tables), latent[:, :, None], turned)


def expanded(inputs: Latent, layer: Tensors, mixer: LatentAttention) -> Projected:
    """Return queries, keys and values of all heads, made from the latent vectors: for many new tokens."""
    q, q_turned, latent, k_turned = inputs
    up = contract(latent[:, :, 0], layer["kv_b_proj"].astype(q.dtype))
    still = q.shape[-1]
    k_turned = jnp.broadcast_to(k_turned, (*q.shape[:3], k_turned.shape[-1]))
    k = jnp.concatenate([up[..., :still], k_turned], axis=-1)
    return Projected(jnp.concatenate([q, q_turned], axis=-1), k, up[..., still:])


def folded(inputs: Latent, layer: Tensors) -> tuple[Array, Array]:
    """Return queries that meet the cached vectors as they are, and the matrix that results pass: for decode.

    q k^T = (q W_k^T) c^T: the up-projections go to the queries and to the results, (B, T, H, c + r) and
    (c, H, v).
    """
    up = layer["kv_b_proj"].astype(inputs.q_BxTxHxn.dtype)
    still = inputs.q_BxTxHxn.shape[-1]
    q = jnp.einsum("bthn,chn->bthc", inputs.q_BxTxHxn, up[..., :still])
    return jnp.concatenate([q, inputs.q_BxTxHxr], axis=-1), up[..., still:]


def rms_norm(x: Array, weight: Array, options: ModelOptions, axes: tuple[int, ...] = (-1,)) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight, in float32 (arXiv 1910.07467)."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=axes, keepdims=True) + options.norm_eps)
    return (wide * scale * jnp.expand_dims(weight, range(x.ndim - weight.ndim))).astype(x.dtype)


def biased(x: Array, bias: Array) -> Array:
    """x + bias over the last axes, in float32: the bias's gradient is a sum over tokens."""
    return (x.astype(jnp.float32) + jnp.expand_dims(bias, range(x.ndim - bias.ndim))).astype(x.dtype)


def contract(x: Array, w: Array, n: int = 1) -> Array:
    """Sum over the last n axes of x and the first n of w, as one product of two matrices.

    The axes are flattened first: with batch and token as axes of their own, the gradient of w contracts over
    two axes at once, for which XLA's CPU backend takes twice as long as for one.
    """
    lead, inner = x.shape[: x.ndim - n], w.shape[n:]
    flat = x.reshape(-1, int(np.prod(w.shape[:n]))) @ w.reshape(int(np.prod(w.shape[:n])), -1)
    return flat.reshape(*lead, *inner)
