"""The shape of a decoder-only transformer, and the one table of its parameters.

Everything that counts, costs or builds parameters reads `parameter_table`: the cost model sums it, the Flax
model allocates it. All functions here take a real shape (Python integers: exact counts), a relaxed one
(floats) and a batch of either (arrays in the fields).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput, choose
from scalesim.pytree import static

__all__ = ["Convention", "Parameter", "Shape", "count_params", "parameter_table"]

Num = Any  # a Python number, a NumPy or JAX array, or a tracer
Group = Literal["embedding", "unembedding", "attention", "ffn", "norm", "bias"]
Convention = Literal["total", "non_embedding", "paper"]

_CONVENTIONS: dict[str, frozenset[str]] = {
    "total": frozenset({"embedding", "unembedding", "attention", "ffn", "norm", "bias"}),
    "non_embedding": frozenset({"attention", "ffn", "norm", "bias"}),
    "paper": frozenset({"attention", "ffn"}),
}
_SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
_ABSURD = 1e9  # no size of a transformer is beyond this; a larger one is a slip of units


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only transformer's shape: sizes are pytree leaves, architecture options are static.

    The heads are free of the width: the projections are d_model x (n_head * head_dim) and
    d_model x (n_kv_head * head_dim), whatever d_model is. n_kv_head = n_head is multi-head attention,
    n_kv_head = 1 multi-query attention.

    Attributes:
        n_layer: transformer blocks.
        d_model: width of the residual stream.
        n_head: query heads a layer.
        n_kv_head: key-value heads a layer; divides n_head in a real shape.
        head_dim: size of one head.
        d_ff: inner width of the feed-forward block (8/3 d_model in the paper).
        vocab_size: rows of the embedding table.
        gated_ffn: three FFN matrices (SwiGLU) rather than two.
        tied_embeddings: input and output embeddings share one table.
        qkv_bias, output_bias, ffn_bias: biases on the projections.
        qk_norm: norms of queries and keys: "none", "head" (one vector of head_dim each, shared by the
            heads) or "projection" (over all heads together).
        norms_per_layer: norms of width d_model in a block (2; 4 with post-norms as well).
        norm_bias: LayerNorm with scale and bias, rather than RMSNorm.
        n_positions: rows of a learned position table (0: rotary or none).

    Raises:
        InvalidInput: a size given as a Python number is not positive and finite, or n_kv_head exceeds
            n_head or (both integers) does not divide it. Arrays and tracers are not looked into.

    >>> llama3_1b = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256)
    >>> count_params(llama3_1b)
    1235814400
    """

    n_layer: Num
    d_model: Num
    n_head: Num
    n_kv_head: Num
    head_dim: Num = 64
    d_ff: Num
    vocab_size: Num = 50304
    gated_ffn: bool = static(True)
    tied_embeddings: bool = static(True)
    qkv_bias: bool = static(False)
    output_bias: bool = static(False)
    ffn_bias: bool = static(False)
    qk_norm: Literal["none", "head", "projection"] = static("none")
    norms_per_layer: int = static(2)
    norm_bias: bool = static(False)
    n_positions: int = static(0)

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool | str):
                raise InvalidInput(f"{name} must be a number, but is {value!r}.")
            if isinstance(value, int | float) and not 0 < value <= _ABSURD:
                raise InvalidInput(f"{name} must be above 0 and at most {_ABSURD:.0e}, but is {value!r}.")
        choose("qk_norm", self.qk_norm, ("none", "head", "projection"))
        heads, kv_heads = self.n_head, self.n_kv_head
        if isinstance(heads, int | float) and isinstance(kv_heads, int | float):
            if kv_heads > heads:
                raise InvalidInput(f"n_kv_head must be at most n_head = {heads}, but is {kv_heads}.")
            if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
                divisors = [k for k in range(1, heads + 1) if heads % k == 0]
                raise InvalidInput(
                    f"n_kv_head must divide n_head = {heads}, but is {kv_heads}; {divisors} would do."
                )

    @property
    def group_size(self) -> Num:
        """Query heads that share one KV head, n_head / n_kv_head."""
        return self.n_head / self.n_kv_head

    @property
    def n_params_total(self) -> Num:
        """All parameters."""
        return count_params(self, "total")

    @property
    def n_params_non_embedding(self) -> Num:
        """Parameters outside the embedding tables."""
        return count_params(self, "non_embedding")


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model: its name, sizes, the logical name of each axis, and what it belongs to.

    `per_layer` tensors exist once in every block; `shape` is that of a single block.
    """

    name: str
    shape: tuple[Num, ...]
    axes: tuple[str, ...]
    group: Group
    per_layer: bool = True

    @property
    def size(self) -> Num:
        """Values in this tensor (one block's, if per layer)."""
        return math.prod(self.shape)


def parameter_table(shape: Shape) -> tuple[Parameter, ...]:
    """List every parameter tensor of a shape.

    Names follow the Llama checkpoints' habit (q_proj, gate_proj, ...), axes are logical names for sharding.

    >>> s = Shape(n_layer=2, d_model=256, n_head=8, n_kv_head=2, d_ff=512)
    >>> [p.name for p in parameter_table(s) if p.group == "attention"]
    ['q_proj', 'k_proj', 'v_proj', 'o_proj']
    >>> next(p.shape for p in parameter_table(s) if p.name == "k_proj")
    (256, 2, 64)
    """
    s = shape
    d, h, q, kv, f = s.d_model, s.head_dim, s.n_head, s.n_kv_head, s.d_ff
    table = [
        Parameter("embedding", (s.vocab_size, d), ("vocab", "embed"), "embedding", per_layer=False),
        Parameter("q_proj", (d, q, h), ("embed", "heads", "head_dim"), "attention"),
        Parameter("k_proj", (d, kv, h), ("embed", "kv_heads", "head_dim"), "attention"),
        Parameter("v_proj", (d, kv, h), ("embed", "kv_heads", "head_dim"), "attention"),
        Parameter("o_proj", (q, h, d), ("heads", "head_dim", "embed"), "attention"),
    ]
    if s.n_positions:
        table.append(Parameter("positions", (s.n_positions, d), ("position", "embed"), "embedding", False))
    if s.gated_ffn:
        table.append(Parameter("gate_proj", (d, f), ("embed", "mlp"), "ffn"))
    table += [
        Parameter("up_proj", (d, f), ("embed", "mlp"), "ffn"),
        Parameter("down_proj", (f, d), ("mlp", "embed"), "ffn"),
        *_biases(s),
        *_norms(s),
    ]
    if not s.tied_embeddings:
        table.append(Parameter("lm_head", (d, s.vocab_size), ("embed", "vocab"), "unembedding", False))
    return tuple(table)


def _biases(s: Shape) -> list[Parameter]:
    d, h, q, kv = s.d_model, s.head_dim, s.n_head, s.n_kv_head
    biases = []
    if s.qkv_bias:
        biases += [
            Parameter("q_bias", (q, h), ("heads", "head_dim"), "bias"),
            Parameter("k_bias", (kv, h), ("kv_heads", "head_dim"), "bias"),
            Parameter("v_bias", (kv, h), ("kv_heads", "head_dim"), "bias"),
        ]
    if s.output_bias:
        biases.append(Parameter("o_bias", (d,), ("embed",), "bias"))
    if s.ffn_bias:
        if s.gated_ffn:
            biases.append(Parameter("gate_bias", (s.d_ff,), ("mlp",), "bias"))
        biases += [
            Parameter("up_bias", (s.d_ff,), ("mlp",), "bias"),
            Parameter("down_bias", (d,), ("embed",), "bias"),
        ]
    return biases


def _norms(s: Shape) -> list[Parameter]:
    d, h = s.d_model, s.head_dim
    names = ["attention_norm", "ffn_norm", "attention_post_norm", "ffn_post_norm"][: s.norms_per_layer]
    norms = [Parameter(name, (d,), ("embed",), "norm") for name in names]
    if s.qk_norm == "head":
        norms += [Parameter(name, (h,), ("head_dim",), "norm") for name in ("q_norm", "k_norm")]
    elif s.qk_norm == "projection":
        norms.append(Parameter("q_norm", (s.n_head, h), ("heads", "head_dim"), "norm"))
        norms.append(Parameter("k_norm", (s.n_kv_head, h), ("kv_heads", "head_dim"), "norm"))
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
    """Count parameters by one of three conventions.

    "total" counts everything; "non_embedding" leaves out the embedding, position and output tables;
    "paper" counts the attention and FFN matrices alone, which with d_ff = 8/3 d_model is
    N = n_layer (8 d_model^2 + 2 d_model head_dim (n_head + n_kv_head)) (arXiv 2503.09579, digitised
    Figure 2: no norms, no embeddings).

    Python integers and NumPy arrays are counted exactly; JAX integer arrays in the default float type
    (a 32-bit integer overflows at 2.1 billion).

    >>> s = Shape(n_layer=6, d_model=768, n_head=8, n_kv_head=8, d_ff=2048)
    >>> count_params(s, "paper")
    37748736
    """
    included = _CONVENTIONS[choose("convention", convention, tuple(_CONVENTIONS))]
    wide = jax.tree.map(_widened, shape)
    sizes = [(p.size, p.per_layer) for p in parameter_table(wide) if p.group in included]
    return sum(size for size, per_layer in sizes if not per_layer) + wide.n_layer * sum(
        size for size, per_layer in sizes if per_layer
    )
