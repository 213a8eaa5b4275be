"""What a search may minimise or limit on real hardware: callable pytrees that know their name and unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from scalesim.cost.capacity import RESERVE, usable_bytes
from scalesim.cost.latency import step_time, time_to_first_token
from scalesim.cost.measure import LOSS, PLAN, AtMost, Measure, as_measure
from scalesim.cost.memory import serving_memory
from scalesim.cost.paper import FIGURE_2, paper_training_flops
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.cost.price import lifetime_price, token_price
from scalesim.errors import InvalidInput, check_number, choose
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.types import Num
from scalesim.workload import Traffic, TrainingPlan, Workload

__all__ = [
    "MEASURES",
    "LifetimePrice",
    "RequestPrice",
    "TimePerToken",
    "TimeToFirstToken",
    "WeightedCost",
    "fits",
    "max_memory",
    "max_params",
    "max_time_per_token",
    "max_time_to_first_token",
    "max_training_flops",
    "named_measure",
    "reported_cost",
]


@register
@dataclass(frozen=True, kw_only=True)
class TimeToFirstToken:
    """Seconds to the first token of one prompt of the workload's length, without queueing.

    >>> from scalesim.hardware import load_hardware
    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> cost = TimeToFirstToken(hardware=load_hardware("a100"))
    >>> float(cost(shape, Workload(context_length=131072))) > 1.0
    True
    """

    name: ClassVar[str] = "ttft"
    label: ClassVar[str] = "time to the first token"
    unit: ClassVar[str] = "s"

    hardware: Hardware
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return seconds, of the fields' broadcast shape."""
        return time_to_first_token(shape, workload, self.hardware, self.parallel)


@register
@dataclass(frozen=True, kw_only=True)
class TimePerToken:
    """Seconds between two tokens of a sequence while the workload's batch decodes."""

    name: ClassVar[str] = "tpot"
    label: ClassVar[str] = "time per token"
    unit: ClassVar[str] = "s"

    hardware: Hardware
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return seconds, of the fields' broadcast shape."""
        return step_time(shape, workload, self.hardware, self.parallel)


@register
@dataclass(frozen=True, kw_only=True)
class RequestPrice:
    """$ of a million requests of the workload: its prompt, and its generated tokens (one, if not stated).

    At the workload's batch size, which a search does not check for memory.

    Attributes:
        hardware: where, with a typical price.
        parallel: over how many accelerators.
    """

    name: ClassVar[str] = "price"
    label: ClassVar[str] = "price of a million requests"
    unit: ClassVar[str] = "$"

    hardware: Hardware
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return dollars, of the fields' broadcast shape."""
        price = token_price(shape, workload, self.hardware, self.parallel)
        generated = 1.0 if workload.generated_length is None else workload.generated_length
        new = workload.prompt_length - workload.prefix_length
        return new * price["prompt"].typical + generated * price["generated"].typical


@register
@dataclass(frozen=True, kw_only=True)
class LifetimePrice:
    """$ of training a model by the plan and of serving a stated traffic with it.

    Attributes:
        hardware: where both happen, with a typical price.
        traffic: tokens served in the model's life.
        parallel: over how many accelerators it is served.
    """

    name: ClassVar[str] = "lifetime_price"
    label: ClassVar[str] = "price of training and serving"
    unit: ClassVar[str] = "$"

    hardware: Hardware
    traffic: Traffic
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload, plan: TrainingPlan = PLAN) -> Num:
        """Return dollars, of the fields' broadcast shape."""
        life = lifetime_price(shape, plan, workload, self.traffic, self.hardware, self.parallel)
        return life["total"].typical


@register
@dataclass(frozen=True, kw_only=True)
class WeightedCost:
    """A weighted sum of costs, sum_i w_i cost_i.

    Attributes:
        costs: measures, functions of (shape, workload[, plan]) or callable pytrees.
        weights: as many numbers, at least 0. Their units are one over those of their costs.

    Raises:
        InvalidInput: not as many weights as costs, or a weight below 0.

    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> both = WeightedCost(costs=(FIGURE_2, FIGURE_2), weights=(0.5, 1.5))
    >>> job = Workload(context_length=8192)
    >>> round(float(both(shape, job) / FIGURE_2(shape, job)), 9)
    2.0
    """

    name: ClassVar[str] = "weighted_cost"

    costs: tuple[Any, ...]
    weights: tuple[Num, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.costs):
            raise InvalidInput(f"weights must be {len(self.costs)}, one a cost, but are {len(self.weights)}.")
        for weight in self.weights:
            check_number("weights", weight, zero=True)
        object.__setattr__(self, "costs", tuple(map(as_measure, self.costs)))

    def __call__(self, shape: Shape, workload: Workload, plan: TrainingPlan = PLAN) -> Num:
        """Return the sum, of the fields' broadcast shape."""
        parts = [w * cost(shape, workload, plan) for w, cost in zip(self.weights, self.costs, strict=True)]
        return sum(parts[1:], parts[0])


def reported_cost(objective: Measure) -> Any:
    """Return the cost whose memory and FLOPs are reported: the objective's, or Figure 2's if it has none."""
    return objective.function if hasattr(objective.function, "memory") else FIGURE_2


@register
@dataclass(frozen=True)
class _Part:
    """The memory or the FLOPs of a cost."""

    cost: Any
    name: str = static("memory")

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        return getattr(self.cost, self.name)(shape, workload).total


@register
@dataclass(frozen=True)
class _DeviceMemory:
    name: ClassVar[str] = "device_memory"
    unit: ClassVar[str] = "B"
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        return serving_memory(shape, workload, self.parallel).total


def _params(shape: Shape, workload: Workload) -> Num:
    return count_params(shape) * 1.0


def _training(shape: Shape, workload: Workload, plan: TrainingPlan) -> Num:
    return paper_training_flops(shape, plan.tokens(shape), plan.context_length).total


def _part(objective: Measure, name: str, label: str, unit: str) -> Measure:
    return Measure(function=_Part(reported_cost(objective), name), name=name, label=label, unit=unit)


PARAMS = Measure(function=_params, name="n_params_total", label="parameters", unit="parameters")
TRAINING_FLOPS = Measure(function=_training, name="training_flops", label="training FLOPs", unit="FLOP")

MEASURES: dict[str, Callable[[Measure, Hardware | None, Parallel], Measure]] = {
    "loss": lambda objective, hardware, parallel: LOSS,
    "memory": lambda objective, hardware, parallel: _part(objective, "memory", "memory", "B"),
    "flops": lambda objective, hardware, parallel: _part(objective, "flops", "FLOPs", "FLOP"),
    "objective": lambda objective, hardware, parallel: dataclasses.replace(objective, name="objective"),
    "n_params": lambda objective, hardware, parallel: PARAMS,
    "training-flops": lambda objective, hardware, parallel: TRAINING_FLOPS,
    "tpot": lambda objective, hardware, parallel: _on(TimePerToken, hardware, parallel),
    "ttft": lambda objective, hardware, parallel: _on(TimeToFirstToken, hardware, parallel),
    "price": lambda objective, hardware, parallel: _on(RequestPrice, hardware, parallel),
}
"""The measures that have a name of their own, each made of the question's objective and hardware."""


def _on(kind: Any, hardware: Hardware | None, parallel: Parallel) -> Measure:
    if hardware is None:
        raise InvalidInput(f"measure {kind.name!r} needs hardware, such as load_hardware('h100-sxm').")
    return as_measure(kind(hardware=hardware, parallel=parallel))


def named_measure(
    name: str,
    objective: Any = FIGURE_2,
    *,
    hardware: Hardware | None = None,
    parallel: Parallel = ONE_DEVICE,
) -> Measure:
    """Return a measure by its name in `MEASURES`: memory and FLOPs as the objective counts them.

    Raises:
        InvalidInput: a name that is not known, or one that needs hardware where none is given.

    >>> named_measure("memory").key, named_measure("training-flops").label
    ('memory_bytes', 'training FLOPs')
    """
    return MEASURES[choose("measure", name, MEASURES)](as_measure(objective), hardware, parallel)


def max_params(limit: float) -> AtMost:
    """At most `limit` parameters, embeddings included.

    >>> max_params(3e9).name
    'n_params_total'
    """
    return AtMost(measure=PARAMS, limit=limit)


def max_memory(limit: float, cost: Any = FIGURE_2) -> AtMost:
    """At most `limit` bytes of weights and KV cache, as `cost` counts them.

    >>> max_memory(2 * 2**30).name
    'memory_bytes'
    """
    return AtMost(measure=named_measure("memory", cost), limit=limit)


def max_training_flops(limit: float) -> AtMost:
    """At most `limit` FLOPs of training (the paper's count), on the tokens and context of the plan.

    >>> max_training_flops(1e21).name
    'training_flops'
    """
    return AtMost(measure=TRAINING_FLOPS, limit=limit)


def max_time_per_token(seconds: float, hardware: Hardware, parallel: Parallel = ONE_DEVICE) -> AtMost:
    """At most so many seconds between two tokens, on named hardware.

    >>> from scalesim.hardware import load_hardware
    >>> max_time_per_token(0.02, load_hardware("h100-sxm")).name
    'tpot_s'
    """
    return AtMost(measure=TimePerToken(hardware=hardware, parallel=parallel), limit=seconds)


def max_time_to_first_token(seconds: float, hardware: Hardware, parallel: Parallel = ONE_DEVICE) -> AtMost:
    """At most so many seconds to the first token, without queueing, on named hardware.

    >>> from scalesim.hardware import load_hardware
    >>> max_time_to_first_token(2.0, load_hardware("h100-sxm")).name
    'ttft_s'
    """
    return AtMost(measure=TimeToFirstToken(hardware=hardware, parallel=parallel), limit=seconds)


def fits(hardware: Hardware, parallel: Parallel = ONE_DEVICE, reserve: float = RESERVE) -> AtMost:
    """Weights, KV cache and activations within one accelerator's memory, less a reserve for the runtime.

    >>> from scalesim.hardware import load_hardware
    >>> fits(load_hardware("h100-sxm")).name
    'device_memory_bytes'
    """
    return AtMost(measure=_DeviceMemory(parallel), limit=float(usable_bytes(hardware, reserve)))
