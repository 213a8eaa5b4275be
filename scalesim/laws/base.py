"""What a loss law is: a pytree of named coefficients, called on the fields it declares."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax.numpy as jnp

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape import Convention, Shape, count_params
from scalesim.types import Num

__all__ = [
    "FIELDS",
    "REGISTRY",
    "Coefficient",
    "Law",
    "coefficient",
    "fields_of",
    "option",
    "power",
    "register_law",
]

X = Mapping[str, Num]

REGISTRY: dict[str, type] = {}
"""Every law by its class name."""

FIELDS: dict[str, str] = {
    "n_params": "parameters, by the law's own convention",
    "n_tokens": "training tokens",
    "context_length": "tokens of context",
    "n_layer": "transformer blocks",
    "d_model": "width of the residual stream",
    "n_head": "query heads a layer",
    "n_kv_head": "key-value heads a layer",
    "head_dim": "size of one head",
    "d_ff": "inner width of the feed-forward block",
    "n_epochs": "passes over the data",
    "weight_bits": "bits a weight",
    "activation_bits": "bits an activation",
    "kv_bits": "bits a cached key or value",
}


@dataclass(frozen=True)
class Coefficient:
    """How the fit treats one coefficient.

    Attributes:
        start: the range in which starts are drawn (of geometric spread, if positive).
        positive: fitted through its logarithm, so it stays above 0.
        linear: the loss is affine in this coefficient (once centred, if `scales` is given), so starts
            need not guess it: least squares does.
        scales: (field, exponent): this coefficient multiplies field**-exponent, so the fit centres it,
            log A -> log A - exponent * mean(log field), which takes the ridge out of the problem.
        inside: the coefficient stands under the power instead, (a / field)**exponent.
        meaning: what it is, in a few words.
    """

    start: tuple[float, float]
    positive: bool = True
    linear: bool = False
    scales: tuple[str, str] | None = None
    inside: bool = False
    meaning: str = ""


def coefficient(
    start: tuple[float, float],
    *,
    positive: bool = True,
    linear: bool = False,
    scales: tuple[str, str] | None = None,
    inside: bool = False,
    meaning: str = "",
    default: Any = None,
) -> Any:
    """Declare a dataclass field of a law as a coefficient to be fitted.

    Without a default, an unfitted law takes the middle of `start`.
    """
    spec = Coefficient(start, positive, linear, scales, inside, meaning)
    if default is None:
        default = (start[0] * start[1]) ** 0.5 if positive else (start[0] + start[1]) / 2
    return dataclasses.field(default=default, metadata={"coefficient": spec})


def option(*, default: Any) -> Any:
    """Declare a dataclass field of a law as a static option."""
    return static(default)


_L = TypeVar("_L", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)  # every coefficient has a default
def register_law(cls: _L) -> _L:
    """Turn a class of coefficients into a law: a frozen dataclass whose coefficients are pytree leaves.

    Fields declared with `coefficient` (or holding laws) are leaves; all others are static. The class
    becomes known by its name, to the command line and to saved fits.

    >>> import jax.numpy as jnp
    >>> @register_law
    ... class Saturating(Law):
    ...     "L = E + A / (1 + N / n0)."
    ...     fields = ("n_params",)
    ...     E: Num = coefficient((1.0, 2.0), linear=True)
    ...     A: Num = coefficient((0.1, 10.0), linear=True)
    ...     n0: Num = coefficient((1e6, 1e9))
    ...     def loss(self, x):
    ...         return self.E + self.A / (1 + x["n_params"] / self.n0)
    >>> float(Saturating(E=1.5, A=1.0, n0=1e8).loss({"n_params": 1e8}))
    2.0
    """
    own_init = "__init__" in vars(cls)
    cls = dataclass(frozen=True, kw_only=True, init=not own_init)(cls)  # type: ignore[assignment]
    REGISTRY[cls.__name__] = cls
    return register(cls)


def power(base: Num, exponent: Num) -> Num:
    """Return base**exponent for a base above 0, by exp and log: quicker, and its derivatives are finite.

    >>> round(float(power(8.0, -1 / 3)), 6)
    0.5
    """
    return jnp.exp(exponent * jnp.log(base))


class Law(ABC):
    """A loss law L(x; coefficients), in nats a token.

    Subclasses are frozen dataclasses made by `register_law`, whose leaves are the coefficients. `fields`
    names what the law can see: a search never optimises anything else.
    """

    fields: ClassVar[tuple[str, ...]]
    convention: ClassVar[Convention] = "non_embedding"

    @abstractmethod
    def loss(self, x: X) -> Num:
        """Return the loss in nats a token at `x`: numbers that broadcast, for each of `fields`."""

    def __add__(self, other: Law) -> Law:
        """Return the law whose loss is the sum of both."""
        from scalesim.laws.compose import Sum

        return Sum(base=self, other=other)

    def __mul__(self, other: Law) -> Law:
        """Return the law whose loss is the product of both."""
        from scalesim.laws.compose import Product

        return Product(base=self, other=other)

    def __call__(
        self, shape: Shape, n_tokens: Num | None = None, context_length: Num | None = None, **others: Num
    ) -> Num:
        """Return the loss of a shape trained on `n_tokens`, used at `context_length` (see `fields_of`)."""
        return self.loss(fields_of(self, shape, n_tokens, context_length, **others))


def fields_of(
    law: Law, shape: Shape, n_tokens: Num | None = None, context_length: Num | None = None, **others: Num
) -> dict[str, Num]:
    """Collect the fields that a law declares from a shape, its training and `others` (kv_bits, ...).

    n_params is counted by the law's convention, of routed experts those that a token visits: a mixture of
    experts is taken for the dense model that costs as much to train, 6 N D. By the law of arXiv 2502.05172
    (20 tokens an active parameter) 1B active reaches the loss of a dense 1.36B with 8 experts and of a dense
    1.77B with 32, not that of all 5.7B and 21.7B; `effect_of("experts")` is the rest, 2.7% and 4.9% of loss.

    Raises:
        InvalidInput: the law needs a field that was not given.
    """
    given = {"n_tokens": n_tokens, "context_length": context_length, **others}
    collected: dict[str, Num] = {}
    for name in law.fields:
        value = given[name] if name in given else _from_shape(name, shape, law.convention)
        if value is None:
            raise InvalidInput(f"{type(law).__name__} needs {name} ({FIELDS[name]}), which was not given.")
        collected[name] = value
    return collected


def _from_shape(name: str, shape: Shape, convention: Convention) -> Num | None:
    if name == "n_params":
        return count_params(shape, convention, visited=True)
    return getattr(shape, name, None)
