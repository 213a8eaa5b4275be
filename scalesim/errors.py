"""The two ways a call can fail, apart from a bug, and the checks that every call makes."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

__all__ = ["InvalidInput", "Unreachable", "check_kind", "check_number", "choose", "shown"]


class InvalidInput(ValueError):
    """The call was wrong: the message names the field, the value given and what would do (exit code 2)."""


class Unreachable(RuntimeError):
    """The call was right but no answer exists: the message names the nearest that does (exit code 1)."""


def choose(field: str, name: str, known: Collection[str]) -> str:
    """Return `name` if it is known, else raise `InvalidInput` listing what is, the nearest first.

    >>> choose("family", "figure", ["figure", "table"])
    'figure'
    """
    if not isinstance(name, str):
        raise InvalidInput(f"{field} must be one of {', '.join(sorted(known))}, but is {shown(name)}.")
    if name in known:
        return name
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise InvalidInput(f"{field} {name!r} is not known{hint} Known: {', '.join(sorted(known))}.")


def shown(value: Any) -> str:
    """Return a value as a message shows it: short.

    >>> shown({"a": [1] * 99})
    "{'a': [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ..."
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # whole numbers of thousands of digits
        text = f"a {type(value).__name__} of very many digits"
    return text if len(text) <= 44 else text[:40] + "..."


def check_number(
    field: str, value: Any, *, zero: bool = False, most: float = sys.float_info.max, unit: str = ""
) -> None:
    """Refuse what is no number above 0 (or with `zero`, at least 0) and at most `most`.

    NumPy arrays are looked into; of JAX's, traced ones among them, only the type is looked at.

    Raises:
        InvalidInput: text, a list, no number at all, or one that is not within the bounds.

    >>> check_number("data", -1)
    Traceback (most recent call last):
    scalesim.errors.InvalidInput: data must be above 0 and finite, but is -1.
    """
    low: Any = value
    high: Any = value
    if isinstance(value, bool) or not isinstance(value, int | float):
        dtype = getattr(value, "dtype", None)
        if dtype is None or getattr(dtype, "kind", "f") in "bcOSUMm":
            raise InvalidInput(f"{field} must be a number, but is {shown(value)}.")
        if type(value).__module__ != "numpy":
            return
        array: Any = value
        if not array.size:
            raise InvalidInput(f"{field} is empty; at least one number is needed.")
        low, high = array.min(), array.max()
    if not ((low >= 0 if zero else low > 0) and high <= most):
        bound = "at least 0" if zero else "above 0"
        finite = "finite" if most == sys.float_info.max else f"at most {most:g}"
        raise InvalidInput(f"{field} must be {bound} and {finite}{unit}, but is {shown(value)}.")


def check_kind(field: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuse what is none of some types; `wanted` says what would do.

    Raises:
        InvalidInput: it is none of them.

    >>> check_kind("family", "figure", dict, "a ShapeFamily")
    Traceback (most recent call last):
    scalesim.errors.InvalidInput: family must be a ShapeFamily, but is 'figure'.
    """
    if not isinstance(value, kinds):
        raise InvalidInput(f"{field} must be {wanted}, but is {shown(value)}.")
