"""What a search may minimise on real hardware: (shape, workload) -> seconds or dollars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scalesim.cost.latency import step_time, time_to_first_token
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.cost.price import Traffic, lifetime_price, token_price
from scalesim.cost.training import Training
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = ["LifetimePrice", "RequestPrice", "TimePerToken", "TimeToFirstToken", "WeightedCost"]

Num = Any


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

    hardware: Hardware
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return seconds, of the fields' broadcast shape."""
        return time_to_first_token(shape, workload, self.hardware, self.parallel)


@register
@dataclass(frozen=True, kw_only=True)
class TimePerToken:
    """Seconds between two tokens of a sequence while the workload's batch decodes."""

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
    """$ of training a model and of serving a stated traffic with it.

    Attributes:
        hardware: where both happen, with a typical price.
        traffic: tokens served in the model's life.
        tokens_per_param: training tokens, so many a parameter (attention and FFN matrices).
        training_context: tokens of one training sequence.
        parallel: over how many accelerators it is served.
    """

    hardware: Hardware
    traffic: Traffic
    tokens_per_param: Num = 20.0
    training_context: Num = 8192.0
    parallel: Parallel = static(ONE_DEVICE)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return dollars, of the fields' broadcast shape."""
        tokens = self.tokens_per_param * count_params(shape, "paper")
        plan = Training(n_tokens=tokens, context_length=self.training_context)
        life = lifetime_price(shape, plan, workload, self.traffic, self.hardware, self.parallel)
        return life["total"].typical


@register
@dataclass(frozen=True, kw_only=True)
class WeightedCost:
    """A weighted sum of costs, sum_i w_i cost_i.

    Attributes:
        costs: (shape, workload) -> cost, callable pytrees (a plain function as `jax.tree_util.Partial(f)`).
        weights: as many numbers, at least 0. Their units are one over those of their costs.

    Raises:
        InvalidInput: not as many weights as costs, or a weight below 0.

    >>> from scalesim.cost.paper import FIGURE_2
    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> both = WeightedCost(costs=(FIGURE_2, FIGURE_2), weights=(0.5, 1.5))
    >>> job = Workload(context_length=8192)
    >>> round(float(both(shape, job) / FIGURE_2(shape, job)), 9)
    2.0
    """

    costs: tuple[Any, ...]
    weights: tuple[Num, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.costs):
            raise InvalidInput(f"weights must be {len(self.costs)}, one a cost, but are {len(self.weights)}.")
        for weight in self.weights:
            if isinstance(weight, int | float) and not 0 <= weight < float("inf"):
                raise InvalidInput(f"weights must be at least 0 and finite, but are {self.weights}.")

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return the sum, of the fields' broadcast shape."""
        parts = [w * cost(shape, workload) for w, cost in zip(self.weights, self.costs, strict=True)]
        return sum(parts[1:], parts[0])
