"""The costs of "Cost-Optimal Grouped-Query Attention for Long-Context Modeling" (arXiv 2503.09579).

Each cost has a part that does not grow with the context (the parameters) and one that does (attention).
N is the paper's count: attention and FFN matrices alone (`count_params(shape, "paper")`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from scalesim.cost.measure import PLAN, as_measure
from scalesim.errors import check_number, choose
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.types import Num
from scalesim.workload import ContextLengths, TrainingPlan, Workload

__all__ = [
    "FIGURE_1",
    "FIGURE_2",
    "ExpectedCost",
    "HardwareAwareCost",
    "Parts",
    "inference_flops",
    "inference_memory",
    "paper_training_flops",
    "paper_training_memory",
]

Per = Literal["token", "sequence"]
GIB = 2.0**30


@register
@dataclass(frozen=True)
class Parts:
    """A cost in two parts: what is there at any context, and what grows with it."""

    time_invariant: Num
    time_variant: Num

    @property
    def total(self) -> Num:
        """Both parts together."""
        return self.time_invariant + self.time_variant


def inference_flops(
    shape: Shape, context_length: Num, *, per: Per = "token", causal_halving: bool = False
) -> Parts:
    """Return the forward FLOPs of one sequence, by token or summed over its tokens.

    Per token at context T (section 3 of the paper): C = 2 N + 4 T n_layer head_dim n_head. The sum over a
    sequence multiplies by T. With `causal_halving` a token attends to T/2 positions on average, and the
    second term halves.

    Returns:
        FLOPs, of the fields' broadcast shape.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=8, d_ff=5461)
    >>> inference_flops(shape, 1024).time_variant
    33554432.0
    """
    choose("per", per, ("token", "sequence"))
    attended = context_length * (0.5 if causal_halving else 1.0)
    tokens = context_length if per == "sequence" else 1
    # Multiplied as floats: the FLOPs of one long sequence overflow 32-bit integers many times over.
    fixed = 2.0 * count_params(shape, "paper")
    growing = 4.0 * attended * shape.n_layer * shape.head_dim * shape.n_head
    return Parts(fixed * tokens, growing * tokens)


def inference_memory(
    shape: Shape,
    context_length: Num,
    *,
    batch_size: Num = 1,
    bytes_per_weight: Num = 2.0,
    bytes_per_kv: Num = 2.0,
) -> Parts:
    """Return the bytes of the weights and of the KV cache of `batch_size` sequences.

    M = bytes_per_weight N + bytes_per_kv batch_size 2 T n_layer head_dim n_kv_head (section 3 of the paper).
    With one byte a value for both, the result is a number of values.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=8, d_ff=5461)
    >>> inference_memory(shape, 131072).time_variant / 2**30
    4.0
    """
    cached = 2.0 * context_length * shape.n_layer * shape.head_dim * shape.n_kv_head
    return Parts(bytes_per_weight * 1.0 * count_params(shape, "paper"), bytes_per_kv * batch_size * cached)


def paper_training_flops(
    shape: Shape, n_tokens: Num, context_length: Num, *, mean_position: Num | None = None
) -> Parts:
    """Return the FLOPs of training on `n_tokens` tokens in documents of `context_length`.

    C_train = 6 D (N + 2 n_layer Tbar head_dim n_head), Tbar the mean position in the context: T/2 for
    documents that fill it (section 3 of the paper), or `mean_position` where packed documents are shorter.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=8, d_ff=5461)
    >>> f"{paper_training_flops(shape, 20e9, 8192).total:.3e}"
    '8.053e+19'
    """
    position = context_length / 2 if mean_position is None else mean_position
    fixed = 6.0 * n_tokens * count_params(shape, "paper")
    return Parts(fixed, 12.0 * n_tokens * shape.n_layer * position * shape.head_dim * shape.n_head)


def paper_training_memory(shape: Shape, context_length: Num, *, bytes_per_value: Num = 1.0) -> Parts:
    """Return the memory of training one sequence: weights, gradients and two moments, and a residual stream.

    M_train = 4 N + T d_model n_layer values (section 3 of the paper); `bytes_per_value` turns it into bytes.

    >>> shape = Shape(n_layer=2, d_model=128, n_head=2, n_kv_head=1, d_ff=256)
    >>> paper_training_memory(shape, 1000).time_variant
    256000.0
    """
    return Parts(
        bytes_per_value * 4.0 * count_params(shape, "paper"),
        bytes_per_value * context_length * shape.d_model * shape.n_layer * 1.0,
    )


@register
@dataclass(frozen=True, kw_only=True)
class HardwareAwareCost:
    """The paper's hardware-aware cost Z = w M^alpha + (1 - w) C^beta, with its units.

    Z is not homogeneous: its units change the optimum, so they are part of it. The defaults are those of
    Figure 2: memory in bytes, FLOPs summed over the sequence with no causal halving. Precisions are the
    workload's.

    Attributes:
        memory_weight: w, 0 (FLOPs alone) to 1 (memory alone).
        memory_exponent: alpha.
        flops_exponent: beta.
        memory_unit: bytes in one unit of M (1, or 2**30 for GiB).
        flops_unit: FLOPs in one unit of C.
        flops_per: "sequence" or "token".
        causal_halving: whether a token attends to half the context on average.

    Raises:
        InvalidInput: a weight outside [0, 1], or another number that is not positive.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=16384 / 3)
    >>> round(HardwareAwareCost()(shape, Workload(context_length=131072)))
    81430
    """

    name: ClassVar[str] = "Z"
    memory_weight: Num = 0.9
    memory_exponent: Num = 1 / 2
    flops_exponent: Num = 1 / 3
    memory_unit: Num = 1.0
    flops_unit: Num = 1.0
    flops_per: Per = static("sequence")
    causal_halving: bool = static(False)

    def __post_init__(self) -> None:
        choose("flops_per", self.flops_per, ("token", "sequence"))
        check_number("memory_weight", self.memory_weight, zero=True, most=1)
        for field in dataclasses.fields(self)[1:]:
            if not field.metadata:
                check_number(field.name, getattr(self, field.name))

    def memory(self, shape: Shape, workload: Workload) -> Parts:
        """Return the inference memory in bytes."""
        return inference_memory(
            shape,
            workload.context_length,
            batch_size=workload.batch_size,
            bytes_per_weight=workload.weight_bits / 8,
            bytes_per_kv=workload.kv_bits / 8,
        )

    def flops(self, shape: Shape, workload: Workload) -> Parts:
        """Return the inference FLOPs, of all the batch's sequences."""
        parts = inference_flops(
            shape, workload.context_length, per=self.flops_per, causal_halving=self.causal_halving
        )
        return jax.tree.map(lambda part: part * workload.batch_size, parts)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return Z."""
        memory = self.memory(shape, workload).total / self.memory_unit
        flops = self.flops(shape, workload).total / self.flops_unit
        return (
            self.memory_weight * memory**self.memory_exponent
            + (1 - self.memory_weight) * flops**self.flops_exponent
        )


FIGURE_2 = HardwareAwareCost()
"""Figure 2's units: bytes, whole-sequence FLOPs, no causal halving (digitised: residual 1e-4, 32 markers)."""

FIGURE_1 = HardwareAwareCost(memory_unit=GIB, causal_halving=True)
"""Figure 1's scatter: memory in GiB, and causal halving."""


@register
@dataclass(frozen=True)
class ExpectedCost:
    """The expectation of a cost over a distribution of context lengths, E_T[cost(shape, T)].

    Memory and FLOPs are affine in T, so for them this is the cost at E[T]; Z is not, and there
    E[Z(T)] < Z(E[T]). The sum over the distribution is exact for any cost.

    >>> lengths = ContextLengths.from_histogram([8192, 131072], [1, 1])
    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> mean = Workload(context_length=float(lengths.mean))
    >>> bool(ExpectedCost(FIGURE_2, lengths)(shape, mean) < FIGURE_2(shape, mean))
    True
    """

    cost: Any
    lengths: ContextLengths

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_measure(self.cost))

    @property
    def name(self) -> str:
        """What the cost within is called."""
        return self.cost.name

    @property
    def unit(self) -> str:
        """The unit of the cost within."""
        return self.cost.unit

    def _expected(self, cost: Callable[..., Any], shape: Shape, workload: Workload, *plan: Any) -> Any:
        weights = jnp.asarray(self.lengths.weights)

        def at(length: Num) -> Any:
            return cost(shape, dataclasses.replace(workload, context_length=length), *plan)

        at_each = jax.vmap(at)(jnp.asarray(self.lengths.lengths))
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), at_each)

    def __call__(self, shape: Shape, workload: Workload, plan: TrainingPlan = PLAN) -> Num:
        """Return the expected cost; `workload` gives all but the context length."""
        return self._expected(self.cost, shape, workload, plan)

    def memory(self, shape: Shape, workload: Workload) -> Parts:
        """Return the expected memory in bytes."""
        return self._expected(self.cost.function.memory, shape, workload)

    def flops(self, shape: Shape, workload: Workload) -> Parts:
        """Return the expected FLOPs."""
        return self._expected(self.cost.function.flops, shape, workload)
