"""The one table of a shape's parameters, and counts of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import choose
from scalesim.shape.layers import LayerCounts, layer_counts
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.shape.shape import Shape

__all__ = ["Convention", "Parameter", "count_params", "parameter_table"]

Group = Literal["embedding", "unembedding", "attention", "ffn", "norm", "bias"]
Convention = Literal["total", "active", "non_embedding", "embedding", "paper"]

_ALL: frozenset[str] = frozenset({"embedding", "unembedding", "attention", "ffn", "norm", "bias"})
_CONVENTIONS: dict[str, frozenset[str]] = {
    "total": _ALL,
    "active": _ALL,
    "non_embedding": frozenset({"attention", "ffn", "norm", "bias"}),
    "embedding": frozenset({"embedding", "unembedding"}),
    "paper": frozenset({"attention", "ffn"}),
}


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model: its name, sizes, the logical name of each axis, and what it belongs to.

    `per_layer` tensors exist in every block, or in `layers` of the blocks where that is given; `shape` is
    that of a single block. The axis "expert" is that of routed experts, of which a token visits some.
    """

    name: str
    shape: tuple[Num, ...]
    axes: tuple[str, ...]
    group: Group
    per_layer: bool = True
    layers: Num | None = None

    @property
    def size(self) -> Num:
        """Values in this tensor (one block's, if per layer)."""
        return math.prod(self.shape)


def parameter_table(shape: Shape) -> tuple[Parameter, ...]:
    """List every parameter tensor of a shape.

    Names follow the Llama checkpoints' habit (q_proj, gate_proj, ...), axes are logical names for sharding.

    >>> from scalesim.shape import Shape
    >>> s = Shape(n_layer=2, d_model=256, n_head=8, n_kv_head=2, d_ff=512)
    >>> [p.name for p in parameter_table(s) if p.group == "attention"]
    ['q_proj', 'k_proj', 'v_proj', 'o_proj']
    >>> next(p.shape for p in parameter_table(s) if p.name == "k_proj")
    (256, 2, 64)
    """
    s, d = shape, shape.d_model
    counts = layer_counts(s)
    # None says "all": the plain case then needs no count of its own.
    cached = None if s.layers_per_kv == 1 else counts.caches
    table = [Parameter("embedding", (s.vocab_size, d), ("vocab", "embed"), "embedding", per_layer=False)]
    table += _attention(s, cached) if s.latent is None else _latent_attention(s)
    if s.n_positions:
        table.append(Parameter("positions", (s.n_positions, d), ("position", "embed"), "embedding", False))
    table += [*_ffn(s, counts), *_biases(s, cached, counts), *_norms(s, cached)]
    if not s.tied_embeddings:
        table.append(Parameter("lm_head", (d, s.vocab_size), ("embed", "vocab"), "unembedding", False))
    return tuple(p for p in table if not (isinstance(p.layers, int) and p.layers == 0))


def _attention(s: Shape, cached: Num | None) -> list[Parameter]:
    d, h, q, kv = s.d_model, s.head_dim, s.n_head, s.n_kv_head
    kv_axes = ("embed", "kv_heads", "head_dim")
    return [
        Parameter("q_proj", (d, q, h), ("embed", "heads", "head_dim"), "attention"),
        Parameter("k_proj", (d, kv, h), kv_axes, "attention", layers=cached),
        Parameter("v_proj", (d, kv, h), kv_axes, "attention", layers=cached),
        Parameter("o_proj", (q, h, d), ("heads", "head_dim", "embed"), "attention"),
    ]


def _latent_attention(s: Shape) -> list[Parameter]:
    """The tensors of DeepSeek-V2's attention, by its checkpoints' names."""
    latent = s.latent
    assert latent is not None
    d, h, q, rank = s.d_model, s.head_dim, s.n_head, latent.kv_lora_rank
    up = (rank, q, h - latent.rope_dim + latent.v_head_dim)
    queries = [Parameter("q_proj", (d, q, h), ("embed", "heads", "head_dim"), "attention")]
    if latent.q_lora_rank is not None:
        queries = [
            Parameter("q_a_proj", (d, latent.q_lora_rank), ("embed", "latent"), "attention"),
            Parameter("q_b_proj", (latent.q_lora_rank, q, h), ("latent", "heads", "head_dim"), "attention"),
        ]
    return [
        *queries,
        Parameter("kv_a_proj", (d, rank + latent.rope_dim), ("embed", "latent"), "attention"),
        Parameter("kv_b_proj", up, ("latent", "heads", "head_dim"), "attention"),
        Parameter("o_proj", (q, latent.v_head_dim, d), ("heads", "head_dim", "embed"), "attention"),
    ]


def _ffn(s: Shape, counts: LayerCounts) -> list[Parameter]:
    d, moe = s.d_model, s.moe
    names = ("gate_proj", "up_proj", "down_proj") if s.gated_ffn else ("up_proj", "down_proj")

    def matrices(
        prefix: str, width: Num, layers: Num | None, expert: tuple[Num, ...] = ()
    ) -> list[Parameter]:
        axis = ("expert",) * len(expert)
        return [
            Parameter(prefix + name, (*expert, width, d), (*axis, "mlp", "embed"), "ffn", layers=layers)
            if name == "down_proj"
            else Parameter(prefix + name, (*expert, d, width), (*axis, "embed", "mlp"), "ffn", layers=layers)
            for name in names
        ]

    if moe is None:
        return matrices("", s.d_ff, None)
    table = matrices("", s.d_ff, counts.dense)
    table.append(Parameter("router", (d, moe.n_expert), ("embed", "expert_out"), "ffn", layers=counts.moe))
    table += matrices("expert_", moe.d_ff, counts.moe, (moe.n_expert,))
    if not (isinstance(moe.n_shared, int) and moe.n_shared == 0):
        table += matrices("shared_", moe.n_shared * moe.d_ff, counts.moe)
    return table


def _biases(s: Shape, cached: Num | None, counts: LayerCounts) -> list[Parameter]:
    d, h, q, kv = s.d_model, s.head_dim, s.n_head, s.n_kv_head
    biases = []
    if s.qkv_bias:
        biases += [
            Parameter("q_bias", (q, h), ("heads", "head_dim"), "bias"),
            Parameter("k_bias", (kv, h), ("kv_heads", "head_dim"), "bias", layers=cached),
            Parameter("v_bias", (kv, h), ("kv_heads", "head_dim"), "bias", layers=cached),
        ]
    if s.output_bias:
        biases.append(Parameter("o_bias", (d,), ("embed",), "bias"))
    if s.ffn_bias:
        dense = None if s.moe is None else counts.dense
        if s.gated_ffn:
            biases.append(Parameter("gate_bias", (s.d_ff,), ("mlp",), "bias", layers=dense))
        biases += [
            Parameter("up_bias", (s.d_ff,), ("mlp",), "bias", layers=dense),
            Parameter("down_bias", (d,), ("embed",), "bias", layers=dense),
        ]
    if s.moe is not None and s.moe.router_bias:
        biases.append(Parameter("router_bias", (s.moe.n_expert,), ("expert_out",), "bias", layers=counts.moe))
    return biases


def _norms(s: Shape, cached: Num | None) -> list[Parameter]:
    d, h = s.d_model, s.head_dim
    names = ["attention_norm", "ffn_norm", "attention_post_norm", "ffn_post_norm"][: s.norms_per_layer]
    norms = [Parameter(name, (d,), ("embed",), "norm") for name in names]
    if s.qk_norm == "head":
        norms.append(Parameter("q_norm", (h,), ("head_dim",), "norm"))
        norms.append(Parameter("k_norm", (h,), ("head_dim",), "norm", layers=cached))
    elif s.qk_norm == "projection":
        norms.append(Parameter("q_norm", (s.n_head, h), ("heads", "head_dim"), "norm"))
        norms.append(Parameter("k_norm", (s.n_kv_head, h), ("kv_heads", "head_dim"), "norm", layers=cached))
    if s.latent is not None:
        if s.latent.q_lora_rank is not None:
            norms.append(Parameter("q_a_norm", (s.latent.q_lora_rank,), ("latent",), "norm"))
        norms.append(Parameter("kv_a_norm", (s.latent.kv_lora_rank,), ("latent",), "norm"))
    norms.append(Parameter("final_norm", (d,), ("embed",), "norm", per_layer=False))
    if s.norm_bias:
        norms += [
            Parameter(p.name + "_bias", p.shape, p.axes, "norm", p.per_layer)
            for p in norms
            if p.axes == ("embed",)
        ]
    return norms


def _widened(value: Num) -> Num:
    """Make a product of sizes safe: 32-bit integers would overflow at a few billion parameters."""
    if isinstance(value, np.ndarray | np.integer) and np.issubdtype(value.dtype, np.integer):
        return value.astype(np.int64)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.integer):
        return value.astype(jnp.result_type(float))
    return value


def count_params(shape: Shape, convention: Convention = "total") -> Num:
    """Count parameters by one of five conventions.

    "total" counts everything; "active" what one token passes through (all but the experts that it does not
    visit); "non_embedding" leaves out the embedding, position and output tables, which "embedding" counts;
    "paper" counts the attention and FFN matrices alone, which with d_ff = 8/3 d_model is
    N = n_layer (8 d_model^2 + 2 d_model head_dim (n_head + n_kv_head)) (arXiv 2503.09579, digitised
    Figure 2: no norms, no embeddings).

    Python integers and NumPy arrays are counted exactly; JAX integer arrays in the default float type
    (a 32-bit integer overflows at 2.1 billion).

    >>> from scalesim.shape import Shape
    >>> s = Shape(n_layer=6, d_model=768, n_head=8, n_kv_head=8, d_ff=2048)
    >>> count_params(s, "paper")
    37748736
    """
    included = _CONVENTIONS[choose("convention", convention, tuple(_CONVENTIONS))]
    wide = jax.tree.map(_widened, shape)
    once: Num = 0
    every: Num = 0  # per-layer tensors of all layers are summed first: one product with n_layer
    some: Num = 0
    for p in parameter_table(wide):
        if p.group not in included:
            continue
        size = p.size
        if convention == "active" and p.axes[0] == "expert":
            size = math.prod(p.shape[1:]) * wide.moe.top_k
        if not p.per_layer:
            once = once + size
        elif p.layers is None:
            every = every + size
        else:
            some = some + p.layers * size
    return once + wide.n_layer * every + some
