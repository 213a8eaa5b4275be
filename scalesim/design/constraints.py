"""What a design must not exceed, besides its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.cost.capacity import RESERVE, usable_bytes
from scalesim.cost.memory import serving_memory
from scalesim.cost.objectives import TimePerToken, TimeToFirstToken
from scalesim.cost.paper import FIGURE_2, training_flops
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = [
    "AtMost",
    "fits",
    "max_memory",
    "max_params",
    "max_time_per_token",
    "max_time_to_first_token",
    "max_training_flops",
]

Num = Any


@register
@dataclass(frozen=True, kw_only=True)
class AtMost:
    """measure(shape, workload) <= limit.

    Attributes:
        measure: a positive number of a shape at a workload: any JAX function, elementwise.
        limit: the most it may be, above 0.
        name: what messages call it.

    Raises:
        InvalidInput: the limit is not positive and finite.

    >>> shallow = AtMost(measure=lambda shape, workload: shape.n_layer, limit=24.0, name="n_layer")
    """

    measure: Any
    limit: Num
    name: str = static("constraint")

    def __post_init__(self) -> None:
        if isinstance(self.limit, int | float) and not 0 < self.limit < float("inf"):
            raise InvalidInput(f"The limit of {self.name} must be above 0 and finite, but is {self.limit!r}.")
        if jax.tree.leaves(self.measure) == [self.measure] and callable(self.measure):
            # A plain function is part of the program, not of its data.
            object.__setattr__(self, "measure", jax.tree_util.Partial(self.measure))

    def excess(self, shape: Shape, workload: Workload) -> Num:
        """Return log(measure / limit): above 0 where the limit is exceeded."""
        return jnp.log(self.measure(shape, workload) / self.limit)


def worst_excess(constraints: tuple[AtMost, ...], shape: Shape, workload: Workload, like: Num) -> Num:
    """Return the largest excess of any constraint, of the shape of `like`; -inf if there is none."""
    worst = jnp.full(jnp.shape(like), -jnp.inf)
    for constraint in constraints:
        worst = jnp.maximum(worst, constraint.excess(shape, workload))
    return worst


def _params(shape: Shape, workload: Workload) -> Num:
    return count_params(shape) * 1.0


def max_params(limit: float) -> AtMost:
    """At most `limit` parameters, embeddings included."""
    return AtMost(measure=_params, limit=limit, name="n_params_total")


def max_memory(limit: float, cost: Any = FIGURE_2) -> AtMost:
    """At most `limit` bytes of weights and KV cache, as `cost` counts them."""
    return AtMost(measure=_Memory(cost), limit=limit, name="memory_bytes")


@register
@dataclass(frozen=True)
class _Memory:
    cost: Any

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        return self.cost.memory(shape, workload).total


def max_training_flops(limit: float, *, tokens_per_param: float = 20.0, context: float = 8192.0) -> AtMost:
    """At most `limit` FLOPs of training, on so many tokens a parameter, in documents of `context` tokens."""
    measure = _TrainingFlops(tokens_per_param=tokens_per_param, context=context)
    return AtMost(measure=measure, limit=limit, name="training_flops")


@register
@dataclass(frozen=True, kw_only=True)
class _TrainingFlops:
    tokens_per_param: Num
    context: Num

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        tokens = self.tokens_per_param * count_params(shape, "paper")
        return training_flops(shape, tokens, self.context).total


def max_time_per_token(seconds: float, hardware: Hardware, parallel: Parallel = ONE_DEVICE) -> AtMost:
    """At most so many seconds between two tokens, on named hardware."""
    measure = TimePerToken(hardware=hardware, parallel=parallel)
    return AtMost(measure=measure, limit=seconds, name="tpot_s")


def max_time_to_first_token(seconds: float, hardware: Hardware, parallel: Parallel = ONE_DEVICE) -> AtMost:
    """At most so many seconds to the first token, without queueing, on named hardware."""
    measure = TimeToFirstToken(hardware=hardware, parallel=parallel)
    return AtMost(measure=measure, limit=seconds, name="ttft_s")


@register
@dataclass(frozen=True)
class _DeviceMemory:
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        return serving_memory(shape, workload, self.parallel).total


def fits(hardware: Hardware, parallel: Parallel = ONE_DEVICE, reserve: float = RESERVE) -> AtMost:
    """Weights, KV cache and activations within one accelerator's memory, less a reserve for the runtime."""
    limit = float(usable_bytes(hardware, reserve))
    return AtMost(measure=_DeviceMemory(parallel), limit=limit, name="device_memory_bytes")
