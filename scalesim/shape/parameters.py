"""The one table of a shape's parameters, and counts of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import choose
from scalesim.pytree import register, static
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.shape.shape import Shape

__all__ = ["Convention", "Parameter", "count_params", "matrix", "parameter_table", "vector"]

Group = Literal["embedding", "attention", "ffn", "bias", "norm", "unembedding"]
Convention = Literal["total", "active", "non_embedding", "embedding", "paper"]

_ALL: tuple[str, ...] = ("embedding", "attention", "ffn", "bias", "norm", "unembedding")
_CONVENTIONS: dict[str, tuple[str, ...]] = {
    "total": _ALL,
    "active": _ALL,
    "non_embedding": ("attention", "ffn", "norm", "bias"),
    "embedding": ("embedding", "unembedding"),
    "paper": ("attention", "ffn"),
}


@register
@dataclass(frozen=True)
class Parameter:
    """One tensor of the model, and the matrix product that it is read for.

    Attributes:
        name: by the habit of Llama's checkpoints.
        shape: its sizes; of a tensor that layers have, a single layer's.
        axes: a logical name for each size. "expert" is that of routed experts, of which a token visits some;
            "heads", "kv_heads", "mlp" and "vocab" are those that tensor parallelism splits.
        group: what it belongs to; "attention" is a mixer's matrices of any kind, "bias" its vectors.
        layers: layers that have one (None: the model has one).
        operator: the product it is read for, with others of that name side by side (empty: none).
        n_in: axes (the experts' aside) that are summed over; the rest are the result's.
        visited: of an axis "expert", how many a token visits.
    """

    name: str = static()
    shape: tuple[Num, ...] = ()
    axes: tuple[str, ...] = static(())
    group: Group = static("attention")
    layers: Num | None = None
    operator: str = static("")
    n_in: int = static(1)
    visited: Num | None = None

    @property
    def size(self) -> Num:
        """Values in this tensor (one layer's, if layers have it)."""
        return math.prod(self.shape)

    @property
    def active(self) -> Num:
        """Values that one token passes through."""
        return self.size if self.visited is None else self.visited * math.prod(self.shape[1:])

    @property
    def per_layer(self) -> bool:
        """Whether layers have it, rather than the model."""
        return self.layers is not None

    @property
    def product(self) -> tuple[Num, Num]:
        """Depth and width of the product with it: sizes summed over, and of the result."""
        sizes = self.shape[int(self.axes[0] == "expert") :]
        return math.prod(sizes[: self.n_in]), math.prod(sizes[self.n_in :])


def matrix(operator: str, name: str, *, n_in: int = 1, group: Group = "attention", **sizes: Num) -> Parameter:
    """Return a matrix that `operator` reads, its axes named by the keywords."""
    return Parameter(name, tuple(sizes.values()), tuple(sizes), group, operator=operator, n_in=n_in)


def vector(group: Group, name: str, **sizes: Num) -> Parameter:
    """Return a tensor that is no matrix product's: a bias, a norm, a filter."""
    return Parameter(name, tuple(sizes.values()), tuple(sizes), group)


def parameter_table(shape: Shape) -> tuple[Parameter, ...]:
    """List every parameter tensor of a shape.

    Names follow the Llama checkpoints' habit (q_proj, gate_proj, ...), axes are logical names for sharding.
    Blocks that hold a tensor of one name and the same sizes share a row.

    >>> from scalesim.shape import Shape
    >>> s = Shape(n_layer=2, d_model=256, n_head=8, n_kv_head=2, d_ff=512)
    >>> [p.name for p in parameter_table(s) if p.group == "attention"]
    ['q_proj', 'k_proj', 'v_proj', 'o_proj']
    >>> next(p.shape for p in parameter_table(s) if p.name == "k_proj")
    (256, 2, 64)
    """
    s, d = shape, shape.d_model
    table = [vector("embedding", "embedding", vocab=s.vocab_size, embed=d)]
    if s.n_positions:
        table.append(vector("embedding", "positions", position=s.n_positions, embed=d))
    for block in s.blocks:
        table += [replace(p, layers=block.count) for p in block.tensors(d)]
    if s.final_norm:
        table.append(vector("norm", "final_norm", embed=d))
    if s.norm_bias:
        norms = [p for p in table if p.group == "norm" and p.axes == ("embed",)]
        table += [replace(p, name=p.name + "_bias") for p in norms]
    if not s.tied_embeddings:
        table.append(matrix("logits", "lm_head", group="unembedding", embed=d, vocab=s.vocab_size))
    table += s.extras
    rows: dict[Any, Parameter] = {}
    for p in table:
        known = all(isinstance(size, int | float) for size in p.shape)
        key = (p.name, p.shape if known else tuple(map(id, p.shape)), id(p.visited), p.per_layer)
        same = rows.get(key)
        rows[key] = p if same is None or same.layers is None else replace(p, layers=same.layers + p.layers)
    return tuple(sorted(rows.values(), key=lambda p: _ALL.index(p.group)))


def _widened(value: Num) -> Num:
    """Make a product of sizes safe: 32-bit integers would overflow at a few billion parameters."""
    if isinstance(value, np.ndarray | np.integer) and np.issubdtype(value.dtype, np.integer):
        return value.astype(np.int64)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.integer):
        return value.astype(jnp.result_type(float))
    return value


def count_params(shape: Shape, convention: Convention = "total", *, visited: bool = False) -> Num:
    """Count parameters by one of five conventions.

    "total" counts everything; "active" what one token passes through (all but the experts that it does not
    visit); "non_embedding" leaves out the embedding, position and output tables, which "embedding" counts;
    "paper" counts the matrices of mixers and FFNs alone, which with d_ff = 8/3 d_model is
    N = n_layer (8 d_model^2 + 2 d_model head_dim (n_head + n_kv_head)) (arXiv 2503.09579, digitised
    Figure 2: no norms, no embeddings). With `visited`, routed experts that a token does not visit are left
    out of any convention, as 6 N D counts training: a plain shape has the same count.

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
    layers: dict[int, tuple[Num, Num]] = {}  # by the count of layers: summed first, for one product with it
    for p in parameter_table(wide):
        if p.group not in included:
            continue
        size = p.active if visited or convention == "active" else p.size
        if p.layers is None:
            once = once + size
        else:
            layers[id(p.layers)] = (p.layers, layers.get(id(p.layers), (0, 0))[1] + size)
    return once + sum(count * size for count, size in layers.values())
