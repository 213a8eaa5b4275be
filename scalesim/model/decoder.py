"""The decoder: RMSNorm, rotary grouped-query attention with heads free of the width, (Sw)iGLU.

Names carry shapes: B batch, T tokens, D d_model, H query heads, K key-value heads, h head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from scalesim.errors import InvalidInput
from scalesim.model.attention import EVERYWHERE, attend, rope, rope_tables
from scalesim.model.initial import initial_value
from scalesim.model.options import ModelOptions
from scalesim.shape import Attention, Dense, Shape, parameter_table

__all__ = ["Decoder", "Params", "forward", "init_params", "layer_windows"]

Params = Mapping[str, Array]
"""A model's tensors by the names of `scalesim.parameter_table`; per-layer ones have the layers in front."""


class Decoder(nnx.Module):
    """A decoder-only transformer of a shape, with the tensors of `scalesim.parameter_table(shape)`.

    Args:
        shape: whole sizes; any n_head, n_kv_head and head_dim, whatever d_model is. Gated or plain FFN, tied
            or untied embeddings, q/k norms, projection biases, post-norms and sliding windows are known.
        options: how it is computed.
        rngs: randomness of the first values.

    Raises:
        InvalidInput: a shape that this model does not know (latent attention, experts, shared KV layers,
            LayerNorm, learned positions), sizes that are not whole, or an odd head_dim.

    >>> from scalesim.shape import Shape
    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> model = Decoder(shape, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((1, 8), int)).shape
    (1, 8, 256)
    >>> sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == shape.n_params_total
    True
    """

    def __init__(self, shape: Shape, options: ModelOptions | None = None, *, rngs: nnx.Rngs) -> None:
        check_known(shape)
        self.shape = shape
        self.options = options or ModelOptions()
        values = init_params(shape, rngs.params())
        for name, value in values.items():
            setattr(self, name, nnx.Param(value))

    @property
    def params(self) -> Params:
        """The tensors by name, as `forward` takes them."""
        return {p.name: getattr(self, p.name)[...] for p in parameter_table(self.shape)}

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Return the logits of each next token."""
        return forward(self.params, tokens, self.shape, self.options)


def init_params(shape: Shape, key: Array) -> Params:
    """Draw a model's first values; each tensor's depend on the key and its own name's place alone.

    >>> from scalesim.shape import Shape
    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> init_params(shape, jax.random.key(0))["k_proj"].shape
    (2, 32, 1, 16)
    """
    check_known(shape)
    table = parameter_table(shape)
    keys = jax.random.split(key, len(table))
    return {p.name: initial_value(p, shape, k) for p, k in zip(table, keys, strict=True)}


def forward(
    params: Params, tokens: Int[Array, "B T"], shape: Shape, options: ModelOptions | None = None
) -> Float[Array, "B T V"]:
    """Return the logits of each next token, in float32.

    Args:
        params: the tensors by name.
        tokens: (B, T) token numbers below vocab_size.
        shape: sizes, static.
        options: how to compute, static.

    >>> from scalesim.shape import Shape
    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> forward(init_params(shape, jax.random.key(0)), jnp.zeros((1, 8), int), shape).dtype
    dtype('float32')
    """
    options = options or ModelOptions()
    tables = rope_tables(jnp.arange(tokens.shape[1]), shape.head_dim, options.rope_theta)
    everywhere = all(getattr(block.mixer, "window", None) is None for block in shape.blocks)

    def block(x: Array, scanned: tuple[Params, Array]) -> tuple[Array, None]:
        layer, window = scanned
        q, k, v = attention_inputs(x, layer, tables, shape, options)
        mixed = attend(q, k, v, EVERYWHERE if everywhere else window, options)
        return after_attention(x, mixed, layer, shape, options), None

    if options.remat != "none":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if options.remat == "dots" else None
        block = jax.checkpoint(block, policy=policy)
    x = embed(params, tokens, options)
    layers = {p.name: params[p.name] for p in parameter_table(shape) if p.per_layer}
    windows = jnp.asarray(layer_windows(shape))
    x, _ = jax.lax.scan(block, x, (layers, windows), unroll=_unroll(shape, options))
    return unembed(params, x, shape, options)


def _unroll(shape: Shape, options: ModelOptions) -> int:
    if options.unroll:
        return min(options.unroll, shape.n_layer)
    return shape.n_layer if jax.default_backend() == "cpu" and shape.n_layer <= 16 else 1


def embed(params: Params, tokens: Array, options: ModelOptions) -> Array:
    """Look the tokens' embeddings up, (B, T, D)."""
    return params["embedding"].astype(options.dtype)[tokens]


def unembed(params: Params, x_BxTxD: Array, shape: Shape, options: ModelOptions) -> Array:
    """Return float32 logits, (B, T, V)."""
    x = rms_norm(x_BxTxD, params["final_norm"], options)
    table = params["embedding"].T if shape.tied_embeddings else params["lm_head"]
    logits = contract(x, table.astype(x.dtype)).astype(jnp.float32)
    return logits if options.logit_scale == 1.0 else logits * options.logit_scale


class Projected(NamedTuple):
    """Queries, keys and values of one layer: (B, T, H, h), (B, T, K, h), (B, T, K, h)."""

    q: Array
    k: Array
    v: Array


def attention_inputs(
    x_BxTxD: Array, layer: Params, tables: tuple[Array, Array], shape: Shape, options: ModelOptions
) -> Projected:
    """Return one layer's rotated queries and keys, and its values."""
    y = rms_norm(x_BxTxD, layer["attention_norm"], options)
    q, k, v = (contract(y, layer[f"{name}_proj"].astype(y.dtype)) for name in "qkv")
    if shape.qkv_bias:
        q, k, v = (
            x + layer[f"{n}_bias"].astype(x.dtype)[None, None] for n, x in zip("qkv", (q, k, v), strict=True)
        )
    if shape.qk_norm != "none":
        axes = (-2, -1) if shape.qk_norm == "projection" else (-1,)
        q, k = (rms_norm(x, layer[f"{n}_norm"], options, axes) for n, x in (("q", q), ("k", k)))
    return Projected(rope(q, tables), rope(k, tables), v)


def after_attention(
    x_BxTxD: Array, mixed_BxTxHxh: Array, layer: Params, shape: Shape, options: ModelOptions
) -> Array:
    """Return the residual stream after one layer's output projection and FFN."""
    out = contract(mixed_BxTxHxh, layer["o_proj"].astype(x_BxTxD.dtype), 2)
    if shape.output_bias:
        out = out + layer["o_bias"].astype(out.dtype)[None, None]
    if shape.norms_per_layer == 4:
        out = rms_norm(out, layer["attention_post_norm"], options)
    x = x_BxTxD + out
    out = _ffn(rms_norm(x, layer["ffn_norm"], options), layer, shape)
    if shape.norms_per_layer == 4:
        out = rms_norm(out, layer["ffn_post_norm"], options)
    return x + out


def _ffn(y_BxTxD: Array, layer: Params, shape: Shape) -> Array:
    """SwiGLU, (silu(y W_gate) * y W_up) W_down (arXiv 2002.05202), or silu(y W_up) W_down."""

    def project(name: str, x: Array) -> Array:
        out = contract(x, layer[f"{name}_proj"].astype(x.dtype))
        return out + layer[f"{name}_bias"].astype(x.dtype)[None, None] if shape.ffn_bias else out

    up = project("up", y_BxTxD)
    inner = jax.nn.silu(project("gate", y_BxTxD)) * up if shape.gated_ffn else jax.nn.silu(up)
    return project("down", inner)


def rms_norm(x: Array, weight: Array, options: ModelOptions, axes: tuple[int, ...] = (-1,)) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 (arXiv 1910.07467)."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=axes, keepdims=True) + options.norm_eps)
    weight = weight.reshape((1,) * (x.ndim - weight.ndim) + weight.shape)
    return (wide * scale).astype(x.dtype) * weight.astype(x.dtype)


def contract(x: Array, w: Array, n: int = 1) -> Array:
    """Sum over the last n axes of x and the first n of w, as one product of two matrices.

    The axes are flattened first: with batch and token as axes of their own, the gradient of w contracts over
    two axes at once, for which XLA's CPU backend takes twice as long as for one.
    """
    lead, inner = x.shape[: x.ndim - n], w.shape[n:]
    flat = x.reshape(-1, int(np.prod(w.shape[:n]))) @ w.reshape(int(np.prod(w.shape[:n])), -1)
    return flat.reshape(*lead, *inner)


def layer_windows(shape: Shape) -> np.ndarray:
    """Return how many tokens each layer attends to; a huge number where there is no limit.

    >>> from scalesim.shape import Attention, Block, Dense, Shape
    >>> local, full = (
    ...     Block(mixer=Attention(n_head=2, n_kv_head=1, window=w), ffn=Dense(d_ff=64)) for w in (8, None)
    ... )
    >>> shape = Shape(d_model=32, blocks=(local, full, local, full))
    >>> [int(w) for w in layer_windows(shape) < 1_000_000]
    [1, 0, 1, 0]
    """
    order = shape.order or tuple((i, block.count) for i, block in enumerate(shape.blocks))
    windows = [getattr(block.mixer, "window", None) or EVERYWHERE for block in shape.blocks]
    return np.repeat([windows[i] for i, _ in order], [count for _, count in order])


def check_known(shape: Shape) -> None:
    """Refuse what the model does not have, by the field's name."""
    first = shape.blocks[0]
    refused = {
        "latent attention or another mixer": not all(type(b.mixer) is Attention for b in shape.blocks),
        "experts": not all(type(b.ffn) is Dense for b in shape.blocks),
        "norm_bias": shape.norm_bias,
        "n_positions": shape.n_positions != 0,
        f"norms_per_layer = {first.norms}": first.norms not in (2, 4),
        "blocks that differ in more than their windows": not _differ_in_windows(shape),
        "further tensors": bool(shape.extras or first.extras or not shape.final_norm),
    }
    for name, is_set in refused.items():
        if is_set:
            raise InvalidInput(
                f"The model cannot be built with {name}: it has grouped-query attention, dense FFNs, RMSNorm "
                "(2 or 4 a block) and rotary positions."
            )
    for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"):
        value = getattr(shape, name)
        if not isinstance(value, int | np.integer):
            raise InvalidInput(f"{name} must be whole to build a model, but is {value!r}.")
    if shape.head_dim % 2:
        raise InvalidInput(f"head_dim must be even (rotary positions turn pairs), but is {shape.head_dim}.")


def _differ_in_windows(shape: Shape) -> bool:
    """Whether all blocks are plain ones, and the same but for windows."""
    plain = Attention(
        n_head=shape.n_head,
        n_kv_head=shape.n_kv_head,
        head_dim=shape.head_dim,
        qkv_bias=shape.qkv_bias,
        output_bias=shape.output_bias,
        qk_norm=shape.qk_norm,
    )
    first = shape.blocks[0]
    return all(
        isinstance(b.mixer, Attention)
        and replace(b.mixer, window=None) == plain
        and (b.ffn, b.norms, b.extras) == (first.ffn, first.norms, first.extras)
        for b in shape.blocks
    )
