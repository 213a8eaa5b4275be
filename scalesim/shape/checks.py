"""What a size may be, said once for every dataclass of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput, check_number, shown

__all__ = ["MOST_SIZES", "check_sizes", "divisors", "few", "is_whole", "whole_sizes"]

_MOST = 1 << 24
MOST_SIZES = 1 << 18
"""Sizes of one field that are swept."""
_ABSURD = 1e9  # no size of a transformer is beyond this; a larger one is a slip of units


def check_sizes(owner: object, names: tuple[str, ...], *, least: int = 1) -> None:
    """Raise InvalidInput unless each named field is a number from `least` (0 or 1) to 1e9.

    Of JAX's arrays only the type is looked at: one may be a tracer, whose value nobody knows yet.
    """
    for name in names:
        check_number(name, getattr(owner, name), zero=not least, most=_ABSURD)


def is_whole(value: Any) -> bool:
    """Say whether a size is of an integer type: then layers are counted whole, not as a fraction."""
    if isinstance(value, int):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and dtype.kind in "iu"


def whole_sizes(name: str, values: Sequence[Any]) -> np.ndarray:
    """Return a range of sizes, sorted and each once (n,).

    Raises:
        InvalidInput: the range is empty, or holds what is not a whole number from 1 to 2^24.
    """
    try:
        count = len(values)
    except OverflowError:
        count = MOST_SIZES + 1
    except TypeError:
        raise InvalidInput(f"{name} must be a list or a range of sizes, but is {shown(values)}.") from None
    if count > MOST_SIZES:
        raise InvalidInput(f"{name} is a range of more than {MOST_SIZES:,} sizes; fewer would do.")
    found = np.unique(np.asarray(list(values)))
    if not found.size:
        raise InvalidInput(f"{name} is an empty range; at least one size is needed.")
    if found.dtype.kind not in "if" or (found < 1).any() or (found != np.floor(found)).any():
        raise InvalidInput(f"{name} must be whole numbers above 0, but is {few(found)}.")
    if found[-1] > _MOST:
        raise InvalidInput(f"{name} must be at most 2^24, but goes to {found[-1]}.")
    return found.astype(np.int64)


def divisors(n: int) -> list[int]:
    """Return the divisors of a whole number, in order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    low = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return low + [n // k for k in reversed(low) if k * k != n]


def few(values: Sequence[Any] | np.ndarray, most: int = 4) -> str:
    """Return the first of some numbers, for a message."""
    first = ", ".join(
        value if isinstance(value, str) else shown(value) if isinstance(value, int) else f"{value:.12g}"
        for value in list(values)[:most]
    )
    return f"[{first}, ...]" if len(values) > most else f"[{first}]"
