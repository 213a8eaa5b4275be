"""The decoder: RMSNorm, rotary grouped-query attention with heads free of the width, (Sw)iGLU.

Names carry shapes: B batch, T tokens, D d_model, H query heads, K key-value heads, h head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from scalesim.errors import InvalidInput
from scalesim.model.attention import EVERYWHERE, attend, rope_tables
from scalesim.model.initial import initial_value
from scalesim.model.mixing import attention_inputs, biased, contract, layers_of, rms_norm, rotary_size
from scalesim.model.options import ModelOptions
from scalesim.shape import Attention, Block, Dense, LatentAttention, Shape, parameter_table

__all__ = ["Decoder", "Params", "forward", "init_params", "layer_windows"]

Params = Mapping[str, Array]
"""A model's tensors by the names of `scalesim.parameter_table`; per-layer ones have the layers that have them
in front."""


class Decoder(nnx.Module):
    """A decoder-only transformer of a shape, with the tensors of `scalesim.parameter_table(shape)`.

    Args:
        shape: whole sizes; any n_head, n_kv_head and head_dim, whatever d_model is. Gated or plain FFN, tied
            or untied embeddings, q/k norms, projection biases, post-norms, sliding windows, latent attention
            and layers that share an earlier one's keys and values are known.
        options: how it is computed.
        rngs: randomness of the first values.

    Raises:
        InvalidInput: a shape that this model does not know (experts, recurrences, LayerNorm, learned
            positions), sizes that are not whole, or an odd head_dim.

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
    tables = rope_tables(jnp.arange(tokens.shape[1]), rotary_size(shape), options.rope_theta)
    run = _scanned if _alike(shape) else _laid_out
    return unembed(
        params, run(params, embed(params, tokens, options), tables, shape, options), shape, options
    )


def _scanned(
    params: Params, x: Array, tables: tuple[Array, Array], shape: Shape, options: ModelOptions
) -> Array:
    """Pass layers that differ in their windows alone: one body for all."""
    kind = shape.blocks[0]
    everywhere = all(getattr(block.mixer, "window", None) is None for block in shape.blocks)

    def block(x: Array, scanned: tuple[Params, Array]) -> tuple[Array, None]:
        layer, window = scanned
        q, k, v = attention_inputs(x, layer, tables, kind, options)
        mixed = attend(q, k, v, EVERYWHERE if everywhere else window, options)
        return after_attention(x, mixed, layer, kind, options), None

    layers = {p.name: params[p.name] for p in parameter_table(shape) if p.per_layer}
    scanned = layers, jnp.asarray(layer_windows(shape))
    x, _ = jax.lax.scan(_kept(block, options), x, scanned, unroll=_unroll(shape, options))
    return x


def _laid_out(
    params: Params, x: Array, tables: tuple[Array, Array], shape: Shape, options: ModelOptions
) -> Array:
    """Pass layers of several kinds, one after another."""
    seen: dict[int, tuple[Array, Array]] = {}
    for i, (kind, places, source) in enumerate(layers_of(shape)):

        def block(x: Array, layer: Params, shared: Any, kind: Block = kind) -> tuple[Array, Any]:
            q, k, v = attention_inputs(x, layer, tables, kind, options, shared)
            mixed = attend(q, k, v, getattr(kind.mixer, "window", None) or EVERYWHERE, options)
            return after_attention(x, mixed, layer, kind, options), (k, v)

        layer = {name: params[name][place] for name, place in places}
        x, seen[i] = _kept(block, options)(x, layer, seen.get(source))
    return x


def _kept(block: Any, options: ModelOptions) -> Any:
    """Return a block whose backward pass computes again what the options say."""
    if options.remat == "none":
        return block
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if options.remat == "dots" else None
    return jax.checkpoint(block, policy=policy)


def _unroll(shape: Shape, options: ModelOptions) -> int:
    if options.unroll:
        return min(options.unroll, shape.n_layer)
    return shape.n_layer if jax.default_backend() == "cpu" and shape.n_layer <= 16 else 1


def embed(params: Params, tokens: Array, options: ModelOptions) -> Array:
    """Look the tokens' embeddings up, (B, T, D).

    Cast after, not before: the gradient sums each token's over all places where it stands, and a sum in
    bfloat16 stops growing after some hundreds.
    """
    return params["embedding"][tokens].astype(options.dtype)


def unembed(params: Params, x_BxTxD: Array, shape: Shape, options: ModelOptions) -> Array:
    """Return float32 logits, (B, T, V)."""
    x = rms_norm(x_BxTxD, params["final_norm"], options)
    table = params["embedding"].T if shape.tied_embeddings else params["lm_head"]
    logits = contract(x, table.astype(x.dtype)).astype(jnp.float32)
    return logits if options.logit_scale == 1.0 else logits * options.logit_scale


def after_attention(
    x_BxTxD: Array, mixed_BxTxHxh: Array, layer: Params, block: Block, options: ModelOptions
) -> Array:
    """Return the residual stream after one layer's output projection and FFN."""
    out = contract(mixed_BxTxHxh, layer["o_proj"].astype(x_BxTxD.dtype), 2)
    if getattr(block.mixer, "output_bias", False):
        out = biased(out, layer["o_bias"])
    if block.norms == 4:
        out = rms_norm(out, layer["attention_post_norm"], options)
    x = x_BxTxD + out
    assert isinstance(block.ffn, Dense)
    out = _ffn(rms_norm(x, layer["ffn_norm"], options), layer, block.ffn)
    if block.norms == 4:
        out = rms_norm(out, layer["ffn_post_norm"], options)
    return x + out


def _ffn(y_BxTxD: Array, layer: Params, ffn: Dense) -> Array:
    """SwiGLU, (silu(y W_gate) * y W_up) W_down (arXiv 2002.05202), or silu(y W_up) W_down."""

    def project(name: str, x: Array) -> Array:
        out = contract(x, layer[f"{name}_proj"].astype(x.dtype))
        return biased(out, layer[f"{name}_bias"]) if ffn.bias else out

    up = project("up", y_BxTxD)
    inner = jax.nn.silu(project("gate", y_BxTxD)) * up if ffn.gated else jax.nn.silu(up)
    return project("down", inner)


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
    mixers, norms = [b.mixer for b in shape.blocks], {b.norms for b in shape.blocks}
    table = [p.name for p in parameter_table(shape)]
    refused = {
        "a mixer other than grouped-query and latent attention": not all(
            type(m) in (Attention, LatentAttention) for m in mixers
        ),
        "gates, sinks, or keys and values of one projection or two sizes": any(
            (m.gate, m.sinks, m.k_is_v, m.v_head_dim) != ("none", False, False, None)
            for m in mixers
            if isinstance(m, Attention)
        ),
        "biases or an indexer in latent attention": any(
            m.bias or m.n_index_head is not None for m in mixers if isinstance(m, LatentAttention)
        ),
        "experts": not all(type(b.ffn) is Dense for b in shape.blocks),
        "norm_bias": shape.norm_bias,
        "n_positions": shape.n_positions != 0,
        f"norms_per_layer = {max(norms)}": not norms <= {2, 4},
        "tensors of one name in two sizes": len(table) != len(set(table)),
        "further tensors": bool(shape.extras or any(b.extras for b in shape.blocks) or not shape.final_norm),
    }
    for name, is_set in refused.items():
        if is_set:
            raise InvalidInput(
                f"The model cannot be built with {name}: it has grouped-query and latent attention, dense "
                "FFNs, RMSNorm (2 or 4 a block) and rotary positions."
            )
    for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"):
        value = getattr(shape, name)
        if not isinstance(value, int | np.integer):
            raise InvalidInput(f"{name} must be whole to build a model, but is {value!r}.")
    sizes = {
        ("rope_dim", m.rope_dim) if isinstance(m, LatentAttention) else ("head_dim", m.head_dim)
        for m in mixers
        if isinstance(m, Attention | LatentAttention)
    }
    for name, size in sizes:
        if size % 2:
            raise InvalidInput(f"{name} must be even (rotary positions turn pairs), but is {size}.")
    if len({size for _, size in sizes}) > 1:
        raise InvalidInput(
            f"All layers must turn as many values with their position, but are {sorted(sizes)}."
        )
    layers_of(shape)


def _alike(shape: Shape) -> bool:
    """Whether all layers are the same but for their windows, and none reads another's keys and values."""
    first = shape.blocks[0]
    if isinstance(first.mixer, Attention):
        plain = replace(first.mixer, window=None)
        return not plain.shared and all(
            isinstance(b.mixer, Attention)
            and replace(b.mixer, window=None) == plain
            and (b.ffn, b.norms) == (first.ffn, first.norms)
            for b in shape.blocks
        )
    return len(shape.blocks) == 1
