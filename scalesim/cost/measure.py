"""A number of a design: one type for what is minimised, limited, traded on a frontier, shown in a table."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.caching import definition
from scalesim.errors import InvalidInput, check_number
from scalesim.pytree import register, static
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.units import format_bytes, format_count, format_flops
from scalesim.workload import TrainingPlan, Workload

__all__ = ["LOSS", "PLAN", "AtMost", "Measure", "as_measure", "takes_plan"]


PLAN = TrainingPlan()
"""What is taken where no plan is given: 20 tokens a parameter, at 8K context."""


def _seconds(value: float) -> str:
    return f"{1e3 * value:.4g} ms" if value < 1 else f"{value:.4g} s"


_UNITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "B": ("_bytes", format_bytes),
    "FLOP": ("", format_flops),
    "s": ("_s", _seconds),
    "$": ("_usd", lambda value: f"${value:,.6g}"),
    "parameters": ("", format_count),
    "nats": ("", lambda value: f"{value:.3f}"),
    "": ("", lambda value: f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.5g}"),
}
"""Each unit: what it adds to a name in JSON, and how a value is written."""


def takes_plan(function: Any) -> bool:
    """Say whether a function wants the plan of training as its third argument."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return False
    kinds = [p for p in parameters if p.kind in positional]
    return len(kinds) >= 3 and (kinds[2].default is inspect.Parameter.empty or kinds[2].name == "plan")


def _defined_by(value: Any) -> tuple[Any, ...]:
    """Return what defines a value, beside its numbers: every dataclass within, and what a user's do now.

    A user's class may be registered by `jax.tree_util.register_dataclass`, whose tree structures jax 0.10
    takes for equal (see `scalesim.pytree.register`), and a function may read a global that was changed: held
    here, they tell the programs apart.
    """
    if isinstance(value, jax.tree_util.Partial):
        inner = (c for part in (*value.args, *value.keywords.values()) for c in _defined_by(part))
        return (definition(value.func), *inner)
    if isinstance(value, tuple | list):
        return tuple(c for part in value for c in _defined_by(part))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return ()
    parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    return (type(value), definition(type(value)), *(c for part in parts for c in _defined_by(part)))


@register
@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a design that is to be small: a name, a unit, and a function.

    Attributes:
        function: (shape, workload) -> a positive number, or (shape, workload, plan) where training matters:
            any JAX function, elementwise, or a callable pytree. None: the law's loss, which depends on the
            law that is asked (`LOSS`).
        name: what it is asked for by; by default the function's own `name` or `__name__`.
        label: what sentences and axes call it; by default the function's `label`, or the name.
        unit: "B", "FLOP", "s", "$", "parameters", "nats", or anything else; by default the function's.

    >>> from scalesim.shape import Shape
    >>> depth = Measure(function=lambda shape, workload: shape.n_layer, name="depth", unit="layers")
    >>> shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> depth(shape, Workload(context_length=8192)), depth.text(16)
    (16, 'depth 16 layers')
    """

    function: Any
    name: str = static("")
    label: str = static("")
    unit: str = static("")
    _defined_by: tuple[Any, ...] = static(())

    def __post_init__(self) -> None:
        function = self.function
        if function is not None and not callable(function):
            raise InvalidInput(
                f"A measure must be a function of (shape, workload) or (shape, workload, plan), but is "
                f"{function!r}."
            )
        for field, own in (("name", "__name__"), ("label", "label"), ("unit", "unit")):
            if not getattr(self, field):
                found = getattr(function, field, "") or getattr(function, own, "")
                object.__setattr__(self, field, "" if found == "<lambda>" else found)
        if not self.name:
            object.__setattr__(self, "name", "cost")
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))
        if function is not None and jax.tree.leaves(function) == [function]:
            # A plain function is part of the program, not of its data.
            object.__setattr__(self, "function", jax.tree_util.Partial(function))
        object.__setattr__(self, "_defined_by", _defined_by(self.function))

    def __call__(self, shape: Shape, workload: Workload, plan: TrainingPlan = PLAN) -> Num:
        """Return the number, of the fields' broadcast shape."""
        if self.function is None:
            raise InvalidInput("The loss depends on the law: ask a law, or name 'loss' to a frontier.")
        return self.function(shape, workload, *((plan,) if takes_plan(self.function) else ()))

    @property
    def is_loss(self) -> bool:
        """Whether this is the law's loss, which is measured in nats and not by its logarithm."""
        return self.function is None

    @property
    def key(self) -> str:
        """The name in JSON: with its unit, where that is not plain.

        >>> Measure(function=lambda shape, workload: 1.0, name="tpot", unit="s").key
        'tpot_s'
        """
        if self.name == "objective":
            return self.name
        suffix = _UNITS[self.unit][0] if self.unit in _UNITS else f"_{self.unit}"
        name = self.name.replace("-", "_").replace(" ", "_")
        return name if name.endswith(suffix) else name + suffix

    def value_text(self, value: float) -> str:
        """Return a value with its unit, as people read it.

        >>> LOSS.value_text(2.6151)
        '2.615'
        """
        if self.unit in _UNITS:
            return _UNITS[self.unit][1](value)
        return f"{value:,.6g} {self.unit}"

    def text(self, value: float) -> str:
        """Return a value with its label and unit."""
        return f"{self.label} {self.value_text(value)}"

    def change(self, old: float, new: float) -> str:
        """Return what is bought from `old` down to `new`: nats of loss, or a percentage.

        >>> LOSS.change(2.63, 2.61)
        '0.0200 nats of loss'
        """
        if self.is_loss:
            return f"{old - new:.4f} nats of loss"
        return f"{100 * (1 - new / old):.1f}% of {self.label}"


LOSS = Measure(function=None, name="loss", unit="nats")
"""The loss that the law predicts, nats a token."""


def as_measure(measure: Any, name: str = "") -> Measure:
    """Return a function or callable pytree as a `Measure`, and a measure by what defines it now.

    The one place that wraps: programs are those of the function as it is when it is asked.

    Raises:
        InvalidInput: it cannot be called.
    """
    if isinstance(measure, Measure):
        changed = _defined_by(measure.function) != measure._defined_by
        named = bool(name) and name != measure.name
        return dataclasses.replace(measure, name=name or measure.name) if named or changed else measure
    return Measure(function=measure, name=name)


@register
@dataclass(frozen=True, kw_only=True)
class AtMost:
    """A limit: a measure and a bound, measure(shape, workload, plan) <= limit.

    Attributes:
        measure: a `Measure`, or what `as_measure` makes one.
        limit: the most it may be, above 0, in the measure's unit.
        name: what messages call it; by default the measure's name in JSON.

    Raises:
        InvalidInput: the limit is not positive and finite.

    >>> shallow = AtMost(measure=lambda shape, workload: shape.n_layer, limit=24.0, name="n_layer")
    >>> shallow.measure.name
    'n_layer'
    """

    measure: Any
    limit: Num
    name: str = static("")

    def __post_init__(self) -> None:
        object.__setattr__(self, "measure", as_measure(self.measure, self.name))
        if not self.name:
            object.__setattr__(self, "name", self.measure.key)
        check_number(f"The limit of {self.name}", self.limit)

    def excess(self, shape: Shape, workload: Workload, plan: TrainingPlan = PLAN) -> Num:
        """Return log(measure / limit): above 0 where the limit is exceeded."""
        return jnp.log(self.measure(shape, workload, plan) / self.limit)
