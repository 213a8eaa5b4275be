"""What a saved file may hold: checks that name the field, the value given and what would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput, choose, shown

__all__ = [
    "Check",
    "anything",
    "array",
    "boolean",
    "fields",
    "items",
    "mapping",
    "maybe",
    "number",
    "one_of",
    "text",
    "whole",
]

Check = Callable[[Any, str], Any]
"""(value, its name in messages) -> the value as it is used; raises InvalidInput."""


def _refuse(name: str, value: Any, wanted: str) -> InvalidInput:
    return InvalidInput(f"{name} must be {wanted}, but is {shown(value)}.")


def anything(value: Any, name: str) -> Any:
    """Take a value as it is."""
    return value


def number(low: float = -math.inf, high: float = math.inf, *, above: float | None = None) -> Check:
    """Take a finite number from `low` to `high`, or one above `above`; its type stays.

    >>> number(0, 1)(0.5, "share")
    0.5
    """
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"at least {low:g}"] if low > (-math.inf if above is None else above) else []
    bounds += [f"at most {high:g}"] if high < math.inf else []
    wanted = " ".join(["a finite number", " and ".join(bounds)]).strip()

    def check(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise _refuse(name, value, wanted)
        try:
            as_float = float(value)
        except OverflowError:
            raise _refuse(name, value, wanted) from None
        good = math.isfinite(as_float) and low <= as_float <= high and (above is None or as_float > above)
        if not good:
            raise _refuse(name, value, wanted)
        return value

    return check


def whole(low: int = 0, high: int = 1 << 53) -> Check:
    """Take a whole number from `low` to `high`; 2.0 is one.

    >>> whole(1)(2.0, "n_layer")
    2
    """

    def check(value: Any, name: str) -> int:
        wanted = f"a whole number from {low:,} to {high:,}"
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise _refuse(name, value, wanted)
        if not low <= value <= high or value != math.floor(value):
            raise _refuse(name, value, wanted)
        return int(value)

    return check


def text(value: Any, name: str) -> str:
    """Take a text without zero bytes."""
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(name, value, "a text")
    return value


def boolean(value: Any, name: str) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return value


def one_of(*known: str) -> Check:
    """Take one of some words."""

    def check(value: Any, name: str) -> str:
        return choose(name, text(value, name), known)

    return check


def maybe(check: Check, default: Any = None) -> Check:
    """Take what `check` takes, or null, which stands for `default`."""

    def checked(value: Any, name: str) -> Any:
        return default if value is None else check(value, name)

    return checked


def items(check: Check, least: int = 0, most: int | None = None) -> Check:
    """Take a list of what `check` takes."""

    def checked(value: Any, name: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _refuse(name, value, "a list")
        if len(value) < least or (most is not None and len(value) > most):
            bound = (
                f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            )
            raise InvalidInput(f"{name} must hold {bound} values, but holds {len(value)}.")
        return [check(one, f"{name}[{i}]") for i, one in enumerate(value)]

    return checked


def array(ndim: int | tuple[int, ...] = 1) -> Check:
    """Take nested lists of finite numbers, as a float array with so many axes."""
    allowed = (ndim,) if isinstance(ndim, int) else ndim

    def check(value: Any, name: str) -> np.ndarray:
        wanted = f"finite numbers in lists {' or '.join(map(str, allowed))} deep"
        try:
            found = np.asarray(value)
        except (ValueError, OverflowError):
            raise _refuse(name, value, wanted) from None
        if found.dtype.kind not in "iuf" or found.ndim not in allowed or not np.isfinite(found).all():
            raise _refuse(name, value, wanted)
        return found.astype(float)

    return check


def mapping(check: Check) -> Check:
    """Take an object whose every value `check` takes."""

    def checked(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _refuse(name, value, "an object")
        return {text(key, name): check(one, f"{name}.{key}") for key, one in value.items()}

    return checked


def fields(
    known: Mapping[str, Check], optional: Collection[str] = (), *, others: Check | None = None
) -> Check:
    """Take an object with these fields; `optional` ones may be missing, and `others` takes any others.

    Raises (when it is used):
        InvalidInput: no object, a field that is missing or not known, or one that its check refuses.

    >>> fields({"n_layer": whole(1), "name": text}, ["name"])({"n_layer": 4}, "run")
    {'n_layer': 4}
    """

    def checked(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _refuse(name, value, "an object")
        missing = [field for field in known if field not in value and field not in optional]
        if missing:
            raise InvalidInput(f"{name} has no field {missing[0]!r}, which is needed.")
        found = {}
        for key, one in value.items():
            if key not in known and others is None:
                choose(f"{name}: field", str(key), known)
            check = known.get(key, others)
            assert check is not None
            found[key] = check(one, f"{name}.{key}")
        return found

    return checked
