"""Laws made of laws: sums, products, and any function the user writes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.laws.base import FIELDS, Law, Num, X, coefficient, register_law
from scalesim.shape import Convention

__all__ = ["Product", "Sum", "law_from_function"]


class _Pair(Law):
    base: Law
    other: Law

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """What either part can see."""
        return tuple(dict.fromkeys((*self.base.fields, *self.other.fields)))

    @property
    def convention(self) -> Convention:  # type: ignore[override]
        """How the base counts parameters."""
        return self.base.convention


@register_law
class Sum(_Pair):
    """One law plus another, L = base + other; written `base + other`.

    >>> from scalesim.laws import Constant, Kaplan
    >>> law = Kaplan() + Constant(E=1.5)
    >>> round(float(law.loss({"n_params": 1e9, "n_tokens": 2e10})), 3)
    3.935
    """

    base: Law
    other: Law

    def loss(self, x: X) -> Num:
        """Return the sum of both parts."""
        return self.base.loss(x) + self.other.loss(x)


@register_law
class Product(_Pair):
    """A law times a factor, L = base * other; written `base * factor`.

    >>> from scalesim.laws import AspectRatio, Chinchilla
    >>> (Chinchilla() * AspectRatio()).fields
    ('n_params', 'n_tokens', 'd_model', 'n_layer')
    """

    base: Law
    other: Law

    def loss(self, x: X) -> Num:
        """Return the product of both parts."""
        return self.base.loss(x) * self.other.loss(x)


def law_from_function(
    function: Callable[..., Any],
    coefficients: Mapping[str, tuple[float, float]],
    fields: Sequence[str],
    *,
    signed: Sequence[str] = (),
    linear: Sequence[str] = (),
) -> type[Law]:
    """Make a law of a JAX function of named fields and named coefficients.

    Args:
        function: called as function(**fields, **coefficients), elementwise; returns nats a token.
        coefficients: the range of starts of each, {"A": (1, 1000)}.
        fields: what it looks at, of `scalesim.laws.FIELDS`.
        signed: coefficients that may be negative (all others are fitted through their logs).
        linear: coefficients in which the loss is affine: least squares then finds their starts.

    >>> def floor_and_power(n_params, E, A, alpha):
    ...     return E + A * (n_params / 1e9) ** -alpha
    >>> ranges = {"E": (1, 3), "A": (0.1, 10), "alpha": (0.1, 1)}
    >>> Mine = law_from_function(floor_and_power, ranges, ["n_params"], linear=["E", "A"])
    >>> float(Mine(E=2.0, A=0.5, alpha=0.5).loss({"n_params": 4e9}))
    2.25
    """
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise InvalidInput(f"field {unknown[0]!r} is not known; the fields are {', '.join(FIELDS)}.")
    for name in (*signed, *linear):
        if name not in coefficients:
            raise InvalidInput(f"{name!r} is not among the coefficients ({', '.join(coefficients)}).")
    names = tuple(coefficients)
    inner = function.func if isinstance(function, functools.partial) else function
    called = getattr(inner, "__name__", type(inner).__name__)

    def loss(self: Any, x: X) -> Num:
        given = {name: x[name] for name in fields}
        return function(**given, **{name: getattr(self, name) for name in names})

    namespace: dict[str, Any] = {
        "__doc__": inner.__doc__ or f"The law of the function {called}.",
        "__annotations__": dict.fromkeys(names, Any),
        "__module__": inner.__module__,
        "fields": tuple(fields),
        "loss": loss,
        **{
            name: coefficient(span, positive=name not in signed, linear=name in linear)
            for name, span in coefficients.items()
        },
    }
    return register_law(type(called, (Law,), namespace))
