"""What a frontier trades: named measures of a design, each a number to be small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from scalesim.cost.objectives import RequestPrice, TimePerToken, TimeToFirstToken
from scalesim.cost.paper import training_flops
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.design.candidate import reported_cost
from scalesim.errors import InvalidInput, choose
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.units import format_bytes, format_count, format_flops
from scalesim.workload import Workload

__all__ = ["MEASURES", "Measure", "named_measures"]

Num = Any

MEASURES = {
    "loss": "loss",
    "memory": "memory_bytes",
    "flops": "flops",
    "objective": "objective",
    "n_params": "n_params_total",
    "training-flops": "training_flops",
    "tpot": "tpot_s",
    "ttft": "ttft_s",
    "price": "price_usd",
}
"""The named measures, and what each is called in JSON."""

_LABELS = {
    "loss": "loss",
    "memory": "memory",
    "flops": "FLOPs",
    "objective": "cost",
    "n_params": "parameters",
    "training-flops": "training FLOPs",
    "tpot": "time per token",
    "ttft": "time to the first token",
    "price": "price",
}
_ON_HARDWARE = {"tpot": TimePerToken, "ttft": TimeToFirstToken, "price": RequestPrice}


@register
@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a design that is to be small.

    Attributes:
        function: (shape, workload) -> a positive number, any JAX function, elementwise; None: the law's loss.
        name: what it is asked for by.
        label: what sentences call it.
        key: its name in JSON.

    >>> depth = Measure(function=lambda shape, workload: shape.n_layer, name="depth")
    >>> depth.label, depth.key
    ('depth', 'depth')
    """

    function: Any
    name: str = static("measure")
    label: str = static("")
    key: str = static("")

    def __post_init__(self) -> None:
        for field in ("label", "key"):
            if not getattr(self, field):
                object.__setattr__(self, field, self.name)
        if jax.tree.leaves(self.function) == [self.function] and callable(self.function):
            # A plain function is part of the program, not of its data.
            object.__setattr__(self, "function", jax.tree_util.Partial(self.function))

    @property
    def is_loss(self) -> bool:
        """Whether this is the law's loss, which is measured in nats and not by its logarithm."""
        return self.function is None

    def text(self, value: float) -> str:
        """Return a value as people read it.

        >>> Measure(function=None, name="loss").text(2.6151)
        'loss 2.615'
        """
        if self.is_loss:
            return f"loss {value:.3f}"
        plain = {
            "memory_bytes": format_bytes,
            "flops": format_flops,
            "training_flops": format_flops,
            "n_params_total": format_count,
            "tpot_s": lambda v: f"{1e3 * v:.4g} ms",
            "ttft_s": lambda v: f"{v:.4g} s",
            "price_usd": lambda v: f"${v:,.6g} a million requests",
        }
        return f"{self.label} {plain.get(self.key, lambda v: f'{v:,.6g}')(value)}"

    def change(self, old: float, new: float) -> str:
        """Return what is bought from `old` down to `new`: nats of loss, or a percentage.

        >>> Measure(function=None, name="loss").change(2.63, 2.61)
        '0.0200 nats of loss'
        """
        if self.is_loss:
            return f"{old - new:.4f} nats of loss"
        return f"{100 * (1 - new / old):.1f}% of {self.label}"


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
class _Training:
    tokens_per_param: Num
    context: Num = 8192.0

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        tokens = self.tokens_per_param * count_params(shape, "paper")
        return training_flops(shape, tokens, self.context).total


def _params(shape: Shape, workload: Workload) -> Num:
    return count_params(shape) * 1.0


def named_measures(
    measures: Sequence[str | Measure],
    objective: Any,
    *,
    hardware: Hardware | None = None,
    parallel: Parallel = ONE_DEVICE,
    tokens_per_param: Num = 20.0,
) -> tuple[Measure, ...]:
    """Return two or three measures, each by its name in `MEASURES` or given as it is.

    Raises:
        InvalidInput: a name that is not known, one given twice, fewer than two or more than three, or one
            that needs hardware where none is given.

    >>> from scalesim.cost import FIGURE_2
    >>> [measure.label for measure in named_measures(["loss", "memory"], FIGURE_2)]
    ['loss', 'memory']
    """
    names = [m if isinstance(m, str) else m.name for m in measures]
    if not 2 <= len(set(names)) == len(names) <= 3:
        raise InvalidInput(f"measures must be two or three different ones, but are {', '.join(names)}.")

    def one(measure: str | Measure) -> Measure:
        if isinstance(measure, Measure):
            return measure
        name = choose("measure", measure, MEASURES)
        function: Any
        if name in _ON_HARDWARE:
            if hardware is None:
                raise InvalidInput(f"measure {name!r} needs hardware, such as load_hardware('h100-sxm').")
            function = _ON_HARDWARE[name](hardware=hardware, parallel=parallel)
        elif name in ("memory", "flops"):
            function = _Part(reported_cost(objective), name)
        else:
            function = {
                "loss": None,
                "objective": objective,
                "n_params": _params,
                "training-flops": _Training(tokens_per_param),
            }[name]
        return Measure(function=function, name=name, label=_LABELS[name], key=MEASURES[name])

    return tuple(one(measure) for measure in measures)
