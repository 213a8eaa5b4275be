"""What a size may be, said once for every dataclass of sizes."""

from __future__ import annotations

from typing import Any

from scalesim.errors import InvalidInput

__all__ = ["check_sizes", "is_whole"]

_ABSURD = 1e9  # no size of a transformer is beyond this; a larger one is a slip of units


def check_sizes(owner: object, names: tuple[str, ...], *, least: int = 1) -> None:
    """Raise InvalidInput unless each named field is a number from `least` (0 or 1) to 1e9.

    Only Python numbers are looked into: an array may be a tracer, whose value nobody knows yet.
    """
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool | str):
            raise InvalidInput(f"{name} must be a number, but is {value!r}.")
        if isinstance(value, int | float):
            low_enough = value > 0 if least else value >= 0
            if not (low_enough and value <= _ABSURD):
                bound = "above 0" if least else "at least 0"
                raise InvalidInput(f"{name} must be {bound} and at most {_ABSURD:.0e}, but is {value!r}.")


def is_whole(value: Any) -> bool:
    """Say whether a size is of an integer type: then layers are counted whole, not as a fraction."""
    if isinstance(value, int):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and dtype.kind in "iu"
